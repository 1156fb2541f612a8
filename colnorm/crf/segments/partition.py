r"""The log-partition function over segmentations, its gradient written out, and the log-likelihood.

.. math::  \partial \log Z / \partial durations_{d, y} = E[\text{segments of } d \text{ tokens with label } y], \qquad
           \partial \log Z / \partial emissions_{t, y} = p(\text{token } t \text{ has label } y)
"""

import jax
import jax.numpy as jnp

from colnorm.crf.reductions import NEG_INF, Array, log_sum_exp, sum_less_shift
from colnorm.crf.segments.chain import Problem, Segmentation, SegmentChain, check_segmentation, path_terms, prepare
from colnorm.crf.segments.scan import Filtered, backward_filter, expectations, first_scores
from colnorm.sharding import over_batch


@jax.jit
@over_batch
def log_partition(
    chain: SegmentChain,
    emissions: Array,
    lengths: Array | None = None,
    *,
    spans: Array | None = None,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> Array:
    """Log of the sum of exp(score) over all segmentations (Sarawagi and Cohen, 2004).

    The gradient is computed from the marginals, not by differentiating the recursion. It can be differentiated again, in
    either mode; the function itself in reverse mode only.

    Args:
      chain: log-potentials; -inf forbids.
      emissions: ``(B, T, Y)``; -inf forbids a label at a token.
      lengths: ``(B,)`` integers, all T by default.
      spans: ``(B, T, L, Y)`` or ``(B, T, 1, Y)``, scores of segments by their first token.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B,)`` in nats: 0 for length 0; -inf with a gradient of 0 where no segmentation is legal.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm.crf import segments
      >>> chain = segments.SegmentChain.zeros(1, longest=2)
      >>> log_z = segments.log_partition(chain, jnp.zeros((1, 4, 1)))  # 4 tokens in ones and twos: five ways
      >>> round(float(jnp.exp(log_z[0])), 3)
      5.0
    """
    problem, _ = prepare("segments.log_partition", chain, emissions, lengths, spans, mask, allowed)
    remainder, shifts = _log_partition(*problem)
    return remainder + jnp.sum(shifts, 0)


@jax.jit
@over_batch
def log_likelihood(
    chain: SegmentChain,
    emissions: Array,
    gold: Segmentation,
    lengths: Array | None = None,
    *,
    spans: Array | None = None,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> Array:
    """Log-probability of given segmentations: :func:`score` minus :func:`log_partition`, at most 0 up to rounding.

    Args:
      chain: log-potentials; -inf forbids.
      emissions: ``(B, T, Y)``; -inf forbids a label at a token.
      gold: what :func:`from_tags` returns; that its durations fill the length is not checked.
      lengths: ``(B,)`` integers, all T by default.
      spans: ``(B, T, L, Y)`` or ``(B, T, 1, Y)``, scores of segments by their first token.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B,)`` in nats: 0 for length 0. -inf where no segmentation is legal, with a gradient of 0; and -inf where this one is
      illegal or has a segment of more than L tokens, with a finite gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm.crf import segments
      >>> gold = segments.Segmentation(jnp.array([[0, 0, 0, 0]]), jnp.array([[2, 0, 1, 1]]))
      >>> likelihood = segments.log_likelihood(segments.SegmentChain.zeros(1, longest=2), jnp.zeros((1, 4, 1)), gold)
      >>> round(float(jnp.exp(likelihood[0])), 3)  # one of five ways
      0.2
    """
    problem, gaps = prepare("segments.log_likelihood", chain, emissions, lengths, spans, mask, allowed)
    gold = check_segmentation("segments.log_likelihood", gold, emissions, gaps)
    segments, chosen, start = path_terms(problem, gold)
    remainder, shifts = _log_partition(*problem)
    # Token by token, large scores cancel before they are added up.
    relative = jnp.sum(sum_less_shift(segments, chosen, shifts[:-1]), 0) + (start - shifts[-1])
    return jnp.where(remainder > NEG_INF, relative - remainder, NEG_INF)


@jax.custom_vjp
def _log_partition(chain: SegmentChain, emissions: Array, spans: Array, mask: Array) -> tuple[Array, Array]:
    """The log-partition as a sum: of a remainder ``(B,)``, whose gradient is that of the whole, and of constant shifts."""
    return _forward(chain, emissions, spans, mask)[0]


def _forward(
    chain: SegmentChain, emissions: Array, spans: Array, mask: Array
) -> tuple[tuple[Array, Array], tuple[Problem, Filtered]]:
    problem = Problem(chain, emissions, spans, mask)
    filtered = backward_filter(problem)
    scores, shift = first_scores(problem, filtered)
    remainder = jnp.where(mask[0], log_sum_exp(scores, 0), 0)
    shifts = jnp.concatenate([filtered.shifts, jnp.where(mask[:1], shift, 0)])
    return (remainder, shifts), (problem, filtered)


def _backward(saved: tuple[Problem, Filtered], gradients: tuple[Array, Array]) -> tuple[SegmentChain, Array, Array, None]:
    return *expectations(*saved, gradients[0]), None


_log_partition.defvjp(_forward, _backward)
