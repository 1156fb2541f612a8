"""What the tests of the residual network share: variables as a trained network has them, and a compiled loss."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from colnorm import ResNet

NORMALIZATIONS = ("nn", "bn", "in", "bin", "ln", "gn", "flax_bn")


def random_images(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def shapes_of(model, shape=(1, 8, 8, 3)):
    """The variables' shapes and dtypes; nothing is compiled."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape, jnp.float32)))


def random_variables(model, shape=(1, 8, 8, 3), seed=0, dtype=np.float32):
    """He-scaled kernels, and scales, biases, gates and running statistics away from where they start."""
    rng = np.random.default_rng(seed + 1)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            value = rng.standard_normal(leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif name in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            value = rng.uniform(0.2, 0.8, leaf.shape) if name == "gate" else 0.2 * rng.standard_normal(leaf.shape)
        return jnp.asarray(value, dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model, shape))


def cross_entropy(logits, labels):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))


@partial(jax.jit, static_argnums=0, static_argnames="train")
def loss_and_gradients(model, variables, images, labels, train=True):
    """((loss, (logits, new batch_stats)), gradients of the parameters)."""

    def loss(params):
        collections = {**variables, "params": params}
        logits, state = model.apply(collections, images, train, mutable=["batch_stats"])
        return cross_entropy(logits, labels), (logits, state.get("batch_stats", {}))

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


def resnet(normalization="bn", n=1, **fields):
    return ResNet(n, normalization=normalization, **fields)
