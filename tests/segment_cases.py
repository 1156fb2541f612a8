"""What the tests of the CRF over segments share: random problems, and every segmentation of a short sequence.

A problem is NumPy: a chain, emissions and spans with NaN past the lengths, a gold segmentation out of range there, lengths.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from crf_cases import KINDS

from colnorm.crf import segments

B, T, L, Y = 6, 5, 3, 3  # the shape that most tests share, so that they share compilations; the lengths are 0 to 5


class Problem(NamedTuple):
    chain: segments.SegmentChain
    emissions: np.ndarray
    spans: np.ndarray
    gold: segments.Segmentation
    lengths: np.ndarray

    def astype(self, dtype):
        chain, emissions, spans = jax.tree.map(lambda part: part.astype(dtype), self[:3])
        return self._replace(chain=chain, emissions=emissions, spans=spans)


@functools.cache
def segmentations(length, longest, num_labels):
    """All of a sequence, each a list of (first token, duration, label), in the order in which ties are decided."""

    def extend(path, first):
        if first == length:
            yield path
        for label in range(num_labels):
            for duration in range(1, min(longest, length - first) + 1):
                yield from extend([*path, (first, duration, label)], first + duration) if first < length else ()

    return list(extend([], 0))


def as_arrays(path, steps):
    """(labels, durations) of one path."""
    labels, durations = np.zeros((2, steps), np.int32)
    for first, duration, label in path:
        labels[first : first + duration], durations[first] = label, duration
    return labels, durations


def random_problem(kind, seed, shape=(B, T, L, Y), lengths=None, dtype=np.float32):
    """With each length from 0 to T where the batch has room for it; spans that reach past the length are NaN, too."""
    rng = np.random.default_rng([seed, sorted(KINDS).index(kind), 1])
    draw = KINDS[kind]
    B, T, L, Y = shape
    if lengths is None:
        lengths = rng.permutation(np.concatenate([np.arange(T + 1), rng.integers(0, T + 1, B)])[:B])
    lengths = np.asarray(lengths, np.int32)
    emissions, spans = draw(rng, (B, T, Y)), draw(rng, (B, T, L, Y))
    labels, durations = np.zeros((2, B, T), np.int32)
    for b, length in enumerate(lengths):
        first = 0
        while first < length:
            size = int(rng.integers(1, min(L, length - first) + 1))
            labels[b, first : first + size], durations[b, first] = rng.integers(0, Y), size
            first += size
    left = lengths[:, None] - np.arange(T)
    emissions[left <= 0] = np.nan
    spans[np.arange(L) >= left[..., None]] = np.nan
    labels[left <= 0] = rng.choice([-1, Y, 10**6], size=(left <= 0).sum())
    durations[left <= 0] = rng.choice([0, 1, L, 10**6], size=(left <= 0).sum())
    chain = segments.SegmentChain(draw(rng, (Y, Y)), draw(rng, (Y,)), draw(rng, (Y,)), draw(rng, (L, Y)))
    return Problem(chain, emissions, spans, segments.Segmentation(labels, durations), lengths).astype(dtype)


@functools.cache
def features(length, shape):
    """Every segmentation's counts of what its score adds up, ``(segmentations, numbers)``, and where each part of them is."""
    T, L, Y = shape
    shapes = {"transitions": (Y, Y), "start": (Y,), "end": (Y,), "durations": (L, Y), "emissions": (T, Y), "spans": shape}
    ends = np.cumsum([int(np.prod(of_part)) for of_part in shapes.values()])
    places = {name: slice(end - int(np.prod(shapes[name])), end) for name, end in zip(shapes, ends, strict=True)}
    paths = segmentations(length, L, Y)
    counts = np.zeros((len(paths), ends[-1]))
    for row, path in zip(counts, paths, strict=True):
        part = {name: row[places[name]].reshape(shapes[name]) for name in shapes}
        for first, duration, label in path:
            part["durations"][duration - 1, label] += 1
            part["spans"][first, duration - 1, label] += 1
            part["emissions"][first : first + duration, label] += 1
        for (_, _, before), (_, _, after) in itertools.pairwise(path):
            part["transitions"][before, after] += 1
        if path:
            part["start"][path[0][2]] += 1
            part["end"][path[-1][2]] += 1
    return counts, places, shapes


class Every:
    """Every segmentation of one sequence, their scores and probabilities in float64."""

    def __init__(self, chain, emissions, spans, length):
        self.length, (self.T, _), (self.L, self.Y) = int(length), emissions.shape, spans.shape[1:]
        self.paths = segmentations(self.length, self.L, self.Y)
        self.features, self.places, self.shapes = features(self.length, (self.T, self.L, self.Y))
        self.scores = self.inner(self.flat(chain, emissions, spans))
        highest = self.scores.max()
        self.possible = highest > -np.inf
        weights = np.exp(self.scores - highest) if self.possible else np.zeros(len(self.scores))
        self.log_partition = highest + np.log(weights.sum()) if self.possible else -np.inf
        self.p = weights / max(weights.sum(), 1)
        self.log_p = np.where(self.p > 0, self.scores - self.log_partition, 0) if self.possible else self.p

    def flat(self, chain, emissions, spans):
        parts = [*chain, emissions, spans]
        return np.concatenate([np.asarray(part, np.float64).ravel() for part in parts])

    def inner(self, numbers):
        """The counts times numbers, of which those that no segmentation counts may be anything."""
        finite = np.where(np.isfinite(numbers), numbers, 0)
        forbidden = self.features @ (numbers == -np.inf).astype(np.float64)
        return np.where(forbidden > 0, -np.inf, self.features @ finite)

    def counts(self, weights):
        """The sum of every segmentation's counts by weight, by name."""
        total = weights @ self.features
        return {name: total[place].reshape(self.shapes[name]) for name, place in self.places.items()}

    def covariances(self, values):
        """The gradient of the expectation of a function of the segmentation, by name."""
        return self.counts(self.p * (values - self.p @ values))

    @property
    def entropy(self):
        return -self.p @ self.log_p

    @property
    def best(self):
        """(labels, durations), score."""
        place = int(self.scores.argmax())
        return as_arrays(self.paths[place] if self.possible else [], self.T), self.scores[place]

    def index(self, labels, durations):
        return next(
            place
            for place, path in enumerate(self.paths)
            if all(
                np.array_equal(part[: self.length], own[: self.length])
                for part, own in zip((labels, durations), as_arrays(path, self.T), strict=True)
            )
        )


def every(problem):
    return [Every(problem.chain, *rest) for rest in zip(problem.emissions, problem.spans, problem.lengths, strict=True)]


@jax.jit
def values(chain, emissions, spans, gold, lengths):
    """Everything that the package computes, by name."""
    best, best_score = segments.viterbi(chain, emissions, lengths, spans=spans)
    return {
        "score": segments.score(chain, emissions, gold, lengths, spans=spans),
        "log_partition": segments.log_partition(chain, emissions, lengths, spans=spans),
        "log_likelihood": segments.log_likelihood(chain, emissions, gold, lengths, spans=spans),
        "marginals": segments.marginals(chain, emissions, lengths, spans=spans),
        "token_marginals": segments.token_marginals(chain, emissions, lengths, spans=spans),
        "entropy": segments.entropy(chain, emissions, lengths, spans=spans),
        "best": best,
        "best_score": best_score,
        "sample": segments.sample(jax.random.key(0), chain, emissions, lengths, spans=spans),
    }


def named(chain, emissions, spans):
    return {**chain._asdict(), "emissions": emissions, "spans": spans}


@jax.jit
def gradients(chain, emissions, spans, gold, lengths, weights):
    """The gradients of values weighted by sequence ``weights (B,)``: by function, then by what it is of."""

    def of(function):
        def total(chain, emissions, spans):
            found = function(chain, emissions, spans)
            return jnp.sum(jnp.where(found > -jnp.inf, weights, 0) * jnp.where(found > -jnp.inf, found, 0))

        return named(*jax.grad(total, (0, 1, 2))(chain, emissions, spans))

    return {
        "log_partition": of(lambda *varied: segments.log_partition(*varied[:2], lengths, spans=varied[2])),
        "log_likelihood": of(lambda *varied: segments.log_likelihood(*varied[:2], gold, lengths, spans=varied[2])),
        "viterbi": of(lambda *varied: segments.viterbi(*varied[:2], lengths, spans=varied[2])[1]),
    }


def total(parts):
    """The sum over sequences of gradients by name: those of the chain add up, those of tokens are stacked."""
    names = parts[0]
    return {
        name: np.stack([part[name] for part in parts]) if name in ("emissions", "spans") else sum(part[name] for part in parts)
        for name in names
    }
