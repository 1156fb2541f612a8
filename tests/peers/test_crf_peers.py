"""The linear-chain CRF against pytorch-crf: likelihoods, every gradient, decoded paths, on ragged batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colnorm import crf

torch = pytest.importorskip("torch")
torchcrf = pytest.importorskip("torchcrf")

B, T, K = 8, 14, 7
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}
NAMES = {"transitions": "transitions", "start": "start_transitions", "end": "end_transitions"}


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param == np.float64):
        yield request.param


@jax.jit
def ours(chain, emissions, tags, lengths):
    """Log-likelihoods, the gradient of their sum, and the decoded tags with their scores."""

    def likelihoods(chain, emissions):
        each = crf.log_likelihood(chain, emissions, tags, lengths)
        return jnp.sum(each), each

    (_, each), gradient = jax.value_and_grad(likelihoods, (0, 1), has_aux=True)(chain, emissions)
    return each, gradient, crf.viterbi(chain, emissions, lengths)


def random_batch(seed, scale, dtype):
    """Chain, emissions, tags, lengths of at least 1 and one of T."""
    rng = np.random.default_rng(seed)
    draws = (scale * rng.normal(size=shape) for shape in ((K, K), K, K, (B, T, K)))
    *chain, emissions = (draw.astype(dtype) for draw in draws)
    lengths = np.append(rng.integers(1, T + 1, B - 1), T).astype(np.int32)
    return crf.Chain(*chain), emissions, rng.integers(0, K, (B, T)).astype(np.int32), lengths


def torch_crf(chain):
    peer = torchcrf.CRF(K, batch_first=True)
    peer = peer.to(torch.tensor(chain.start).dtype)
    peer.load_state_dict({NAMES[name]: torch.tensor(part) for name, part in chain._asdict().items()})
    return peer


@pytest.mark.parametrize("scale", [0.1, 1, 10])
def test_likelihoods_gradients_and_paths_are_pytorch_crfs(dtype, scale):
    for seed in range(8):
        chain, emissions, tags, lengths = random_batch(seed, scale, dtype)
        mask = torch.tensor(np.arange(T) < lengths[:, None])
        peer, peer_emissions = torch_crf(chain), torch.tensor(emissions, requires_grad=True)
        expected = peer(peer_emissions, torch.tensor(tags).long(), mask, reduction="none")
        expected.sum().backward()
        each, (by_chain, by_emissions), (paths, scores) = ours(chain, emissions, tags, lengths)
        assert each.dtype == by_emissions.dtype == dtype
        tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype] * max(scale, 1)}
        np.testing.assert_allclose(each, expected.detach().numpy(), **tolerance)
        np.testing.assert_allclose(by_emissions, peer_emissions.grad.numpy(), **tolerance)
        for name, gradient in by_chain._asdict().items():  # a sum over up to 112 moves
            np.testing.assert_allclose(gradient, getattr(peer, NAMES[name]).grad.numpy(), **tolerance)
        with torch.no_grad():
            decoded = peer.decode(peer_emissions, mask)
            padded = torch.tensor([path + [0] * (T - len(path)) for path in decoded])
            best = peer(peer_emissions, padded, mask, reduction="none").numpy()
        np.testing.assert_array_equal(paths, padded.numpy())
        of_best = scores - crf.log_partition(chain, emissions, lengths)
        np.testing.assert_allclose(
            of_best, best, rtol=TOLERANCE[dtype], atol=10 * tolerance["atol"]
        )  # scores of about 10 * scale


def test_ours_holds_where_pytorch_crf_rounds(dtype):
    """A level of 10^5 changes no probability; float32 holds these whole numbers exactly, so that it can say so."""
    rng = np.random.default_rng(0)
    *chain, emissions = (rng.integers(-4, 5, shape).astype(dtype) for shape in ((K, K), K, K, (B, T, K)))
    chain, tags, lengths = crf.Chain(*chain), rng.integers(0, K, (B, T)).astype(np.int32), np.full(B, T, np.int32)
    peer, mask, level = torch_crf(chain), torch.ones((B, T), dtype=torch.bool), dtype(1e5)
    with torch.no_grad():
        expected = peer(torch.tensor(emissions), torch.tensor(tags).long(), mask, reduction="none").numpy()
    raised = chain._replace(start=chain.start + level, end=chain.end - level)
    each, _, _ = ours(raised, emissions + level, tags, lengths)
    np.testing.assert_allclose(each, expected, rtol=TOLERANCE[dtype])
