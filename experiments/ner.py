"""The tagging task: what a config means in terms of vocabularies, model, loss, optimizer and arrays on the device."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from colnorm import Tagger, optimizers, predict
from colnorm.data.batching import Bucket, evaluation_plan, make_buckets
from colnorm.data.conll import Sentence, TaggingData
from colnorm.data.encoding import Encoder
from colnorm.data.glove import Vectors, read_words
from colnorm.data.schemes import entities
from colnorm.tagger import apply, decode, sentence_losses, with_word_vectors
from colnorm.training import Data, LossFn, Sums, TrainState, create_state, take_batch
from experiments.configs import NerConfig


def make_encoder(config: NerConfig, data: TaggingData) -> Encoder:
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


def tagger_fields(config: NerConfig, encoder: Encoder, word_features: int) -> dict[str, Any]:
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
                "layer_norm",
                "head",
                "constrained",
                "dropout",
                "word_dropout",
                "dtype",
            )
        },
    }


def make_optimizer(config: NerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD or Adam with the config's numbers."""
    if config.optimizer == "adam":
        return optimizers.adam(
            schedule, b1=config.momentum, weight_decay=config.weight_decay, clip_global_norm=config.clip_global_norm
        )
    return optimizers.sgd(
        schedule, momentum=config.momentum, weight_decay=config.weight_decay, clip_global_norm=config.clip_global_norm
    )


def make_schedule(config: NerConfig, steps_per_epoch: int) -> optax.Schedule:
    """Step -> learning rate."""
    if config.schedule == "cosine":
        return optimizers.warmup_cosine(config.learning_rate, config.warmup_epochs, config.epochs, steps_per_epoch)
    return optimizers.constant(config.learning_rate)


def make_state(
    config: NerConfig, model: Tagger, encoder: Encoder, schedule: optax.Schedule, word_vectors: Vectors | None = None
) -> TrainState:
    """A fresh state: parameters from the seed, word embeddings from ``word_vectors`` if given, optimizer from the config."""
    example = {name: jnp.asarray(values) for name, values in encoder.encode([("word",)], 1).items()}
    state = create_state(model, make_optimizer(config, schedule), config.seed, **example)
    if word_vectors is not None:
        state = state.replace(params=with_word_vectors(state.params, word_vectors.matrix, word_vectors.found))
    return state.keep_average(config.average_decay) if config.average_decay else state


def make_loss(config: NerConfig, model: Tagger) -> LossFn:
    """The task's sums: ``loss``, ``count`` (what it is averaged over: sentences or tokens), ``sentences``, ``tokens``, and of
    these the ``right`` ones, whose tag the tagger predicts."""

    def loss_fn(variables: Mapping[str, Any], batch: Data, key: jax.Array, train: bool) -> tuple[Sums, Any]:
        lengths = jnp.where(batch["weights"] > 0, batch["lengths"], 0)  # padding is a sentence of no words
        rngs = {"dropout": key} if train else None
        inputs = {**batch, "lengths": lengths}
        emissions, chain = apply(model, variables["params"], inputs, train=train, positions=batch["positions"], rngs=rngs)
        losses = sentence_losses(emissions, chain, batch["tags"], lengths)
        found = decode(*jax.lax.stop_gradient((emissions, chain)), lengths)
        inside = jnp.arange(found.shape[1])[None] < lengths[:, None]
        right = jnp.sum(inside & (found == batch["tags"])).astype(jnp.float32)
        sentences, tokens = jnp.sum(batch["weights"]), jnp.sum(lengths).astype(jnp.float32)
        count = sentences if config.loss == "sentence" else tokens
        return {"loss": jnp.sum(losses), "count": count, "sentences": sentences, "tokens": tokens, "right": right}, {}

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
    entities: list[list[tuple[str, int, int, float]]] | None  # type, first token, the one after its last, posterior


def make_predictor(config: NerConfig, model: Tagger, posteriors: bool = False) -> Callable[[Any, Split], Predicted]:
    """Parameters, split -> what is predicted; with the entities and their ``posteriors``, or without."""
    names = np.array(model.tag_names)

    @jax.jit
    def step(params: Any, data: Data, indices: jax.Array) -> tuple[jax.Array, ...]:
        batch = take_batch(data, indices)
        lengths = batch["lengths"]
        emissions, chain = apply(model, params, batch)
        losses = sentence_losses(emissions, chain, batch["tags"], lengths)
        rest = predict.posteriors(emissions, chain, lengths) if posteriors else ()
        return decode(emissions, chain, lengths), losses, *rest

    def run(params: Any, split: Split) -> Predicted:
        params = jax.tree.map(jnp.asarray, params)
        count = len(split.sentences)
        result = Predicted([()] * count, np.zeros(count), [[] for _ in range(count)] if posteriors else None)
        for number, batches in evaluation_plan(split.buckets, config.batch_size):
            data = jax.tree.map(jnp.asarray, split.arrays[number])
            for indices in batches:
                decoded, losses, *rest = jax.device_get(step(params, data, jnp.asarray(indices)))
                for row in np.flatnonzero(indices >= 0):
                    place = split.buckets[number].indices[indices[row]]
                    length = len(split.sentences[place].words)
                    tags = tuple(names[decoded[row, :length]].tolist())
                    result.tags[place], result.losses[place] = tags, losses[row]
                    if result.entities is not None:
                        single, pair = rest
                        labels = predict.Labels.of_row(tags, single[row], None if pair is None else pair[row])
                        result.entities[place] = [
                            (*found, predict.entity_posterior(model.tag_names, labels, *found)) for found in entities(tags)
                        ]
        return result

    return run


def mean_loss(config: NerConfig, sentences: Sequence[Sentence], losses: np.ndarray) -> float:
    """The mean that is trained on, by sentence or by token."""
    count = len(sentences) if config.loss == "sentence" else sum(len(sentence.words) for sentence in sentences)
    return float(losses.sum()) / max(count, 1)
