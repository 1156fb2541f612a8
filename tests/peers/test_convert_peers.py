"""Converted models against those of PyTorch that they come from: the same outputs, and the way back loads strictly."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colnorm import (
    LSTM,
    BatchInstanceNorm,
    BatchNorm,
    Bidirectional,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LinearChainCRF,
    ResNet,
    crf,
)
from colnorm.convert import from_torch, read_safetensors, to_torch, write_safetensors

torch = pytest.importorskip("torch")
torchcrf = pytest.importorskip("torchcrf")
functional, rnn = torch.nn.functional, torch.nn.utils.rnn


def randomize(module, seed=0):
    """Parameters and running statistics as those of a trained network: away from where they start."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point() and value.ndim < 2:
            low = 0.5 if name.endswith(("weight", "var", "gate")) else -0.5
            value.uniform_(low, low + (0.5 if name.endswith("gate") else 1), generator=generator)
        elif value.is_floating_point():
            value.normal_(0, float(np.sqrt(2 / value[0].numel())), generator=generator)
    return module.eval()


def random(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def channels_first(x):
    return torch.tensor(np.moveaxis(x, -1, 1))


def assert_loads(peer, state):
    """The way back: PyTorch loads it strictly, and finds what it had, bit for bit but for the split of biases."""
    expected = {name: value.clone() for name, value in peer.state_dict().items()}
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    assert list(peer.load_state_dict(tensors, strict=True)) == [[], []]
    for name, value in expected.items():
        if "bias_ih" in name:
            value = value + expected[name.replace("_ih_", "_hh_")]
        np.testing.assert_array_equal(state[name], np.zeros_like(value) if "bias_hh" in name else value.numpy(), err_msg=name)


# ------------------------------------------------------------------------------------------------------------------- CRF


def test_crf(tmp_path):
    from safetensors.torch import load_file, save_file

    K, lengths = 5, np.array([6, 2, 4])
    peer = torchcrf.CRF(K, batch_first=True)
    emissions, tags = random(3, 6, K), np.random.default_rng(1).integers(0, K, (3, 6))
    mask = torch.tensor(np.arange(6) < lengths[:, None])
    expected = peer(torch.tensor(emissions), torch.tensor(tags), mask, reduction="none").detach().numpy()
    best = peer.decode(torch.tensor(emissions), mask)

    save_file(peer.state_dict(), tmp_path / "theirs.safetensors")
    for source in (peer.state_dict(), peer.state_dict(keep_vars=True), tmp_path / "theirs.safetensors"):
        variables = from_torch(LinearChainCRF(K), source)
        chain = LinearChainCRF(K).apply(variables)
        ours = crf.log_likelihood(chain, jnp.asarray(emissions), jnp.asarray(tags, jnp.int32), jnp.asarray(lengths, jnp.int32))
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
        found, _ = crf.viterbi(chain, jnp.asarray(emissions), jnp.asarray(lengths, jnp.int32))
        assert [row[:length].tolist() for row, length in zip(np.asarray(found), lengths, strict=True)] == best

    write_safetensors(tmp_path / "ours.safetensors", to_torch(LinearChainCRF(K), variables))
    assert_loads(peer, read_safetensors(tmp_path / "ours.safetensors"))
    for name, value in load_file(tmp_path / "ours.safetensors").items():
        assert torch.equal(value, peer.state_dict()[name])


# ------------------------------------------------------------------------------------------------------------------ LSTM


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm(bidirectional, layers, bias, x64):
    D, H, T = 5, 4, 6
    options = {"batch_first": True, "bidirectional": bidirectional, "num_layers": layers, "dtype": torch.float64}
    peer = torch.nn.LSTM(D, H, bias=bias, **options)
    module = Bidirectional(partial(LSTM, H)) if bidirectional else LSTM(H)
    x, lengths = random(3, T, D, dtype=np.float64), np.array([6, 2, 4])

    def run_peer(peer):
        packed = rnn.pack_padded_sequence(torch.tensor(x), torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        outputs, (h, c) = peer(packed)
        return rnn.pad_packed_sequence(outputs, batch_first=True)[0].detach().numpy(), h.detach().numpy(), c.detach().numpy()

    expected, h, c = run_peer(peer)
    y, carries, state = jnp.asarray(x), [], {}
    for layer in range(layers):
        chosen = layer if layers > 1 else None
        variables = from_torch(module, peer.state_dict(), layer=chosen)
        y, carry = module.apply(variables, y, jnp.asarray(lengths), return_carry=True)
        carries += carry if bidirectional else [carry]
        state |= to_torch(module, variables, layer=chosen)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    for ours, h_n, c_n in zip(carries, h, c, strict=True):
        np.testing.assert_allclose(ours[0], h_n, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(ours[1], c_n, rtol=1e-12, atol=1e-12)

    # The way back has biases, 0 where there were none.
    back = torch.nn.LSTM(D, H, **options)
    if bias:
        assert_loads(peer, state)
    back.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, strict=True)
    np.testing.assert_allclose(run_peer(back)[0], expected, rtol=1e-12, atol=1e-12)


# --------------------------------------------------------------------------------------------------------- normalization


class TorchBatchInstanceNorm(torch.nn.BatchNorm2d):
    """Nam and Kim's layer out of PyTorch's functions."""

    def __init__(self, features):
        super().__init__(features)
        self.gate = torch.nn.Parameter(torch.ones(features))

    def forward(self, x):
        gate, scale, bias = (value[:, None, None] for value in (self.gate, self.weight, self.bias))
        batch = functional.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)
        return (gate * batch + (1 - gate) * functional.instance_norm(x, eps=self.eps)) * scale + bias


C = 6
NONE = {"use_scale": False, "use_bias": False}
NORMS = {
    "bn1d of vectors": (BatchNorm(True), torch.nn.BatchNorm1d(C), 0),
    "bn1d": (BatchNorm(True), torch.nn.BatchNorm1d(C), 1),
    "bn2d": (BatchNorm(True), torch.nn.BatchNorm2d(C), 2),
    "bn3d": (BatchNorm(True), torch.nn.BatchNorm3d(C), 3),
    "bn2d, another epsilon": (BatchNorm(True, epsilon=0.1), torch.nn.BatchNorm2d(C, eps=0.1), 2),
    "bn2d without affine": (BatchNorm(True, **NONE), torch.nn.BatchNorm2d(C, affine=False), 2),
    "bin": (BatchInstanceNorm(True), TorchBatchInstanceNorm(C), 2),
    "in1d": (InstanceNorm(), torch.nn.InstanceNorm1d(C, affine=True), 1),
    "in2d": (InstanceNorm(), torch.nn.InstanceNorm2d(C, affine=True), 2),
    "in2d without affine": (InstanceNorm(**NONE), torch.nn.InstanceNorm2d(C), 2),
    "gn": (GroupNorm(3), torch.nn.GroupNorm(3, C), 2),
    "gn without affine": (GroupNorm(3, **NONE), torch.nn.GroupNorm(3, C, affine=False), 1),
    "ln of vectors": (LayerNorm(), torch.nn.LayerNorm(C), 0),
    "ln of vectors without bias": (LayerNorm(use_bias=False), torch.nn.LayerNorm(C, bias=False), 0),
    "ln of images": (LayerNorm(), torch.nn.GroupNorm(1, C), 2),
}


@pytest.mark.parametrize("case", NORMS)
def test_normalization(case):
    module, peer, axes = NORMS[case]
    randomize(peer)
    x = random(4, *(5, 3, 2)[:axes], C)
    expected = np.moveaxis(peer(channels_first(x)).detach().numpy(), 1, -1)
    variables = from_torch(module, peer.state_dict())
    assert jax.tree.structure(variables) == jax.tree.structure(module.init(jax.random.key(0), jnp.asarray(x)))
    np.testing.assert_allclose(module.apply(variables, jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)
    assert_loads(peer, to_torch(module, variables))


def test_layer_norm_of_each_step_is_ours_with_time_in_the_batch():
    peer, x = randomize(torch.nn.LayerNorm(C)), random(4, 5, C)
    ours = LayerNorm().apply(from_torch(LayerNorm(), peer.state_dict()), jnp.asarray(x.reshape(-1, C)))
    np.testing.assert_allclose(ours, peer(torch.tensor(x)).detach().numpy().reshape(-1, C), rtol=1e-5, atol=1e-5)


def test_training_goes_on_as_pytorchs_but_for_the_running_variance():
    """Momentum 0.1 there is 0.9 here; the batch's part of the variance differs by n / (n - 1)."""
    peer, x = randomize(torch.nn.BatchNorm2d(C)), random(4, 5, 3, C)
    variables = from_torch(BatchNorm(), peer.state_dict())
    before = np.asarray(variables["batch_stats"]["var"])
    y, updated = BatchNorm(False).apply(variables, jnp.asarray(x), mutable=["batch_stats"])
    expected = peer.train()(channels_first(x)).detach().numpy()
    np.testing.assert_allclose(y, np.moveaxis(expected, 1, -1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], peer.running_mean.numpy(), rtol=1e-5, atol=1e-6)
    n = 4 * 5 * 3
    unbiased = 0.9 * before + (np.asarray(updated["batch_stats"]["var"]) - 0.9 * before) * n / (n - 1)
    np.testing.assert_allclose(unbiased, peer.running_var.numpy(), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept(dtype, tmp_path):
    from safetensors.torch import load_file, save_file

    peer = randomize(torch.nn.GroupNorm(2, C)).to(dtype)
    save_file(peer.state_dict(), tmp_path / "theirs.safetensors")
    for source in (peer.state_dict(), tmp_path / "theirs.safetensors"):
        variables = from_torch(GroupNorm(2), source)
        assert str(variables["params"]["scale"].dtype) == str(dtype).removeprefix("torch.")
        write_safetensors(tmp_path / "ours.safetensors", to_torch(GroupNorm(2), variables))
        assert all(
            torch.equal(value, peer.state_dict()[name]) for name, value in load_file(tmp_path / "ours.safetensors").items()
        )
    write_safetensors(tmp_path / "ours.safetensors", peer.state_dict())  # of tensors
    assert all(torch.equal(value, peer.state_dict()[name]) for name, value in load_file(tmp_path / "ours.safetensors").items())


def test_a_peer_that_trains_on_leaves_ours_alone():
    peer = torch.nn.GroupNorm(1, 64)
    variables = from_torch(LayerNorm(), peer.state_dict())
    with torch.no_grad():
        peer.weight.add_(1)
    assert (variables["params"]["scale"] == 1).all()


def test_a_file_of_torch_save_is_refused_with_the_way_out(tmp_path):
    peer = torchcrf.CRF(3)
    torch.save(peer.state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"since a pickle can run code") as caught:
        from_torch(LinearChainCRF(3), tmp_path / "model.pt")
    import safetensors.torch

    advice = str(caught.value).partition("write one: ")[2].replace("'model.safetensors'", repr(str(tmp_path / "m.safetensors")))
    eval(advice, {"torch": torch, "safetensors": safetensors})
    variables = from_torch(LinearChainCRF(3), tmp_path / "m.safetensors")
    np.testing.assert_array_equal(variables["params"]["transitions"], peer.transitions.detach().numpy())


# ---------------------------------------------------------------------------------------------------------------- ResNet

TORCH_NORMS = {
    "bn": torch.nn.BatchNorm2d,
    "flax_bn": torch.nn.BatchNorm2d,
    "bin": TorchBatchInstanceNorm,
    "in": partial(torch.nn.InstanceNorm2d, affine=True),
    "gn": partial(torch.nn.GroupNorm, 16),
    "ln": partial(torch.nn.GroupNorm, 1),
    "nn": lambda channels: torch.nn.Identity(),
}


class TorchBlock(torch.nn.Module):
    def __init__(self, inputs, outputs, stride, kind, zero_channels):
        super().__init__()
        norm, bias = TORCH_NORMS[kind], kind == "nn"
        self.conv1 = torch.nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)
        self.bn1 = norm(outputs)
        self.conv2 = torch.nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)
        self.bn2 = norm(outputs)
        missing = outputs - inputs
        before = outputs // 4 if missing and zero_channels == "around" else 0
        self.stride, self.pad = stride, (0, 0, 0, 0, before, missing - before)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + functional.pad(x[:, :, :: self.stride, :: self.stride], self.pad))


class TorchResNet(torch.nn.Module):
    """The CIFAR ResNet of He et al. 2016 with shortcuts of option A, named as implementations in PyTorch name it."""

    def __init__(self, n, classes, kind, zero_channels, classifier):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 16, 3, padding=1, bias=kind == "nn")
        self.bn1 = TORCH_NORMS[kind](16)
        inputs = 16
        for stage, outputs in enumerate((16, 32, 64), 1):
            blocks = []
            for _ in range(n):
                blocks.append(TorchBlock(inputs, outputs, 1 if inputs == outputs else 2, kind, zero_channels))
                inputs = outputs
            setattr(self, f"layer{stage}", torch.nn.Sequential(*blocks))
        self.classifier = classifier
        setattr(self, classifier, torch.nn.Linear(64, classes))

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return getattr(self, self.classifier)(x.mean((2, 3)))


# Groups are runs of channels, so that group norm has one place for the zero channels.
RESNETS = [(kind, zero_channels) for kind in TORCH_NORMS for zero_channels in ("after", "around")]


@pytest.mark.parametrize(("kind", "zero_channels"), [case for case in RESNETS if case != ("gn", "around")])
def test_resnet(kind, zero_channels, x64):
    classifier = "fc" if kind == "bn" else "linear"
    peer = randomize(TorchResNet(2, 7, kind, zero_channels, classifier).double())
    model = ResNet(2, 7, kind)
    x = random(2, 12, 12, 3, dtype=np.float64)
    expected = peer(channels_first(x)).detach().numpy()
    variables = from_torch(model, peer.state_dict(), zero_channels=zero_channels)
    logits = jax.jit(model.apply)(variables, jnp.asarray(x))
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)
    assert_loads(peer, to_torch(model, variables, zero_channels=zero_channels, classifier=classifier))
    parallel = {f"module.{name}": value for name, value in peer.state_dict().items()}  # as DataParallel names it
    again = from_torch(model, parallel, prefix="module.", zero_channels=zero_channels)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_the_place_of_the_zero_channels_matters():
    """Why it has no default: the other one is another function."""
    peer = randomize(TorchResNet(1, 7, "bn", "around", "linear"))
    x = random(2, 12, 12, 3)
    logits = ResNet(1, 7).apply(from_torch(ResNet(1, 7), peer.state_dict(), zero_channels="after"), jnp.asarray(x))
    assert np.abs(logits - peer(channels_first(x)).detach().numpy()).max() > 0.01
