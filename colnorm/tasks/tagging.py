"""The tagging task: named entities. What a config means in terms of data, vocabularies, model, optimizer, loss and metrics."""

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from colnorm import Tagger, crf, optimizers, temperature
from colnorm.data import conll
from colnorm.data.batching import Bucket, epoch_plan, evaluation_plan, make_buckets
from colnorm.data.conll import Sentence, TaggingData
from colnorm.data.encoding import Encoder
from colnorm.data.glove import Vectors, read_vectors, read_words
from colnorm.data.schemes import entities
from colnorm.data.vocabulary import UNKNOWN
from colnorm.files import write_json, write_text
from colnorm.metrics import calibration, entity_counts, headline, precision_recall, tagging_metrics
from colnorm.posteriors import Labels, Posteriors, entity_posterior
from colnorm.posteriors import posteriors as posteriors_of
from colnorm.predict import METRIC
from colnorm.run_directory import (
    CALIBRATION,
    COUNTS,
    COVERAGE,
    CURVES,
    ENTITY_TYPES,
    PRECISION_RECALL,
    PREDICTIONS,
    TRANSITIONS,
    RunDirectory,
)
from colnorm.tagger import apply, build, check_parameters, decode, sentence_losses, with_word_vectors
from colnorm.tagger_file import read_tagger, write_tagger
from colnorm.tasks import pictures
from colnorm.tasks.configs import TaggingConfig
from colnorm.training import Data, Engine, LossFn, Monitor, Sums, TrainState, create_state, take_batch


def make_encoder(config: TaggingConfig, data: TaggingData) -> Encoder:
    """The vocabularies of the training sentences, with the words of ``config.glove`` that are to be known besides.

    Raises:
      ValueError: there is no such file to take them from, or something is wrong with it.
    """
    encoder = Encoder.build(
        (sentence.words for sentence in data.train),
        data.tag_names,
        min_count=config.min_count,
        lowercase=config.lowercase,
        fold_digits=config.fold_digits,
        characters=config.characters,
        word_length=config.word_length,
        shapes=config.shape_features > 0,
    )
    if not config.vector_words:
        return encoder
    if config.glove is None:
        raise ValueError("--vector-words are words of the file that --glove names, and there is none")
    return dataclasses.replace(encoder, words=encoder.words.extended(read_words(config.glove, config.vector_words)))


def tagger_fields(config: TaggingConfig, encoder: Encoder, word_features: int) -> dict[str, Any]:
    """The arguments of :class:`~colnorm.Tagger`, as a run directory stores them."""
    return {
        "tag_names": list(encoder.tags.names),
        "num_words": len(encoder.words),
        "word_features": word_features,
        "num_characters": 0 if encoder.characters is None else len(encoder.characters),
        **{
            name: getattr(config, name)
            for name in (
                "hidden",
                "character_features",
                "character_hidden",
                "shape_features",
                "layers",
                "layer_norm",
                "head",
                "constrained",
                "longest",
                "dropout",
                "word_dropout",
                "dtype",
            )
        },
    }


def make_optimizer(config: TaggingConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD or Adam with the config's numbers."""
    if config.optimizer == "adam":
        return optimizers.adam(
            schedule, b1=config.momentum, weight_decay=config.weight_decay, clip_global_norm=config.clip_global_norm
        )
    return optimizers.sgd(
        schedule, momentum=config.momentum, weight_decay=config.weight_decay, clip_global_norm=config.clip_global_norm
    )


def make_schedule(config: TaggingConfig, steps_per_epoch: int) -> optax.Schedule:
    """Step -> learning rate."""
    if config.schedule == "cosine":
        return optimizers.warmup_cosine(config.learning_rate, config.warmup_epochs, config.epochs, steps_per_epoch)
    return optimizers.constant(config.learning_rate)


def make_state(
    config: TaggingConfig, model: Tagger, encoder: Encoder, schedule: optax.Schedule, word_vectors: Vectors | None = None
) -> TrainState:
    """A fresh state: parameters from the seed, word embeddings from ``word_vectors`` if given, optimizer from the config."""
    example = {name: jnp.asarray(values) for name, values in encoder.encode([("word",)], 1).items()}
    state = create_state(model, make_optimizer(config, schedule), config.seed, **example)
    if word_vectors is not None:
        state = state.replace(params=with_word_vectors(state.params, word_vectors.matrix, word_vectors.found))
    return state.keep_average(config.average_decay) if config.average_decay else state


def drop_rare(words: jax.Array, rates: jax.Array, key: jax.Array, positions: jax.Array) -> jax.Array:
    """Each of ``words (B, T)`` becomes the unknown one at its rate of ``rates (num_words,)`` (Kiperwasser and Goldberg, 2016,
    https://arxiv.org/abs/1603.04351, section 4.3).

    What happens to a sentence depends on its place in the whole batch alone, ``positions (B,)``.
    """
    keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(positions)
    drawn = jax.vmap(lambda own: jax.random.uniform(own, words.shape[1:]))(keys)
    return jnp.where(drawn < rates[words], UNKNOWN, words)


def make_loss(config: TaggingConfig, model: Tagger, counts: np.ndarray | None = None) -> LossFn:
    """The loss of a config; ``counts (num_words,)``, how often training has each word, are needed for ``rare_dropout``.

    Its sums are ``loss``, ``count`` (what it is averaged over: sentences or tokens), ``sentences``, ``tokens``, and of
    these the ``correct`` ones, whose tag the tagger predicts."""

    rates = None
    if config.rare_dropout:
        if counts is None:
            raise ValueError("rare_dropout needs the counts of the words")
        seen = np.asarray(counts, np.float64)
        rates = np.where(seen > 0, config.rare_dropout / (config.rare_dropout + seen), 0).astype(np.float32)

    def loss_fn(variables: Mapping[str, Any], batch: Data, key: jax.Array, train: bool) -> tuple[Sums, Any]:
        lengths = jnp.where(batch["weights"] > 0, batch["lengths"], 0)  # padding is a sentence of no words
        rngs = {"dropout": key} if train else None
        inputs = {**batch, "lengths": lengths}
        if train and rates is not None:
            # The key of its own: the tagger draws from the other.
            inputs["words"] = drop_rare(batch["words"], jnp.asarray(rates), jax.random.fold_in(key, 1), batch["positions"])
        emissions, chain = apply(model, variables["params"], inputs, train=train, positions=batch["positions"], rngs=rngs)
        losses = sentence_losses(emissions, chain, batch["tags"], lengths)
        predicted = decode(*jax.lax.stop_gradient((emissions, chain)), lengths)
        inside = jnp.arange(predicted.shape[1])[None] < lengths[:, None]
        correct = jnp.sum(inside & (predicted == batch["tags"])).astype(jnp.float32)
        sentences, tokens = jnp.sum(batch["weights"]), jnp.sum(lengths).astype(jnp.float32)
        count = sentences if config.loss == "sentence" else tokens
        sums = {"loss": jnp.sum(losses), "count": count, "sentences": sentences, "tokens": tokens, "correct": correct}
        return sums, {}

    return loss_fn


@dataclasses.dataclass(frozen=True)
class Split:
    """Sentences, and their arrays in buckets of equal padded length."""

    sentences: Sequence[Sentence]
    buckets: list[Bucket]
    arrays: list[dict[str, np.ndarray]]

    @classmethod
    def make(cls, sentences: Sequence[Sentence], encoder: Encoder, num_buckets: int) -> "Split":
        """Encodes the sentences; their lengths choose the buckets."""
        buckets = make_buckets([len(sentence.words) for sentence in sentences], num_buckets)
        arrays = []
        for bucket in buckets:
            chosen = [sentences[place] for place in bucket.indices]
            encoded = encoder.encode([sentence.words for sentence in chosen], bucket.length)
            encoded["tags"] = encoder.encode_tags([sentence.tags for sentence in chosen], bucket.length)
            arrays.append(encoded)
        return cls(sentences, buckets, arrays)


class Predicted(NamedTuple):
    """What a tagger says of each sentence of a split, in order."""

    tags: list[tuple[str, ...]]
    losses: np.ndarray  # (sentences,)
    entities: list[list[tuple[str, int, int, float]]]  # type, first token, the one after its last, posterior, if asked for


def make_predictor(config: TaggingConfig, model: Tagger, posteriors: bool = False) -> Callable[..., Predicted]:
    """Parameters, split, temperature -> what is predicted; with the entities and their ``posteriors``, or without."""
    names = np.array(model.tag_names)

    @jax.jit
    def step(params: Any, data: Data, indices: jax.Array, degree: float) -> tuple[jax.Array, jax.Array, Posteriors | None]:
        batch = take_batch(data, indices)
        lengths = batch["lengths"]
        emissions, chain = apply(model, params, batch)
        losses = sentence_losses(emissions, chain, batch["tags"], lengths)
        found = posteriors_of(emissions, chain, lengths, degree) if posteriors else None
        return decode(emissions, chain, lengths), losses, found

    def run(params: Any, split: Split, degree: float = 1.0) -> Predicted:
        params = jax.tree.map(jnp.asarray, params)
        count = len(split.sentences)
        result = Predicted([()] * count, np.zeros(count), [[] for _ in range(count)])
        for number, batches in evaluation_plan(split.buckets, config.batch_size):
            data = jax.tree.map(jnp.asarray, split.arrays[number])
            for indices in batches:
                decoded, losses, found = jax.device_get(step(params, data, jnp.asarray(indices), degree))
                for row in np.flatnonzero(indices >= 0):
                    place = split.buckets[number].indices[indices[row]]
                    length = len(split.sentences[place].words)
                    tags = tuple(names[decoded[row, :length]].tolist())
                    result.tags[place], result.losses[place] = tags, losses[row]
                    if posteriors:
                        labels = Labels.of_row(tags, found, row)
                        result.entities[place] = [
                            (*entity, entity_posterior(model.tag_names, labels, *entity)) for entity in entities(tags)
                        ]
        return result

    return run


NOTES = 5
"""How many of what had to be changed to read the data are told one by one."""


class TaggingTask:
    """See :class:`colnorm.tasks.task.Task`."""

    name: ClassVar[str] = "tagging"
    config_type: ClassVar[type] = TaggingConfig
    metric: ClassVar[str] = METRIC
    columns: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1", "accuracy")
    curves: ClassVar[pictures.Curves] = {
        "loss": {"train": "train_loss", "validation": "validation_loss"},
        "token accuracy": {"train": "train_accuracy", "validation": "validation_accuracy"},
        "F1": {"validation, micro": "validation_micro_f1", "validation, macro": "validation_macro_f1"},
    }
    data_path: ClassVar[str] = "data"
    cpu_devices: ClassVar[int | None] = 1  # an epoch takes as long on one core as on two

    def __init__(self, config: TaggingConfig, run: RunDirectory | None = None):
        self.config = config
        self.data = conll.load(
            config.data,
            config.seed,
            config.word_column,
            config.tag_column,
            keep_repeats=config.keep_repeats,
            percents=config.split,
        )
        self.vectors: Vectors | None = None
        if run is not None:
            self.fields, self.encoder = read_tagger(run.path)
        else:
            self.encoder = make_encoder(config, self.data)
            if config.glove is not None:
                self.vectors = read_vectors(config.glove, self.encoder.words, config.seed)
            word_features = config.word_features if self.vectors is None else self.vectors.matrix.shape[1]
            self.fields = tagger_fields(config, self.encoder, word_features)
        self.model = build(self.fields)

    @functools.cached_property
    def _train(self) -> "Split":
        return Split.make(self.data.train, self.encoder, self.config.buckets)

    @property
    def train_data(self) -> list[dict[str, np.ndarray]]:
        return self._train.arrays

    def describe(self) -> list[str]:
        dropped = f"({self.data.dropped:,} repeated ones dropped)"
        sizes = f"{len(self.encoder.words):,} words, {len(self.encoder.tags.names)} tags"
        lines = [f"{self.data.name}, {len(self.data.train):,} training sentences {dropped}, {sizes}", *self.data.notes[:NOTES]]
        if len(self.data.notes) > NOTES:
            lines.append(f"... and {len(self.data.notes) - NOTES:,} more entities of {self.data.name}")
        return lines if self.vectors is None else [*lines, f"{self.config.glove}: {self.vectors.coverage}"]

    def plan(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        return epoch_plan(self._train.buckets, self.config.batch_size, self.config.seed, epoch)

    def schedule(self, steps_per_epoch: int) -> optax.Schedule:
        return make_schedule(self.config, steps_per_epoch)

    def monitor(self) -> Monitor:
        return Monitor(self.metric, patience=self.config.patience)

    def loss(self, axis_name: str | None = None) -> LossFn:
        return make_loss(self.config, self.model, self.encoder.words.counts)

    def init_state(self, schedule: optax.Schedule) -> TrainState:
        return make_state(self.config, self.model, self.encoder, schedule, self.vectors)

    def save(self, run: RunDirectory) -> None:
        write_tagger(run.path, self.fields, self.encoder)
        if self.vectors is not None:
            write_json(run.file(COVERAGE), self.vectors.coverage._asdict())

    def check(self, run: RunDirectory) -> None:
        if run.epochs() and read_tagger(run.path) != (self.fields, self.encoder):
            sources = self.config.data + (f" with {self.config.glove}" if self.config.vector_words else "")
            raise ValueError(f"{sources} is not the data that {run.path} was begun with: other words, characters or tags")

    def train_metrics(self, sums: Mapping[str, Any], seconds: float) -> dict[str, float]:
        return {
            "train_loss": float(sums["loss"] / sums["count"]),
            "train_accuracy": float(sums["correct"] / sums["tokens"]),
            "train_tokens_per_second": round(float(sums["tokens"]) / seconds),
        }

    def validation(self, engine: Engine) -> Callable[[TrainState], dict[str, Any]]:
        split = Split.make(self.data.validation, self.encoder, self.config.buckets)
        predict_split = make_predictor(self.config, self.model)
        gold = [sentence.tags for sentence in self.data.validation]

        def validate(state: TrainState) -> dict[str, Any]:
            predicted = predict_split(engine.get_state(state).variables["params"], split)
            metrics = headline(tagging_metrics(gold, predicted.tags), "validation_")
            del metrics["validation_weighted_f1"]
            return {"validation_loss": mean_loss(self.config, self.data.validation, predicted.losses), **metrics}

        return validate

    def draw(self, history: pictures.History, run: RunDirectory, best_epoch: int | None) -> list[Path]:
        return [pictures.draw_curves(history, self.curves, run.file(CURVES), run.path.name, best_epoch)]

    def evaluate(self, run: RunDirectory, epoch: int, devices: int | None) -> dict[str, Any]:
        params = run.restore_variables(epoch)["params"]
        check_parameters(self.model, params)
        # All splits at once share their padded lengths, and so their compilations.
        everything = [sentence for sentences in self.data.splits.values() for sentence in sentences]
        split = Split.make(everything, self.encoder, self.config.buckets)
        predict_split = make_predictor(self.config, self.model, posteriors=True)
        validation = Split.make(self.data.validation, self.encoder, self.config.buckets)

        def loss(degree: float) -> float:
            return temperature.log_loss(*judged(self.data.validation, predict_split(params, validation, degree).entities))

        degree = temperature.fit(loss)
        temperature.write(run, epoch, degree)
        raw = predict_split(params, split)
        tags, losses, found = predict_split(params, split, degree)
        splits: dict[str, Any] = {}
        parts: dict[str, slice] = {}
        first = 0
        for name, sentences in self.data.splits.items():
            part = parts[name] = slice(first, first + len(sentences))
            first = part.stop
            splits[name] = {
                "examples": len(sentences),
                "loss": mean_loss(self.config, sentences, losses[part]),
                **tagging_metrics([sentence.tags for sentence in sentences], tags[part]),
                "calibration": calibration(*judged(sentences, found[part])),
                "calibration_before": calibration(*judged(sentences, raw.entities[part])),
            }
        self._write_predictions(run, tags[parts["test"]])
        mode = "seqeval's default: entities as conlleval reads them, exact span and type"
        sure = min_posteriors(self.data.validation, found[parts["validation"]])
        return {"mode": mode, "temperature": degree, "min_posterior": sure, "splits": splits, **self._chain(params)}

    def _write_predictions(self, run: RunDirectory, tags: Sequence[Sequence[str]]) -> None:
        """Of the test sentences: what columns of CoNLL show, and what comparisons of taggers need."""
        blocks = (
            "".join(f"{' '.join(columns)}\n" for columns in zip(sentence.words, sentence.tags, predicted, strict=True))
            for sentence, predicted in zip(self.data.test, tags, strict=True)
        )
        write_text(run.file(PREDICTIONS), "\n".join(blocks))
        counts = entity_counts([sentence.tags for sentence in self.data.test], tags)
        write_text(run.file(COUNTS), json.dumps(counts.tolist()) + "\n")

    def _chain(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What the CRF has learned, where there is one; JSON has no infinity: None is a forbidden move."""
        if "crf" not in params:
            return {}
        chain = crf.Chain(**params["crf"])
        if self.config.constrained:
            chain = crf.constrain(chain, self.encoder.tags.names)
        parts = {name: np.asarray(values).astype(object) for name, values in chain._asdict().items()}
        scores = {name: np.where(values == -np.inf, np.array(None), values).tolist() for name, values in parts.items()}
        return {"chain": {"tag_names": list(self.encoder.tags.names), **scores}}

    def draw_evaluation(self, evaluated: Mapping[str, Any], run: RunDirectory, title: str) -> list[Path]:
        test = evaluated["splits"]["test"]
        drawn = [
            pictures.draw_entity_types(evaluated["splits"], run.file(ENTITY_TYPES), title),
            pictures.draw_calibration(
                {
                    f"{title}, temperature {degree:.2f}": test[key]
                    for key, degree in (("calibration", evaluated["temperature"]), ("calibration_before", 1.0))
                },
                run.file(CALIBRATION),
            ),
            pictures.draw_precision_recall(evaluated["min_posterior"], run.file(PRECISION_RECALL), title),
        ]
        if "chain" in evaluated:
            drawn.append(pictures.draw_transitions(evaluated["chain"], run.file(TRANSITIONS), title))
        return drawn

    @staticmethod
    def draw_comparison(histories: Mapping[str, pictures.History], directory: Path, title: str) -> list[Path]:
        return [pictures.draw_comparison(histories, TaggingTask.curves, directory / CURVES, title)]


def judged(sentences: Sequence[Sentence], found: Sequence[Sequence[tuple[str, int, int, float]]]) -> tuple[Any, Any]:
    """Of the entities that were found their posteriors, and whether each is right."""
    probabilities, correct = [], []
    for sentence, of_sentence in zip(sentences, found, strict=True):
        gold = set(entities(sentence.tags))
        probabilities += [posterior for *_, posterior in of_sentence]
        correct += [tuple(entity) in gold for *entity, _ in of_sentence]
    return np.array(probabilities, np.float64), np.array(correct, bool)


def min_posteriors(
    sentences: Sequence[Sentence], found: Sequence[Sequence[tuple[str, int, int, float]]]
) -> dict[str, list[dict[str, float]]]:
    """Precision and recall of what is left above each posterior: of all entities, and of each type."""
    supports = collections.Counter(kind for sentence in sentences for kind, *_ in entities(sentence.tags))
    curves = {"all": precision_recall(*judged(sentences, found), supports.total())}
    for kind in sorted(supports):
        of_kind = [[entity for entity in of_sentence if entity[0] == kind] for of_sentence in found]
        curves[kind] = precision_recall(*judged(sentences, of_kind), supports[kind])
    return curves


def mean_loss(config: TaggingConfig, sentences: Sequence[Sentence], losses: np.ndarray) -> float:
    """The mean that is trained on, by sentence or by token."""
    count = len(sentences) if config.loss == "sentence" else sum(len(sentence.words) for sentence in sentences)
    return float(losses.sum()) / max(count, 1)
