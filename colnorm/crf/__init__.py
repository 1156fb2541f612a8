r"""Linear-chain conditional random fields (Lafferty, McCallum and Pereira, 2001): pure functions on a chain.

A path of tags :math:`y_1 \ldots y_n` has the score

.. math::  s(y) = start_{y_1} + \sum_{t=1}^{n} emissions_{t, y_t} + \sum_{t=1}^{n-1} transitions_{y_t, y_{t+1}} + end_{y_n}

and the probability :math:`\exp(s(y)) / Z`, where :math:`Z` sums :math:`\exp(s)` over all paths. Scores are log-potentials.

Conventions, the same for every function:

- Emissions are ``(B, T, K)``: sequences, positions, tags. Sequences are right-padded; ``lengths (B,)`` are integers, all T
  by default. What lies past a length, NaN included, changes neither a result nor a gradient.
- ``mask (B, T)``, bool, instead of lengths may have gaps: positions that carry no tag (``[CLS]``, the rest of a word in pieces,
  padding on the left). What lies on both sides of a gap are neighbours; results in it are 0. All equals the same call on the
  sequence without them.
- ``allowed (B, T, K)``, bool, says which tags a position may have; the others are forbidden there, as by an emission of -inf.
- ``transitions[i, j]`` is the score of going from tag i to tag j.
- -inf forbids: any part of the chain and any emission may be -inf, and nothing becomes NaN, gradients included. What is
  forbidden has no gradient, unless a path that was given goes there. +inf, and NaN inside a length, are not allowed, and
  not looked for.
- Everything is computed in float64 where any argument is float64, and otherwise in float32, which is also the dtype of the
  result for bfloat16 and float16. Large scores cancel before small numbers are added to them.
- :func:`log_partition`, :func:`log_likelihood`, their gradients and :func:`marginals` are products of scaled matrices where
  these lose no path to underflow, forbidden moves or not, and take the log domain, several times slower, for a whole call
  where they would in any sequence: where scores lie some fifty nats apart that a path needs, or no path is legal. Under
  ``vmap`` both are computed (:mod:`colnorm.crf.scaled`).
- Every function jits and vmaps, and every real result differentiates in reverse mode, at least twice. Calls of equal shapes
  compile once.
- Shapes, kinds of dtype and static arguments are checked when a function is traced (``ValueError``). Values are only known
  later and are not checked: a length beyond T counts as T, one below 0 as 0, and a tag outside [0, K) as the nearest.
"""

from colnorm.crf import segments
from colnorm.crf.chain import Chain, score
from colnorm.crf.constraints import check_paths, constrain, restrict
from colnorm.crf.decode import k_best, posterior_decode, viterbi
from colnorm.crf.divergence import cross_entropy, kl_divergence
from colnorm.crf.losses import expected_cost, hinge_loss, marginal_log_likelihood
from colnorm.crf.module import LinearChainCRF
from colnorm.crf.partition import log_likelihood, log_partition, partial_log_likelihood
from colnorm.crf.posterior import entropy, marginals, pairwise_marginals, sample

__all__ = [
    "Chain",
    "LinearChainCRF",
    "check_paths",
    "constrain",
    "cross_entropy",
    "entropy",
    "expected_cost",
    "hinge_loss",
    "k_best",
    "kl_divergence",
    "log_likelihood",
    "log_partition",
    "marginal_log_likelihood",
    "marginals",
    "pairwise_marginals",
    "partial_log_likelihood",
    "posterior_decode",
    "restrict",
    "sample",
    "score",
    "segments",
    "viterbi",
]
