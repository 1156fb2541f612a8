"""What the tests of the recurrent layers share: the layers by name, random cases, and what they compute as plain loops.

The NumPy oracle reads one sequence at a time, without padding. The second oracle, for derivatives, is a scan over the steps
of a padded batch that JAX differentiates by itself. Both take the step as the formula is written.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from colnorm import LSTM, Bidirectional, LayerNormLSTM

KINDS = {
    "plain": LSTM,
    "gates": partial(LayerNormLSTM, normalize="gates"),
    "output": partial(LayerNormLSTM, normalize="output"),
}
DIRECTIONS = ("forward", "backward", "both")
B, T, D, H = 5, 6, 3, 4  # of most tests
LENGTHS = np.array([3, 6, 0, 1, 5])
EPSILON = 1e-5


@cache  # equal layers are one object, which compiled functions know again
def make(kind, direction="both", features=H, **options):
    constructor = partial(KINDS[kind], features, **options)
    return Bidirectional(constructor) if direction == "both" else constructor(reverse=direction == "backward")


@partial(jax.jit, static_argnums=0)
def apply(layer, params, x, lengths=None, carry=None):
    """Outputs and carry."""
    return layer.apply({"params": params}, x, lengths, carry, return_carry=True)


def assert_close(ours, expected, tolerance):
    """Leaf by leaf, relative to 1 or to the leaf's largest entry."""

    def check(leaf, other):
        largest = max(1.0, np.abs(np.asarray(other)).max(initial=0))
        np.testing.assert_allclose(leaf, other, rtol=0, atol=tolerance * largest)

    jax.tree.map(check, ours, expected)


def names(direction):
    """The directions that a layer has, in the order of its output."""
    return ("forward", "backward") if direction == "both" else (direction,)


def random_array(shape, dtype=np.float32, seed=0, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng([seed, len(shape)]).standard_normal(shape), dtype)


def random_params(layer, inputs=D, dtype=np.float32, seed=0):
    """A layer's params, all of them random: scales around 1, the rest around 0."""
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 1, inputs), dtype))["params"]
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        return jnp.asarray(0.6 * rng.standard_normal(leaf.shape) + path[-1].key.endswith("_scale"), dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def random_carry(direction, dtype=np.float32, seed=0, batch=B, features=H):
    """(h, c), or a pair of them."""
    rng = np.random.default_rng(seed + 100)
    carries = [tuple(jnp.asarray(rng.standard_normal((batch, features)), dtype) for _ in "hc") for _ in names(direction)]
    return tuple(carries) if direction == "both" else carries[0]


def random_lengths(seed, batch=B, longest=T):
    return np.random.default_rng(seed).integers(0, longest + 1, batch)


def per_direction(direction, params, carry):
    """(name, its params, its carry) of each direction."""
    if direction == "both":
        return [(name, params[name], None if carry is None else carry[i]) for i, name in enumerate(names(direction))]
    return [(direction, params, carry)]


def join(direction, parts):
    """Outputs side by side and the carry, as the layers return them, from (outputs, carry) of each direction."""
    carries = tuple(carry for _, carry in parts)
    return [outputs for outputs, _ in parts], carries if direction == "both" else carries[0]


# ------------------------------------------------------------------------------------------------------ the step itself


def sigmoid(a, xp):
    return xp.exp(-xp.logaddexp(0.0, -a))


def layer_norm(v, xp):
    centred = v - xp.mean(v, axis=-1, keepdims=True)
    return centred / xp.sqrt(xp.mean(centred**2, axis=-1, keepdims=True) + EPSILON)


def step(kind, p, x, h, c, xp=np):
    """x (D,) or (B, D); returns the next h and c."""
    p = {name: value if value.ndim == 2 else value.reshape((1,) * (x.ndim - 1) + value.shape) for name, value in p.items()}
    from_x, from_h = x @ p["input_kernel"], h @ p["recurrent_kernel"]
    if kind == "gates":
        from_x, from_h = layer_norm(from_x, xp) * p["input_scale"], layer_norm(from_h, xp) * p["recurrent_scale"]
    i, f, g, o = xp.split(from_x + from_h + p["bias"], 4, axis=-1)
    c = sigmoid(f, xp) * c + sigmoid(i, xp) * xp.tanh(g)
    inside = layer_norm(c, xp) * p["cell_scale"] + p["cell_bias"] if kind == "gates" else c
    h = sigmoid(o, xp) * xp.tanh(inside)
    return (layer_norm(h, xp) * p["output_scale"] + p["output_bias"] if kind == "output" else h), c


# ------------------------------------------------------------------------------------- float64 NumPy, sequence by sequence


def run(kind, direction, params, x, lengths=None, carry=None):
    """Outputs (B, T, H or 2H) and the carry, in float64."""
    params, x, carry = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, x, carry))
    batch, longest, _ = x.shape
    parts = []
    for name, p, initial in per_direction(direction, params, carry):
        size = p["recurrent_kernel"].shape[0]
        outputs, last = np.zeros((batch, longest, size)), np.zeros((2, batch, size))
        for b in range(batch):
            length = longest if lengths is None else int(lengths[b])
            h, c = np.zeros((2, size)) if initial is None else (initial[0][b], initial[1][b])
            for t in range(length) if name == "forward" else reversed(range(length)):
                h, c = step(kind, p, x[b, t], h, c)
                outputs[b, t] = h
            last[:, b] = h, c
        parts.append((outputs, (last[0], last[1])))
    outputs, carry = join(direction, parts)
    return np.concatenate(outputs, -1), carry


# ------------------------------------------------------------------ the same step in a plain scan, for JAX to differentiate


def run_scan(kind, direction, params, x, lengths, carry):
    """As :func:`run`, traceable: every step of the padded batch, its result kept where the sequence is that long."""
    parts = []
    for name, p, initial in per_direction(direction, params, carry):

        def advance(before, now, p=p):
            x, live = now
            after = step(kind, p, x, *before, jnp)
            after = tuple(jnp.where(live[:, None], new, old) for new, old in zip(after, before, strict=True))
            return after, jnp.where(live[:, None], after[0], jnp.zeros_like(after[0]))

        live = jnp.arange(x.shape[1])[:, None] < lengths[None]
        last, outputs = jax.lax.scan(advance, initial, (jnp.swapaxes(x, 0, 1), live), reverse=name == "backward")
        parts.append((jnp.swapaxes(outputs, 0, 1), last))
    outputs, carry = join(direction, parts)
    return jnp.concatenate(outputs, -1), carry
