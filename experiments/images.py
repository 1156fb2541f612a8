"""The image task: a ResNet on CIFAR-10 or digits. What a config means in terms of data, model, optimizer, loss and metrics."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from colnorm import ResNet, optimizers
from colnorm.data import images
from colnorm.data.batching import padded_batches, shuffled_batches
from colnorm.files import write_json
from colnorm.metrics import classification_metrics, confusion_matrix, headline
from colnorm.parallel import make_engine
from colnorm.run_directory import CONFUSION, CURVES, FEATURES, MISTAKES, RunDirectory
from colnorm.tasks import pictures
from colnorm.training import Data, Engine, LossFn, Monitor, Sums, TrainState, create_state
from experiments import mistakes, plotting
from experiments.configs import ImageConfig
from experiments.whitening import whitening_kernel

PERCENTILES = (1, 20, 80, 99)
WHITENED = 5000  # training images whose patches the first filters whiten
QUANTILE_BATCH = 256  # validation images whose features 1.2.7 follows over the epochs


def make_model(config: ImageConfig, num_classes: int, axis_name: str | None = None) -> ResNet:
    """The network of a config."""
    dtype = jnp.bfloat16 if config.dtype == "bfloat16" else None
    return ResNet(
        config.n,
        num_classes,
        config.normalization,
        axis_name,
        dtype,
        config.norm_placement,
        config.num_groups,
        config.zero_residual,
    )


def make_schedule(config: ImageConfig, steps_per_epoch: int) -> optax.Schedule:
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


def make_monitor(config: ImageConfig) -> Monitor:
    """What chooses the best epoch and ends the training: not before the learning rate has made its last drop."""
    last_drop = max(config.decay_epochs, default=0) if config.schedule == "step" else 0
    return Monitor(ImageTask.metric, patience=config.patience, start=last_drop)


def make_optimizer(config: ImageConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with the config's numbers, or Muon for convolution kernels and SGD for the rest."""
    sgd = optimizers.sgd(
        schedule,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        decay_vectors=config.decay_vectors,
        clip_global_norm=config.clip_global_norm,
        gate_multiplier=config.gate_multiplier,
        norm_bias_multiplier=config.norm_bias_multiplier,
    )
    if config.muon_learning_rate is None:
        return sgd
    ratio = config.muon_learning_rate / config.learning_rate
    return optimizers.muon(
        lambda step: ratio * schedule(step), sgd, momentum=config.momentum, weight_decay=config.muon_weight_decay
    )


def make_loss(config: ImageConfig, data: images.ImageData, axis_name: str | None = None, *, mirrored: bool = False) -> LossFn:
    """Cross-entropy over the classes, its sums ``loss``, ``count`` and ``confusion``; batch statistics over ``axis_name``.

    With ``mirrored``, for evaluation, also ``right_mirrored``: how many the mean of the probabilities of an image and its
    mirror image gets right.
    """
    model = make_model(config, data.num_classes, axis_name)
    flip = config.flip and not takes_turns(config)  # else the images come mirrored

    def loss_fn(variables: Mapping[str, Any], batch: Data, key: jax.Array, train: bool) -> tuple[Sums, Any]:
        pixels, labels, weights = batch["images"], batch["labels"], batch["weights"]
        keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(batch["positions"])
        if train and (config.crop_padding or flip):
            pixels = images.augment(keys, pixels, config.crop_padding, flip)
        inputs = images.standardize(pixels, data.mean, data.std)
        if train and config.cut_out:
            cut_keys = jax.vmap(lambda one: jax.random.fold_in(one, 0))(keys)
            inputs = jax.vmap(functools.partial(images.cut_out, size=config.cut_out))(cut_keys, inputs)
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
        if mirrored:
            other: Any = model.apply(variables, inputs[:, :, ::-1], False)
            mean = jax.nn.softmax(logits) + jax.nn.softmax(other)
            sums["right_mirrored"] = jnp.sum(jnp.where(jnp.argmax(mean, -1) == labels, weights, 0))
        return sums, updated.get("batch_stats", {})

    return loss_fn


def takes_turns(config: ImageConfig) -> bool:
    """Whether epochs take turns with what they mirror."""
    return config.flip and config.alternate_flips


def training_arrays(config: ImageConfig, data: images.ImageData) -> list[dict[str, np.ndarray]]:
    """The training data in the forms that epochs need: which of them one takes, :func:`part_of` says."""
    pixels, labels = data.train
    versions = images.mirrored_halves(pixels, config.seed) if takes_turns(config) else (pixels,)
    full = [{"images": version, "labels": labels} for version in versions]
    if not config.small_epochs:
        return full
    return [*full, *({**arrays, "images": images.scaled_down(arrays["images"], config.small_size)} for arrays in full)]


def part_of(config: ImageConfig, epoch: int) -> int:
    """The number of :func:`training_arrays` that an epoch, from 1, trains on."""
    versions = 1 + takes_turns(config)
    return epoch % versions + (versions if epoch <= config.small_epochs else 0)


def split_arrays(split: images.Split) -> dict[str, np.ndarray]:
    """A split as the arrays that the steps index."""
    return {"images": split.images, "labels": split.labels}


class ImageTask:
    """See :class:`colnorm.tasks.task.Task`."""

    name: ClassVar[str] = "images"
    config_type: ClassVar[type] = ImageConfig
    metric: ClassVar[str] = "validation_accuracy"
    columns: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")
    curves: ClassVar[pictures.Curves] = {
        name: {split: f"{split}_{name}" for split in ("train", "validation")} for name in ("loss", "accuracy")
    }
    data_path: ClassVar[str] = "data_dir"
    cpu_devices: ClassVar[int | None] = None

    def __init__(self, config: ImageConfig, run: RunDirectory | None = None):
        self.config = config
        self.data = images.load(config.data, config.data_dir, config.seed)
        self.train_data = training_arrays(config, self.data)

    def describe(self) -> list[str]:
        network = f"ResNet-{6 * self.config.n + 2} {self.config.normalization}"
        return [f"{network}, {self.data.name}, {len(self.data.train.labels):,} training images"]

    def plan(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        count = len(self.data.train.labels)
        return [(part_of(self.config, epoch), shuffled_batches(count, self.config.batch_size, self.config.seed, epoch))]

    def schedule(self, steps_per_epoch: int) -> optax.Schedule:
        return make_schedule(self.config, steps_per_epoch)

    def monitor(self) -> Monitor:
        return make_monitor(self.config)

    def loss(self, axis_name: str | None = None) -> LossFn:
        return make_loss(self.config, self.data, axis_name)

    def init_state(self, schedule: optax.Schedule) -> TrainState:
        config = self.config
        model = make_model(config, self.data.num_classes)
        state = create_state(model, make_optimizer(config, schedule), config.seed, jnp.zeros((1, 32, 32, 3)))
        if config.whiten:
            first = self.data.train.images[:WHITENED]
            kernel = whitening_kernel(np.asarray(images.standardize(first, self.data.mean, self.data.std)), 16)
            state = state.replace(params={**state.params, "conv": {**state.params["conv"], "kernel": jnp.asarray(kernel)}})
        return state.keep_average(config.average_decay) if config.average_decay else state

    def save(self, run: RunDirectory) -> None:
        """A ResNet has nothing beside its config and its checkpoints."""

    check = save

    def train_metrics(self, sums: Mapping[str, Any], seconds: float) -> dict[str, float]:
        return self._epoch_metrics(sums, "train_")

    def validation(self, engine: Engine) -> Callable[[TrainState], dict[str, Any]]:
        split = self.data.validation
        data, batches = engine.put_data(split_arrays(split)), evaluation_batches(len(split.labels), engine.num_devices)
        quantiles = make_quantiles(self.config, self.data)

        def validate(state: TrainState) -> dict[str, Any]:
            measured = self._epoch_metrics(engine.evaluate(state, data, batches), "validation_")
            return {**measured, "feature_percentiles": quantiles(engine.get_state(state))}

        return validate

    def _epoch_metrics(self, sums: Mapping[str, Any], prefix: str) -> dict[str, float]:
        return epoch_metrics(sums, self.data.class_names, prefix)

    def draw(self, history: pictures.History, run: RunDirectory, best_epoch: int | None) -> list[Path]:
        title = run.path.name
        return [
            pictures.draw_curves(history, self.curves, run.file(CURVES), title, best_epoch),
            plotting.draw_quantiles({title: history}, PERCENTILES, run.file(FEATURES)),
        ]

    def evaluate(self, run: RunDirectory, epoch: int, devices: int | None) -> dict[str, Any]:
        state = run.restore(self.init_state(self.schedule(1)), epoch)
        loss = functools.partial(make_loss, self.config, self.data, mirrored=self.config.flip)
        engine = make_engine(loss, devices)
        self._write_mistakes(run, state)
        state = engine.put_state(state)
        splits = {}
        for name, split in self.data.splits.items():
            batches = evaluation_batches(len(split.labels), engine.num_devices)
            sums = engine.evaluate(state, engine.put_data(split_arrays(split)), batches)
            splits[name] = split_metrics(sums, self.data.class_names)
        return {"splits": splits, "class_names": list(self.data.class_names)}

    def _write_mistakes(self, run: RunDirectory, state: TrainState) -> None:
        """Of the test images: what the network is surest of and wrong about."""
        model, split = make_model(self.config, self.data.num_classes), self.data.test

        @jax.jit
        def predict(pixels: jax.Array) -> jax.Array:
            logits: Any = model.apply(state.variables, images.standardize(pixels, self.data.mean, self.data.std), False)
            return jax.nn.softmax(logits)

        parts = [predict(split.images[np.maximum(indices, 0)]) for indices in evaluation_batches(len(split.labels), 1)]
        probabilities = np.concatenate(parts)[: len(split.labels)]
        write_json(run.file(MISTAKES), mistakes.of_images(split.images, split.labels, probabilities))

    def draw_evaluation(self, evaluated: Mapping[str, Any], run: RunDirectory, title: str) -> list[Path]:
        confusions = {name: np.array(split["confusion"]) for name, split in evaluated["splits"].items()}
        return [plotting.draw_confusions(confusions, evaluated["class_names"], run.file(CONFUSION), title)]

    @staticmethod
    def draw_comparison(histories: Mapping[str, pictures.History], directory: Path, title: str) -> list[Path]:
        return [
            pictures.draw_comparison(histories, ImageTask.curves, directory / CURVES, title),
            plotting.draw_quantiles(histories, PERCENTILES, directory / FEATURES),
        ]


def epoch_metrics(sums: Mapping[str, Any], class_names: Sequence[str], prefix: str) -> dict[str, float]:
    """What an epoch's line says of a split, from its summed sums; the keys begin with ``prefix``."""
    metrics = headline(classification_metrics(sums["confusion"], class_names))
    loss = float(sums["loss"] / max(float(sums["count"]), 1.0))
    return {f"{prefix}loss": loss, f"{prefix}accuracy": metrics["accuracy"], f"{prefix}macro_f1": metrics["macro_f1"]}


def split_metrics(sums: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """What an evaluation says of a split, from its summed sums."""
    mirrored = {"accuracy_mirrored": float(sums["right_mirrored"] / sums["count"])} if "right_mirrored" in sums else {}
    return {
        "examples": int(sums["count"]),
        "loss": float(sums["loss"] / sums["count"]),
        **classification_metrics(sums["confusion"], class_names),
        **mirrored,
        "confusion": sums["confusion"].astype(int).tolist(),
    }


def evaluation_batches(num_examples: int, num_devices: int) -> np.ndarray:
    """Batches of indices for evaluation: up to 500 images, as no gradient has to be held, evenly over the devices."""
    size = min(500, num_examples)
    return padded_batches(num_examples, size + -size % num_devices)


def make_quantiles(config: ImageConfig, data: images.ImageData) -> Callable[[TrainState], list[float]]:
    """State -> :data:`PERCENTILES` of the features that enter the last activation, on a fixed validation batch (1.2.7)."""
    batch = images.standardize(data.validation.images[:QUANTILE_BATCH], data.mean, data.std)
    quantiles = jax.jit(functools.partial(feature_percentiles, make_model(config, data.num_classes)))
    return lambda state: [float(value) for value in quantiles(state.variables, batch)]


def feature_percentiles(model: ResNet, variables: Mapping[str, Any], inputs: jax.Array) -> jax.Array:
    """:data:`PERCENTILES` of the features of standardized images that enter the last activation."""
    _, features = model.apply(variables, inputs, False, return_features=True)
    return jnp.percentile(features["last_preactivation"].astype(jnp.float32), jnp.asarray(PERCENTILES, jnp.float32))
