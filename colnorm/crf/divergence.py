r"""Between two chains over the same sequences: cross-entropy and KL divergence, for distillation and regularization.

Both factor over positions, from the last one backwards, as every path's probability does:

.. math::  \log q(y) = \log q(y_n) + \sum_t \log q(y_t \mid y_{t+1})

so that an expectation under p is a sum over p's pairs of tags of q's log-conditionals. These are small whatever the scores.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from colnorm.crf.chain import Chain, prepare
from colnorm.crf.reductions import NEG_INF, Array, log_softmax
from colnorm.crf.scan import forward_filter, last_marginal, last_scores, log_conditional, walk_back
from colnorm.sharding import over_batch


@jax.jit
@over_batch
def cross_entropy(
    p_chain: Chain,
    p_emissions: Array,
    q_chain: Chain,
    q_emissions: Array,
    lengths: Array | None = None,
    *,
    mask: Array | None = None,
) -> Array:
    """``-sum_y p(y) log q(y)``: what q costs where paths come from p. Trained on it, q learns all that p says (distillation).

    Args:
      p_chain, p_emissions: of the distribution that paths come from; ``(B, T, K)``.
      q_chain, q_emissions: of the one that is measured, over the same tags.
      lengths: ``(B,)`` integers, all T by default.
      mask: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B,)`` in nats, at least p's entropy; 0 for length 0 and where p has no legal path; inf where q forbids what p does not.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf
      >>> chain, certain, even = crf.Chain.zeros(2), jnp.array([[[0.0, -jnp.inf]]]), jnp.zeros((1, 1, 2))
      >>> round(float(crf.cross_entropy(chain, certain, chain, even)[0]), 4)  # log 2
      0.6931
    """
    return _expected("cross_entropy", lambda in_p, in_q: -in_q, p_chain, p_emissions, q_chain, q_emissions, lengths, mask)


@jax.jit
@over_batch
def kl_divergence(
    p_chain: Chain,
    p_emissions: Array,
    q_chain: Chain,
    q_emissions: Array,
    lengths: Array | None = None,
    *,
    mask: Array | None = None,
) -> Array:
    """``sum_y p(y) log(p(y) / q(y))``: :func:`cross_entropy` less p's entropy, position by position, so that nothing cancels.

    Args:
      p_chain, p_emissions: of the distribution that paths come from; ``(B, T, K)``.
      q_chain, q_emissions: of the one that is measured, over the same tags.
      lengths: ``(B,)`` integers, all T by default.
      mask: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B,)`` in nats, at least 0 up to rounding, and 0 where the two are equal; 0 for length 0 and where p has no legal path;
      inf where q forbids what p does not.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf
      >>> chain = crf.Chain.zeros(2)
      >>> p, q = jnp.log(jnp.array([[[1.0, 3.0]]])), jnp.zeros((1, 1, 2))
      >>> round(float(crf.kl_divergence(chain, p, chain, q)[0]), 4)  # log 2 less the entropy of (1/4, 3/4)
      0.1308
    """
    return _expected("kl_divergence", lambda in_p, in_q: in_p - in_q, p_chain, p_emissions, q_chain, q_emissions, lengths, mask)


def _expected(
    name: str,
    value: Callable[[Array, Array], Array],
    p_chain: Chain,
    p_emissions: Array,
    q_chain: Chain,
    q_emissions: Array,
    lengths: Array | None,
    mask: Array | None,
) -> Array:
    """The sum over positions of p's expectation of ``value(log of it in p, log of it in q)``."""
    if jnp.shape(p_emissions) != jnp.shape(q_emissions):
        shapes = f"{jnp.shape(p_emissions)} and {jnp.shape(q_emissions)}"
        raise ValueError(f"{name}: expected p_emissions and q_emissions of one shape, got {shapes}")
    (p, _), (q, _) = (
        prepare(name, chain, emissions, lengths, mask) for chain, emissions in ((p_chain, p_emissions), (q_chain, q_emissions))
    )
    of_p, of_q = forward_filter(p), forward_filter(q)

    def weighed(probability: Array, in_p: Array, in_q: Array) -> Array:
        certain = probability > 0
        missing = certain & (in_q == NEG_INF)
        finite = [jnp.where(certain & ~missing, log, 0) for log in (in_p, in_q)]
        return jnp.where(missing, jnp.inf, probability * value(*finite))

    last = last_marginal(p, of_p.alphas)
    logs = [log_softmax(last_scores(problem, filtered.alphas)[0], 0) for problem, filtered in ((p, of_p), (q, of_q))]
    of_last = jnp.sum(weighed(last, *logs), 0)

    def collect(pairs: Array, in_p: Array, alpha: Array, peaks: Array, totals: Array) -> Array:
        return jnp.sum(weighed(pairs, in_p, log_conditional(q.chain, alpha, peaks, totals)), (0, 1))

    _, steps = walk_back(p, of_p, collect, also=(of_q.alphas[:-1], of_q.peaks, of_q.totals))
    return of_last + jnp.sum(steps, 0)
