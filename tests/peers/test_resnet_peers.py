"""The whole residual network against one built of PyTorch's functions, with the same weights."""

import jax
import numpy as np
import pytest
from resnet_cases import loss_and_gradients, random_images, random_variables, resnet

torch = pytest.importorskip("torch")
functional = torch.nn.functional

EPSILON = 1e-5


def to_torch(path, leaf):
    """Kernels HWIO -> OIHW and (in, out) -> (out, in); running statistics are no parameters."""
    tensor = torch.tensor(np.asarray(leaf))
    if path[-1].key == "kernel":
        tensor = tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.T
    return tensor.contiguous().requires_grad_(path[0].key == "params")


def from_torch(path, tensor):
    """The gradient of a parameter, laid out as ours."""
    gradient = tensor.grad
    if path[-1].key == "kernel":
        gradient = gradient.permute(2, 3, 1, 0) if gradient.ndim == 4 else gradient.T
    return gradient.numpy()


def torch_norm(kind, x, params, stats, train):
    if kind == "nn":
        return x
    scale, bias = (params[name] for name in ("scale", "bias"))
    if kind == "bn":
        return functional.batch_norm(x, stats["mean"], stats["var"], scale, bias, train, 0.1, EPSILON)
    if kind == "in":
        return functional.instance_norm(x, weight=scale, bias=bias, eps=EPSILON)
    if kind == "gn":
        return functional.group_norm(x, 16, scale, bias, EPSILON)
    if kind == "ln":
        y = functional.layer_norm(x, x.shape[1:], eps=EPSILON)
    else:
        gate = params["gate"][:, None, None]
        batch = functional.batch_norm(x, stats["mean"], stats["var"], training=train, momentum=0.1, eps=EPSILON)
        y = gate * batch + (1 - gate) * functional.instance_norm(x, eps=EPSILON)
    return y * scale[:, None, None] + bias[:, None, None]


def torch_resnet(kind, variables, x, n, train, placement):
    """(N, 3, H, W) -> logits; He et al. 2016, section 4.2, or with each block's second norm after the addition."""
    all_stats = variables.get("batch_stats", {})

    def conv(x, params, suffix, stride=1):
        kernel = params[f"conv{suffix}"]
        return functional.conv2d(x, kernel["kernel"], kernel.get("bias"), stride=stride, padding=1)

    def norm(x, params, stats, suffix):
        return torch_norm(kind, x, params.get(f"norm{suffix}"), stats.get(f"norm{suffix}"), train)

    params = variables["params"]
    x = torch.relu(norm(conv(x, params, ""), params, all_stats, ""))
    for stage in (1, 2, 3):
        for block in range(1, n + 1):
            name = f"stage{stage}_block{block}"
            block_params, stats = params[name], all_stats.get(name, {})
            stride = 2 if stage > 1 and block == 1 else 1
            y = torch.relu(norm(conv(x, block_params, "1", stride), block_params, stats, "1"))
            y = conv(y, block_params, "2")
            if stride == 2:
                x = x[:, :, ::2, ::2]
                x = torch.cat([x, torch.zeros_like(x)], dim=1)
            if placement == "after_addition":
                x = torch.relu(norm(x + y, block_params, stats, "2"))
            else:
                x = torch.relu(x + norm(y, block_params, stats, "2"))
    classifier = params["classifier"]
    return functional.linear(x.mean(dim=(2, 3)), classifier["kernel"], classifier["bias"])


def compare(kind, n, train, dtype, size, check, placement="before_addition"):
    """Calls check(name, ours, PyTorch's) on logits, loss, every gradient and every running statistic."""
    model, shape = resnet(kind, n, norm_placement=placement), (6, size, size + 2, 3)
    variables = random_variables(model, (1, *shape[1:]), dtype=dtype)
    images, labels = random_images(shape, dtype), np.array([0, 3, 9, 1, 5, 3])
    (loss, (logits, stats)), gradients = loss_and_gradients(model, variables, images, labels, train=train)

    peer = jax.tree_util.tree_map_with_path(to_torch, variables)
    peer_logits = torch_resnet(kind, peer, torch.tensor(images).permute(0, 3, 1, 2), n, train, placement)
    peer_loss = functional.cross_entropy(peer_logits, torch.tensor(labels))
    peer_loss.backward()
    check("logits", logits, peer_logits.detach().numpy())
    check("loss", loss, peer_loss.item())
    assert jax.tree.structure(gradients) == jax.tree.structure(peer["params"])
    for path, tensor in jax.tree_util.tree_leaves_with_path({"params": peer["params"]}):
        gradient = gradients
        for key in path[1:]:
            gradient = gradient[key.key]
        check(jax.tree_util.keystr(path), gradient, from_torch(path, tensor))

    for path, tensor in jax.tree_util.tree_leaves_with_path(peer.get("batch_stats", {})):
        ours, before = stats, variables["batch_stats"]
        for key in path:
            ours, before = ours[key.key], before[key.key]
        if path[-1].key == "var" and train:  # PyTorch's is unbiased: n / (n - 1) of the batch's part
            halvings = max(int(path[0].key[5]) - 1, 0) if path[0].key != "norm" else 0
            count = shape[0] * np.prod([-(-side // 2**halvings) for side in shape[1:3]])
            ours = 0.9 * np.asarray(before) + (np.asarray(ours) - 0.9 * np.asarray(before)) * count / (count - 1)
        check(jax.tree_util.keystr(path), ours, tensor.numpy())


MODES = [(kind, train) for kind in ("nn", "bn", "bin", "in", "ln", "gn") for train in (True, False)]
MODES = [(kind, train) for kind, train in MODES if train or kind in ("nn", "bn", "bin")]  # the rest has one mode


@pytest.mark.parametrize(("kind", "train"), MODES)
def test_logits_loss_and_gradients_are_pytorchs_in_float64(kind, train, x64):
    def check(name, ours, expected):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9, err_msg=name)

    compare(kind, 1, train, np.float64, 10, check)


@pytest.mark.parametrize(("kind", "train"), [case for case in MODES if case[0] != "nn"])
def test_with_the_norm_after_the_addition_it_is_pytorchs(kind, train, x64):
    def check(name, ours, expected):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9, err_msg=name)

    compare(kind, 1, train, np.float64, 10, check, "after_addition")


@pytest.mark.parametrize("kind", ["bn", "gn"])
def test_logits_loss_and_gradients_are_pytorchs_in_float32(kind):
    def check(name, ours, expected):
        # Relative to the array's largest entry: long sums in another order, through eight layers and back.
        scale = np.abs(expected).max()
        np.testing.assert_allclose(np.asarray(ours) / scale, expected / scale, rtol=0, atol=1e-4, err_msg=name)

    compare(kind, 1, True, np.float32, 10, check)


def test_two_blocks_a_stage_are_pytorchs(x64):
    def check(name, ours, expected):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9, err_msg=name)

    compare("nn", 2, True, np.float64, 8, check)
