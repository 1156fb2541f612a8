"""Weights of PyTorch's layers as ours and back, so that both compute the same function.

==========================================  =================================================================================
ours                                        PyTorch's
==========================================  =================================================================================
``LinearChainCRF(K)``                       pytorch-crf's ``CRF(K)``
``LSTM(H)``                                 ``torch.nn.LSTM(D, H)``
``Bidirectional(partial(LSTM, H))``         ``torch.nn.LSTM(D, H, bidirectional=True)``
``BatchNorm()``                             ``BatchNorm1d(C)``, ``2d``, ``3d``, ``SyncBatchNorm(C)``
``InstanceNorm()``                          ``InstanceNorm1d(C, affine=True)``, ``2d``, ``3d``
``GroupNorm(groups)``                       ``GroupNorm(groups, C)``
``LayerNorm()``                             ``GroupNorm(1, C)``; on inputs ``(N, C)`` also ``LayerNorm(C)``
``ResNet(n)``                               a CIFAR ResNet of depth 6n + 2: ``conv1``, ``bn1``, ``layer1.0.conv1`` and so on
==========================================  =================================================================================

What the arrays can't say is for the caller to make the same:

- Axes: PyTorch's images are ``(N, C, H, W)``, ours ``(N, H, W, C)``. An LSTM here is ``batch_first``.
- Numbers that are no weights: ``eps`` is ``epsilon``, 1e-5 in both by default; ``momentum`` is the fraction of the new
  statistic there and of the one kept here, so that 0.1 is ``momentum=0.9``; and the number of groups.
- Running statistics are copied. In evaluation both layers agree. In training PyTorch's running variance is that of n - 1 and
  ours that of n, so that they part by up to a factor of n / (n - 1), with n the elements of a channel in a batch.
- ``affine=False`` is ``use_scale=False, use_bias=False``: a layer without arrays.
- ``torch.nn.LayerNorm`` over ``(C, H, W)`` has a weight for each element and is none of ours. Over the last axis of
  ``(B, T, C)`` it is our ``LayerNorm`` of ``x.reshape(B * T, C)``.

Two things of PyTorch's have no place here: ``num_batches_tracked``, which is 0 on the way back, and the second bias of an
LSTM. The two are added up; on the way back the sum is ``bias_ih`` and ``bias_hh`` is 0. All else comes back bit for bit.
"""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from colnorm.crf import LinearChainCRF
from colnorm.files import write_bytes
from colnorm.normalization import BatchInstanceNorm, BatchNorm, GroupNorm, InstanceNorm, LayerNorm
from colnorm.recurrent import LSTM, Bidirectional
from colnorm.resnet import ResNet, make_normalization

ZeroChannels = Literal["after", "around"]

_AS_IS = (0, 1)
_MATRIX = (1, 0)  # (outputs, inputs) -> (inputs, outputs)
_KERNEL = (2, 3, 1, 0)  # (outputs, inputs, height, width) -> (height, width, inputs, outputs)
_OF_LAYER = re.compile(r"_l(\d+)(?:_reverse)?$")


def from_torch(
    module: nn.Module,
    source: Mapping[str, Any] | str | os.PathLike[str],
    *,
    prefix: str = "",
    layer: int | None = None,
    zero_channels: ZeroChannels | None = None,
) -> dict[str, Any]:
    """Our variables out of a state dict of PyTorch.

    Args:
      module: our layer, one of those at the head of this module, and ``BatchInstanceNorm``, whose arrays are those of a batch
        norm and ``gate``.
      source: a state dict, of arrays or PyTorch's tensors, or the path of a ``.safetensors`` file.
      prefix: of the names that belong to the module, as ``"encoder.lstm."``; others are let be.
      layer: which one of a ``torch.nn.LSTM`` with ``num_layers`` above 1, from 0; ours are one layer each.
      zero_channels: of a ResNet, and needed there: where its shortcuts put the zero channels when the number of channels
        doubles. ``"after"`` the others, as ours do, or half of them on each side, ``"around"`` them, as ``planes // 4`` in
        ``F.pad`` does. The state dict doesn't say. ``"around"`` becomes ours by another order of the channels; the function
        is the same. Group norm's groups forbid that.

    Returns:
      ``params`` and, where the layer has it, ``batch_stats``, as ``module.init`` names them: copies as JAX arrays of the same
      dtype, float64 under ``jax_enable_x64`` and else float32. The bias of ``torch.nn.LSTM(bias=False)`` is 0.

    Raises:
      ValueError: a key is missing, unknown or of another shape or dtype; the layer is none of ours; an argument doesn't fit
        it; or the file is no safetensors file. Pickles are refused, since reading one can run code.
      FileNotFoundError: there is no such file.

    Example:
      >>> import numpy as np
      >>> from colnorm import LSTM
      >>> from colnorm.convert import from_torch
      >>> state = {  # of torch.nn.LSTM(3, 2)
      ...     "weight_ih_l0": np.ones((8, 3), np.float32),
      ...     "weight_hh_l0": np.ones((8, 2), np.float32),
      ...     "bias_ih_l0": np.full(8, 0.5, np.float32),
      ...     "bias_hh_l0": np.full(8, 0.25, np.float32),
      ... }
      >>> variables = from_torch(LSTM(2), state)
      >>> {name: value.shape for name, value in variables["params"].items()}
      {'input_kernel': (3, 8), 'recurrent_kernel': (2, 8), 'bias': (8,)}
      >>> float(variables["params"]["bias"][0])  # the sum of both
      0.75
    """
    name = f"from_torch({type(module).__name__})"
    if isinstance(source, (str, os.PathLike)):
        source = read_safetensors(source)
    if not isinstance(source, Mapping):
        raise ValueError(f"{name}: expected a state dict or the path of a .safetensors file, got {type(source).__name__}")
    arrays = {key.removeprefix(prefix): _array(value) for key, value in source.items() if key.startswith(prefix)}
    leaves = _layout(name, module, layer, zero_channels, "fc" if "fc.weight" in arrays else "linear")
    if layer is not None:
        arrays = {key: value for key, value in arrays.items() if _layer_of(key) in (layer, None)}
    if not any(key.startswith("bias") for key in arrays):  # torch.nn.LSTM(bias=False); no other layer has two
        summed = [leaf for leaf in leaves if len(leaf.names) == 2]
        dtype: Any = next((value.dtype for value in arrays.values()), np.float32)
        arrays |= {key: np.zeros([int(size) for size in leaf.shape], dtype) for leaf in summed for key in leaf.names}

    counters = _counters(leaves)
    wanted = [key for leaf in leaves for key in leaf.names]
    _check_names(name, wanted, [key for key in arrays if key not in counters], prefix)
    sizes: dict[str, int] = {}
    variables = {}
    for leaf in leaves:
        for key in leaf.names:
            _check_array(f"{name}: {prefix}{key}", leaf.shape, arrays[key], sizes)
        first, *second = (arrays[key] for key in leaf.names)
        variables[leaf.path] = jnp.array(leaf.to_ours(sum(second, start=first)))
    return unflatten_dict(variables)


def to_torch(
    module: nn.Module,
    variables: Mapping[str, Any],
    *,
    prefix: str = "",
    layer: int | None = None,
    zero_channels: ZeroChannels | None = None,
    classifier: Literal["linear", "fc"] = "linear",
) -> dict[str, np.ndarray]:
    """A state dict of PyTorch out of our variables, the other way of :func:`from_torch`.

    Args:
      module: our layer.
      variables: ``params`` and ``batch_stats``, as ``module.init`` returns them.
      prefix: to put before every name.
      layer: the number of an LSTM in its stack, 0 by default. The state dicts of all layers together are the stack's.
      zero_channels: of the ResNet that reads the state dict.
      classifier: the name of that ResNet's last layer.

    Returns:
      NumPy arrays of the same dtypes, copies, for ``load_state_dict`` (each through ``torch.from_numpy``) or
      :func:`write_safetensors`.

    Raises:
      ValueError: as :func:`from_torch`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import BatchNorm
      >>> from colnorm.convert import to_torch
      >>> variables = BatchNorm(use_running_average=True).init(jax.random.key(0), jnp.ones((4, 3)))
      >>> state = to_torch(BatchNorm(), variables, prefix="bn1.")
      >>> list(state)
      ['bn1.weight', 'bn1.bias', 'bn1.running_mean', 'bn1.running_var', 'bn1.num_batches_tracked']
      >>> state["bn1.running_var"].tolist()
      [1.0, 1.0, 1.0]
    """
    name = f"to_torch({type(module).__name__})"
    if not isinstance(variables, Mapping):
        raise ValueError(f"{name}: expected variables, a dict with params, got {type(variables).__name__}")
    leaves = _layout(name, module, layer, zero_channels, classifier)
    arrays = flatten_dict(dict(variables), sep="/")
    _check_names(name, ["/".join(leaf.path) for leaf in leaves], arrays)
    sizes: dict[str, int] = {}
    state = {}
    for leaf in leaves:
        place = "/".join(leaf.path)
        value = np.asarray(arrays[place])
        _check_array(f"{name}: {place}", tuple(leaf.shape[axis] for axis in leaf.axes), value, sizes)
        first, *second = leaf.names
        state[first] = leaf.to_theirs(value)
        state |= {key: np.zeros_like(state[first]) for key in second}
    # Strict loading asks for it. It counts batches for PyTorch's momentum=None, an average over all of them.
    state |= {key: np.zeros((), np.int64) for key in _counters(leaves)}
    return {prefix + key: value for key, value in state.items()}


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a ``.safetensors`` file by name; reading it runs nothing that the file says.

    Raises:
      FileNotFoundError: there is none.
      ValueError: its name ends otherwise, as that of a pickle, or it is damaged; names the file.

    Example:
      >>> from colnorm.convert import read_safetensors
      >>> read_safetensors("model.pt")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ValueError: model.pt: expected a .safetensors file, since a pickle can run code; where you trust it, write one: ...
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path}: expected a .safetensors file, since a pickle can run code; where you trust it, write one: "
            f"safetensors.torch.save_file(torch.load({str(path)!r}, weights_only=True), {path.stem + '.safetensors'!r})"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a .safetensors file, found nothing there")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: expected safetensors, but {error}") from None


def write_safetensors(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Replaces a ``.safetensors`` file by the arrays of a state dict, at once: readers see the old one or the new.

    ``safetensors.torch.load_file`` reads it.

    Raises:
      ValueError: the path ends otherwise.
      StorageError: it could not be written; names the file, and the old one is as it was.

    Example:
      >>> import numpy as np, tempfile
      >>> from colnorm.convert import read_safetensors, write_safetensors
      >>> path = tempfile.mkdtemp() + "/model.safetensors"
      >>> write_safetensors(path, {"weight": np.ones(3, np.float32)})
      >>> read_safetensors(path)["weight"].tolist()
      [1.0, 1.0, 1.0]
    """
    from safetensors.numpy import save

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a path that ends in .safetensors")
    # safetensors writes memory as it lies: a transposed view would come back with its numbers in another order.
    write_bytes(path, save({key: np.array(_array(value), order="C") for key, value in state.items()}))


class _Leaf(NamedTuple):
    """One of our arrays, and what it is in a state dict."""

    names: tuple[str, ...]  # of theirs; ours is the sum of two
    path: tuple[str, ...]  # of ours: collection, submodules, name
    shape: tuple[int | str, ...]  # of theirs; a letter is a size that the arrays decide
    axes: tuple[int, ...] = (0,)  # theirs, in the order of ours
    orders: tuple[np.ndarray | None, ...] = ()  # for axes of theirs: which of their channels each of ours is

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        for axis, order in enumerate(self.orders):
            theirs = theirs if order is None else np.take(theirs, order, axis)
        return theirs.transpose(self.axes)

    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        theirs = ours.transpose(np.argsort(self.axes))
        for axis, order in enumerate(self.orders):
            theirs = theirs if order is None else np.take(theirs, np.argsort(order), axis)
        return np.array(theirs, order="C")  # a copy that may be written to, as torch.from_numpy wants it


def _layout(
    name: str, module: nn.Module, layer: int | None, zero_channels: ZeroChannels | None, classifier: str
) -> list[_Leaf]:
    """All arrays of a layer."""
    if layer is not None and (not isinstance(module, (LSTM, Bidirectional)) or layer < 0):
        raise ValueError(f"{name}: expected a layer from 0, of LSTM and Bidirectional only, got layer={layer!r}")
    if isinstance(module, ResNet):
        return _resnet(name, module, zero_channels, classifier)
    if zero_channels is not None:
        raise ValueError(f"{name}: expected zero_channels of ResNet only, got zero_channels={zero_channels!r}")
    if isinstance(module, LinearChainCRF):
        K = module.num_tags
        return [
            _Leaf(("start_transitions",), ("params", "start"), (K,)),
            _Leaf(("end_transitions",), ("params", "end"), (K,)),
            _Leaf(("transitions",), ("params", "transitions"), (K, K), _AS_IS),  # from - to in both
        ]
    if isinstance(module, LSTM):
        if module.reverse:
            raise ValueError(f"{name}: expected reverse=False, since torch.nn.LSTM has no layer in reverse alone, got True")
        return _lstm(module.features, f"_l{layer or 0}", ())
    if isinstance(module, Bidirectional) and isinstance(inner := module.layer(name="forward"), LSTM):
        directions = (("", "forward"), ("_reverse", "backward"))
        return [leaf for end, own in directions for leaf in _lstm(inner.features, f"_l{layer or 0}{end}", (own,))]
    if isinstance(module, (BatchNorm, BatchInstanceNorm, InstanceNorm, GroupNorm, LayerNorm)):
        return _normalization(name, module)
    raise ValueError(
        f"{name}: expected LinearChainCRF, LSTM, Bidirectional of LSTM, ResNet or a normalization, got {type(module).__name__}"
    )


def _lstm(features: int, suffix: str, path: tuple[str, ...]) -> list[_Leaf]:
    """Of one direction. The order of gates is i f g o in both."""
    gates = 4 * features
    return [
        _Leaf((f"weight_ih{suffix}",), ("params", *path, "input_kernel"), (gates, "D"), _MATRIX),
        _Leaf((f"weight_hh{suffix}",), ("params", *path, "recurrent_kernel"), (gates, features), _MATRIX),
        _Leaf((f"bias_ih{suffix}", f"bias_hh{suffix}"), ("params", *path, "bias"), (gates,)),
    ]


def _normalization(
    name: str, module: Any, theirs: str = "", path: tuple[str, ...] = (), order: np.ndarray | None = None
) -> list[_Leaf]:
    """``order``: of the channels, where it is known how many there are."""
    if module.use_scale != module.use_bias and not (isinstance(module, LayerNorm) and module.use_scale):
        raise ValueError(
            f"{name}: expected a scale and a bias or neither, as PyTorch's layer has them, "
            f"got use_scale={module.use_scale}, use_bias={module.use_bias}"
        )
    names = {"weight": ("params", "scale")} if module.use_scale else {}
    names |= {"bias": ("params", "bias")} if module.use_bias else {}
    names |= {"gate": ("params", "gate")} if isinstance(module, BatchInstanceNorm) else {}
    if isinstance(module, (BatchNorm, BatchInstanceNorm, nn.BatchNorm)):
        names |= {"running_mean": ("batch_stats", "mean"), "running_var": ("batch_stats", "var")}
    size = "C" if order is None else len(order)
    return [
        _Leaf((theirs + key,), (collection, *path, own), (size,), orders=(order,)) for key, (collection, own) in names.items()
    ]


def _resnet(name: str, module: ResNet, zero_channels: ZeroChannels | None, classifier: str) -> list[_Leaf]:
    if zero_channels not in ("after", "around"):
        raise ValueError(
            f"{name}: expected zero_channels='after' or 'around', where the shortcuts put them, got {zero_channels!r}"
        )
    if zero_channels == "around" and module.normalization == "gn":
        raise ValueError(
            f"{name}: expected zero_channels='after' with group norm, whose groups are runs of channels, got 'around'"
        )
    make = make_normalization(module.normalization, train=False, num_groups=module.num_groups)

    def convolution(
        theirs: tuple[str, str], ours: tuple[str, ...], suffix: str, inputs: np.ndarray | None, outputs: np.ndarray
    ) -> list[_Leaf]:
        """And the norm, or the bias where there is none."""
        conv, path = theirs[0], ("params", *ours, f"conv{suffix}")
        shape = (len(outputs), "channels" if inputs is None else len(inputs), 3, 3)
        kernel = _Leaf((f"{conv}.weight",), (*path, "kernel"), shape, _KERNEL, (outputs, inputs))
        if make is None:
            return [kernel, _Leaf((f"{conv}.bias",), (*path, "bias"), (len(outputs),), orders=(outputs,))]
        layer = make(parent=None)
        return [kernel, *_normalization(name, layer, f"{theirs[1]}.", (*ours, f"norm{suffix}"), outputs)]

    order = np.arange(16)
    leaves = convolution(("conv1", "bn1"), (), "", None, order)
    for stage in range(3):
        for block in range(module.n):
            theirs, ours = f"layer{stage + 1}.{block}", (f"stage{stage + 1}_block{block + 1}",)
            before, width = order, 16 * 2**stage
            if len(before) < width:
                order = _widen(before, width, zero_channels)
            # What lies between a block's two convolutions meets no shortcut: any order will do.
            leaves += convolution((f"{theirs}.conv1", f"{theirs}.bn1"), ours, "1", before, np.arange(width))
            leaves += convolution((f"{theirs}.conv2", f"{theirs}.bn2"), ours, "2", np.arange(width), order)
    path, classes = ("params", "classifier"), module.num_classes
    return [
        *leaves,
        _Leaf((f"{classifier}.weight",), (*path, "kernel"), (classes, len(order)), _MATRIX, (None, order)),
        _Leaf((f"{classifier}.bias",), (*path, "bias"), (classes,)),
    ]


def _widen(order: np.ndarray, width: int, zero_channels: ZeroChannels) -> np.ndarray:
    """Of a stage's channels, after a shortcut: first those that it fills, in the order that they had, then the zero ones."""
    shift = (width - len(order)) // 2 if zero_channels == "around" else 0
    filled = order + shift
    return np.concatenate([filled, np.setdiff1d(np.arange(width), filled)])


def _layer_of(key: str) -> int | None:
    """The number of an LSTM's layer; None where a name has none."""
    found = _OF_LAYER.search(key)
    return None if found is None else int(found[1])


def _counters(leaves: list[_Leaf]) -> list[str]:
    """What a batch norm has in PyTorch and not here."""
    running = [leaf.names[0] for leaf in leaves if leaf.path[0] == "batch_stats" and leaf.path[-1] == "mean"]
    return [key.removesuffix("running_mean") + "num_batches_tracked" for key in running]


def _array(value: Any) -> np.ndarray:
    """As NumPy's; PyTorch's tensors are told by their methods, so that nothing imports it."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # NumPy has none; JAX's goes through float32, which is exact
            return value.float().numpy().astype(jnp.bfloat16)
        value = value.numpy()
    return np.asarray(value)


def _check_names(name: str, wanted: Collection[str], found: Collection[str], prefix: str = "") -> None:
    missing = [key for key in wanted if key not in found]
    unknown = [key for key in found if key not in wanted]
    if not missing and not unknown:
        return
    parts = [f"{what}: {_few(keys, prefix)}" for what, keys in (("missing", missing), ("unknown", unknown)) if keys]
    if any(_layer_of(key) is not None for key in unknown):
        parts.append("of several LSTM layers say which one, layer=0")
    raise ValueError(f"{name}: expected {_few(wanted, prefix) or 'no arrays'}; {'; '.join(parts)}")


def _few(keys: Collection[str], prefix: str) -> str:
    shown = [prefix + key for key in keys][:6]
    return ", ".join(shown) + (f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else "")


def _check_array(place: str, expected: tuple[int | str, ...], array: np.ndarray, sizes: dict[str, int]) -> None:
    """Refuses another shape or kind; ``sizes`` learns what a letter of the shape stands for."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{place}: expected floating-point numbers, got {array.dtype}")
    shape = array.shape
    known = [sizes.get(size, size) if isinstance(size, str) else size for size in expected]
    if len(shape) != len(known) or any(
        not isinstance(size, str) and size != got for size, got in zip(known, shape, strict=True)
    ):
        raise ValueError(f"{place}: expected shape ({', '.join(map(str, known))}{',' * (len(known) == 1)}), got {shape}")
    sizes |= {size: got for size, got in zip(expected, shape, strict=True) if isinstance(size, str)}
