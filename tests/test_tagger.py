"""The tagger: its parts against the same computed by hand from its parameters, padding, dropout, losses, errors."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colnorm import crf
from colnorm.crf import segments
from colnorm.tagger import (
    SegmentHead,
    Tagger,
    build,
    check_parameters,
    decode,
    parameter_shapes,
    sentence_losses,
    with_word_vectors,
)

TAGS = ("O", "B-a", "I-a", "B-b", "I-b")
B, T, L = 4, 5, 6
LENGTHS = np.array([5, 3, 0, 1], np.int32)
EVERYTHING = {"layers": 2, "num_characters": 9, "shape_features": 3, "layer_norm": "gates", "word_features": 4, "hidden": 6}


def draw(seed=0):
    rng = np.random.default_rng(seed)
    inside = np.arange(T) < LENGTHS[:, None]
    character_lengths = np.where(inside, rng.integers(1, L + 1, (B, T)), 0).astype(np.int32)
    characters = np.where(np.arange(L) < character_lengths[..., None], rng.integers(1, 9, (B, T, L)), 0)
    return {
        "words": jnp.asarray(np.where(inside, rng.integers(1, 12, (B, T)), 0), jnp.int32),
        "lengths": jnp.asarray(LENGTHS),
        "characters": jnp.asarray(characters, jnp.uint16),
        "character_lengths": jnp.asarray(character_lengths),
        "shapes": jnp.asarray(np.where(inside, rng.integers(1, 7, (B, T)), 0), jnp.int32),
    }


INPUTS = draw()
GOLD = jnp.asarray(np.random.default_rng(3).integers(0, len(TAGS), (B, T)), jnp.int32)


@pytest.fixture(scope="module")
def everything():
    model = Tagger(TAGS, 12, **EVERYTHING)
    return model, jax.jit(model.init)(jax.random.key(0), **INPUTS)


@pytest.fixture(scope="module")
def apply(everything):
    return jax.jit(everything[0].apply)


def test_parameters(everything):
    shapes = jax.tree.map(jnp.shape, everything[1]["params"])
    assert shapes["word_embedding"] == {"embedding": (12, 4)}
    assert shapes["character_embedding"] == {"embedding": (9, 25)}
    assert shapes["character_lstm"]["forward"]["input_kernel"] == (25, 100)
    assert shapes["shape_embedding"] == {"embedding": (7, 3)}
    assert shapes["lstm"]["backward"]["input_kernel"] == (4 + 50 + 3, 24)
    assert shapes["lstm_1"]["backward"]["input_kernel"] == (12, 24)
    assert "cell_scale" in shapes["lstm"]["forward"] and "cell_scale" in shapes["lstm_1"]["forward"]
    assert "cell_scale" not in shapes["character_lstm"]["forward"]
    assert shapes["emission"] == {"kernel": (12, 5), "bias": (5,)}
    assert shapes["crf"] == {"transitions": (5, 5), "start": (5,), "end": (5,)}


def test_emissions_are_those_of_the_parts(everything, apply):
    """Embeddings looked up, the layers called one by one, the last step a plain product in float64."""
    from colnorm import LSTM, Bidirectional, LayerNormLSTM

    params = everything[1]["params"]
    words = np.asarray(params["word_embedding"]["embedding"])[INPUTS["words"]]
    shapes = np.asarray(params["shape_embedding"]["embedding"])[INPUTS["shapes"]]
    spelt = np.zeros((B, T, 50), np.float32)
    reader = jax.jit(lambda x, n: Bidirectional(partial(LSTM, 25)).apply({"params": params["character_lstm"]}, x, n))
    for b, t in np.ndindex(B, T):
        n = int(INPUTS["character_lengths"][b, t])
        if n:
            table = params["character_embedding"]["embedding"]
            states = reader(table[INPUTS["characters"][b, t].astype(jnp.int32)][None], jnp.asarray([n]))[0]
            spelt[b, t] = np.concatenate([states[n - 1, :25], states[0, 25:]])  # each direction's last
    x = jnp.concatenate([jnp.asarray(words), jnp.asarray(spelt), jnp.asarray(shapes)], -1)
    states = Bidirectional(partial(LayerNormLSTM, 6)).apply({"params": params["lstm"]}, x, INPUTS["lengths"])
    states += Bidirectional(partial(LayerNormLSTM, 6)).apply({"params": params["lstm_1"]}, states, INPUTS["lengths"])
    kernel, bias = (np.asarray(params["emission"][name], np.float64) for name in ("kernel", "bias"))
    emissions, chain = apply(everything[1], **INPUTS)
    np.testing.assert_allclose(emissions, np.asarray(states, np.float64) @ kernel + bias, rtol=1e-5, atol=1e-6)
    assert emissions.dtype == jnp.float32
    expected = crf.constrain(crf.Chain(**params["crf"]), TAGS)
    jax.tree.map(np.testing.assert_array_equal, chain, expected)


def test_padding_and_neighbours_change_nothing(everything, apply):
    other = draw(seed=5)
    inside = np.arange(T) < LENGTHS[:, None]

    def mix(values, others):
        return jnp.asarray(np.where(inside.reshape(B, T, *[1] * (values.ndim - 2)), values, others))

    mixed = {name: values if name == "lengths" else mix(values, other[name][::-1]) for name, values in INPUTS.items()}
    emissions, _ = apply(everything[1], **INPUTS)
    np.testing.assert_allclose(apply(everything[1], **mixed)[0], emissions, rtol=1e-5, atol=1e-6)
    for b in range(B):  # the others replaced
        alone = {name: other[name].at[b].set(values[b]) for name, values in INPUTS.items()}
        np.testing.assert_allclose(apply(everything[1], **alone)[0][b], emissions[b], rtol=1e-5, atol=1e-6)


def test_dropout(everything):
    """Scaled so that the mean stays, one mask for all steps of a sentence, and a function of key and position alone."""
    model = Tagger(TAGS, 12, head="softmax", word_features=4, hidden=6, dropout=0.5)
    inputs = {name: INPUTS[name] for name in ("words", "lengths")}
    variables = model.init(jax.random.key(0), **inputs)
    train = jax.jit(partial(model.apply, train=True))
    key = jax.random.key(7)
    first, _ = train(variables, **inputs, rngs={"dropout": key})
    again, _ = train(variables, **inputs, rngs={"dropout": key})
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, train(variables, **inputs, rngs={"dropout": jax.random.key(8)})[0])
    half = {name: values[2:] for name, values in inputs.items()}
    moved, _ = train(variables, **half, positions=jnp.arange(2, 4), rngs={"dropout": key})
    np.testing.assert_allclose(moved, first[2:], rtol=1e-5, atol=1e-6)

    bound = model.bind(variables, rngs={"dropout": key})
    dropped = bound._drop(jnp.ones((2000, 3, 4)), jnp.arange(2000), True)
    assert set(np.unique(dropped)) == {0.0, 2.0}
    np.testing.assert_array_equal(dropped[:, 0], dropped[:, 1])
    assert abs(float(dropped.mean()) - 1) < 5 / np.sqrt(8000)
    assert bound._drop(dropped, jnp.arange(2000), False) is dropped


def test_word_dropout_replaces_by_the_unknown_word():
    model = Tagger(TAGS, 12, head="softmax", word_features=4, hidden=6, word_dropout=0.5)
    inputs = {name: INPUTS[name] for name in ("words", "lengths")}
    variables = model.init(jax.random.key(0), **inputs)
    _, state = model.apply(
        variables,
        **inputs,
        train=True,
        rngs={"dropout": jax.random.key(1)},
        capture_intermediates=True,
        mutable="intermediates",
    )
    (looked_up,) = state["intermediates"]["word_embedding"]["__call__"]
    table = np.asarray(variables["params"]["word_embedding"]["embedding"])
    unknown = (np.asarray(looked_up) == table[1]).all(-1)
    kept = (np.asarray(looked_up) == table[INPUTS["words"]]).all(-1)
    assert np.all(unknown | kept)
    assert 0 < unknown.sum() < unknown.size


def test_losses_are_negative_log_probabilities():
    """Under the chain, by enumeration; without one, by token."""
    rng = np.random.default_rng(2)
    emissions = jnp.asarray(rng.standard_normal((B, T, len(TAGS))), jnp.float32)
    chain = crf.Chain(*(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((5, 5), (5,), (5,))))
    under_chain = sentence_losses(emissions, chain, GOLD, INPUTS["lengths"])
    alone = sentence_losses(emissions, None, GOLD, INPUTS["lengths"])
    best = decode(emissions, chain, INPUTS["lengths"])
    greedy = decode(emissions, None, INPUTS["lengths"])
    for b, n in enumerate(LENGTHS):
        e = np.asarray(emissions[b, :n], np.float64)
        log_p = e - np.log(np.exp(e).sum(-1, keepdims=True))
        np.testing.assert_allclose(alone[b], -sum(log_p[t, GOLD[b, t]] for t in range(n)), rtol=1e-5, atol=1e-6)
        assert greedy[b].tolist() == [*e.argmax(-1).tolist(), *[0] * (T - n)] if n else not greedy[b].any()
        if n == 0:
            assert under_chain[b] == 0
            continue
        trans, start, end = (np.asarray(part, np.float64) for part in chain)
        paths = list(itertools.product(range(5), repeat=int(n)))
        scores = np.array(
            [
                start[p[0]]
                + end[p[-1]]
                + sum(e[t, p[t]] for t in range(n))
                + sum(trans[i, j] for i, j in itertools.pairwise(p))
                for p in paths
            ]
        )
        gold = scores[paths.index(tuple(GOLD[b, :n].tolist()))]
        np.testing.assert_allclose(under_chain[b], np.log(np.exp(scores).sum()) - gold, rtol=1e-5, atol=1e-5)
        assert best[b, :n].tolist() == list(paths[int(scores.argmax())])


def test_the_head_of_segments_is_a_distribution_over_legal_tags():
    """Of every sequence that BIO allows, by the losses of all of them: their sum, the best one, and entities' shares."""
    from colnorm import posteriors
    from colnorm.data.schemes import entities, to_bio

    rng, n, longest = np.random.default_rng(4), 4, 3
    names = [names for names in itertools.product(TAGS, repeat=n) if to_bio(names) == names]
    paths = jnp.asarray([[TAGS.index(name) for name in path] for path in names], jnp.int32)
    shapes = ((3, 3), (3,), (3,), (longest, 3))
    chain = segments.SegmentChain(*(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes))
    labels = segments.TagLayout.label_names(TAGS)
    head = SegmentHead(segments.limit(chain, labels, {"O": 1}), segments.TagLayout.of(TAGS))
    emissions = jnp.asarray(rng.standard_normal((1, n, len(TAGS))), jnp.float32)

    @jax.jit
    def compute(emissions):
        many, lengths = jnp.repeat(emissions, len(paths), 0), jnp.full(len(paths), n)
        one = emissions, head, lengths[:1]
        return sentence_losses(many, head, paths, lengths), decode(*one), posteriors.posteriors(*one)

    losses, best, found = jax.device_get(compute(emissions))
    fits = np.array([all(end - first <= longest for _, first, end in entities(path)) for path in names])
    p = np.exp(-losses.astype(np.float64))
    np.testing.assert_allclose(p[fits].sum(), 1, rtol=1e-5)
    # An entity of four tokens is one of three and one of one.
    assert [names[int(np.argmin(abs(losses - losses[place]) + ~fits))][3] for place in np.flatnonzero(~fits)] == ["B-a", "B-b"]
    assert best[0].tolist() == paths[int(np.argmax(p * fits))].tolist()
    of_best = posteriors.Labels.of_row(names[int(np.argmax(p * fits))], found, 0)
    for entity in [("a", 0, 1), ("b", 1, 4), ("a", 1, 3), ("b", 3, 4)]:
        share = sum(p[place] for place in np.flatnonzero(fits) if entity in entities(names[place]))
        np.testing.assert_allclose(posteriors.entity_posterior(TAGS, of_best, *entity), share, rtol=1e-4)


def test_a_constrained_tagger_writes_legal_tags_only(everything, apply):
    """Whatever its parameters say: emissions that want nothing but I-a and I-b."""
    params = jax.tree.map(lambda leaf: leaf, everything[1]["params"])
    params["emission"] = {"kernel": params["emission"]["kernel"], "bias": jnp.asarray([-50.0, -50, 50, -50, 50])}
    emissions, chain = apply({"params": params}, **INPUTS)
    for row, n in zip(np.asarray(decode(emissions, chain, INPUTS["lengths"])), LENGTHS, strict=True):
        before = "O"
        for tag in row[:n]:
            name = TAGS[tag]
            assert name[0] != "I" or before[2:] == name[2:]
            before = name
    free = Tagger(TAGS, 12, **EVERYTHING, constrained=False)
    assert np.isfinite(free.apply({"params": params}, **INPUTS)[1].transitions).all()


@pytest.mark.slow
def test_bfloat16_is_near_float32(everything):
    model, variables = everything
    exact, _ = model.apply(variables, **INPUTS)
    rough, chain = Tagger(TAGS, 12, **EVERYTHING, dtype=jnp.bfloat16).apply(variables, **INPUTS)
    assert rough.dtype == chain.transitions.dtype == jnp.float32
    assert 0 < np.abs(rough - exact).max() < 0.05


def test_build_and_word_vectors(everything):
    fields = {"tag_names": list(TAGS), "num_words": 12, **EVERYTHING, "dtype": "float32"}
    assert build(fields) == everything[0]
    assert build({**fields, "dtype": "bfloat16"}).dtype == jnp.bfloat16
    params = everything[1]["params"]
    matrix = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    found = np.arange(12) % 3 == 0
    replaced = with_word_vectors(params, matrix, found)
    expected = np.where(found[:, None], matrix, params["word_embedding"]["embedding"])
    np.testing.assert_array_equal(replaced["word_embedding"]["embedding"], expected)
    assert replaced["lstm"] is params["lstm"]
    with pytest.raises(ValueError, match=r"shape \(12, 4\) and a flag for each, got \(12, 5\)"):
        with_word_vectors(params, np.zeros((12, 5), np.float32), found)


SMALL = {"word_features": 4, "hidden": 6}


@pytest.mark.parametrize(
    "fields",
    [
        EVERYTHING,
        {
            **EVERYTHING,
            "layers": 3,
            "layer_norm": "output",
            "character_features": 3,
            "character_hidden": 2,
            "dtype": jnp.bfloat16,
        },
        {**SMALL, "head": "softmax"},
        {**SMALL, "num_characters": 9},
        {**SMALL, "head": "segments", "longest": 3},
        {**SMALL, "shape_features": 3, "layer_norm": "gates", "head": "softmax"},
    ],
)
def test_parameter_shapes_are_those_of_init(fields):
    model = Tagger(TAGS, 12, **fields)
    left_out = {"num_characters": ("characters", "character_lengths"), "shape_features": ("shapes",)}
    without = {name for field, names in left_out.items() if not fields.get(field) for name in names}
    inputs = {name: values for name, values in INPUTS.items() if name not in without}
    params = jax.eval_shape(model.init, jax.random.key(0), **inputs)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
    assert parameter_shapes(model) == shapes


def test_parameters_of_another_tagger(everything):
    model, variables = everything
    check_parameters(model, variables["params"])
    with pytest.raises(ValueError, match=r"another tagger's: word_embedding/embedding: expected \(13, 4\), got \(12, 4\)$"):
        check_parameters(Tagger(TAGS, 13, **EVERYTHING), variables["params"])
    with pytest.raises(ValueError, match=r"another tagger's: crf/end: expected nothing, got \(5,\); crf/start: .*"):
        check_parameters(Tagger(TAGS, 12, **EVERYTHING, head="softmax"), variables["params"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 2}, r"missing: \[\], not known: \['depth'\]"),
        ({"tag_names": ["O", "O"]}, r"expected tag_names of a tagger to be distinct names, got \['O', 'O'\]"),
        ({"tag_names": "OB"}, "expected tag_names of a tagger to be distinct names, got 'OB'"),
        ({"num_words": 0}, "expected num_words of a tagger to be a positive integer, got 0"),
        ({"hidden": 6.0}, r"expected hidden of a tagger to be an integer of at least 0, got 6\.0"),
        ({"longest": 0}, "expected longest of a tagger to be a positive integer, got 0"),
        ({"hidden": True}, "expected hidden of a tagger to be an integer of at least 0, got True"),
        ({"layer_norm": "batch"}, "expected layer_norm of a tagger to be null, gates or output, got 'batch'"),
        ({"head": ["crf"]}, r"expected head of a tagger to be softmax or crf or segments, got \['crf'\]"),
        ({"constrained": 1}, "expected constrained of a tagger to be true or false, got 1"),
        ({"dropout": "0"}, "expected dropout of a tagger to be a number from 0 to 1, got '0'"),
        ({"dtype": "int32"}, "expected dtype of a tagger to be float32 or bfloat16 or float16 or float64, got 'int32'"),
    ],
)
def test_arguments_that_make_no_tagger(change, message):
    fields = {"tag_names": list(TAGS), "num_words": 12, **EVERYTHING, "dtype": "float32"}
    build(fields)
    with pytest.raises(ValueError, match=message):
        build({**fields, **change})
    for name in ("tag_names", "num_words", "dtype"):
        with pytest.raises(ValueError, match=rf"missing: \['{name}'\], not known: \[\]"):
            build({key: value for key, value in fields.items() if key != name})


@pytest.mark.parametrize(
    ("fields", "missing", "message"),
    [
        ({**EVERYTHING, "head": "hmm"}, (), "head must be softmax or crf or segments, got 'hmm'"),
        (EVERYTHING, ("characters",), "reads characters, but they were not given"),
        (EVERYTHING, ("shapes",), "reads shapes, but they were not given"),
        ({**EVERYTHING, "shape_features": 0}, (), "does not read shapes, but they were given"),
        ({**EVERYTHING, "num_characters": 0}, (), "does not read characters, but they were given"),
    ],
)
def test_errors(fields, missing, message):
    inputs = {name: values for name, values in INPUTS.items() if name not in missing}
    with pytest.raises(ValueError, match=message):
        Tagger(TAGS, 12, **fields).init(jax.random.key(0), **inputs)
