"""Conversion without PyTorch: there and back bit for bit, files, and what every error names."""

import os
import pickle
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from resnet_cases import NORMALIZATIONS, random_variables, resnet
from safetensors.numpy import save_file

from colnorm import (
    LSTM,
    BatchInstanceNorm,
    BatchNorm,
    Bidirectional,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LayerNormLSTM,
    LinearChainCRF,
    ResNet,
)
from colnorm.convert import from_torch, read_safetensors, to_torch, write_safetensors
from colnorm.files import StorageError

IMAGES = jnp.zeros((2, 4, 4, 6), jnp.float32)
SEQUENCES = jnp.zeros((2, 3, 5), jnp.float32)
LAYERS = {
    "crf": (LinearChainCRF(4), ()),
    "lstm": (LSTM(3), (SEQUENCES,)),
    "bidirectional": (Bidirectional(partial(LSTM, 3)), (SEQUENCES,)),
    "bn": (BatchNorm(use_running_average=True), (IMAGES,)),
    "bin": (BatchInstanceNorm(use_running_average=True), (IMAGES,)),
    "in": (InstanceNorm(), (IMAGES,)),
    "gn": (GroupNorm(2), (IMAGES,)),
    "ln": (LayerNorm(), (IMAGES,)),
    "ln without bias": (LayerNorm(use_bias=False), (IMAGES,)),
    "bn without affine": (BatchNorm(use_running_average=True, use_scale=False, use_bias=False), (IMAGES,)),
    "in without affine": (InstanceNorm(use_scale=False, use_bias=False), (IMAGES,)),
}


def drawn(module, inputs, dtype=np.float32):
    """Variables of random numbers, in the structure that ``init`` gives them."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), dtype), shapes)


def assert_same(ours, expected):
    """The same names, dtypes and bits."""
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, jnp.bfloat16])
def test_there_and_back_through_a_file_is_bit_for_bit(kind, dtype, tmp_path):
    module, inputs = LAYERS[kind]
    with jax.enable_x64(dtype == np.float64):
        variables = drawn(module, inputs, dtype)
        state = to_torch(module, variables, prefix="encoder.layer.")
        assert all(isinstance(value, np.ndarray) and value.flags.c_contiguous for value in state.values())
        write_safetensors(tmp_path / "model.safetensors", state | {"other.weight": np.ones((2, 3), np.float32)})
        assert_same(from_torch(module, tmp_path / "model.safetensors", prefix="encoder.layer."), variables)
        assert_same(from_torch(module, state, prefix="encoder.layer."), variables)


@pytest.mark.parametrize("zero_channels", ["after", "around"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_resnet_there_and_back_is_bit_for_bit(normalization, zero_channels):
    model = resnet(normalization, 2, num_classes=7)
    if (normalization, zero_channels) == ("gn", "around"):
        with pytest.raises(ValueError, match=r"expected zero_channels='after' with group norm.*got 'around'"):
            to_torch(model, {"params": {}}, zero_channels=zero_channels)
        return
    variables = random_variables(model)
    for classifier in ("linear", "fc"):
        state = to_torch(model, variables, zero_channels=zero_channels, classifier=classifier)
        assert f"{classifier}.weight" in state
        assert state["layer2.1.conv2.weight"].shape == (32, 32, 3, 3)
        assert_same(from_torch(model, state, zero_channels=zero_channels), variables)


def test_a_stack_of_lstms_is_read_layer_by_layer(tmp_path):
    modules = [Bidirectional(partial(LSTM, 3)), Bidirectional(partial(LSTM, 3))]
    both = [drawn(modules[0], (SEQUENCES,)), drawn(modules[1], (jnp.zeros((2, 3, 6), jnp.float32),))]
    state = {}
    for layer, (module, variables) in enumerate(zip(modules, both, strict=True)):
        state |= to_torch(module, variables, layer=layer)
    assert len(state) == 16
    write_safetensors(tmp_path / "stack.safetensors", state)
    for layer, (module, variables) in enumerate(zip(modules, both, strict=True)):
        assert_same(from_torch(module, tmp_path / "stack.safetensors", layer=layer), variables)
    with pytest.raises(ValueError, match=r"unknown: weight_ih_l1, .*say which one, layer=0"):
        from_torch(modules[0], state)
    with pytest.raises(ValueError, match=r"missing: weight_ih_l2, "):
        from_torch(modules[0], state, layer=2)


def test_results_share_no_memory_with_their_source():
    state = {name: np.ones(64, np.float32) for name in ("weight", "bias")}
    variables = from_torch(GroupNorm(2), state)
    back = to_torch(GroupNorm(2), variables)
    state["weight"][:] = 2
    back["bias"][:] = 3
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(variables))


def test_float64_is_float32_unless_enabled():
    variables = from_torch(GroupNorm(2), {name: np.full(4, 1 / 3) for name in ("weight", "bias")})
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


# ---------------------------------------------------------------------------------------------------------------- errors

CRF_STATE = {
    "start_transitions": np.zeros(3, np.float32),
    "end_transitions": np.zeros(3, np.float32),
    "transitions": np.zeros((3, 3), np.float32),
}
LSTM_STATE = {
    "weight_ih_l0": np.zeros((12, 5), np.float32),
    "weight_hh_l0": np.zeros((12, 3), np.float32),
    "bias_ih_l0": np.zeros(12, np.float32),
    "bias_hh_l0": np.zeros(12, np.float32),
}
BN_STATE = {name: np.ones(4, np.float32) for name in ("weight", "bias", "running_mean", "running_var")}


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


WRONG = {
    "missing": (LinearChainCRF(3), without(CRF_STATE, "end_transitions"), "expected start_.*missing: end_transitions$"),
    "misshapen": (
        LinearChainCRF(4),
        CRF_STATE,
        r"from_torch\(LinearChainCRF\): start_transitions: expected shape \(4,\), got \(3,\)$",
    ),
    "rank": (
        LinearChainCRF(3),
        CRF_STATE | {"transitions": np.zeros(9, np.float32)},
        r"transitions: expected shape \(3, 3\), got \(9,\)",
    ),
    "integers": (
        LinearChainCRF(3),
        CRF_STATE | {"transitions": np.zeros((3, 3), np.int32)},
        "transitions: expected floating-point numbers, got int32",
    ),
    "one bias": (LSTM(3), without(LSTM_STATE, "bias_hh_l0"), "missing: bias_hh_l0$"),
    "projection": (LSTM(3), LSTM_STATE | {"weight_hr_l0": np.zeros((2, 3), np.float32)}, "unknown: weight_hr_l0"),
    "other size": (LSTM(4), LSTM_STATE, r"weight_ih_l0: expected shape \(16, D\), got \(12, 5\)"),
    "one direction": (Bidirectional(partial(LSTM, 3)), LSTM_STATE, "missing: weight_ih_l0_reverse, weight_hh_l0_reverse"),
    "two directions": (LSTM(3), LSTM_STATE | {"bias_ih_l0_reverse": np.zeros(12)}, "unknown: bias_ih_l0_reverse"),
    "no running statistics": (
        BatchNorm(),
        without(BN_STATE, "running_mean", "running_var"),
        "missing: running_mean, running_var",
    ),
    "running statistics": (InstanceNorm(), BN_STATE, "expected weight, bias; unknown: running_mean, running_var"),
    "affine": (
        InstanceNorm(use_scale=False, use_bias=False),
        without(BN_STATE, "running_mean", "running_var"),
        "no arrays; unknown",
    ),
    "channels that differ": (
        BatchNorm(),
        BN_STATE | {"running_var": np.ones(5, np.float32)},
        r"running_var: expected shape \(4,\), got \(5,\)",
    ),
    "a weight for each element": (
        LayerNorm(),
        {name: np.ones((4, 2, 2), np.float32) for name in ("weight", "bias")},
        r"weight: expected shape \(C,\), got \(4, 2, 2\)",
    ),
    "one of scale and bias": (GroupNorm(2, use_bias=False), BN_STATE, "a scale and a bias or neither.*use_bias=False"),
    "in reverse": (LSTM(3, reverse=True), LSTM_STATE, "expected reverse=False"),
    "no layer of PyTorch's": (LayerNormLSTM(3), LSTM_STATE, "expected LinearChainCRF, LSTM.*got LayerNormLSTM"),
    "two of them": (Bidirectional(partial(LayerNormLSTM, 3)), LSTM_STATE, "got Bidirectional"),
    "no state dict": (LSTM(3), [1, 2], "expected a state dict or the path.*got list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(case):
    module, state, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        from_torch(module, state)


def test_arguments_of_other_layers_are_refused():
    for convert, source in ((from_torch, CRF_STATE), (to_torch, {})):
        with pytest.raises(ValueError, match="of LSTM and Bidirectional only, got layer=0"):
            convert(LinearChainCRF(3), source, layer=0)
        with pytest.raises(ValueError, match="got layer=-1"):
            convert(LSTM(3), source, layer=-1)
        with pytest.raises(ValueError, match="of ResNet only, got zero_channels='after'"):
            convert(LinearChainCRF(3), source, zero_channels="after")
        with pytest.raises(ValueError, match=r"expected zero_channels='after' or 'around'.*got None"):
            convert(ResNet(1), source)


def test_errors_name_keys_with_their_prefix():
    state = {f"crf.{name}": value for name, value in CRF_STATE.items()} | {"linear.weight": np.zeros((3, 8), np.float32)}
    assert from_torch(LinearChainCRF(3), state, prefix="crf.")["params"]["transitions"].shape == (3, 3)
    with pytest.raises(ValueError, match=r"missing: end_transitions, transitions; unknown: crf\.start_transitions"):
        from_torch(LinearChainCRF(3), state | {"start_transitions": np.zeros(3)})
    with pytest.raises(ValueError, match=r"crf\.start_transitions: expected shape \(2,\)"):
        from_torch(LinearChainCRF(2), state, prefix="crf.")


def test_a_resnet_of_another_depth_is_named():
    state = to_torch(ResNet(2), random_variables(ResNet(2)), zero_channels="after")
    with pytest.raises(ValueError, match=r"and 31 more; unknown: layer1\.1\.conv1\.weight.* and 30 more$") as caught:
        from_torch(ResNet(1), state, zero_channels="after")
    assert len(str(caught.value)) < 400


def test_variables_that_do_not_fit_are_named():
    variables = drawn(*LAYERS["lstm"])
    with pytest.raises(ValueError, match=r"to_torch\(LSTM\): params/input_kernel: expected shape \(D, 16\), got \(5, 12\)$"):
        to_torch(LSTM(4), variables)
    with pytest.raises(ValueError, match=r"missing: params/input_kernel, .*unknown: bias, input_kernel"):
        to_torch(LSTM(3), variables["params"])
    with pytest.raises(ValueError, match="missing: batch_stats/mean, batch_stats/var"):
        to_torch(BatchNorm(), {"params": drawn(*LAYERS["gn"])["params"]})
    with pytest.raises(ValueError, match="expected variables, a dict with params, got ArrayImpl"):
        to_torch(LSTM(3), jnp.zeros(3))


# ----------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "pytorch_model.bin", "model.th", "model"])
def test_pickles_are_refused_unread(name, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"expected a \.safetensors file, since a pickle can run code.*save_file") as caught:
        from_torch(LinearChainCRF(3), tmp_path / name)
    assert "\n" not in str(caught.value)
    renamed = tmp_path / "renamed.safetensors"
    (tmp_path / name).rename(renamed)
    with pytest.raises(ValueError, match=r"renamed\.safetensors is damaged: expected safetensors"):
        from_torch(LinearChainCRF(3), str(renamed))
    assert not (tmp_path / "ran").exists()


def test_files_that_cannot_be_read_or_written_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        read_safetensors(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"model\.pt: expected a path that ends in \.safetensors"):
        write_safetensors(tmp_path / "model.pt", CRF_STATE)
    with pytest.raises(StorageError, match=r"could not write .*model\.safetensors"):
        write_safetensors(tmp_path / "missing" / "model.safetensors", CRF_STATE)
    save_file(CRF_STATE, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        (tmp_path / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
            read_safetensors(tmp_path / "model.safetensors")


def test_views_are_written_as_they_read(tmp_path):
    value = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    state = {"transposed": value.T, "sliced": value[:, ::2], "scalar": np.array(3, np.int64)}
    write_safetensors(tmp_path / "model.safetensors", state)
    for name, read in read_safetensors(tmp_path / "model.safetensors").items():
        assert read.dtype == state[name].dtype
        np.testing.assert_array_equal(read, state[name])


def test_neither_pytorch_nor_safetensors_is_imported_before_it_is_needed():
    program = "import sys, colnorm.convert; assert not {'torch', 'safetensors'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True)
