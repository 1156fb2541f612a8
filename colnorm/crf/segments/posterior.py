"""The distribution over segmentations: marginals of segments and of tokens, and the entropy."""

import jax
import jax.numpy as jnp

from colnorm.crf.chain import in_order
from colnorm.crf.reductions import NEG_INF, Array, log_softmax
from colnorm.crf.segments.chain import SegmentChain, prepare
from colnorm.crf.segments.scan import Step, backward_filter, first_label, first_scores, walk
from colnorm.sharding import over_batch


@jax.jit
@over_batch
def marginals(
    chain: SegmentChain,
    emissions: Array,
    lengths: Array | None = None,
    *,
    spans: Array | None = None,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> Array:
    """Posterior probability of each segment: the gradient of :func:`log_partition` by full ``spans``.

    Args:
      chain: log-potentials; -inf forbids.
      emissions: ``(B, T, Y)``; -inf forbids a label at a token.
      lengths: ``(B,)`` integers, all T by default.
      spans: ``(B, T, L, Y)`` or ``(B, T, 1, Y)``, scores of segments by their first token.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B, T, L, Y)``: at ``[b, t, d - 1, y]`` that of the segment of d tokens from t on with label y, no shorter and no
      longer. 0 past the length and where no segmentation is legal.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm.crf import segments
      >>> posterior = segments.marginals(segments.SegmentChain.zeros(1, longest=2), jnp.zeros((1, 4, 1)))
      >>> [round(value, 3) for value in posterior[0, 0, :, 0].tolist()]  # first a one: 3 of 5 ways; first a two: 2 of 5
      [0.6, 0.4]
    """
    problem, gaps = prepare("segments.marginals", chain, emissions, lengths, spans, mask, allowed)
    _, found = walk(problem, backward_filter(problem), lambda step: step.segments)
    return in_order(jnp.transpose(found, (3, 0, 1, 2)), gaps)


@jax.jit
@over_batch
def token_marginals(
    chain: SegmentChain,
    emissions: Array,
    lengths: Array | None = None,
    *,
    spans: Array | None = None,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> Array:
    """Posterior probability of each token's label, whatever its segment: the gradient of :func:`log_partition` by emissions.

    Args:
      chain: log-potentials; -inf forbids.
      emissions: ``(B, T, Y)``; -inf forbids a label at a token.
      lengths: ``(B,)`` integers, all T by default.
      spans: ``(B, T, L, Y)`` or ``(B, T, 1, Y)``, scores of segments by their first token.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B, T, Y)``, each token's sum 1; 0 past the length and where no segmentation is legal.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm.crf import segments
      >>> emissions = jnp.log(jnp.array([[[1.0, 3.0]]]))  # one token
      >>> posterior = segments.token_marginals(segments.SegmentChain.zeros(2, longest=2), emissions)
      >>> [round(value, 3) for value in posterior[0, 0].tolist()]
      [0.25, 0.75]
    """
    problem, gaps = prepare("segments.token_marginals", chain, emissions, lengths, spans, mask, allowed)
    found, _ = walk(problem, backward_filter(problem), lambda step: None)
    return in_order(jnp.transpose(found, (2, 0, 1)), gaps)


@jax.jit
@over_batch
def entropy(
    chain: SegmentChain,
    emissions: Array,
    lengths: Array | None = None,
    *,
    spans: Array | None = None,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> Array:
    """Entropy of the distribution over segmentations, as the sum of the conditional entropies, of which none is negative.

    Args:
      chain: log-potentials; -inf forbids.
      emissions: ``(B, T, Y)``; -inf forbids a label at a token.
      lengths: ``(B,)`` integers, all T by default.
      spans: ``(B, T, L, Y)`` or ``(B, T, 1, Y)``, scores of segments by their first token.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B,)`` in nats; 0 for length 0 and where no segmentation is legal.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm.crf import segments
      >>> found = segments.entropy(segments.SegmentChain.zeros(1, longest=2), jnp.zeros((1, 4, 1)))
      >>> round(float(jnp.exp(found[0])), 3)  # five ways, all alike
      5.0
    """
    problem, _ = prepare("segments.entropy", chain, emissions, lengths, spans, mask, allowed)
    filtered = backward_filter(problem)
    first = log_softmax(first_scores(problem, filtered)[0], 0)
    of_first = jnp.sum(_surprise(first_label(problem, filtered), first), 0)

    def collect(step: Step) -> Array:
        segments = jnp.sum(_surprise(step.segments, step.log_segments), (0, 1))
        return segments + jnp.sum(_surprise(step.pairs, step.log_pairs), (0, 1))

    _, steps = walk(problem, filtered, collect)
    return of_first + jnp.sum(steps, 0)


def _surprise(probability: Array, log_conditional: Array) -> Array:
    """``-p log q``, 0 where q is 0."""
    return probability * jnp.where(log_conditional == NEG_INF, 0, -log_conditional)
