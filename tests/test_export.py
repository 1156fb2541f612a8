"""Out of colnorm and into a program without it: jax.export with an open batch and an open length."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from tagger_cases import make_tagger

from colnorm import crf
from colnorm.tagger import apply, build

K = 4
LOADED = """
import sys
for name in ("colnorm", "flax", "optax"):
    sys.modules[name] = None  # importing it is an error
import jax, numpy as np
given = dict(np.load(sys.argv[2]))
call = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read())).call
results = jax.tree.leaves(call(*(given[str(place)] for place in range(len(given)))))
np.savez(sys.argv[3], *results)
"""

FUNCTIONS = {
    "log_likelihood": lambda chain, emissions, tags, lengths: crf.log_likelihood(chain, emissions, tags, lengths),
    "its gradient": jax.grad(lambda *arguments: jnp.sum(crf.log_likelihood(*arguments)), 1),
    "viterbi": lambda chain, emissions, tags, lengths: crf.viterbi(chain, emissions, lengths),
    "marginals": lambda chain, emissions, tags, lengths: crf.marginals(chain, emissions, lengths),
}


def elsewhere(exported, arguments, tmp_path):
    """What a process without colnorm makes of the exported function."""
    (tmp_path / "function.bin").write_bytes(exported.serialize())
    np.savez(tmp_path / "given.npz", **{str(place): np.asarray(leaf) for place, leaf in enumerate(arguments)})
    paths = [str(tmp_path / name) for name in ("function.bin", "given.npz", "results.npz")]
    subprocess.run([sys.executable, "-c", LOADED, *paths], check=True)
    return list(np.load(paths[2]).values())


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_crf_is_exported_with_open_shapes(name, tmp_path):
    B, T = export.symbolic_shape("b, t", constraints=["t >= 2"])

    def flat(transitions, start, end, *rest):
        return FUNCTIONS[name](crf.Chain(transitions, start, end), *rest)

    shapes = [((K, K), jnp.float32), ((K,), jnp.float32), ((K,), jnp.float32), ((B, T, K), jnp.float32)]
    shapes += [((B, T), jnp.int32), ((B,), jnp.int32)]
    exported = export.export(jax.jit(flat))(*(jax.ShapeDtypeStruct(*shape) for shape in shapes))
    rng = np.random.default_rng(0)
    chain = [rng.standard_normal(shape).astype(np.float32) for shape in ((K, K), (K,), (K,))]
    for b, t in ((3, 7), (1, 2)):
        emissions, tags = rng.standard_normal((b, t, K)).astype(np.float32), rng.integers(0, K, (b, t)).astype(np.int32)
        arguments = [*chain, emissions, tags, rng.integers(0, t + 1, b).astype(np.int32)]
        expected = jax.tree.leaves(flat(*map(jnp.asarray, arguments)))
        found = elsewhere(exported, arguments, tmp_path) if b == 3 else jax.tree.leaves(exported.call(*arguments))
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_the_emissions_of_a_tagger_are_exported_with_open_shapes(tmp_path):
    fields, encoder, params = make_tagger()
    model = build(fields)
    inputs = encoder.encode([("Mr.", "Obama", "flew"), ("Iran",)], 5)
    names = sorted(inputs)

    def emissions(*arrays):
        return apply(model, params, dict(zip(names, arrays, strict=True)))[0]

    B, T = export.symbolic_shape("b, t", constraints=["t >= 2"])
    arguments = [inputs[name] for name in names]
    shapes = [(B, T, *array.shape[2:])[: array.ndim] for array in arguments]
    exported = export.export(jax.jit(emissions))(
        *(jax.ShapeDtypeStruct(shape, array.dtype) for shape, array in zip(shapes, arguments, strict=True))
    )
    (found,) = elsewhere(exported, arguments, tmp_path)
    np.testing.assert_allclose(found, emissions(*map(jnp.asarray, arguments)), rtol=1e-5, atol=1e-6)
