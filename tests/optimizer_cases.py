"""What the optimizer's tests share: parameters of every kind, and a run of steps."""

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = {
    "conv": {"kernel": (3, 3, 2, 4)},
    "norm": {"scale": (4,), "bias": (4,), "gate": (4,)},
    "classifier": {"kernel": (4, 3), "bias": (3,)},
}
STEPS = 7


def is_shape(x):
    return isinstance(x, tuple)


def draw(seed, scale=1.0):
    """Parameters, or gradients."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda shape: (scale * rng.standard_normal(shape)).astype(np.float32), SHAPES, is_leaf=is_shape)


def gradients(step):
    """Of norm 0.6 to 30, so that clipping at 5 sometimes does something."""
    return draw(100 + step, [0.05, 3.0, 0.5, 1.0, 0.1, 2.0, 0.3][step])


def run(tx, steps=STEPS):
    """The parameters after each step."""
    params = jax.tree.map(jnp.asarray, draw(0))
    state = tx.init(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    seen = []
    for number in range(steps):
        params, state = step(params, state, gradients(number))
        seen.append(params)
    return seen
