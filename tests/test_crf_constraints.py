"""Tagging schemes as forbidden moves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crf_cases import B, T

from colnorm import crf
from colnorm.data import schemes

BIO = ["O", "B-per", "I-per", "B-loc", "I-loc"]
MORE_BIO = [*BIO, "I-org", "B-org", "I-misc", "B-misc"]
BIOES = ["B-a", "I-a", "E-a", "S-a", "O", "E-b", "S-b", "I-b", "B-b"]
# Each scheme as a grammar of single tags: what may follow, "^" and "$" for the ends, "x" and "y" for any two types.
RULES = {
    "BIO": "^O ^B O$ B$ I$ OO OB BO IO BxBx BxBy IxBx IxBy BxIx IxIx",
    "BIOES": "^O ^B ^S O$ E$ S$ OO OB OS EO SO ExBx ExBy ExSx ExSy SxBx SxBy SxSx SxSy BxIx BxEx IxIx IxEx",
    "BILOU": "^O ^B ^U O$ L$ U$ OO OB OU LO UO LxBx LxBy LxUx LxUy UxBx UxBy UxUx UxUy BxIx BxLx IxIx IxLx",
    "IOB1": "^O ^I O$ I$ B$ OO OI IO BO IxIx IxIy BxIx BxIy IxBx BxBx",
}
BILOU = [name.replace("E-", "L-").replace("S-", "U-") for name in BIOES]


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


@pytest.mark.parametrize(
    ("names", "scheme"),
    [
        (BIO, "BIO"),
        (BIOES, "BIOES"),
        (BILOU, "BILOU"),
        (BIO, "IOB1"),
        (["O"], "BIO"),
        (["I-a", "B-a"], "BIO"),
    ],
)
def test_exactly_the_illegal_moves_are_forbidden(names, scheme):
    chain = random_chain(len(names))
    constrained = crf.constrain(chain, names, scheme=scheme)
    for i, before in enumerate(names):
        assert constrained.start[i] == (chain.start[i] if legal_move("^", before, scheme) else -np.inf), before
        assert constrained.end[i] == (chain.end[i] if legal_move(before, "$", scheme) else -np.inf), before
        for j, after in enumerate(names):
            expected = chain.transitions[i, j] if legal_move(before, after, scheme) else -np.inf
            assert constrained.transitions[i, j] == expected, (before, after)


@pytest.mark.parametrize("scheme", ["IOB1", "BIO", "BIOES", "BILOU"])
def test_what_a_scheme_writes_is_what_it_allows(scheme):
    """Every legal path means itself: read as BIO and written back in the scheme, by rules of this test alone."""
    names = {"IOB1": BIO, "BIO": BIO, "BIOES": BIOES, "BILOU": BILOU}[scheme]
    chain = crf.constrain(crf.Chain.zeros(len(names)), names, scheme)
    free = 0
    for path in itertools.product(range(len(names)), repeat=3):
        tags = [names[tag] for tag in path]
        possible = float(crf_score(chain, path)) > -np.inf
        if possible:
            free += 1
            assert written(schemes.to_bio(tags, scheme), scheme) == tags
    assert free > 20


def crf_score(chain, path):
    moves = [chain.transitions[a, b] for a, b in itertools.pairwise(path)]
    return np.float64(chain.start[path[0]]) + np.sum(np.asarray(moves, np.float64)) + np.float64(chain.end[path[-1]])


def written(bio, scheme):
    """BIO tags in another scheme."""
    spans, result = schemes.entities(bio), ["O"] * len(bio)
    for number, (kind, first, last) in enumerate(spans):
        inner = ["I"] * (last - first)
        if scheme == "BIO":
            inner[0] = "B"
        elif scheme == "IOB1":
            touches = number and spans[number - 1][2] == first and spans[number - 1][0] == kind
            inner[0] = "B" if touches else "I"
        else:
            begin, end, single = ("B", "E", "S") if scheme == "BIOES" else ("B", "L", "U")
            inner[0], inner[-1] = begin, end
            inner = [single] if len(inner) == 1 else inner
        result[first:last] = [f"{prefix}-{kind}" for prefix in inner]
    return result


def test_a_table_of_moves_forbids_all_others():
    names = ["a", "b", "c"]
    chain = random_chain(3)
    table = {"<start>": ["a", "b"], "a": ["b"], "b": ["a", "c", "<end>"]}
    found = crf.restrict(chain, names, table)
    legal = np.array([[0, 1, 0], [1, 0, 1], [0, 0, 0]], bool)
    np.testing.assert_array_equal(found.transitions, np.where(legal, chain.transitions, -np.inf))
    np.testing.assert_array_equal(found.start, np.where([1, 1, 0], chain.start, -np.inf))
    np.testing.assert_array_equal(found.end, np.where([0, 1, 0], chain.end, -np.inf))
    open_ended = crf.restrict(chain, names, {"a": ["b"], "b": ["a"]})
    np.testing.assert_array_equal(open_ended.start, chain.start)
    np.testing.assert_array_equal(open_ended.end, chain.end)


@pytest.mark.parametrize(
    ("names", "moves", "message"),
    [
        (["a", "b"], {"x": ["a"]}, "expected moves from '<start>' or a tag, got 'x'; tags are .'a', 'b'."),
        (["a", "b"], {"a": ["x"]}, "expected moves from 'a' to a tag or '<end>', got 'x'"),
        (["a", "b"], {"<start>": ["<end>"]}, "expected moves from '<start>' to a tag or '<end>', got '<end>'"),
        (["a", "b"], {"<end>": ["a"]}, "got '<end>'"),
        (["a"], {}, "expected 2 tag names"),
        (["a", "a"], {}, "expected 2 tag names"),
    ],
)
def test_a_table_with_unknown_tags_is_an_error(names, moves, message):
    with pytest.raises(ValueError, match=message):
        crf.restrict(crf.Chain.zeros(2), names, moves)


def test_a_gold_path_that_is_forbidden_is_named():
    chain = crf.constrain(random_chain(5), BIO)
    good = [[0, 1, 2, 0], [3, 4, 4, 1]]
    crf.check_paths(chain, good, tag_names=BIO)
    crf.check_paths(chain, [[0, 1, 4, 2]], lengths=[2])  # what lies past a length is not looked at
    crf.check_paths(chain, [[2, 1, 4, 2]], mask=[[False, True, False, True]])
    crf.check_paths(chain, np.zeros((2, 0), int))
    for tags, how, message in (
        ([[0, 1, 2, 0], [0, 4, 4, 1]], {"tag_names": BIO}, "sequence 1 has a forbidden path: from O to I-loc at position 1"),
        ([[2, 0, 0, 0]], {"tag_names": BIO}, "sequence 0 has a forbidden path: from <start> to I-per at position 0"),
        ([[0, 1, 0, 2]], {"mask": [[True, False, True, True]]}, "from 0 to 2 at position 3"),
        ([[0, 7, 0, 0]], {}, "sequence 0 has the tag 7 at position 1; expected 0 to 4"),
    ):
        with pytest.raises(ValueError, match=message):
            crf.check_paths(chain, tags, **how)
    of_entities = crf.constrain(random_chain(len(BIOES)), BIOES, "BIOES")
    with pytest.raises(ValueError, match="from B-a to <end> at position 1"):
        crf.check_paths(of_entities, [[4, 0]], tag_names=BIOES)


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
        ([*BIO[:4], "B-per"], "BIO", "expected 5 tag names"),
        (BIO, "BIOE", "scheme to be one of .*'BIO', .*'BIOES', .*'BILOU'.* got 'BIOE'"),
    ],
)
def test_unknown_tags_and_schemes_are_errors(names, scheme, message):
    with pytest.raises(ValueError, match=message):
        crf.constrain(crf.Chain.zeros(5), names, scheme)


def test_only_chains_are_constrained():
    with pytest.raises(ValueError, match="expected a Chain, got tuple"):
        crf.constrain(tuple(crf.Chain.zeros(5)), BIO)
