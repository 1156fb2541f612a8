"""The recurrent layers against PyTorch's LSTM over packed sequences, its layer norm in a loop, and Flax's LSTM cell."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_cases import (
    DIRECTIONS,
    B,
    D,
    H,
    T,
    apply,
    assert_close,
    make,
    names,
    per_direction,
    random_array,
    random_carry,
    random_params,
)

torch = pytest.importorskip("torch")
functional = torch.nn.functional
rnn = torch.nn.utils.rnn

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}


@pytest.fixture
def dtype(request):
    with jax.enable_x64(request.param == np.float64):
        yield request.param


@cache
def compiled(kind, direction, dtype):
    """Outputs, carry and the gradients by params, x and carry, for cotangents of outputs and carry."""
    layer = make(kind, direction, param_dtype=dtype)

    @jax.jit
    def results(params, x, lengths, carry, cotangents):
        forward, backward = jax.vjp(lambda params, x, carry: apply(layer, params, x, lengths, carry), params, x, carry)
        return forward, backward(cotangents)

    return results


def draw(kind, direction, dtype, seed):
    """params, x, lengths, carry and cotangents; PyTorch packs no empty sequence."""
    params = random_params(make(kind, direction, param_dtype=dtype), dtype=dtype, seed=seed)
    lengths = np.random.default_rng(seed).integers(1, T + 1, B)
    lengths[seed % B] = T  # PyTorch unpacks to the longest
    cotangents = (random_array((B, T, H * len(names(direction))), dtype, seed + 50), random_carry(direction, dtype, seed + 50))
    return params, random_array((B, T, D), dtype, seed), lengths, random_carry(direction, dtype, seed), cotangents


def tensors(tree):
    """The leaves as PyTorch's, with gradients."""
    return jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)).requires_grad_(), tree)


def arrays(tree):
    return jax.tree.map(lambda tensor: tensor.detach().numpy(), tree)


def grads(tree):
    return jax.tree.map(lambda tensor: tensor.grad.numpy(), tree)


def backward(outputs, cotangents):
    """Runs PyTorch's backward pass."""
    pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves(cotangents), strict=True)
    sum(torch.sum(output * torch.tensor(np.asarray(cotangent))) for output, cotangent in pairs).backward()


# ------------------------------------------------------------------------------------------------------- torch.nn.LSTM


def torch_lstm(direction, params, carry, dtype):
    """A bidirectional torch.nn.LSTM with our weights in the directions that we have, and its initial states."""
    layer = torch.nn.LSTM(D, H, batch_first=True, bidirectional=True, dtype=torch.float64 if dtype == np.float64 else None)
    h, c = torch.zeros(2, 2, B, H, dtype=layer.bias_hh_l0.dtype)
    state = {}
    for name, p, (initial_h, initial_c) in per_direction(direction, params, carry):
        suffix, index = ("_reverse", 1) if name == "backward" else ("", 0)
        for theirs, ours in (("weight_ih", "input_kernel"), ("weight_hh", "recurrent_kernel"), ("bias_ih", "bias")):
            state[f"{theirs}_l0{suffix}"] = torch.tensor(np.asarray(p[ours]).T)
        state[f"bias_hh_l0{suffix}"] = torch.zeros(4 * H)
        h[index], c[index] = torch.tensor(np.asarray(initial_h)), torch.tensor(np.asarray(initial_c))
    layer.load_state_dict(state, strict=direction == "both")
    return layer, (h.requires_grad_(), c.requires_grad_())


@pytest.mark.parametrize("dtype", [np.float32, np.float64], indirect=True)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_outputs_carries_and_gradients_are_pytorchs(direction, dtype):
    for seed in range(3):
        params, x, lengths, carry, cotangents = case = draw("plain", direction, dtype, seed)
        ours, (by_params, by_x, by_carry) = compiled("plain", direction, dtype)(*case)

        peer, state = torch_lstm(direction, params, carry, dtype)
        peer_x = tensors(x)
        packed = rnn.pack_padded_sequence(peer_x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        outputs, (h, c) = peer(packed, state)
        outputs, _ = rnn.pad_packed_sequence(outputs, batch_first=True)
        mine = {"forward": [0], "backward": [1], "both": [0, 1]}[direction]
        outputs = torch.cat([outputs[..., i * H : (i + 1) * H] for i in mine], -1)
        carries = tuple((h[i], c[i]) for i in mine)
        expected = (outputs, carries if direction == "both" else carries[0])
        backward(expected, cotangents)

        assert_close(ours, arrays(expected), TOLERANCE[dtype])
        assert_close(by_x, peer_x.grad.numpy(), TOLERANCE[dtype])
        for i, (_, p, (by_h, by_c)) in zip(mine, per_direction(direction, by_params, by_carry), strict=True):
            suffix = ("", "_reverse")[i]
            for theirs, name in (("weight_ih", "input_kernel"), ("weight_hh", "recurrent_kernel"), ("bias_ih", "bias")):
                assert_close(p[name], getattr(peer, f"{theirs}_l0{suffix}").grad.numpy().T, TOLERANCE[dtype])
            assert_close((by_h, by_c), (state[0].grad[i].numpy(), state[1].grad[i].numpy()), TOLERANCE[dtype])


# --------------------------------------------------------------------- layer norm: PyTorch's, in a loop over each sequence


def torch_step(kind, p, x, h, c):
    from_x, from_h = x @ p["input_kernel"], h @ p["recurrent_kernel"]
    if kind == "gates":
        from_x = functional.layer_norm(from_x, (4 * H,), p["input_scale"])
        from_h = functional.layer_norm(from_h, (4 * H,), p["recurrent_scale"])
    i, f, g, o = torch.chunk(from_x + from_h + p["bias"], 4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    if kind == "gates":
        return torch.sigmoid(o) * torch.tanh(functional.layer_norm(c, (H,), p["cell_scale"], p["cell_bias"])), c
    return functional.layer_norm(torch.sigmoid(o) * torch.tanh(c), (H,), p["output_scale"], p["output_bias"]), c


def torch_loop(kind, params, x, lengths, carry):
    """Both directions over each sequence alone: outputs and carries."""
    outputs, carries = [], []
    for name, p, (initial_h, initial_c) in per_direction("both", params, carry):
        columns, last = [], []
        for b, length in enumerate(lengths):
            h, c = initial_h[b], initial_c[b]
            rows = [torch.zeros_like(h)] * T
            for t in range(length) if name == "forward" else reversed(range(length)):
                h, c = torch_step(kind, p, x[b, t], h, c)
                rows[t] = h
            columns.append(torch.stack(rows))
            last.append((h, c))
        outputs.append(torch.stack(columns))
        carries.append(tuple(torch.stack(parts) for parts in zip(*last, strict=True)))
    return torch.cat(outputs, -1), tuple(carries)


@pytest.mark.parametrize("dtype", [np.float64], indirect=True)
@pytest.mark.parametrize("kind", ["gates", "output"])
def test_layer_norm_outputs_carries_and_gradients_are_pytorchs(kind, dtype):
    for seed in range(2):
        params, x, lengths, carry, cotangents = case = draw(kind, "both", dtype, seed)
        ours, gradients = compiled(kind, "both", dtype)(*case)
        peers = tensors((params, x, carry))
        expected = torch_loop(kind, peers[0], peers[1], lengths, peers[2])
        backward(expected, cotangents)
        assert_close(ours, arrays(expected), 1e-10)
        assert_close(gradients, grads(peers), 1e-10)


# ------------------------------------------------------------------------------------------------------------------ Flax


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_outputs_and_carries_are_flaxs(direction):
    """Flax keeps each gate's kernels apart, and leaves values past the lengths."""
    params, x, lengths, (h, c), _ = draw("plain", direction, np.float32, 0)
    gates = {
        f"i{gate}": {"kernel": kernel} for gate, kernel in zip("ifgo", jnp.split(params["input_kernel"], 4, 1), strict=True)
    }
    quarters = zip("ifgo", jnp.split(params["recurrent_kernel"], 4, 1), jnp.split(params["bias"], 4), strict=True)
    gates |= {f"h{gate}": {"kernel": kernel, "bias": bias} for gate, kernel, bias in quarters}
    peer = nn.RNN(nn.OptimizedLSTMCell(H), reverse=direction == "backward", keep_order=True, return_carry=True)
    run = jax.jit(partial(peer.apply, {"params": {"cell": gates}}))
    (last_c, last_h), outputs = run(x, initial_carry=(c, h), seq_lengths=jnp.asarray(lengths, jnp.int32))
    outputs = jnp.where((np.arange(T) < lengths[:, None])[..., None], outputs, 0)
    ours = apply(make("plain", direction), params, x, lengths, (h, c))
    assert_close(ours, (outputs, (last_h, last_c)), 1e-5)
