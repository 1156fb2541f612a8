"""Losses beside the log-likelihood: a margin, an expected cost, and the likelihood of each tag by itself, with weights."""

from typing import Any

import jax
import jax.numpy as jnp

from colnorm.crf.chain import Chain, Gaps, Problem, check_tags, path_terms, prepare
from colnorm.crf.decode import best_path
from colnorm.crf.posterior import posterior
from colnorm.crf.reductions import NEG_INF, Array, log_softmax, log_sum_exp
from colnorm.crf.scan import forward_filter, last_scores, log_conditional
from colnorm.sharding import over_batch


@jax.jit
@over_batch
def hinge_loss(
    chain: Chain,
    emissions: Array,
    tags: Array,
    lengths: Array | None = None,
    cost: Array | None = None,
    *,
    mask: Array | None = None,
) -> Array:
    r"""Structured hinge loss with the margin scaled by a cost (Taskar et al., 2003; Tsochantaridis et al., 2005).

    .. math::  \max_y \Big( s(y) + \sum_t cost_{t, y_t} \Big) - s(tags)

    It is 0 once the given path beats every other one by that one's cost. The gradient is the counts of the path that attains
    the maximum less those of ``tags``.

    Args:
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      tags: ``(B, T)`` integers in [0, K); never read past the length.
      lengths: ``(B,)`` integers, all T by default.
      cost: ``(B, T, K)`` of each tag at each position, at least 0 and finite; by default 1 for every tag but the given one.
      mask: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B,)``, at least 0 up to rounding where the given path costs nothing; 0 for length 0 and where no path is legal; inf
      where the given path is illegal and another is not.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf
      >>> emissions = jnp.array([[[3.0, 0.0], [0.5, 0.0]]])  # the second tag is right by less than the margin
      >>> crf.hinge_loss(crf.Chain.zeros(2), emissions, jnp.array([[0, 0]])).tolist()
      [0.5]
    """
    problem, gaps = prepare("hinge_loss", chain, emissions, lengths, mask)
    gold = check_tags("hinge_loss", tags, emissions, gaps)
    K = problem.emissions.shape[1]
    if cost is None:
        charged = (jnp.arange(K)[None, :, None] != gold[:, None]).astype(problem.emissions.dtype)
    else:
        charged = _check_cost("hinge_loss", cost, emissions, problem, gaps)
    charged = jnp.where(problem.mask[:, None], charged, 0)
    best, possible = best_path(jax.lax.stop_gradient(problem._replace(emissions=problem.emissions + charged)))
    (moves, chosen, end), (gold_moves, gold_chosen, gold_end) = path_terms(problem, best), path_terms(problem, gold)
    of_best = jnp.take_along_axis(charged, best[:, None], 1)[:, 0]
    # Position by position, large scores cancel before they are added up.
    terms = (moves - gold_moves) + (chosen - gold_chosen) + of_best
    return jnp.where(possible, jnp.sum(terms, 0) + (end - gold_end), 0)


@jax.jit
@over_batch
def expected_cost(
    chain: Chain, emissions: Array, cost: Array, lengths: Array | None = None, *, mask: Array | None = None
) -> Array:
    r"""The risk: the expectation over paths of a cost that adds up over positions, ``sum_t sum_j p(y_t = j) cost[t, j]``.

    Minimized (minimum risk training), it counts errors as an evaluation does, while the likelihood counts whole paths.

    Args:
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      cost: ``(B, T, K)`` of each tag at each position, finite.
      lengths: ``(B,)`` integers, all T by default.
      mask: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B,)``; 0 for length 0 and where no path is legal.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf
      >>> cost = jnp.array([[[0.0, 1.0], [2.0, 0.0]]])
      >>> crf.expected_cost(crf.Chain.zeros(2), jnp.zeros((1, 2, 2)), cost).tolist()  # half of 1 and half of 2
      [1.5]
    """
    problem, gaps = prepare("expected_cost", chain, emissions, lengths, mask)
    charged = _check_cost("expected_cost", cost, emissions, problem, gaps)
    return jnp.sum(posterior(problem) * jnp.where(problem.mask[:, None], charged, 0), (0, 1))


@jax.jit
@over_batch
def marginal_log_likelihood(
    chain: Chain,
    emissions: Array,
    tags: Array,
    lengths: Array | None = None,
    weights: Array | None = None,
    *,
    mask: Array | None = None,
) -> Array:
    r"""The log-likelihood of each tag by itself, weighted and added up (Kakade, Teh and Roweis, 2002).

    .. math::  \sum_t w_t \log p(y_t = tags_t)

    Here a weight belongs to a position and does to it alone what it says: the path's likelihood is not a sum over positions,
    so that weights inside it would not. For weights of tags give ``weights_of_tags[tags]``; a weight of a whole sequence is a
    factor of any function's result.

    Args:
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      tags: ``(B, T)`` integers in [0, K); never read past the length.
      lengths: ``(B,)`` integers, all T by default.
      weights: ``(B, T)``, finite, 1 by default. A weight of 0 leaves the position out, whatever its tag.
      mask: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B,)`` in nats: 0 for length 0; -inf where a tag of positive weight is on no legal path.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf
      >>> emissions, tags = jnp.log(jnp.array([[[1.0, 3.0], [1.0, 1.0]]])), jnp.array([[1, 0]])
      >>> found = crf.marginal_log_likelihood(crf.Chain.zeros(2), emissions, tags, weights=jnp.array([[2.0, 0.0]]))
      >>> round(float(found[0]), 4)  # 2 log(3 / 4)
      -0.5754
    """
    problem, gaps = prepare("marginal_log_likelihood", chain, emissions, lengths, mask)
    gold = check_tags("marginal_log_likelihood", tags, emissions, gaps)
    gold = jnp.where(problem.mask, jnp.clip(gold, 0, problem.emissions.shape[1] - 1), 0)
    logs = jnp.take_along_axis(_log_marginals(problem), gold[:, None], 1)[:, 0]  # (T, B)
    if weights is None:
        weights = jnp.ones(jnp.shape(tags), logs.dtype)
    weights = _timed("marginal_log_likelihood", "weights", weights, jnp.shape(tags), problem, gaps).T
    counts = problem.mask & (weights != 0)
    possible = counts & (logs > NEG_INF)
    terms = jnp.where(possible, jnp.where(possible, weights, 0) * jnp.where(possible, logs, 0), 0)
    return jnp.sum(terms, 0) + jnp.where(jnp.any(counts & ~possible, 0), NEG_INF, 0)


def _log_marginals(problem: Problem) -> Array:
    """Log of each tag's posterior ``(T, K, B)``, which holds where the posterior itself is too small for its dtype."""
    filtered = forward_filter(problem)

    def step(after: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        alpha, peaks, totals, inside = inputs
        before = log_sum_exp(log_conditional(problem.chain, alpha, peaks, totals) + after[None], 1)
        before = jnp.where(inside[None], before, after)
        return before, before

    last = log_softmax(last_scores(problem, filtered.alphas)[0], 0)
    moves = (filtered.alphas[:-1], filtered.peaks, filtered.totals, problem.mask[1:])
    _, rest = jax.lax.scan(step, last, moves, reverse=True)
    return jnp.concatenate([rest, last[None]])


def _check_cost(name: str, cost: Any, emissions: Array, problem: Problem, gaps: Gaps | None) -> Array:
    return jnp.transpose(_timed(name, "cost", cost, jnp.shape(emissions), problem, gaps), (1, 2, 0))


def _timed(name: str, what: str, values: Any, shape: tuple[int, ...], problem: Problem, gaps: Gaps | None) -> Array:
    """An argument of one number a position or a tag, in the problem's dtype and order."""
    values = jnp.asarray(values)
    if values.shape != shape or not jnp.issubdtype(values.dtype, jnp.floating):
        got = f"{values.dtype} of shape {values.shape}"
        raise ValueError(f"{name}: expected a floating-point {what} of shape {shape}, got {got}")
    values = values.astype(problem.emissions.dtype)
    return values if gaps is None else gaps.close(values)
