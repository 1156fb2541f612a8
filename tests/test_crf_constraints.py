"""Tagging schemes as forbidden moves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crf_cases import B, T

from colnorm import crf

BIO = ["O", "B-per", "I-per", "B-loc", "I-loc"]
MORE_BIO = [*BIO, "I-org", "B-org", "I-misc", "B-misc"]
BIOES = ["B-a", "I-a", "E-a", "S-a", "O", "E-b", "S-b", "I-b", "B-b"]
# Each scheme as a grammar of single tags: what may follow, "^" and "$" for the ends, "x" and "y" for any two types.
RULES = {
    "BIO": "^O ^B O$ B$ I$ OO OB BO IO BxBx BxBy IxBx IxBy BxIx IxIx",
    "BIOES": "^O ^B ^S O$ E$ S$ OO OB OS EO SO ExBx ExBy ExSx ExSy SxBx SxBy SxSx SxSy BxIx BxEx IxIx IxEx",
}


def legal_move(before, after, scheme):
    rules = RULES[scheme].split()
    if "^" in (before,) or "$" in (after,):
        return before[0] + after[0] in rules
    (p, _, x), (q, _, y) = before.partition("-"), after.partition("-")
    if "O" in (p, q):
        return p + q in rules
    return p + "x" + q + ("x" if x == y else "y") in rules


def legal(names, scheme):
    return all(legal_move(before, after, scheme) for before, after in itertools.pairwise(["^", *names, "$"]))


def random_chain(num_tags, seed=0):
    rng, K = np.random.default_rng(seed), num_tags
    return crf.Chain(*(3 * rng.normal(size=shape).astype(np.float32) for shape in ((K, K), (K,), (K,))))


@pytest.mark.parametrize(("names", "scheme"), [(BIO, "BIO"), (BIOES, "BIOES"), (["O"], "BIO"), (["I-a", "B-a"], "BIO")])
def test_exactly_the_illegal_moves_are_forbidden(names, scheme):
    chain = random_chain(len(names))
    constrained = crf.constrain(chain, names, scheme=scheme)
    for i, before in enumerate(names):
        assert constrained.start[i] == (chain.start[i] if legal_move("^", before, scheme) else -np.inf), before
        assert constrained.end[i] == (chain.end[i] if legal_move(before, "$", scheme) else -np.inf), before
        for j, after in enumerate(names):
            expected = chain.transitions[i, j] if legal_move(before, after, scheme) else -np.inf
            assert constrained.transitions[i, j] == expected, (before, after)


def test_bio_is_the_default():
    chain = random_chain(5)
    jax.tree.map(np.testing.assert_array_equal, crf.constrain(chain, BIO), crf.constrain(chain, BIO, "BIO"))


@pytest.mark.parametrize(("names", "scheme"), [(MORE_BIO, "BIO"), (BIOES, "BIOES")])
def test_illegal_paths_are_neither_decoded_nor_drawn_nor_probable(names, scheme):
    K, rng = len(names), np.random.default_rng(2)
    free = random_chain(K, seed=1)
    chain = crf.constrain(free, names, scheme)
    emissions = (3 * rng.normal(size=(70, T, K))).astype(np.float32)
    lengths = np.tile(np.arange(7, dtype=np.int32), 10)

    def all_legal(tags):
        sequences = zip(np.asarray(tags), lengths, strict=True)
        return all(legal([names[tag] for tag in path[:n]], scheme) for path, n in sequences if n)

    assert all_legal(crf.viterbi(chain, emissions, lengths)[0])
    for seed in range(5):
        assert all_legal(crf.sample(jax.random.key(seed), chain, emissions, lengths))
    paths, scores = crf.k_best(chain, emissions, lengths, k=3)
    for rank in range(3):
        found = np.asarray(scores[:, rank] > -np.inf)
        assert all_legal(np.where(found[:, None], paths[:, rank], paths[:, 0]))
    moves = np.asarray(crf.pairwise_marginals(chain, emissions, lengths))
    assert not moves[:, :, np.asarray(chain.transitions) == -np.inf].any()
    np.testing.assert_allclose(moves.sum((2, 3)), np.arange(1, T) < lengths[:, None], atol=1e-5)
    # Without the constraint some of the best paths are illegal: otherwise all this would show nothing.
    assert not all_legal(crf.viterbi(free, emissions, lengths)[0])


def test_training_under_a_constraint_moves_only_legal_scores():
    """And gold paths that are legal have finite likelihoods."""
    rng = np.random.default_rng(3)
    emissions = rng.normal(size=(B, T, 5)).astype(np.float32)
    tags = np.tile(np.array([1, 2, 2, 0, 3, 4], np.int32), (B, 1))

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradient(chain):
        return -crf.log_likelihood(crf.constrain(chain, BIO), emissions, tags).sum()

    chain = random_chain(5)
    value, gradient = loss_and_gradient(chain)
    assert np.isfinite(value)
    illegal = jax.tree.map(lambda part: np.asarray(part) == -np.inf, crf.constrain(chain, BIO))
    for slope, forbidden in zip(gradient, illegal, strict=True):
        assert np.isfinite(slope).all() and not np.asarray(slope)[forbidden].any() and np.asarray(slope)[~forbidden].any()
    stepped = jax.tree.map(lambda value, slope: value - 0.02 * slope, chain, gradient)
    assert loss_and_gradient(stepped)[0] < value


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_the_dtype_stays(x64, dtype):
    chain = crf.Chain(*(jnp.zeros(shape, dtype) for shape in ((5, 5), (5,), (5,))))
    assert {part.dtype for part in crf.constrain(chain, BIO)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize(
    ("names", "scheme", "message"),
    [
        (BIO[:4], "BIO", "expected 5 tag names for a chain of 5 tags, got 4"),
        ([*BIO[:4], "X-loc"], "BIO", "'X-loc'"),
        ([*BIO[:4], "E-loc"], "BIO", "'E-loc'"),
        ([*BIO[:4], "I"], "BIO", "'I'"),
        ([*BIO[:4], "I-"], "BIO", "'I-'"),
        ([*BIO[:4], "-loc"], "BIO", "'-loc'"),
        ([*BIO[:4], "O-loc"], "BIO", "'O-loc'"),
        ([*BIO[:4], "BI-loc"], "BIO", "'BI-loc'"),
        ([*BIO[:4], ""], "BIOES", "''"),
        ([*BIO[:4], "<pad>"], "BIOES", "'<pad>'"),
        (BIO, "BILOU", "scheme to be one of .*'BIO', 'BIOES'.* got 'BILOU'"),
    ],
)
def test_unknown_tags_and_schemes_are_errors(names, scheme, message):
    with pytest.raises(ValueError, match=message):
        crf.constrain(crf.Chain.zeros(5), names, scheme)


def test_only_chains_are_constrained():
    with pytest.raises(ValueError, match="expected a Chain, got tuple"):
        crf.constrain(tuple(crf.Chain.zeros(5)), BIO)
