"""The normalization layers against PyTorch's and Flax's: outputs, running statistics, evaluation, gradients."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from normalization_cases import (
    KIND_AND_RANK,
    LAYERS,
    RUNNING,
    SHAPES,
    apply,
    apply_and_differentiate,
    random_input,
    random_variables,
)

from colnorm import BatchNorm

torch = pytest.importorskip("torch")
functional = torch.nn.functional

TOLERANCE = {np.float32: {"rtol": 1e-5, "atol": 1e-5}, np.float64: {"rtol": 1e-10, "atol": 1e-10}}


# Everything in float64, images in float32 too; the layers without running statistics have one mode.
CASES = [(kind, rank, np.float64) for kind, rank in KIND_AND_RANK] + [(kind, 2, np.float32) for kind in LAYERS]
PYTORCH = [(*case, evaluate) for case in CASES for evaluate in (False, True) if not evaluate or case[0] in RUNNING]


@pytest.fixture
def dtype(request):
    """Float32 or float64, enabled where it must be; Flax's own layers promote, so that is allowed here."""
    with jax.enable_x64(request.param == np.float64), jax.numpy_dtype_promotion("standard"):
        yield request.param


both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], indirect=True)


def channels_first(x):
    return torch.tensor(np.moveaxis(np.asarray(x), -1, 1))


def channels_last(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def torch_batch_norm(variables, rank, affine=True):
    """torch.nn.BatchNorm1d, 2d or 3d with our parameters and running statistics."""
    params, stats = variables["params"], variables["batch_stats"]
    module = (torch.nn.BatchNorm1d, torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)[rank]
    layer = module(params["scale"].size, affine=affine, dtype=torch.tensor(np.asarray(params["scale"])).dtype)
    names = {"running_mean": stats["mean"], "running_var": stats["var"]}
    if affine:
        names |= {"weight": params["scale"], "bias": params["bias"]}
    layer.load_state_dict({name: torch.tensor(np.asarray(value)) for name, value in names.items()}, strict=False)
    return layer


class TorchBatchInstanceNorm(torch.nn.Module):
    """Nam and Kim's layer out of PyTorch's two."""

    def __init__(self, variables, rank):
        super().__init__()
        self.batch_norm = torch_batch_norm(variables, rank, affine=False)
        for name in ("gate", "scale", "bias"):
            self.register_parameter(name, torch.nn.Parameter(torch.tensor(np.asarray(variables["params"][name]))))

    def forward(self, x):
        gate, scale, bias = (value.reshape(1, -1, *(1,) * (x.ndim - 2)) for value in (self.gate, self.scale, self.bias))
        return (gate * self.batch_norm(x) + (1 - gate) * functional.instance_norm(x)) * scale + bias


class TorchExampleNorm(torch.nn.Module):
    """torch.nn's instance and group norm, and its layer norm over (C, *spatial), with one scale and bias a channel."""

    def __init__(self, variables, kind, rank):
        super().__init__()
        self.kind = kind
        self.scale, self.bias = (
            torch.nn.Parameter(torch.tensor(np.asarray(variables["params"][name]))) for name in ("scale", "bias")
        )

    def forward(self, x):
        if self.kind == "gn":
            return functional.group_norm(x, 2, self.scale, self.bias)
        if self.kind == "in":
            return functional.instance_norm(x, weight=self.scale, bias=self.bias)
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return functional.layer_norm(x, x.shape[1:]) * self.scale.reshape(shape) + self.bias.reshape(shape)


def torch_layer(kind, variables, rank):
    if kind == "bn":
        return torch_batch_norm(variables, rank)
    return TorchBatchInstanceNorm(variables, rank) if kind == "bin" else TorchExampleNorm(variables, kind, rank)


def torch_gradients(layer):
    names = {"weight": "scale"}
    return {names.get(name, name): value.grad.numpy() for name, value in layer.named_parameters()}


def as_torchs_running_var(ours, before, count, updates):
    """PyTorch keeps the unbiased variance of each batch: count / (count - 1) of ours, in all but the initial part."""
    initial = 0.9**updates * np.asarray(before, np.float64)
    return initial + (np.asarray(ours) - initial) * count / (count - 1)


def flax_layer(kind, rank, dtype):
    axes = tuple(range(1, rank + 2))
    shared = {"epsilon": 1e-5, "param_dtype": dtype}
    return {
        "bn": partial(nn.BatchNorm, momentum=0.9, use_fast_variance=False),
        "in": partial(nn.InstanceNorm, use_fast_variance=False),
        "ln": partial(nn.LayerNorm, reduction_axes=axes, feature_axes=-1, use_fast_variance=False),
        "gn": partial(nn.GroupNorm, num_groups=2, use_fast_variance=False),
    }[kind](**shared)


@pytest.mark.parametrize(("kind", "rank", "dtype", "evaluate"), PYTORCH, indirect=["dtype"])
def test_outputs_and_gradients_are_pytorchs(kind, rank, dtype, evaluate):
    layer, x = LAYERS[kind](param_dtype=dtype), random_input(SHAPES[rank], dtype)
    variables = random_variables(layer, x.shape, dtype=dtype)
    cotangent = random_input(x.shape, dtype, seed=5)
    peer, peer_x = torch_layer(kind, variables, rank).train(not evaluate), channels_first(x).requires_grad_()
    peer_y = peer(peer_x)
    torch.sum(peer_y * channels_first(cotangent)).backward()
    (y, _), (by_params, by_x) = apply_and_differentiate(layer, variables, x, cotangent, evaluate=evaluate)
    np.testing.assert_allclose(y, channels_last(peer_y), **TOLERANCE[dtype])
    np.testing.assert_allclose(by_x, channels_last(peer_x.grad), **TOLERANCE[dtype])
    expected = torch_gradients(peer)
    assert set(by_params) == set(expected)
    for name, gradient in by_params.items():  # sums over up to 70 elements
        np.testing.assert_allclose(gradient, expected[name], rtol=TOLERANCE[dtype]["rtol"], atol=10 * TOLERANCE[dtype]["atol"])


@pytest.mark.parametrize(("kind", "rank", "dtype"), [case for case in CASES if case[0] in RUNNING], indirect=["dtype"])
def test_running_statistics_are_pytorchs_but_for_the_unbiased_variance(kind, rank, dtype):
    layer = LAYERS[kind](param_dtype=dtype)
    first = variables = random_variables(layer, SHAPES[rank], dtype=dtype)
    peer = torch_layer(kind, variables, rank)
    peer_stats = peer if kind == "bn" else peer.batch_norm
    count = np.prod(SHAPES[rank][:-1])
    for updates in range(1, 21):
        x = random_input(SHAPES[rank], dtype, seed=updates, mean=updates)
        peer(channels_first(x))
        variables = {**variables, **apply(layer, variables, x)[1]}
        if updates in (1, 20):
            stats = variables["batch_stats"]
            np.testing.assert_allclose(stats["mean"], peer_stats.running_mean.numpy(), **TOLERANCE[dtype])
            var = as_torchs_running_var(stats["var"], first["batch_stats"]["var"], count, updates)
            np.testing.assert_allclose(var, peer_stats.running_var.numpy(), **TOLERANCE[dtype])


@pytest.mark.parametrize(("kind", "rank", "dtype"), [case for case in CASES if case[0] != "bin"], indirect=["dtype"])
def test_outputs_and_gradients_are_flaxs(kind, rank, dtype):
    layer, peer = LAYERS[kind](param_dtype=dtype), flax_layer(kind, rank, dtype)
    x, cotangent = random_input(SHAPES[rank], dtype), random_input(SHAPES[rank], dtype, seed=5)
    variables = random_variables(layer, x.shape, dtype=dtype)
    mode = {"use_running_average": False} if kind == "bn" else {}

    @jax.jit
    def peer_results(variables, x):
        def loss(params, x):
            y, state = peer.apply({**variables, "params": params}, x, **mode, mutable=["batch_stats"])
            return jnp.sum(y * cotangent), (y, state)

        gradients, aux = jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)
        return aux, gradients

    ours = apply_and_differentiate(layer, variables, x, cotangent)
    tolerance = {"rtol": TOLERANCE[dtype]["rtol"], "atol": 10 * TOLERANCE[dtype]["atol"]}
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), ours, peer_results(variables, x))


@both_dtypes
def test_running_statistics_and_evaluation_are_flaxs(dtype):
    layer, peer = BatchNorm(param_dtype=dtype), flax_layer("bn", 2, dtype)
    ours = flaxs = random_variables(layer, SHAPES[2], dtype=dtype)
    update = jax.jit(partial(peer.apply, use_running_average=False, mutable=["batch_stats"]))
    for step in range(20):
        x = random_input(SHAPES[2], dtype, seed=step, mean=step)
        ours, flaxs = {**ours, **apply(layer, ours, x)[1]}, {**flaxs, **update(flaxs, x)[1]}
    jax.tree.map(partial(np.testing.assert_allclose, **TOLERANCE[dtype]), ours, flaxs)
    expected = jax.jit(partial(peer.apply, use_running_average=True))(flaxs, x)
    np.testing.assert_allclose(apply(layer, ours, x, evaluate=True)[0], expected, **TOLERANCE[dtype])


@both_dtypes
def test_masked_batch_norm_is_flaxs(dtype):
    layer, peer = BatchNorm(param_dtype=dtype), flax_layer("bn", 1, dtype)
    x, mask = random_input(SHAPES[1], dtype), np.arange(6) < np.array([6, 1, 3, 2, 4])[:, None]
    variables = random_variables(layer, x.shape, dtype=dtype)
    y, state = apply(layer, variables, x, mask)
    expected, peer_state = peer.apply(variables, x, use_running_average=False, mask=mask[..., None], mutable=["batch_stats"])
    np.testing.assert_allclose(np.asarray(y)[mask], np.asarray(expected)[mask], **TOLERANCE[dtype])
    jax.tree.map(partial(np.testing.assert_allclose, **TOLERANCE[dtype]), state, peer_state)
