"""The image task: what a config means in terms of model, loss, optimizer and arrays on the device."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from colnorm import ResNet, optimizers
from colnorm.data import images
from colnorm.data.batching import padded_batches
from colnorm.metrics import classification_figures, confusion_matrix
from colnorm.training import Data, LossFn, Sums, TrainState, create_state
from experiments.configs import CifarConfig

PERCENTILES = (1, 20, 80, 99)
QUANTILE_BATCH = 256  # validation images whose features 1.2.7 follows over the epochs


def make_model(config: CifarConfig, num_classes: int, axis_name: str | None = None) -> ResNet:
    """The network of a config."""
    dtype = jnp.bfloat16 if config.dtype == "bfloat16" else None
    return ResNet(config.n, num_classes, config.normalization, axis_name, dtype, config.norm_placement, config.num_groups)


def make_schedule(config: CifarConfig, steps_per_epoch: int) -> optax.Schedule:
    """Step -> learning rate."""
    match config.schedule:
        case "constant":
            return optimizers.constant(config.learning_rate)
        case "decay":
            return optimizers.decay_per_epoch(config.learning_rate, config.decay_factor, steps_per_epoch)
        case "step":
            return optimizers.step_decay(config.learning_rate, config.decay_factor, config.decay_epochs, steps_per_epoch)
        case "cosine":
            return optimizers.warmup_cosine(config.learning_rate, config.warmup_epochs, config.epochs, steps_per_epoch)


def make_state(config: CifarConfig, num_classes: int, steps_per_epoch: int) -> TrainState:
    """A fresh state: parameters from the seed, optimizer from the config."""
    tx = optimizers.sgd(
        make_schedule(config, steps_per_epoch),
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        decay_vectors=config.decay_vectors,
        clip_global_norm=config.clip_global_norm,
        gate_multiplier=config.gate_multiplier,
    )
    return create_state(make_model(config, num_classes), tx, config.seed, jnp.zeros((1, 32, 32, 3)))


def make_loss(config: CifarConfig, data: images.ImageData) -> Callable[[str | None], LossFn]:
    """Axis name -> loss function: cross-entropy over the classes, its sums ``loss``, ``count`` and ``confusion``."""

    def for_axis(axis_name: str | None) -> LossFn:
        model = make_model(config, data.num_classes, axis_name)

        def loss_fn(variables: Mapping[str, Any], batch: Data, key: jax.Array, train: bool) -> tuple[Sums, Any]:
            pixels, labels, weights = batch["images"], batch["labels"], batch["weights"]
            if train and (config.crop_padding or config.flip):
                keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(batch["positions"])
                pixels = images.augment(keys, pixels, config.crop_padding, config.flip)
            inputs = images.standardize(pixels, data.mean, data.std)
            logits, updated = model.apply(variables, inputs, train, mutable=["batch_stats"] if train else [])
            targets = jax.nn.one_hot(labels, data.num_classes)
            if train and config.label_smoothing:
                targets = optax.smooth_labels(targets, config.label_smoothing)
            losses = optax.softmax_cross_entropy(logits, targets)
            sums = {
                "loss": jnp.sum(losses * weights),
                "count": jnp.sum(weights),
                "confusion": confusion_matrix(labels, jnp.argmax(logits, -1), weights, data.num_classes),
            }
            return sums, updated.get("batch_stats", {})

        return loss_fn

    return for_axis


def split_arrays(split: images.Split) -> dict[str, np.ndarray]:
    """A split as the arrays that the steps index."""
    return {"images": split.images, "labels": split.labels}


def evaluation_batches(num_examples: int, num_devices: int) -> np.ndarray:
    """Batches of indices for evaluation: up to 500 images, as no gradient has to be held, evenly over the devices."""
    size = min(500, num_examples)
    return padded_batches(num_examples, size + -size % num_devices)


def figures(sums: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, float]:
    """Mean loss, accuracy and macro F1 out of summed figures."""
    scores = classification_figures(sums["confusion"])
    loss = float(sums["loss"] / max(float(sums["count"]), 1.0))
    return {f"{prefix}loss": loss, f"{prefix}accuracy": scores["accuracy"], f"{prefix}macro_f1": scores["macro_f1"]}


def make_quantiles(config: CifarConfig, data: images.ImageData) -> Callable[[TrainState], list[float]]:
    """State -> :data:`PERCENTILES` of the features that enter the last activation, on a fixed validation batch (1.2.7)."""
    model = make_model(config, data.num_classes)
    batch = images.standardize(data.validation.images[:QUANTILE_BATCH], data.mean, data.std)

    @jax.jit
    def quantiles(variables: Mapping[str, Any]) -> jax.Array:
        _, features = model.apply(variables, batch, False, return_features=True)
        return jnp.percentile(features["last_preactivation"].astype(jnp.float32), jnp.asarray(PERCENTILES, jnp.float32))

    return lambda state: [float(value) for value in quantiles(state.variables)]
