"""Arrays on a mesh with explicit axes, which ``jax.make_mesh`` makes: the functions compute as on automatic ones."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

F = TypeVar("F", bound=Callable[..., Any])


def over_batch(function: F) -> F:
    """Of a function of batch-major arrays, all of whose results begin with the batch: they lie on devices as it does.

    On explicit axes JAX asks of every gather and every contraction where its result is to lie. Inside of the function XLA
    decides, as it does on automatic axes; nothing changes where there are no explicit ones.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, kwargs))
        are_arrays = [isinstance(leaf, (jax.Array, np.ndarray)) for leaf in leaves]
        arrays = [leaf for leaf, is_array in zip(leaves, are_arrays, strict=True) if is_array]
        place = _place_of_batch(arrays)
        if place is None:
            return function(*args, **kwargs)

        def of_arrays(*arrays: Any) -> Any:
            left = iter(arrays)
            given = [next(left) if is_array else leaf for leaf, is_array in zip(leaves, are_arrays, strict=True)]
            args, kwargs = jax.tree.unflatten(tree, given)
            return function(*args, **kwargs)

        return jax.sharding.auto_axes(of_arrays, out_sharding=place)(*arrays)

    return call  # type: ignore[return-value]  # of the same signature


def _place_of_batch(arrays: list[Any]) -> NamedSharding | None:
    """Where the first axis of the first array that lies on explicit axes is."""
    for array in arrays:
        sharding: Any = getattr(jax.typeof(array), "sharding", None)
        if sharding is not None and sharding.spec and sharding.spec[0] is not None:
            return NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0]))
    return None
