"""Learning-rate schedules in epochs; SGD and Adam as PyTorch defines them, with rules per parameter; Muon for convolutions."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib


def constant(learning_rate: float) -> optax.Schedule:
    """The same learning rate at every step.

    Example:
      >>> from colnorm import optimizers
      >>> float(optimizers.constant(0.1)(1000))
      0.1
    """
    return optax.constant_schedule(learning_rate)


def decay_per_epoch(learning_rate: float, factor: float, steps_per_epoch: int) -> optax.Schedule:
    """``learning_rate * factor ** epoch``, a staircase with one stair an epoch; epochs count from 0.

    Example:
      >>> from colnorm import optimizers
      >>> schedule = optimizers.decay_per_epoch(1.0, 0.5, steps_per_epoch=10)
      >>> [float(schedule(step)) for step in (0, 9, 10, 20)]
      [1.0, 1.0, 0.5, 0.25]
    """
    return optax.exponential_decay(learning_rate, steps_per_epoch, factor, staircase=True)


def step_decay(learning_rate: float, factor: float, after_epochs: Sequence[int], steps_per_epoch: int) -> optax.Schedule:
    """Multiplied by ``factor`` after each of ``after_epochs`` complete epochs: ``(50,)`` keeps the full rate for 50.

    Example:
      >>> from colnorm import optimizers
      >>> schedule = optimizers.step_decay(1.0, 0.5, after_epochs=(2,), steps_per_epoch=10)
      >>> [float(schedule(step)) for step in (0, 19, 20)]
      [1.0, 1.0, 0.5]
    """

    def schedule(step: Any) -> jax.Array:
        rate = jnp.asarray(learning_rate, jnp.float32)
        for epoch in after_epochs:
            rate = jnp.where(step >= epoch * steps_per_epoch, rate * factor, rate)
        return rate

    return schedule


def warmup_cosine(learning_rate: float, warmup_epochs: float, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Linear from 0 over ``warmup_epochs``, then half a cosine down to 0 at the end of ``epochs``.

    Raises:
      ValueError: the warm-up is not shorter than the training.

    Example:
      >>> from colnorm import optimizers
      >>> schedule = optimizers.warmup_cosine(1.0, warmup_epochs=1, epochs=3, steps_per_epoch=10)
      >>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 20, 30)]
      [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if not 0 <= warmup_epochs < epochs:
        raise ValueError(f"a warm-up of {warmup_epochs} epochs doesn't fit into {epochs}")
    warmup = round(warmup_epochs * steps_per_epoch)
    falling = max(epochs * steps_per_epoch - warmup, 1)

    def schedule(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        down = jnp.square(jnp.cos(jnp.pi / 2 * jnp.clip((step - warmup) / falling, 0, 1)))
        return learning_rate * jnp.where(step < warmup, step / max(warmup, 1), down)

    return schedule


def sgd(
    schedule: optax.Schedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_vectors: bool = True,
    clip_global_norm: float | None = None,
    gate_multiplier: float = 1.0,
    norm_bias_multiplier: float = 1.0,
) -> optax.GradientTransformation:
    """Stochastic gradient descent with momentum and L2 weight decay: PyTorch's ``SGD``.

    With gradient g, parameter p and buffer b (0 at first)::

        g <- g + weight_decay * p;    b <- momentum * b + g;    p <- p - learning_rate * b

    (``p - learning_rate * (g + momentum * b)`` with ``nesterov``). Decay comes before momentum and learning rate, as it is
    part of the gradient.

    Args:
      schedule: step -> learning rate.
      momentum: fraction of the buffer kept at each step; 0 for none.
      nesterov: look ahead by one step of momentum.
      weight_decay: coefficient of the L2 term.
      decay_vectors: False spares parameters of fewer than two dimensions: biases and normalization's scale, bias and gate.
      clip_global_norm: scale the whole gradient, before decay, down to this L2 norm where it is longer; None never does.
      gate_multiplier: learning rate of :class:`~colnorm.BatchInstanceNorm`'s gates in units of the others'. With any value
        but 1 gates are spared from weight decay as well, as that layer's authors train them.
      norm_bias_multiplier: learning rate of normalizations' biases (a ``bias`` beside a ``scale``) in units of the others'.

    Returns:
      An optax transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import optimizers
      >>> tx = optimizers.sgd(optimizers.constant(0.1), momentum=0.9)
      >>> params = {"w": jnp.array([1.0])}
      >>> updates, state = tx.update({"w": jnp.array([2.0])}, tx.init(params), params)
      >>> round(float(updates["w"][0]), 3)
      -0.2
    """

    def decays(params: Any) -> Any:
        def decays_one(path: tuple, param: jax.Array) -> bool:
            return (decay_vectors or jnp.ndim(param) > 1) and not (gate_multiplier != 1.0 and _is_gate(path))

        return jax.tree_util.tree_map_with_path(decays_one, params)

    def gates(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: _is_gate(path), params)

    def norm_biases(params: Any) -> Any:
        scaled = {path[:-1] for path, _ in jax.tree_util.tree_leaves_with_path(params) if _name(path) == "scale"}
        return jax.tree_util.tree_map_with_path(lambda path, _: _name(path) == "bias" and path[:-1] in scaled, params)

    steps = []
    if clip_global_norm is not None:
        steps.append(optax.clip_by_global_norm(clip_global_norm))
    if weight_decay:
        steps.append(optax.add_decayed_weights(weight_decay, mask=decays))
    if momentum:
        steps.append(optax.trace(decay=momentum, nesterov=nesterov))
    if gate_multiplier != 1.0:
        steps.append(optax.masked(optax.scale(gate_multiplier), gates))
    if norm_bias_multiplier != 1.0:
        steps.append(optax.masked(optax.scale(norm_bias_multiplier), norm_biases))
    return optax.chain(*steps, optax.scale_by_learning_rate(schedule))


def adam(
    schedule: optax.Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    decay_vectors: bool = False,
    clip_global_norm: float | None = None,
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980) with decoupled weight decay: PyTorch's ``AdamW``.

    With gradient g, parameter p and moments m, v (0 at first), at step n from 1::

        m <- b1 * m + (1 - b1) * g;    v <- b2 * v + (1 - b2) * g^2
        p <- p - learning_rate * (m / (1 - b1^n) / (sqrt(v / (1 - b2^n)) + epsilon) + weight_decay * p)

    Args:
      schedule: step -> learning rate.
      b1, b2: fraction of the first and second moment kept at each step.
      epsilon: added to the root of the second moment.
      weight_decay: coefficient of the decay, in units of the learning rate (Loshchilov and Hutter, 2019,
        https://arxiv.org/abs/1711.05101).
      decay_vectors: False spares parameters of fewer than two dimensions.
      clip_global_norm: scale the whole gradient down to this L2 norm where it is longer; None never does.

    Returns:
      An optax transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import optimizers
      >>> tx = optimizers.adam(optimizers.constant(0.1))
      >>> params = {"w": jnp.array([1.0])}
      >>> updates, state = tx.update({"w": jnp.array([2.0])}, tx.init(params), params)
      >>> round(float(updates["w"][0]), 3)  # the first step is as long as the learning rate
      -0.1
    """

    def decays(params: Any) -> Any:
        return jax.tree.map(lambda param: decay_vectors or jnp.ndim(param) > 1, params)

    steps = []
    if clip_global_norm is not None:
        steps.append(optax.clip_by_global_norm(clip_global_norm))
    steps.append(_with_standard_promotion(optax.scale_by_adam(b1, b2, epsilon)))
    if weight_decay:
        steps.append(optax.add_decayed_weights(weight_decay, mask=decays))
    return optax.chain(*steps, optax.scale_by_learning_rate(schedule))


def muon(
    schedule: optax.Schedule,
    others: optax.GradientTransformation,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) for convolution kernels, ``others`` for the rest.

    A kernel of shape (height, width, in, out) is read as a matrix with a column for each output channel. With gradient g,
    parameter p and moment m (0 at first), at step n from 1::

        m <- momentum * m + (1 - momentum) * g
        u = momentum * m / (1 - momentum^(n+1)) + (1 - momentum) * g / (1 - momentum^n)
        p <- p - learning_rate * (orthogonalize(u) + weight_decay * p)

    ``orthogonalize`` divides u by its Frobenius norm and moves the singular values to between about 0.7 and 1.2 by five
    Newton-Schulz steps, but for those that are close to 0. So each step changes what a layer does equally in all directions,
    however long its gradient. For a kernel with more output than input values it is longer by the root of their ratio.

    Args:
      schedule: step -> learning rate of the convolution kernels: parameters of four dimensions.
      others: what updates all other parameters; it sees their gradients alone, for the norm that it clips too.
      momentum: fraction of the moment kept at each step.
      weight_decay: coefficient of the kernels' decoupled decay, in units of the learning rate.

    Returns:
      An optax transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import optimizers
      >>> tx = optimizers.muon(optimizers.constant(0.1), optimizers.sgd(optimizers.constant(0.5)))
      >>> params = {"kernel": jnp.zeros((1, 1, 3, 3)), "bias": jnp.zeros(2)}
      >>> gradients = {"kernel": 7 * jnp.eye(3)[None, None], "bias": jnp.ones(2)}
      >>> updates, state = tx.update(gradients, tx.init(params), params)
      >>> round(float(updates["kernel"][0, 0, 2, 2]), 2)  # about the learning rate, however long the gradient
      -0.07
      >>> updates["bias"].tolist()
      [-0.5, -0.5]
    """
    axes = contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda param: "kernel" if jnp.ndim(param) == 4 else "other", params)

    def lengthen(updates: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda update: update * max(1.0, update.shape[-1] / math.prod(update.shape[:-1])) ** 0.5, updates)

    kernels = optax.chain(
        contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=lambda updates: jax.tree.map(lambda _: axes, updates)),
        optax.stateless(lengthen),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(schedule),
    )
    return optax.partition({"kernel": _with_standard_promotion(kernels), "other": others}, labels)


def _with_standard_promotion(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """Lets optax raise floats to integer powers where a program has set ``jax_numpy_dtype_promotion`` to strict."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return transformation.update(updates, state, params)

    return optax.GradientTransformation(transformation.init, update)


def _is_gate(path: Sequence[Any]) -> bool:
    return _name(path) == "gate"


def _name(path: Sequence[Any]) -> Any:
    return getattr(path[-1], "key", None)
