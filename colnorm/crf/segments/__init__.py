r"""Semi-Markov conditional random fields (Sarawagi and Cohen, 2004): the linear chain's functions, over segments of tokens.

A segmentation cuts a sequence into segments of 1 to L tokens, each with a label. With :math:`f_k`, :math:`d_k` and
:math:`y_k` the first token, the duration and the label of segment k, it has the score

.. math::  s = start_{y_1} + \sum_k \Big( durations_{d_k, y_k} + spans_{f_k, d_k, y_k} +
           \sum_{t = f_k}^{f_k + d_k - 1} emissions_{t, y_k} \Big) + \sum_k transitions_{y_k, y_{k+1}} + end_{y_m}

and the probability :math:`\exp(s) / Z`, where :math:`Z` sums :math:`\exp(s)` over all segmentations.

Conventions are those of :mod:`colnorm.crf`: lengths, masks, -inf, dtypes, what is checked and what is differentiable. Besides:

- Y is the number of labels, L that of the rows of ``chain.durations``. ``durations[d - 1, y]`` is the score of a segment of d
  tokens, and -inf forbids it: :func:`limit` does so by label.
- ``spans (B, T, L, Y)`` are scores of single segments by first token, duration and label; ``(B, T, 1, Y)`` is the same for
  every duration: what the first token has to say. None is 0. Segments that don't fit into the length are never read.
- A segmentation is a :class:`Segmentation`: at every token its label, at a segment's first token its duration, else 0.
- A ``mask`` may have gaps: a segment then reaches across them, and its duration counts the positions that carry a label.
- Time grows as ``T (L Y + Y^2)``, and so does the memory of a gradient; nothing of size ``T L Y^2`` is made.

Example:
  >>> import jax.numpy as jnp
  >>> from colnorm.crf import segments
  >>> names = ["O", "B-per", "I-per"]
  >>> layout, labels = segments.TagLayout.of(names), segments.TagLayout.label_names(names)
  >>> chain = segments.limit(segments.SegmentChain.zeros(2, longest=4), labels, {"O": 1})
  >>> emissions = jnp.array([[[0.0, 1.0], [0.0, 2.0], [3.0, 0.0]]])  # (B, T, Y)
  >>> best, _ = segments.viterbi(chain, emissions)
  >>> segments.to_tags(layout, best).tolist()  # segments of one token come first where scores are equal
  [[1, 1, 0]]
"""

from colnorm.crf.segments.chain import Segmentation, SegmentChain, score
from colnorm.crf.segments.decode import sample, viterbi
from colnorm.crf.segments.module import SemiMarkovCRF
from colnorm.crf.segments.partition import log_likelihood, log_partition
from colnorm.crf.segments.posterior import entropy, marginals, token_marginals
from colnorm.crf.segments.tags import TagLayout, check_segments, from_tags, limit, tag_scores, to_tags

__all__ = [
    "SegmentChain",
    "Segmentation",
    "SemiMarkovCRF",
    "TagLayout",
    "check_segments",
    "entropy",
    "from_tags",
    "limit",
    "log_likelihood",
    "log_partition",
    "marginals",
    "sample",
    "score",
    "tag_scores",
    "to_tags",
    "token_marginals",
    "viterbi",
]
