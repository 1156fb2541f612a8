"""The chain's parameters, the checks of every function's arguments, and the score of a given path."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from colnorm.crf.reductions import NEG_INF, Array
from colnorm.sharding import over_batch


class Chain(NamedTuple):
    """Log-potentials of a linear chain over K tags; a pytree.

    Attributes:
      transitions: ``(K, K)``; ``transitions[i, j]`` is added for going from tag i to tag j.
      start: ``(K,)``; added for the first tag.
      end: ``(K,)``; added for the last tag.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf
      >>> chain = crf.Chain(transitions=jnp.array([[1.0, 0.0], [0.0, 2.0]]), start=jnp.zeros(2), end=jnp.zeros(2))
      >>> float(chain.transitions[0, 1])  # from tag 0 to tag 1
      0.0
      >>> crf.Chain.zeros(2).transitions.shape
      (2, 2)
    """

    transitions: Array
    start: Array
    end: Array

    @classmethod
    def zeros(cls, num_tags: int) -> "Chain":
        """The float32 chain that prefers nothing."""
        if not isinstance(num_tags, int) or num_tags < 1:
            raise ValueError(f"Chain.zeros: expected an integer num_tags of at least 1, got {num_tags!r}")
        return cls(*(jnp.zeros(shape, jnp.float32) for shape in ((num_tags, num_tags), (num_tags,), (num_tags,))))


class Gaps(NamedTuple):
    """The positions of a mask: those that carry a tag move together, so that neighbours across a gap become neighbours."""

    mask: Array  # (B, T), True where a tag is carried
    place: Array  # (B, T) int32: where each position stands then; the others come after these
    regular: Array  # (): no mask has a gap, so that all stay where they are

    @classmethod
    def of(cls, mask: Array) -> "Gaps":
        """Of a mask ``(B, T)``."""
        kept, left = jnp.cumsum(mask, 1, dtype=jnp.int32), jnp.cumsum(~mask, 1, dtype=jnp.int32)
        place = jnp.where(mask, kept, kept[:, -1:] + left) - 1
        return cls(mask, place, jnp.all(mask[:, :-1] >= mask[:, 1:]))

    def close(self, values: Array) -> Array:
        """``(B, T, ...)`` with every position at its place."""

        def move(values: Array) -> Array:
            def of_row(row: Array, place: Array) -> Array:
                return jnp.zeros_like(row).at[place].set(row, mode="promise_in_bounds", unique_indices=True)

            return jax.vmap(of_row)(values, self.place)

        return jax.lax.cond(self.regular, lambda values: values, move, values)

    def open(self, values: Array) -> Array:
        """``(B, T, ...)`` back where every position was; 0 where no tag is carried."""

        def move(values: Array) -> Array:
            moved = jax.vmap(lambda row, place: row.at[place].get(mode="promise_in_bounds", unique_indices=True))(
                values, self.place
            )
            return jnp.where(self.mask.reshape(self.mask.shape + (1,) * (values.ndim - 2)), moved, 0)

        return jax.lax.cond(self.regular, lambda values: values, move, values)


class Problem(NamedTuple):
    """Checked arguments in one dtype; time-major, the batch last."""

    chain: Chain
    emissions: Array  # (T, K, B), 0 past the length
    mask: Array  # (T, B), True inside the length


def prepare(
    name: str,
    chain: Chain,
    emissions: Array,
    lengths: Array | None,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> tuple[Problem, Gaps | None]:
    """Checks the arguments of the function ``name``; computes in float64 where any of them is, else in float32.

    Returns:
      the problem, and of a mask how its positions come back.
    """
    if not isinstance(chain, Chain):
        raise ValueError(f"{name}: expected a Chain, got {type(chain).__name__}")
    arrays = {"emissions": jnp.asarray(emissions)} | {f"chain.{part}": jnp.asarray(x) for part, x in chain._asdict().items()}
    for part, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name}: expected floating-point {part}, got {array.dtype}")
    emissions = arrays["emissions"]
    if emissions.ndim != 3 or 0 in emissions.shape[1:]:
        raise ValueError(f"{name}: expected emissions of shape (B, T, K), T and K at least 1, got {emissions.shape}")
    B, T, K = emissions.shape
    for part, shape in (("chain.transitions", (K, K)), ("chain.start", (K,)), ("chain.end", (K,))):
        if arrays[part].shape != shape:
            raise ValueError(
                f"{name}: expected {part} of shape {shape} for emissions of shape {emissions.shape}, got {arrays[part].shape}"
            )
    if allowed is not None:
        emissions = jnp.where(_booleans(name, "allowed", allowed, (B, T, K)), emissions, NEG_INF)
    inside, gaps = check_positions(name, lengths, mask, (B, T))
    emissions = emissions if gaps is None else gaps.close(emissions)
    dtype = jnp.float64 if any(array.dtype == jnp.float64 for array in arrays.values()) else jnp.float32
    emissions = jnp.where(inside[:, None], jnp.transpose(emissions, (1, 2, 0)).astype(dtype), 0)
    parts = (as_data(arrays[f"chain.{part}"].astype(dtype), emissions) for part in chain._fields)
    return Problem(Chain(*parts), emissions, inside), gaps


def as_data(part: Array, data: Array) -> Array:
    """A parameter, unchanged; inside of ``shard_map`` a device's own, as the data are, so that its gradient adds up."""
    return part + jnp.sum(jnp.zeros_like(data))


def check_positions(name: str, lengths: Array | None, mask: Array | None, shape: tuple[int, ...]) -> tuple[Array, Gaps | None]:
    """Time-major, the positions ``(T, B)`` that carry a tag, moved together; and of a mask how they come back."""
    B, T = shape
    gaps = None
    if mask is not None:
        if lengths is not None:
            raise ValueError(f"{name}: expected lengths or a mask, got both")
        gaps = Gaps.of(_booleans(name, "mask", mask, shape))
        lengths = jnp.sum(gaps.mask, 1, dtype=jnp.int32)
    lengths = jnp.full((B,), T, jnp.int32) if lengths is None else _integers(name, "lengths", lengths, (B,))
    return jnp.arange(T, dtype=jnp.int32)[:, None] < lengths[None, :], gaps


def in_order(values: Array, gaps: Gaps | None) -> Array:
    """A batch-major result ``(B, T, ...)`` in the order of the arguments."""
    return values if gaps is None else gaps.open(values)


def check_tags(name: str, tags: Array, emissions: Array, gaps: Gaps | None = None) -> Array:
    """Time-major int32 tags ``(T, B)``."""
    tags = _integers(name, "tags", tags, jnp.shape(emissions)[:2])
    return (tags if gaps is None else gaps.close(tags)).T


def _booleans(name: str, what: str, values: Any, shape: tuple[int, ...]) -> Array:
    values = jnp.asarray(values)
    if values.shape != shape or values.dtype != jnp.bool_:
        raise ValueError(f"{name}: expected a bool {what} of shape {shape}, got {values.dtype} of shape {values.shape}")
    return values


def _integers(name: str, what: str, values: Any, shape: tuple[int, ...]) -> Array:
    values = jnp.asarray(values)
    if values.shape != shape:
        raise ValueError(f"{name}: expected {what} of shape {shape}, got {values.shape}")
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise ValueError(f"{name}: expected integer {what}, got {values.dtype}")
    return values.astype(jnp.int32)


@jax.jit
@over_batch
def score(
    chain: Chain,
    emissions: Array,
    tags: Array,
    lengths: Array | None = None,
    *,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> Array:
    """Score of given paths: ``start + emissions + transitions + end`` along each.

    Args:
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      tags: ``(B, T)`` integers in [0, K); never read past the length.
      lengths: ``(B,)`` integers, all T by default.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B,)`` log-potentials: 0 for length 0, -inf for an illegal path.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf
      >>> chain = crf.Chain(jnp.array([[0.0, 2.0], [0.0, 0.0]]), jnp.array([0.5, 0.0]), jnp.array([0.0, 1.0]))
      >>> emissions = jnp.array([[[1.0, 0.0], [0.0, 3.0]]])  # (B, T, K)
      >>> crf.score(chain, emissions, jnp.array([[0, 1]])).tolist()  # 0.5 + 1 + 2 + 3 + 1
      [7.5]
    """
    problem, gaps = prepare("score", chain, emissions, lengths, mask, allowed)
    return path_score(problem, check_tags("score", tags, emissions, gaps))


def path_score(problem: Problem, tags: Array) -> Array:
    """Scores ``(B,)`` of time-major ``tags (T, B)``."""
    moves, chosen, end = path_terms(problem, tags)
    return jnp.sum(moves + chosen, 0) + end


def path_terms(problem: Problem, tags: Array) -> tuple[Array, Array, Array]:
    """Of each position the score of coming to it and its emission ``(T, B)``, and of the end ``(B,)``; 0 past the length."""
    chain, emissions, mask = problem
    tags = jnp.where(mask, jnp.clip(tags, 0, chain.start.shape[0] - 1), 0)
    moves = jnp.concatenate([chain.start[tags[:1]], chain.transitions[tags[:-1], tags[1:]]])
    chosen = jnp.take_along_axis(emissions, tags[:, None], axis=1)[:, 0]
    final = jnp.maximum(jnp.sum(mask, 0, dtype=jnp.int32) - 1, 0)
    last = jnp.take_along_axis(tags, final[None], axis=0)[0]
    return jnp.where(mask, moves, 0), chosen, jnp.where(mask[0], chain.end[last], 0)
