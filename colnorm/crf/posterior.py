"""The distribution over paths: marginals of tags and of pairs of tags, entropy, and exact samples."""

import jax
import jax.numpy as jnp

from colnorm.crf import scaled
from colnorm.crf.chain import Chain, Problem, in_order, prepare
from colnorm.crf.reductions import NEG_INF, Array, finite_max, log_softmax
from colnorm.crf.scan import forward_filter, last_marginal, last_scores, walk_back
from colnorm.sharding import over_batch


@jax.jit
@over_batch
def marginals(
    chain: Chain,
    emissions: Array,
    lengths: Array | None = None,
    *,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> Array:
    """Posterior probability of each tag at each position, ``p(y_t = j)``: the gradient of :func:`log_partition`.

    Args:
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      lengths: ``(B,)`` integers, all T by default.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B, T, K)``, each position's sum 1; 0 past the length and where no path is legal.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf
      >>> emissions = jnp.log(jnp.array([[[1.0, 3.0], [1.0, 1.0]]]))  # (B, T, K)
      >>> posterior = crf.marginals(crf.Chain.zeros(2), emissions)
      >>> [[round(value, 3) for value in row] for row in posterior[0].tolist()]
      [[0.25, 0.75], [0.5, 0.5]]
    """
    problem, gaps = prepare("marginals", chain, emissions, lengths, mask, allowed)
    return in_order(jnp.transpose(posterior(problem), (2, 0, 1)), gaps)


def posterior(problem: Problem) -> Array:
    """Marginals ``(T, K, B)``; zero past the length."""
    return _marginals(problem, scaled.run(problem))


def _exact_marginals(problem: Problem) -> Array:
    return walk_back(problem, forward_filter(problem), lambda pairs, log_conditional: None)[0]


_marginals = scaled.or_else(scaled.marginals, _exact_marginals)


@jax.jit
@over_batch
def pairwise_marginals(
    chain: Chain,
    emissions: Array,
    lengths: Array | None = None,
    *,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> Array:
    """Posterior probability of each move, ``p(y_t = i, y_{t+1} = j)``.

    Args:
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      lengths: ``(B,)`` integers, all T by default.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B, T - 1, K, K)``, from i to j, each sum 1; 0 where t + 1 is past the length and where no path is legal. With gaps
      in a mask, at t to the next position that carries a tag.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf
      >>> emissions = jnp.log(jnp.array([[[1.0, 3.0], [1.0, 1.0]]]))  # (B, T, K)
      >>> posterior = crf.pairwise_marginals(crf.Chain.zeros(2), emissions)
      >>> [[round(value, 3) for value in row] for row in posterior[0, 0].tolist()]
      [[0.125, 0.125], [0.375, 0.375]]
    """
    problem, gaps = prepare("pairwise_marginals", chain, emissions, lengths, mask, allowed)
    _, moves = walk_back(problem, forward_filter(problem), lambda pairs, log_conditional: pairs)
    moves = jnp.transpose(moves, (3, 0, 1, 2))
    # With gaps a move stands at the position that it leaves.
    return moves if gaps is None else gaps.open(jnp.pad(moves, ((0, 0), (0, 1), (0, 0), (0, 0))))[:, :-1]


@jax.jit
@over_batch
def entropy(
    chain: Chain,
    emissions: Array,
    lengths: Array | None = None,
    *,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> Array:
    """Entropy of the distribution over paths, ``-sum_y p(y) log p(y)``, as the sum of the conditional entropies.

    No term is negative, so that nothing cancels, as it would in ``log Z - E[score]``.

    Args:
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      lengths: ``(B,)`` integers, all T by default.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B,)`` in nats; 0 for length 0 and where no path is legal.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf
      >>> round(float(crf.entropy(crf.Chain.zeros(2), jnp.zeros((1, 3, 2)))[0]), 4)  # log 8
      2.0794
    """
    problem, _ = prepare("entropy", chain, emissions, lengths, mask, allowed)
    filtered = forward_filter(problem)
    last = log_softmax(last_scores(problem, filtered.alphas)[0], 0)
    of_last = jnp.sum(_surprise(last_marginal(problem, filtered.alphas), last), 0)
    _, steps = walk_back(problem, filtered, lambda pairs, log_conditional: jnp.sum(_surprise(pairs, log_conditional), (0, 1)))
    return of_last + jnp.sum(steps, 0)


def _surprise(probability: Array, log_conditional: Array) -> Array:
    """``-p log q``, 0 where q is 0."""
    return probability * jnp.where(log_conditional == NEG_INF, 0, -log_conditional)


@jax.jit
@over_batch
def sample(
    key: Array,
    chain: Chain,
    emissions: Array,
    lengths: Array | None = None,
    *,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> Array:
    """A path for each sequence, drawn exactly from the distribution: the last tag first, each other given the one after it.

    Args:
      key: a ``jax.random.key``.
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      lengths: ``(B,)`` integers, all T by default.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B, T)`` int32 tags; 0 past the length and where no path is legal. To draw n paths of each sequence, ``jax.vmap``
      over ``jax.random.split(key, n)``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import crf
      >>> chain = crf.constrain(crf.Chain.zeros(3), ["O", "B-per", "I-per"])
      >>> keys = jax.random.split(jax.random.key(0), 100)
      >>> draws = jax.vmap(lambda key: crf.sample(key, chain, jnp.zeros((1, 2, 3))))(keys)
      >>> draws.shape
      (100, 1, 2)
      >>> bool((draws[:, 0, 0] == 2).any())  # none begins with I-per
      False
    """
    problem, gaps = prepare("sample", chain, emissions, lengths, mask, allowed)
    chain, emissions, inside = problem
    alphas = forward_filter(problem).alphas
    noise = jax.random.gumbel(key, emissions.shape, emissions.dtype)  # the argmax of scores + noise is a draw
    final, _ = last_scores(problem, alphas)

    def draw(scores: Array, noise: Array) -> Array:
        # The shift keeps the noise's digits at large scores.
        return jnp.argmax(scores - finite_max(scores, 0) + noise, 0).astype(jnp.int32)

    def step(after: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        alpha, noise, inside = inputs
        tag = jnp.where(inside, draw(alpha + chain.transitions[:, after], noise), after)
        return tag, tag

    last = draw(final, noise[-1])
    _, rest = jax.lax.scan(step, last, (alphas[:-1], noise[:-1], inside[1:]), reverse=True)
    drawn = inside & (jnp.max(final, 0) > NEG_INF)[None]
    return in_order(jnp.where(drawn, jnp.concatenate([rest, last[None]]), 0).T, gaps)
