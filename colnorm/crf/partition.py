r"""The log-partition function, its gradient written out, and the log-likelihood.

.. math::  \log Z = \log \sum_y \exp s(y), \qquad
           \partial \log Z / \partial emissions_{t, j} = p(y_t = j), \qquad
           \partial \log Z / \partial transitions_{i, j} = \sum_t p(y_t = i, y_{t+1} = j)
"""

from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from colnorm.crf import associative, scaled, scan
from colnorm.crf.chain import Chain, Problem, check_tags, path_terms, prepare
from colnorm.crf.reductions import NEG_INF, Array, log_sum_exp, sum_less_shift
from colnorm.crf.scan import last_marginal, last_scores
from colnorm.sharding import over_batch

METHODS = ("scan", "associative")


@partial(jax.jit, static_argnames=("method",))
@over_batch
def log_partition(
    chain: Chain,
    emissions: Array,
    lengths: Array | None = None,
    method: str = "scan",
    *,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> Array:
    """Log of the sum of exp(score) over all paths (Rabiner, 1989, the forward recursion).

    The gradient is computed from the marginals, not by differentiating the recursion. It can be differentiated again, in
    either mode (``jax.hessian`` works); the function itself in reverse mode only.

    Args:
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      lengths: ``(B,)`` integers, all T by default.
      method: "scan" takes T steps, in products of matrices where they are exact and in the log domain where they
        are not (:mod:`colnorm.crf.scaled`). "associative" takes about 2 log2 T, with K times as much work and memory for
        ``B * T * K^3`` numbers: for thousands of positions on an accelerator; on a CPU it is several times slower. Values
        and gradients are the same up to rounding.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B,)`` in nats: 0 for length 0; -inf with a gradient of 0 where no path is legal.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf
      >>> emissions = jnp.zeros((2, 4, 3))  # (B, T, K)
      >>> logs = crf.log_partition(crf.Chain.zeros(3), emissions, jnp.array([4, 0]))
      >>> [round(value, 3) for value in logs.tolist()]  # 81 paths, and the empty one
      [4.394, 0.0]
    """
    if method not in METHODS:
        raise ValueError(f"log_partition: expected method to be one of {METHODS}, got {method!r}")
    problem, _ = prepare("log_partition", chain, emissions, lengths, mask, allowed)
    remainder, shifts = _log_partition(method, *problem)
    return remainder + jnp.sum(shifts, 0)


@jax.jit
@over_batch
def log_likelihood(
    chain: Chain,
    emissions: Array,
    tags: Array,
    lengths: Array | None = None,
    *,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> Array:
    """Log-probability of the paths ``tags``: :func:`score` minus :func:`log_partition`, at most 0 up to rounding.

    Training maximizes it. Its gradient is the path's counts of tags and moves minus their expected counts.

    Args:
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      tags: ``(B, T)`` integers in [0, K); never read past the length.
      lengths: ``(B,)`` integers, all T by default.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B,)`` in nats: 0 for length 0. -inf where no path is legal, with a gradient of 0; and -inf where this path is
      illegal but another is not, with the gradient as above, which is finite: to a forbidden move, too, that the path makes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import crf
      >>> chain, emissions, tags = crf.Chain.zeros(2), jnp.zeros((1, 3, 2)), jnp.array([[0, 1, 1]])
      >>> round(float(crf.log_likelihood(chain, emissions, tags)[0]), 4)  # log of 1 / 8
      -2.0794
      >>> gradient = jax.grad(lambda emissions: crf.log_likelihood(chain, emissions, tags).sum())(emissions)
      >>> [round(value, 3) for value in gradient[0, 0].tolist()]  # one less the posterior; minus the posterior
      [0.5, -0.5]
    """
    problem, gaps = prepare("log_likelihood", chain, emissions, lengths, mask, allowed)
    moves, chosen, end = path_terms(problem, check_tags("log_likelihood", tags, emissions, gaps))
    remainder, shifts = _log_partition("scan", *problem)
    # Position by position, large scores cancel before they are added up.
    relative = jnp.sum(sum_less_shift(moves, chosen, shifts[:-1]), 0) + (end - shifts[-1])
    return jnp.where(remainder > NEG_INF, relative - remainder, NEG_INF)


@jax.jit
@over_batch
def partial_log_likelihood(
    chain: Chain, emissions: Array, allowed: Array, lengths: Array | None = None, *, mask: Array | None = None
) -> Array:
    """Log of the probability that the path is one of those that ``allowed`` admits (Tsuboi et al., 2008, C08-1113).

    What is known of the tags may be any set at each position: one tag, a few, all of them. With one tag at each position this
    is :func:`log_likelihood`, with all of them everywhere 0. It takes two forward passes.

    Args:
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      allowed: ``(B, T, K)`` bool, the tags that each position may have.
      lengths: ``(B,)`` integers, all T by default.
      mask: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B,)`` in nats, at most 0 up to rounding; 0 for length 0; -inf with a gradient of 0 where no legal path is admitted.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf
      >>> allowed = jnp.array([[[True, False], [True, True]]])  # the first tag is known, the second is not
      >>> round(float(crf.partial_log_likelihood(crf.Chain.zeros(2), jnp.zeros((1, 2, 2)), allowed)[0]), 4)  # log of 2 / 4
      -0.6931
    """
    if allowed is None:
        raise ValueError("partial_log_likelihood: expected a bool allowed of shape (B, T, K), got None")
    every, _ = prepare("partial_log_likelihood", chain, emissions, lengths, mask)
    some, _ = prepare("partial_log_likelihood", chain, emissions, lengths, mask, allowed)
    (of_every, shifts), (of_some, shifts_of_some) = _log_partition("scan", *every), _log_partition("scan", *some)
    # Position by position, large scores cancel before they are added up.
    relative = jnp.sum(shifts_of_some - shifts, 0)
    return jnp.where((of_every > NEG_INF) & (of_some > NEG_INF), relative + (of_some - of_every), NEG_INF)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_partition(method: str, chain: Chain, emissions: Array, mask: Array) -> tuple[Array, Array]:
    """The log-partition as a sum: of a remainder ``(B,)``, whose gradient is that of the whole, and of constant shifts.

    With "scan" there are T + 1 shifts, those of the positions and that of the end.
    """
    return _forward(method, chain, emissions, mask)[0]


def _forward(method: str, chain: Chain, emissions: Array, mask: Array) -> tuple[tuple[Array, Array], tuple[Problem, Any]]:
    problem = Problem(chain, emissions, mask)
    if method == "scan":
        passes = scaled.run(problem)
        return _value(problem, passes), (problem, passes)
    filtered = associative.forward_filter(problem)
    return _value_of_filtered(problem, filtered), (problem, filtered)


def _backward(method: str, saved: tuple[Problem, Any], gradients: tuple[Array, Array]) -> tuple[Chain, Array, None]:
    gradient_of = _gradient if method == "scan" else partial(_gradient_of_filtered, associative)
    chain, emissions = gradient_of(*saved, gradients[0])
    return chain, emissions, None


_log_partition.defvjp(_forward, _backward)


def _value_of_filtered(problem: Problem, filtered: Any) -> tuple[Array, Array]:
    final, shift = last_scores(problem, filtered.alphas)
    remainder = jnp.where(problem.mask[0], log_sum_exp(final, 0), 0)
    return remainder, jnp.concatenate([filtered.shifts, jnp.where(problem.mask[:1], shift, 0)])


def _gradient_of_filtered(recursion: ModuleType, problem: Problem, filtered: Any, weights: Array) -> tuple[Chain, Array]:
    """The gradient of the weighted sum over sequences, by chain and emissions; ``recursion`` made ``filtered``."""
    marginals, transitions = recursion.expectations(problem, filtered, weights)
    emissions = marginals * weights[None, None]
    end = jnp.sum(last_marginal(problem, filtered.alphas) * weights[None], 1)
    return Chain(transitions, jnp.sum(emissions[0], 1), end), emissions


def _scaled_gradient(problem: Problem, passes: scaled.Passes, weights: Array) -> tuple[Chain, Array]:
    emissions, transitions, end = scaled.expectations(problem, passes, weights)
    return Chain(transitions, jnp.sum(emissions[0], 1), end), emissions


_value = scaled.or_else(scaled.log_partition, lambda problem: _value_of_filtered(problem, scan.forward_filter(problem)))
_gradient = scaled.or_else(
    _scaled_gradient,
    lambda problem, weights: _gradient_of_filtered(scan, problem, scan.forward_filter(problem), weights),
)
