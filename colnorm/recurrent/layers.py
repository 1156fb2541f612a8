r"""LSTM, layer-normalized LSTM and their bidirectional form, as Flax Linen modules over padded batches.

A layer reads ``x (B, T, D)`` and returns h of every step, ``(B, T, features)``. With H features, gates in the order i f g o
and h and c zero at first, a step is

.. math::

    i, f, g, o &= x_t W_x + h_{t-1} W_h + b \\
    c_t &= \sigma(f) \, c_{t-1} + \sigma(i) \tanh(g) \\
    h_t &= \sigma(o) \tanh(c_t)

Conventions, the same for every layer:

- Sequences are padded on the right; ``lengths (B,)`` counts their steps, from 0 to T. What lies past a length, NaN included,
  changes neither a result nor a gradient; there the output is 0, and so is the gradient of x.
- ``reverse`` reads each sequence from its own last step to its first; outputs stay in the order of x.
- A carry is ``(h, c)``, each ``(B, features)``. ``return_carry`` gives that after the last step read, the sequence's own end
  (with ``reverse`` its beginning); for a length of 0 the initial one. Carrying on from it is as if there had been no cut.
- ``dtype`` is that of the matrix products, of h and of the output; None promotes input and parameters. c, the sums of
  the pre-activations and the statistics are float32 for bfloat16 and float16, float64 for float64.
- Parameters start as: ``input_kernel`` Glorot uniform and ``recurrent_kernel`` orthogonal, both per gate, as ``(D, H)`` and
  ``(H, H)``; ``bias`` 0, but 1 for the forget gate (Jozefowicz et al., 2015); scales of layer norms 1, their biases 0.
- Differentiable in reverse mode, twice too (reverse over reverse); the derivative is written by hand, so forward mode
  (``jax.jvp``) is an error.
- Wrong shapes, dtypes or arguments are a ``ValueError`` when the layer is traced; the values of lengths are not checked.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype

from colnorm.recurrent.scan import Direction, recur

Array = jax.Array
Dtype = Any
Carry = tuple[Array, Array]


class _Layer(nn.Module):
    """What LSTM and LayerNormLSTM share."""

    features: int
    _: KW_ONLY
    reverse: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    def __call__(
        self, x: Array, lengths: Any = None, initial_carry: Carry | None = None, return_carry: bool = False
    ) -> Array | tuple[Array, Carry]:
        """Reads ``x (B, T, D)``; ``lengths (B,)`` of any integer dtype, all T by default; ``initial_carry`` zeros by default.

        Returns ``(B, T, features)``, and with ``return_carry`` the pair of that and the carry.
        """
        carries = None if initial_carry is None else [initial_carry]
        outputs, (carry,) = _read(self, [self], [self.reverse], x, lengths, carries)
        return (outputs, carry) if return_carry else outputs

    @property
    def _kind(self) -> str:
        return "plain"

    @nn.compact
    def _parameters(self, inputs: int) -> dict[str, Array]:
        """All parameters by name, for so many input features."""
        shapes = parameter_shapes(self._kind, inputs, self.features)
        return {name: self.param(name, _initializer(name), shape, self.param_dtype) for name, shape in shapes.items()}


class LSTM(_Layer):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997, https://doi.org/10.1162/neco.1997.9.8.1735).

    With the forget gate of Gers et al. (2000), without peepholes; the formula stands at the head of this module. Its weights
    are PyTorch's, transposed, with one bias that is the sum of PyTorch's two.

    Attributes:
      features: H, the size of h and c.
      reverse: whether to read each sequence from its end.
      dtype: of products and outputs; None promotes input and parameters.
      param_dtype: of the parameters.

    Collections: ``params`` input_kernel ``(D, 4H)``, recurrent_kernel ``(H, 4H)``, bias ``(4H,)``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import LSTM
      >>> x, lengths = jnp.ones((2, 5, 3)), jnp.array([5, 2])
      >>> layer = LSTM(4)
      >>> variables = layer.init(jax.random.key(0), x, lengths)
      >>> y, (h, c) = layer.apply(variables, x, lengths, return_carry=True)
      >>> y.shape, h.shape
      ((2, 5, 4), (2, 4))
      >>> bool((y[1, 2:] == 0).all()), bool((h[1] == y[1, 1]).all())  # padding; the state at the sequence's own end
      (True, True)
    """


class LayerNormLSTM(_Layer):
    """LSTM with layer normalization over the features of each step alone (Ba et al., 2016, https://arxiv.org/abs/1607.06450).

    ``LN(v) = (v - mean) / sqrt(variance + 1e-5)`` with the biased variance, over the last axis. In ``"gates"``, the paper's
    form, one layer norm runs over all 4H of ``x W_x`` and one over all 4H of ``h W_h``, each with a scale, and both share one
    bias; the cell's is seen by h only::

        i, f, g, o = s_x LN(x_t W_x) + s_h LN(h_(t-1) W_h) + b
        c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g)
        h_t = sigmoid(o) tanh(s_c LN(c_t) + b_c)

    In ``"output"`` gates and c are the plain LSTM's, and ``h_t = s LN(sigmoid(o) tanh(c_t)) + b_h`` is both the output
    and the next state. (TensorFlow's ``LayerNormBasicLSTMCell`` is a third form: it normalizes each gate by itself.)

    Attributes:
      normalize: ``"gates"`` or ``"output"``.
      features, reverse, dtype, param_dtype: as in :class:`LSTM`.

    Collections: ``params`` those of :class:`LSTM`, and for ``"gates"`` input_scale, recurrent_scale ``(4H,)``, cell_scale,
    cell_bias ``(H,)``; for ``"output"`` output_scale, output_bias ``(H,)``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import LayerNormLSTM
      >>> x, lengths = jnp.ones((2, 5, 3)), jnp.array([5, 2])
      >>> layer = LayerNormLSTM(4, normalize="output")
      >>> variables = layer.init(jax.random.key(0), x, lengths)
      >>> y = layer.apply(variables, x, lengths)
      >>> abs(round(float(y[0, 0].mean()), 3)), round(float(y[0, 0].std()), 1)
      (0.0, 1.0)
    """

    _: KW_ONLY
    normalize: str = "gates"

    @property
    def _kind(self) -> str:
        if self.normalize not in ("gates", "output"):
            raise ValueError(f"LayerNormLSTM: expected normalize to be 'gates' or 'output', got {self.normalize!r}")
        return self.normalize


class Bidirectional(nn.Module):
    """Two layers of one kind over the same sequences, one forward and one in reverse, in one scan.

    ``Bidirectional(partial(LSTM, 64))`` returns ``(B, T, 128)``: the forward layer's output, then that of a layer with
    ``reverse=True``. A carry is the pair (forward carry, backward carry).

    Attributes:
      layer: makes a layer: :class:`LSTM` or :class:`LayerNormLSTM` with its arguments, but for ``reverse`` and ``name``.

    Collections: ``params`` forward and backward, each as that layer has them.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from functools import partial
      >>> from colnorm import LSTM, Bidirectional
      >>> x, lengths = jnp.ones((2, 5, 3)), jnp.array([5, 2])
      >>> layer = Bidirectional(partial(LSTM, 4))
      >>> variables = layer.init(jax.random.key(0), x, lengths)
      >>> sorted(variables["params"])
      ['backward', 'forward']
      >>> layer.apply(variables, x, lengths).shape
      (2, 5, 8)
    """

    layer: Callable[..., Any]

    @nn.compact
    def __call__(
        self, x: Array, lengths: Any = None, initial_carry: tuple[Carry, Carry] | None = None, return_carry: bool = False
    ) -> Array | tuple[Array, tuple[Carry, Carry]]:
        """Reads ``x (B, T, D)`` as the layers do; returns ``(B, T, 2 * features)``, and with ``return_carry`` the carries."""
        if isinstance(self.layer, nn.Module):
            raise ValueError(f"Bidirectional: expected a layer's constructor, such as partial(LSTM, 64), got {self.layer!r}")
        layers = [self.layer(name=name) for name in ("forward", "backward")]
        if not isinstance(layers[0], _Layer):
            raise ValueError(f"Bidirectional: expected a constructor of LSTM or LayerNormLSTM, got one of {type(layers[0])}")
        if layers[0].reverse:
            raise ValueError("Bidirectional: expected a layer with reverse=False, since it adds the other one, got True")
        if initial_carry is not None and not _is_pair(initial_carry):
            raise ValueError(f"Bidirectional: expected a pair of carries (h, c), got {_describe(initial_carry)}")
        outputs, (forward, backward) = _read(self, layers, [False, True], x, lengths, initial_carry)
        return (outputs, (forward, backward)) if return_carry else outputs


def _read(
    module: nn.Module, layers: Sequence[_Layer], reverses: Sequence[bool], x: Array, lengths: Any, initial_carries: Any
) -> tuple[Array, list[Carry]]:
    """Runs the layers over x, each in its direction; returns their outputs side by side, and each one's carry."""
    name, kind, H = type(module).__name__, layers[0]._kind, layers[0].features
    lengths = _check(name, H, x, lengths)
    B, T, D = x.shape
    all_params = [layer._parameters(D) for layer in layers]
    with jax.numpy_dtype_promotion("standard"):  # the one place where promotion is meant
        dtype = canonicalize_dtype(x, *jax.tree.leaves(all_params), dtype=layers[0].dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name}: expected a floating-point dtype, got {jnp.dtype(dtype)}")
    mask = None if lengths is None else (jnp.arange(T, dtype=jnp.int32)[:, None] < lengths[None])[..., None]  # (T, B, 1)
    x = _zero_padding(jnp.swapaxes(x.astype(dtype), 0, 1), mask)  # (T, B, D)

    # Zeros that are laid out over devices as x is: the carry of a scan begins as it goes on. And what makes a parameter, inside
    # of shard_map, a device's own, so that its gradient adds up over them. XLA computes neither.
    nothing = jnp.zeros_like(x)
    zeros, own = jnp.sum(nothing, (0, 2))[:, None], jnp.sum(nothing)
    directions = []
    for index, (params, reverse) in enumerate(zip(all_params, reverses, strict=True)):
        weights = _prepare(kind, {key: value.astype(_wide(dtype)) + own.astype(_wide(dtype)) for key, value in params.items()})
        if initial_carries is None:
            h = c = jnp.broadcast_to(zeros, (B, H))
        else:
            h, c = _check_carry(name, initial_carries[index], (B, H))
        directions.append(Direction(_flip(x, reverse), weights, h.astype(dtype), c.astype(_wide(dtype))))
    masks = None if mask is None else [_flip(mask, reverse) for reverse in reverses]
    results = recur(kind, directions, masks)

    states = [_flip(result.states, reverse) for result, reverse in zip(results, reverses, strict=True)]
    outputs = _zero_padding(jnp.concatenate(states, -1), mask)  # (T, B, H of each)
    return jnp.swapaxes(outputs, 0, 1), [(result.h, result.c) for result in results]


def _prepare(kind: str, params: dict[str, Array]) -> dict[str, Array]:
    """The parameters in the form that the scan wants: sigmoid gates halved, and centred kernels under a layer norm."""
    H = params["recurrent_kernel"].shape[0]
    halves = jnp.where(jnp.arange(4 * H) // H == 2, 1.0, 0.5).astype(params["bias"].dtype)
    weights = params | {"bias": params["bias"] * halves}
    for part in ("input", "recurrent"):
        kernel = params[f"{part}_kernel"]
        if kind == "gates":
            weights[f"{part}_kernel"] = kernel - jnp.mean(kernel, 1, keepdims=True)
            weights[f"{part}_scale"] = params[f"{part}_scale"] * halves
        else:
            weights[f"{part}_kernel"] = kernel * halves[None]
    return weights


def parameter_shapes(kind: str, inputs: int, features: int) -> dict[str, tuple[int, ...]]:
    """Of a layer's parameters by name; ``kind`` is plain, or what a :class:`LayerNormLSTM` normalizes."""
    gates, H = (4 * features,), (features,)
    shapes: dict[str, tuple[int, ...]] = {"input_kernel": (inputs, *gates), "recurrent_kernel": (*H, *gates), "bias": gates}
    if kind == "gates":
        shapes |= {"input_scale": gates, "recurrent_scale": gates, "cell_scale": H, "cell_bias": H}
    elif kind == "output":
        shapes |= {"output_scale": H, "output_bias": H}
    return shapes


def _initializer(name: str) -> Callable:
    """Of the parameter of this name."""
    match name:
        case "input_kernel":
            return _per_gate(nn.initializers.glorot_uniform())
        case "recurrent_kernel":
            return _per_gate(nn.initializers.orthogonal())
        case "bias":
            return _forget_bias
    return nn.initializers.ones if name.endswith("scale") else nn.initializers.zeros


def _per_gate(initializer: Callable) -> Callable:
    """Initializes each gate's quarter of a kernel by itself; at least in float32, since QR has no bfloat16."""

    def initialize(key: Array, shape: tuple[int, int], dtype: Dtype) -> Array:
        quarter = (shape[0], shape[1] // 4)
        # Not a vmap: two batched QRs at once, of two directions say, may wait for each other forever on a CPU of two cores, as
        # each holds one of XLA's threads while its parts queue for the same ones (jaxlib 0.10.2, about once in 100 runs).
        quarters = [initializer(key, quarter, _wide(dtype)) for key in jax.random.split(key, 4)]
        return jnp.concatenate(quarters, 1).astype(dtype)

    return initialize


def _forget_bias(key: Array, shape: tuple[int], dtype: Dtype) -> Array:
    return (jnp.arange(shape[0]) // (shape[0] // 4) == 1).astype(dtype)


def _wide(dtype: Dtype) -> Dtype:
    """The dtype of c, of sums and of statistics."""
    return jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32


def _flip(steps: Array, reverse: bool) -> Array:
    """The steps as a reverse direction reads them, or its states in order again. Padding comes first, and keeps the carry."""
    return jnp.flip(steps, 0) if reverse else steps


def _zero_padding(values: Array, mask: Array | None) -> Array:
    """(T, B, any) values, zero where the mask (T, B, 1) is False."""
    return values if mask is None else jnp.where(mask, values, jnp.zeros_like(values))


def _check(name: str, features: int, x: Array, lengths: Any) -> Array | None:
    """Refuses what can't be read; returns the lengths as int32."""
    if features < 1:
        raise ValueError(f"{name}: expected at least 1 feature, got {features}")
    if x.ndim != 3:
        raise ValueError(f"{name}: expected an input of shape (B, T, D), got {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name}: expected a floating-point input, got {x.dtype}")
    if lengths is None:
        return None
    lengths = jnp.asarray(lengths)
    if lengths.shape != x.shape[:1]:
        raise ValueError(
            f"{name}: expected lengths of shape {x.shape[:1]} for an input of shape {x.shape}, got {lengths.shape}"
        )
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"{name}: expected integer lengths, got {lengths.dtype}")
    return lengths.astype(jnp.int32)


def _check_carry(name: str, carry: Any, shape: tuple[int, int]) -> Carry:
    if not _is_pair(carry) or any(getattr(part, "shape", None) != shape for part in carry):
        raise ValueError(f"{name}: expected a carry (h, c), each of shape {shape}, got {_describe(carry)}")
    if not all(jnp.issubdtype(part.dtype, jnp.floating) for part in carry):
        raise ValueError(f"{name}: expected a floating-point carry, got {[str(part.dtype) for part in carry]}")
    return carry


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2


def _describe(value: Any) -> Any:
    """The shapes of arrays in any nest."""
    return jax.tree.map(lambda part: getattr(part, "shape", part), value)
