"""What the CRF's functions refuse, that they don't compile twice, and the module that holds the chain."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crf_cases import B, K, T, random_problem

import colnorm
from colnorm import crf

CHAIN = jax.eval_shape(partial(crf.Chain.zeros, K))
EMISSIONS = jax.ShapeDtypeStruct((B, T, K), jnp.float32)
TAGS = jax.ShapeDtypeStruct((B, T), jnp.int32)
LENGTHS = jax.ShapeDtypeStruct((B,), jnp.int32)
KEY = jax.eval_shape(jax.random.key, 0)


def tags_for(emissions):
    return np.zeros(emissions.shape[:2], np.int32)


FUNCTIONS = {
    "score": lambda chain, emissions, lengths: crf.score(chain, emissions, tags_for(emissions), lengths),
    "log_partition": crf.log_partition,
    "log_likelihood": lambda chain, emissions, lengths: crf.log_likelihood(chain, emissions, tags_for(emissions), lengths),
    "partial_log_likelihood": lambda c, e, n: crf.partial_log_likelihood(c, e, np.ones(e.shape, bool), n),
    "marginal_log_likelihood": lambda c, e, n: crf.marginal_log_likelihood(c, e, tags_for(e), n),
    "hinge_loss": lambda c, e, n: crf.hinge_loss(c, e, tags_for(e), n),
    "expected_cost": lambda c, e, n: crf.expected_cost(c, e, np.ones(e.shape, np.float32), n),
    "cross_entropy": lambda c, e, n: crf.cross_entropy(c, e, c, e, n),
    "kl_divergence": lambda c, e, n: crf.kl_divergence(c, e, c, e, n),
    "marginals": crf.marginals,
    "pairwise_marginals": crf.pairwise_marginals,
    "viterbi": crf.viterbi,
    "posterior_decode": crf.posterior_decode,
    "k_best": crf.k_best,
    "sample": lambda *arguments: crf.sample(jax.random.key(0), *arguments),
    "entropy": crf.entropy,
}


def of_shape(like, *shape, dtype=None):
    return jax.ShapeDtypeStruct(shape, dtype or like.dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"emissions": of_shape(EMISSIONS, T, K)}, r"emissions of shape \(B, T, K\), .* got \(6, 4\)"),
        ({"emissions": of_shape(EMISSIONS, B, 0, K)}, r"T and K at least 1, got \(7, 0, 4\)"),
        ({"emissions": of_shape(EMISSIONS, B, T, K, dtype=jnp.int32)}, "floating-point emissions, got int32"),
        ({"chain": CHAIN._replace(transitions=of_shape(EMISSIONS, K, 5))}, r"transitions of shape \(4, 4\) .* got \(4, 5\)"),
        ({"chain": CHAIN._replace(start=of_shape(EMISSIONS, 1))}, r"start of shape \(4,\) .* got \(1,\)"),
        ({"chain": CHAIN._replace(end=of_shape(EMISSIONS))}, r"end of shape \(4,\) .* got \(\)"),
        ({"chain": CHAIN._replace(end=of_shape(TAGS, K))}, "floating-point chain.end, got int32"),
        ({"chain": tuple(CHAIN)}, "expected a Chain, got tuple"),
        ({"lengths": of_shape(LENGTHS, B, 1)}, r"lengths of shape \(7,\), got \(7, 1\)"),
        ({"lengths": of_shape(LENGTHS, B, dtype=jnp.float32)}, "integer lengths, got float32"),
        ({"lengths": of_shape(LENGTHS, B, dtype=bool)}, "integer lengths, got bool"),
    ],
)
def test_wrong_shapes_and_dtypes_are_errors_when_traced(name, changed, message):
    arguments = {"chain": CHAIN, "emissions": EMISSIONS, "lengths": LENGTHS} | changed
    with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
        jax.eval_shape(FUNCTIONS[name], *arguments.values())


@pytest.mark.parametrize("function", [crf.score, crf.log_likelihood])
def test_wrong_tags_are_errors_when_traced(function):
    with pytest.raises(ValueError, match=r"expected tags of shape \(7, 6\), got \(7, 5\)"):
        jax.eval_shape(function, CHAIN, EMISSIONS, of_shape(TAGS, B, T - 1))
    with pytest.raises(ValueError, match="expected integer tags, got float32"):
        jax.eval_shape(function, CHAIN, EMISSIONS, of_shape(TAGS, B, T, dtype=jnp.float32))


def test_wrong_static_arguments_are_errors():
    with pytest.raises(ValueError, match=r"method to be one of .*'scan', 'associative'.* got 'parallel'"):
        jax.eval_shape(partial(crf.log_partition, method="parallel"), CHAIN, EMISSIONS)
    for k in (0, -1, 2.0, "2"):
        with pytest.raises(ValueError, match=f"expected an integer k of at least 1, got {k!r}"):
            jax.eval_shape(partial(crf.k_best, k=k), CHAIN, EMISSIONS)
    for build in (crf.Chain.zeros, lambda n: crf.LinearChainCRF(n).init(jax.random.key(0))):
        for num_tags in (0, 2.0):
            with pytest.raises(ValueError, match=f"expected an integer num_tags of at least 1, got {num_tags}"):
                build(num_tags)
    with pytest.raises(ValueError, match="floating-point param_dtype, got int32"):
        crf.LinearChainCRF(2, param_dtype=jnp.int32).init(jax.random.key(0))


def test_shapes_and_dtypes_of_results():
    shapes = {
        "score": (B,),
        "log_partition": (B,),
        "log_likelihood": (B,),
        "marginals": (B, T, K),
        "pairwise_marginals": (B, T - 1, K, K),
        "entropy": (B,),
    }
    for name, shape in shapes.items():
        assert jax.eval_shape(FUNCTIONS[name], CHAIN, EMISSIONS, LENGTHS) == of_shape(EMISSIONS, *shape)
    assert jax.eval_shape(FUNCTIONS["sample"], CHAIN, EMISSIONS, LENGTHS) == of_shape(TAGS, B, T)
    assert jax.eval_shape(crf.viterbi, CHAIN, EMISSIONS) == (of_shape(TAGS, B, T), of_shape(EMISSIONS, B))
    assert jax.eval_shape(partial(crf.k_best, k=3), CHAIN, EMISSIONS) == (of_shape(TAGS, B, 3, T), of_shape(EMISSIONS, B, 3))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_second_call_with_equal_shapes_does_not_compile_again(name, caplog):
    """Outside of any jit of the caller's own, and in a shape of this test's own."""
    problems = [random_problem("normal", seed, (3, 2, 2)) for seed in (0, 1)]
    arguments = [jax.tree.map(jnp.asarray, (p.chain, p.emissions, p.lengths)) for p in problems]
    with jax.log_compiles(), caplog.at_level("WARNING"):
        FUNCTIONS[name](*arguments[0])
        assert "Finished XLA compilation" in caplog.text
        caplog.clear()
        FUNCTIONS[name](*arguments[1])
        assert "Finished" not in caplog.text


def test_the_module_is_its_parameters():
    module = crf.LinearChainCRF(3)
    variables = module.init(jax.random.key(0))
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in variables["params"].items()} == {
        "transitions": ((3, 3), jnp.float32),
        "start": ((3,), jnp.float32),
        "end": ((3,), jnp.float32),
    }
    assert not any(leaf.any() for leaf in jax.tree.leaves(variables))
    params = {"transitions": jnp.arange(9.0).reshape(3, 3), "start": jnp.ones(3), "end": jnp.full(3, 2.0)}
    chain = module.apply({"params": params})
    assert isinstance(chain, crf.Chain)
    for name, value in chain._asdict().items():
        np.testing.assert_array_equal(value, params[name])
    narrow = crf.LinearChainCRF(3, param_dtype=jnp.bfloat16).init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {jnp.dtype(jnp.bfloat16)}


def test_zeros_is_float32_and_prefers_nothing(x64):
    chain = crf.Chain.zeros(2)
    assert [part.shape for part in chain] == [(2, 2), (2,), (2,)]
    assert all(part.dtype == jnp.float32 and not part.any() for part in chain)


def test_public_names():
    assert FUNCTIONS.keys() < set(crf.__all__)
    assert all(hasattr(crf, name) for name in crf.__all__)
    assert colnorm.LinearChainCRF is crf.LinearChainCRF
