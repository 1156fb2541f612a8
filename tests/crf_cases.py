"""What the tests of the CRF share: random problems, every path of a short sequence, and float64 loops for long ones.

A problem is NumPy: a chain, emissions (B, T, K) with NaN past the lengths, tags (B, T) out of range past them, lengths (B,).
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from colnorm import crf

B, T, K = 7, 6, 4  # the shape that most tests share, so that they share compilations; the lengths are 0 to 6


class Problem(NamedTuple):
    chain: crf.Chain
    emissions: np.ndarray
    tags: np.ndarray
    lengths: np.ndarray

    def astype(self, dtype):
        chain = crf.Chain(*(part.astype(dtype) for part in self.chain))
        return self._replace(chain=chain, emissions=self.emissions.astype(dtype))


def normal(rng, shape):
    return rng.normal(size=shape) * 1.5


def forbidding(rng, shape):
    """A third of everything is forbidden: some sequences have no legal path."""
    return np.where(rng.random(shape) < 0.3, -np.inf, normal(rng, shape))


def huge(rng, shape):
    """Whole numbers of any size and -inf: float32 adds them exactly, and paths tie."""
    values = np.array([-1e4, -9999, -300, -20, -1, 0, 0, 1, 20, 300, 9999, 1e4, -np.inf])
    return rng.choice(values, size=shape)


def tied(rng, shape):
    """Small whole numbers: most best paths are tied."""
    return rng.integers(0, 2, size=shape).astype(np.float64)


def huge_real(rng, shape):
    return rng.choice([1.0, 1e2, 1e4], size=shape) * rng.normal(size=shape)


KINDS = {"normal": normal, "forbidding": forbidding, "huge": huge, "tied": tied, "huge_real": huge_real}


def random_problem(kind, seed, shape=(B, T, K), lengths=None, dtype=np.float32):
    """With each length from 0 to T where the batch has room for it."""
    rng = np.random.default_rng([seed, sorted(KINDS).index(kind)])
    draw = KINDS[kind]
    B, T, K = shape
    if lengths is None:
        lengths = rng.permutation(np.concatenate([np.arange(T + 1), rng.integers(0, T + 1, B)])[:B])
    lengths = np.asarray(lengths, np.int32)
    emissions, tags = draw(rng, shape), rng.integers(0, K, (B, T)).astype(np.int32)
    past = np.arange(T) >= lengths[:, None]
    emissions[past], tags[past] = np.nan, rng.choice([-1, -100, K, 10**6], size=past.sum())
    chain = crf.Chain(draw(rng, (K, K)), draw(rng, (K,)), draw(rng, (K,)))
    return Problem(chain, emissions, tags, lengths).astype(dtype)


class Paths:
    """Every path of one sequence, their scores and probabilities in float64."""

    def __init__(self, chain, emissions, length):
        self.chain = crf.Chain(*(np.asarray(part, np.float64) for part in chain))
        self.shape = np.shape(emissions)
        self.length, K = int(length), self.shape[1]
        self.tags = np.array(list(itertools.product(range(K), repeat=self.length)), int).reshape(K**self.length, self.length)
        self.scores = np.array(self.score(self.chain, np.asarray(emissions, np.float64)))
        highest = self.scores.max()
        self.possible = highest > -np.inf
        weights = np.exp(self.scores - highest) if self.possible else np.zeros(len(self.scores))
        self.log_partition = highest + np.log(weights.sum()) if self.possible else -np.inf
        self.p = weights / max(weights.sum(), 1)
        self.log_p = np.where(self.p > 0, self.scores - self.log_partition, 0) if self.possible else self.p

    def score(self, chain, emissions):
        """Of every path: also of a direction, in which case it is the path's counts times the direction."""
        if not self.length:
            return np.zeros(1)
        return (
            chain.start[self.tags[:, 0]] + chain.end[self.tags[:, -1]] + self.emitted(emissions) + self.moved(chain.transitions)
        )

    def emitted(self, emissions):
        return sum((emissions[t, self.tags[:, t]] for t in range(self.length)), np.zeros(len(self.tags)))

    def moved(self, transitions):
        """The moves' part, of transitions (K, K) or (T - 1, K, K)."""
        every = np.broadcast_to(transitions, (self.shape[0] - 1, self.shape[1], self.shape[1]))
        pairs = zip(self.tags.T[:-1], self.tags.T[1:], strict=True)
        return sum((moves[pair] for moves, pair in zip(every, pairs, strict=False)), np.zeros(len(self.tags)))

    def counts(self, weights):
        """(chain, emissions): sum of every path's counts of moves and tags, by weight."""
        T, K = self.shape
        chain = crf.Chain(np.zeros((K, K)), np.zeros(K), np.zeros(K))
        emissions = np.zeros((T, K))
        if self.length:
            np.add.at(chain.start, self.tags[:, 0], weights)
            np.add.at(chain.end, self.tags[:, -1], weights)
        for t in range(self.length):
            np.add.at(emissions[t], self.tags[:, t], weights)
        for t in range(self.length - 1):
            np.add.at(chain.transitions, (self.tags[:, t], self.tags[:, t + 1]), weights)
        return chain, emissions

    def covariances(self, values):
        """The gradient of the expectation of a function of the path: its covariances with the counts."""
        return self.counts(self.p * (values - self.p @ values))

    @property
    def marginals(self):
        return self.counts(self.p)[1]

    @property
    def pairwise(self):
        T, K = self.shape
        pairs = np.zeros((T - 1, K, K))
        for t in range(self.length - 1):
            np.add.at(pairs[t], (self.tags[:, t], self.tags[:, t + 1]), self.p)
        return pairs

    @property
    def entropy(self):
        return -self.p @ self.log_p

    def best(self, k):
        """The k best legal paths (tags padded with 0, scores), -inf and 0 where there are fewer.

        Of equal scores the one whose last tag is lower, then the one before it, and so on.
        """
        order = np.lexsort((*self.tags.T, -self.scores))  # the last key counts most
        tags, scores = np.zeros((k, self.shape[0]), int), np.full(k, -np.inf)
        for rank, n in enumerate(order[:k]):
            if self.scores[n] > -np.inf:
                tags[rank, : self.length], scores[rank] = self.tags[n], self.scores[n]
        return tags, scores

    def chosen(self, tags):
        """1 for a path, 0 for the others."""
        return (np.arange(len(self.p)) == self.index(tags)).astype(np.float64)

    def index(self, tags):
        return int(np.ravel_multi_index(tags[: self.length], (self.shape[1],) * self.length)) if self.length else 0


def all_paths(problem):
    return [Paths(problem.chain, *sequence) for sequence in zip(problem.emissions, problem.lengths, strict=True)]


def loop_forward_backward(chain, emissions, length):
    """(log-partition, marginals, pairwise, entropy) of one sequence by float64 alphas and betas, one step at a time."""
    chain = crf.Chain(*(np.asarray(part, np.float64) for part in chain))
    emissions = np.asarray(emissions, np.float64)[:length]
    alphas, betas = np.zeros((2, length, len(chain.start)))
    alphas[0], betas[-1] = chain.start + emissions[0], chain.end
    for t in range(1, length):
        alphas[t] = np.logaddexp.reduce(alphas[t - 1][:, None] + chain.transitions, axis=0) + emissions[t]
    for t in reversed(range(length - 1)):
        betas[t] = np.logaddexp.reduce(chain.transitions + emissions[t + 1] + betas[t + 1], axis=1)
    log_partition = np.logaddexp.reduce(alphas[-1] + chain.end)
    marginals = np.exp(alphas + betas - log_partition)
    arriving = emissions[1:] + betas[1:]
    pairwise = np.exp(alphas[:-1, :, None] + chain.transitions + arriving[:, None, :] - log_partition)
    conditional = entropy_of(pairwise, (1, 2)) - entropy_of(marginals[:-1])
    return log_partition, marginals, pairwise, entropy_of(marginals[0]) + conditional.sum()


def entropy_of(p, axis=-1):
    return -np.sum(p * np.log(np.where(p > 0, p, 1)), axis)


def loop_viterbi(chain, emissions, length):
    """(tags, score) of one sequence in float64."""
    chain = crf.Chain(*(np.asarray(part, np.float64) for part in chain))
    emissions = np.asarray(emissions, np.float64)[:length]
    best, origins = chain.start + emissions[0], []
    for emission in emissions[1:]:
        arrivals = best[:, None] + chain.transitions
        origins.append(arrivals.argmax(0))
        best = arrivals.max(0) + emission
    tags = [int((best + chain.end).argmax())]
    for origin in reversed(origins):
        tags.append(int(origin[tags[-1]]))
    return np.array(tags[::-1]), (best + chain.end).max()


@jax.jit
def posterior(chain, emissions, lengths):
    """What follows from the forward and backward recursions in time, by name."""
    return {
        "log_partition": crf.log_partition(chain, emissions, lengths),
        "marginals": crf.marginals(chain, emissions, lengths),
        "pairwise": crf.pairwise_marginals(chain, emissions, lengths),
        "entropy": crf.entropy(chain, emissions, lengths),
    }


@jax.jit
def values(chain, emissions, tags, lengths):
    """Everything that the package computes without a key, by name."""
    best, best_score = crf.viterbi(chain, emissions, lengths)
    paths, path_scores = crf.k_best(chain, emissions, lengths, k=5)
    return posterior(chain, emissions, lengths) | {
        "score": crf.score(chain, emissions, tags, lengths),
        "associative": crf.log_partition(chain, emissions, lengths, method="associative"),
        "log_likelihood": crf.log_likelihood(chain, emissions, tags, lengths),
        "viterbi_tags": best,
        "viterbi_score": best_score,
        "k_best_tags": paths,
        "k_best_scores": path_scores,
    }


@jax.jit
def gradients(chain, emissions, tags, lengths, weights):
    """The gradient, by chain and emissions, of values weighted by sequence ``weights (B,)``."""

    def of(function, *arguments):
        return jax.grad(lambda *varied: jnp.sum(weights * function(*varied, *arguments)), (0, 1))(chain, emissions)

    return {
        "log_partition": of(crf.log_partition, lengths),
        "associative": of(crf.log_partition, lengths, "associative"),
        "log_likelihood": of(crf.log_likelihood, tags, lengths),
    }


@jax.jit
def path_gradients(chain, emissions, tags, lengths, weights):
    """As :func:`gradients`, of the scores of paths."""

    def of(score):
        return jax.grad(lambda *varied: jnp.sum(weights * score(*varied)), (0, 1))(chain, emissions)

    return {
        "score": of(lambda chain, emissions: crf.score(chain, emissions, tags, lengths)),
        "viterbi": of(lambda chain, emissions: crf.viterbi(chain, emissions, lengths)[1]),
        "second_best": of(lambda chain, emissions: crf.k_best(chain, emissions, lengths, k=5)[1][:, 1]),
    }


def total(parts):
    """The sum of (chain, emissions) gradients over sequences: chains add up, emissions are stacked."""
    chains, emissions = zip(*parts, strict=True)
    return crf.Chain(*(sum(part) for part in zip(*chains, strict=True))), np.stack(emissions)
