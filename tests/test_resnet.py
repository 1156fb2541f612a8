"""The residual network: its parameters and parts, and the same function by Flax's batch norm, on devices, in dtypes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from resnet_cases import (
    NORMALIZATIONS,
    cross_entropy,
    loss_and_gradients,
    random_images,
    random_variables,
    resnet,
    shapes_of,
)

from colnorm import ResNet
from colnorm.resnet import ResidualBlock

IMAGES, LABELS = random_images((4, 8, 8, 3)), np.array([0, 3, 9, 1])
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
# Gradients take long to compile.
BN_AND_SLOW_OTHERS = [name if name == "bn" else pytest.param(name, marks=pytest.mark.slow) for name in NORMALIZATIONS]


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def names(tree):
    return {"/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


# --------------------------------------------------------------------------------------------------- parameters, shapes


@pytest.mark.parametrize(("n", "expected"), [(1, 75_290), (2, 172_506), (3, 269_722), (9, 853_018)])
@pytest.mark.parametrize("normalization", ["bn", "in", "ln", "gn", "flax_bn"])
def test_parameter_count(n, expected, normalization):
    variables = shapes_of(ResNet(n, normalization=normalization))
    assert count(variables["params"]) == expected
    channels = (2 * n + 1) * 16 + 2 * n * (32 + 64)
    assert count(variables.get("batch_stats", {})) == (2 * channels if "bn" in normalization else 0)


@pytest.mark.parametrize("n", [1, 3])
def test_parameter_count_with_gates_and_without_normalization(n):
    channels = (2 * n + 1) * 16 + 2 * n * (32 + 64)
    with_scale_and_bias = count(shapes_of(resnet("bn", n))["params"])
    assert count(shapes_of(resnet("bin", n))["params"]) == with_scale_and_bias + channels
    plain = shapes_of(resnet("nn", n))
    assert set(plain) == {"params"}
    assert count(plain["params"]) == with_scale_and_bias - channels


@pytest.mark.parametrize("num_classes", [1, 2, 100])
def test_parameter_count_with_other_outputs(num_classes):
    shapes = shapes_of(ResNet(1, num_classes))
    assert count(shapes["params"]) == 75_290 + 65 * (num_classes - 10)
    assert shapes["params"]["classifier"]["kernel"].shape == (64, num_classes)


def test_convolutions_have_biases_only_without_normalization():
    plain, normalized = names(shapes_of(resnet("nn"))["params"]), names(shapes_of(resnet("bn"))["params"])
    assert not any("norm" in name for name in plain)
    assert {name for name in plain if "conv" in name and "bias" in name} == {
        name.replace("kernel", "bias") for name in plain if "conv" in name and "kernel" in name
    }
    assert not any("conv" in name and "bias" in name for name in normalized)
    assert {"conv/kernel", "norm/scale", "stage1_block1/norm2/bias", "stage3_block1/conv1/kernel"} <= normalized


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(("height", "width", "channels"), [(32, 32, 3), (28, 28, 1), (9, 14, 4), (4, 4, 3)])
def test_features_have_the_documented_names_and_shapes(n, height, width, channels):
    model, shape = ResNet(n), (2, height, width, channels)
    logits, features = jax.eval_shape(
        lambda v, x: model.apply(v, x, return_features=True), shapes_of(model, shape), jax.ShapeDtypeStruct(shape, "f4")
    )
    assert logits.shape == (2, 10)
    halves = [(height, width)]
    for _ in range(2):
        halves.append(tuple((size + 1) // 2 for size in halves[-1]))
    expected = {"stem": (2, *halves[0], 16)}
    for stage in (1, 2, 3):
        for block in range(1, n + 1):
            expected[f"stage{stage}_block{block}"] = (2, *halves[stage - 1], 8 * 2**stage)
    expected |= {"last_preactivation": (2, *halves[2], 64), "pooled": (2, 64)}
    assert {name: leaf.shape for name, leaf in features.items()} == expected


def test_features_are_what_the_network_computes():
    model = resnet("bn", 2)
    variables = random_variables(model)
    logits, features = jax.jit(partial(model.apply, return_features=True))(variables, IMAGES)
    close(logits, jax.jit(model.apply)(variables, IMAGES))
    last = features["last_preactivation"]
    assert (last < 0).any()
    np.testing.assert_array_equal(np.maximum(last, 0), features["stage3_block2"])
    close(features["pooled"], np.mean(features["stage3_block2"], axis=(1, 2)))
    classifier = variables["params"]["classifier"]
    close(logits, np.asarray(features["pooled"]) @ np.asarray(classifier["kernel"]) + np.asarray(classifier["bias"]))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_placement_of_the_norm_changes_no_parameter(normalization):
    before, after = (shapes_of(resnet(normalization, norm_placement=f"{place}_addition")) for place in ("before", "after"))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), before) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), after
    )


@pytest.mark.slow
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_after_the_addition_a_norm_stands_before_every_activation(normalization):
    """What enters the last relu is then normalized: batch norm's mean and variance are its bias and squared scale."""
    model = resnet(normalization, norm_placement="after_addition")
    variables = random_variables(model)
    apply = partial(model.apply, train=True, return_features=True, mutable=["batch_stats"])
    with jax.numpy_dtype_promotion("standard"):
        (_, features), _ = jax.jit(apply)(variables, IMAGES)
        he = partial(resnet(normalization).apply, train=True, return_features=True, mutable=["batch_stats"])
        (_, he_features), _ = jax.jit(he)(variables, IMAGES)
    last = np.asarray(features["last_preactivation"])
    if normalization == "nn":  # both are the same function
        np.testing.assert_array_equal(last, he_features["last_preactivation"])
        return
    assert not np.allclose(last, he_features["last_preactivation"])
    if normalization in ("bn", "flax_bn"):
        norm = variables["params"]["stage3_block1"]["norm2"]
        np.testing.assert_allclose(last.mean((0, 1, 2)), norm["bias"], atol=1e-5)
        np.testing.assert_allclose(last.std((0, 1, 2)), norm["scale"], rtol=1e-3)


@pytest.mark.parametrize("normalization", BN_AND_SLOW_OTHERS)
def test_with_zero_residual_blocks_that_keep_their_channels_begin_as_their_shortcuts(normalization):
    model, plain = resnet(normalization, 2, zero_residual=True), resnet(normalization, 2)
    images = random_images((4, 32, 32, 3))  # large enough that every channel is active somewhere
    with jax.numpy_dtype_promotion("standard"):
        ours, theirs = (jax.jit(each.init)(jax.random.key(0), images) for each in (model, plain))
        _, features = jax.jit(partial(model.apply, return_features=True))(ours, images)
        _, gradients = loss_and_gradients(model, ours, images, LABELS)
    for stage in (1, 2, 3):
        np.testing.assert_array_equal(features[f"stage{stage}_block2"], features[f"stage{stage}_block1"])
    np.testing.assert_array_equal(features["stage1_block1"], features["stem"])
    # Nothing else begins otherwise.
    last = ("conv2", "kernel") if normalization == "nn" else ("norm2", "scale")
    kept = {"stage1_block1", "stage1_block2", "stage2_block2", "stage3_block2"}
    for (path, leaf), before in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        keys = tuple(key.key for key in path)
        is_zero = keys[-2:] == last and keys[-3] in kept
        np.testing.assert_array_equal(leaf, np.zeros_like(before) if is_zero else before, err_msg=str(keys))
    # Every channel of every last layer can learn: none is 0 for every image, where a relu has no gradient.
    for name, block in gradients.items():
        if name.startswith("stage"):
            gradient = np.asarray(block[last[0]][last[1]])
            assert (np.abs(gradient).reshape(-1, gradient.shape[-1]).max(0) > 0).all(), name


def test_zero_residual_after_the_addition_is_refused():
    with pytest.raises(ValueError, match="zero_residual needs norm_placement='before_addition'"):
        shapes_of(resnet("bn", zero_residual=True, norm_placement="after_addition"))


def test_groups_are_those_that_were_asked_for():
    variables = random_variables(resnet("gn"))
    of_two, of_sixteen = (jax.jit(resnet("gn", num_groups=groups).apply)(variables, IMAGES) for groups in (2, 16))
    assert not np.allclose(of_two, of_sixteen)
    np.testing.assert_array_equal(of_sixteen, jax.jit(resnet("gn").apply)(variables, IMAGES))


# --------------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7)])
def test_a_halving_blocks_shortcut_takes_every_second_pixel_and_appends_zero_channels(height, width):
    x = jnp.asarray(random_images((2, height, width, 16)))
    block = ResidualBlock(32, 2, None)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)
    assert names(shapes) == {f"params/conv{i}/{leaf}" for i in (1, 2) for leaf in ("kernel", "bias")}
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)  # so that only the shortcut is left
    y = np.asarray(block.apply(zeros, x))
    np.testing.assert_array_equal(y[..., :16], x[:, ::2, ::2])
    np.testing.assert_array_equal(y[..., 16:], 0)


def test_an_equal_sized_blocks_shortcut_is_the_identity():
    x = jnp.asarray(random_images((2, 5, 4, 16)))
    block = ResidualBlock(16, 1, None)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(block.init, jax.random.key(0), x))
    np.testing.assert_array_equal(block.apply(zeros, x), x)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_pad_one_pixel_on_both_sides(stride):
    x = random_images((1, 6, 6, 2))
    block = ResidualBlock(2, stride, None)
    kernel = random_images((3, 3, 2, 2), seed=1)
    identity = np.zeros((3, 3, 2, 2), np.float32)
    identity[1, 1] = np.eye(2)
    bias = np.full(2, 100, np.float32)  # the relu in between lets everything pass
    params = {"conv1": {"kernel": kernel, "bias": bias}, "conv2": {"kernel": identity, "bias": -bias}}
    y = block.apply({"params": params}, x) - x[:, ::stride, ::stride]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = range(0, 6, stride)
    expected = np.array([[np.tensordot(padded[0, i : i + 3, j : j + 3], kernel, 3) for j in rows] for i in rows])
    np.testing.assert_allclose(y[0], expected, rtol=1e-4, atol=1e-4)


def test_kernels_are_drawn_with_he_variance_and_the_rest_starts_neutral():
    variables = jax.jit(resnet("bin").init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        name, values = path[-1].key, np.asarray(leaf)
        if name == "kernel" and values.ndim == 4:
            expected = 2 / np.prod(values.shape[:-1])
            # The variance of m draws has a relative deviation of at most sqrt(2 / m): five of them.
            assert abs(values.var() / expected - 1) < 5 * np.sqrt(2 / values.size), path
            assert abs(values.mean()) < 5 * np.sqrt(expected / values.size), path
        elif name != "kernel":
            np.testing.assert_array_equal(values, 1.0 if name in ("scale", "var", "gate") else 0.0)
    kernels = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables) if path[-1].key == "kernel"]
    assert len({float(kernel.ravel()[0]) for kernel in kernels}) == len(kernels)  # each from a key of its own


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("normalization", BN_AND_SLOW_OTHERS)
def test_a_step_has_finite_non_zero_gradients_in_every_parameter_and_lowers_the_loss(normalization):
    model = resnet(normalization)
    variables = random_variables(model)
    (loss, (logits, stats)), gradients = loss_and_gradients(model, variables, IMAGES, LABELS)
    assert logits.shape == (4, 10)
    assert jax.tree.structure(gradients) == jax.tree.structure(variables["params"])
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-7, path
    for name in names(stats):
        assert not np.array_equal(*(_at(tree, name) for tree in (stats, variables["batch_stats"]))), name
    stepped = jax.tree.map(lambda p, g: p - 1e-3 * g, variables["params"], gradients)
    (after, _), _ = loss_and_gradients(model, {**variables, "params": stepped}, IMAGES, LABELS)
    assert after < loss


def _at(tree, name):
    for key in name.split("/"):
        tree = tree[key]
    return tree


@pytest.mark.slow
def test_flaxs_batch_norm_is_the_same_network_over_five_updates():
    ours, flaxs = resnet("bn", 1), resnet("flax_bn", 1)
    variables = random_variables(ours)
    assert jax.tree.structure(variables) == jax.tree.structure(random_variables(flaxs))
    results = []
    for model in (ours, flaxs):
        state, trace = variables, []
        for step in range(5):
            images = random_images((4, 8, 8, 3), seed=step)
            (loss, (logits, stats)), gradients = loss_and_gradients(model, state, images, LABELS)
            trace.append((loss, logits, stats, gradients))
            params = jax.tree.map(lambda p, g: p - 0.01 * g, state["params"], gradients)
            state = {"params": params, "batch_stats": stats}
        trace.append((state, jax.jit(model.apply)(state, IMAGES)))
        results.append(trace)
    jax.tree.map(close, *results)


@pytest.mark.slow
def test_four_devices_are_one():
    images, labels = random_images((8, 8, 8, 3)), np.arange(8)
    whole, split = resnet("bn"), resnet("bn", axis_name="devices")
    variables = random_variables(whole)

    def step(variables, images, labels):
        def loss(params):
            logits, state = split.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
            return cross_entropy(logits, labels), (logits, state["batch_stats"])

        (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return jax.lax.pmean((value, gradients), "devices"), aux

    pieces = images.reshape(4, 2, 8, 8, 3), labels.reshape(4, 2)
    mapped = jax.pmap(step, axis_name="devices", in_axes=(None, 0, 0))(variables, *pieces)
    (loss, gradients), (logits, stats) = jax.device_get(mapped)
    (one_loss, (one_logits, one_stats)), one_gradients = loss_and_gradients(whole, variables, images, labels)
    close(logits.reshape(8, 10), one_logits)
    for device in range(4):
        expected = (one_loss, one_gradients, one_stats)
        jax.tree.map(lambda a, b, i=device: close(a[i], b), (loss, gradients, stats), expected)


# -------------------------------------------------------------------------------------------------- dtypes, jit, errors


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["bn", "gn"])
def test_bfloat16_is_close_to_float32_and_its_logits_are_float32(normalization):
    with jax.numpy_dtype_promotion("standard"):  # nn.Conv promotes its float32 kernel implicitly
        half, single = resnet(normalization, dtype=jnp.bfloat16), resnet(normalization)
        variables = random_variables(single)
        logits, features = jax.jit(partial(half.apply, return_features=True))(variables, IMAGES)
        expected = jax.jit(single.apply)(variables, IMAGES)
    assert logits.dtype == features["pooled"].dtype == jnp.float32
    assert features["stem"].dtype == features["last_preactivation"].dtype == jnp.bfloat16
    # Eight layers, each rounding to 2^-8 of its values.
    assert np.abs(logits - expected).max() < 8 * 2**-8 * np.abs(expected).max()
    assert np.abs(logits - expected).max() > 0


def test_float64_images_give_float64_logits(x64):
    model = ResNet(1, normalization="nn")
    shape = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float64)
    variables = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, jnp.float64), shapes_of(model))
    assert jax.eval_shape(model.apply, variables, shape).dtype == jnp.float64


def test_a_second_step_with_equal_shapes_does_not_compile_again():
    model, traces = resnet("bn"), []
    variables = random_variables(model)

    @jax.jit
    def step(variables, images):
        traces.append(images.shape)
        return model.apply(variables, images, True, mutable=["batch_stats"])

    for seed in range(3):
        _, state = step(variables, random_images(IMAGES.shape, seed=seed))
        variables = {**variables, **state}
    assert len(traces) == 1


def test_evaluation_is_the_default_and_changes_nothing():
    model = resnet("bn")
    variables = random_variables(model)
    np.testing.assert_array_equal(
        jax.jit(model.apply)(variables, IMAGES), jax.jit(partial(model.apply, train=False))(variables, IMAGES)
    )  # without mutable collections: writing to one would raise


@pytest.mark.parametrize(
    ("fields", "shape", "dtype", "message"),
    [
        ({"n": 0}, (1, 8, 8, 3), np.float32, "n and num_classes must be at least 1, got n=0"),
        ({"num_classes": 0}, (1, 8, 8, 3), np.float32, "num_classes=0"),
        ({"normalization": "batch"}, (1, 8, 8, 3), np.float32, "one of nn, bn, in, bin, ln, gn, flax_bn, got 'batch'"),
        ({"norm_placement": "after"}, (1, 8, 8, 3), np.float32, "one of before_addition, after_addition, got 'after'"),
        ({"normalization": "gn", "num_groups": 3}, (1, 8, 8, 3), np.float32, "groups must divide the channels, got 3 groups"),
        ({}, (8, 8, 3), np.float32, r"images \(N, H, W, channels\), got float32 \(8, 8, 3\)"),
        ({}, (1, 8, 8, 3), np.uint8, "floating-point images .* got uint8"),
    ],
)
def test_a_wrong_field_or_input_is_a_value_error(fields, shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**fields).init(jax.random.key(0), jnp.zeros(shape, dtype))
