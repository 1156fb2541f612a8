"""SGD, Adam and Muon against torch.optim's SGD, AdamW and Muon, step by step, with clipping and schedules."""

import jax
import numpy as np
import pytest
from optimizer_cases import STEPS, draw, gradients, run

from colnorm import optimizers

torch = pytest.importorskip("torch")


def run_torch(
    rate, make_schedulers=None, clip_global_norm=None, steps_per_epoch=1, optimizer=torch.optim.SGD, faster=None, **options
):
    """The parameters after each step; ``faster`` are names of one, and how many times the others' its rate is."""
    params = [torch.nn.Parameter(torch.tensor(leaf)) for leaf in jax.tree.leaves(draw(0))]
    names, times = faster or ((), 1)
    paths = [tuple(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(draw(0))]
    groups = [
        {"params": [param], "lr": rate * (times if path == names else 1)} for path, param in zip(paths, params, strict=True)
    ]
    optimizer = optimizer(groups, rate, **options)
    scheduler = None if make_schedulers is None else make_schedulers(optimizer)
    seen = []
    for step in range(STEPS):
        for param, gradient in zip(params, jax.tree.leaves(gradients(step)), strict=True):
            param.grad = torch.tensor(gradient)
        if clip_global_norm is not None:
            torch.nn.utils.clip_grad_norm_(params, clip_global_norm)
        optimizer.step()
        if scheduler is not None and (step + 1) % steps_per_epoch == 0:
            scheduler.step()
        seen.append([param.detach().numpy().copy() for param in params])
    return seen


def assert_same(ours, theirs, **tolerance):
    for step, (params, expected) in enumerate(zip(ours, theirs, strict=True)):
        for leaf, value in zip(jax.tree.leaves(params), expected, strict=True):
            np.testing.assert_allclose(leaf, value, err_msg=f"after step {step}", **tolerance)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.0},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.0, "weight_decay": 0.1},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items()),
)
def test_sgd(options):
    assert_same(run(optimizers.sgd(optimizers.constant(0.1), **options)), run_torch(0.1, **options), rtol=1e-5, atol=1e-6)


def test_a_norms_bias_is_a_parameter_group_with_a_rate_of_its_own():
    options = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    ours = run(optimizers.sgd(optimizers.constant(0.1), norm_bias_multiplier=4.0, **options))
    assert_same(ours, run_torch(0.1, faster=(("norm", "bias"), 4), **options), rtol=1e-5, atol=1e-6)


def test_clipping():
    """PyTorch adds 1e-6 to the norm that it divides by."""
    ours = run(optimizers.sgd(optimizers.constant(0.1), weight_decay=0.1, clip_global_norm=5.0))
    theirs = run_torch(0.1, momentum=0.9, weight_decay=0.1, clip_global_norm=5.0)
    assert_same(ours, theirs, rtol=1e-5, atol=1e-5)


def test_decay_per_epoch_is_exponential_lr():
    ours = run(optimizers.sgd(optimizers.decay_per_epoch(0.5, 0.7, 2), weight_decay=0.1))
    theirs = run_torch(
        0.5,
        lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7),
        steps_per_epoch=2,
        momentum=0.9,
        weight_decay=0.1,
    )
    assert_same(ours, theirs, rtol=1e-5, atol=1e-5)


def test_step_decay_is_multi_step_lr():
    ours = run(optimizers.sgd(optimizers.step_decay(0.5, 0.1, (1, 3), 2)))
    theirs = run_torch(
        0.5,
        lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3], 0.1),
        steps_per_epoch=2,
        momentum=0.9,
    )
    assert_same(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "b1": 0.5, "b2": 0.9, "epsilon": 1e-3}, {"clip_global_norm": 5.0}],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items()) or "plain",
)
def test_adam(options):
    ours = run(optimizers.adam(optimizers.constant(0.01), decay_vectors=True, **options))
    theirs = run_torch(
        0.01,
        clip_global_norm=options.get("clip_global_norm"),
        optimizer=torch.optim.AdamW,
        betas=(options.get("b1", 0.9), options.get("b2", 0.999)),
        eps=options.get("epsilon", 1e-8),
        weight_decay=options.get("weight_decay", 0.0),
    )
    assert_same(ours, theirs, rtol=1e-5, atol=1e-5 if "clip_global_norm" in options else 1e-6)


@pytest.mark.parametrize("shape", [(3, 3, 16, 32), (3, 3, 3, 16), (1, 1, 4, 16), (3, 3, 1, 40)], ids=str)
@pytest.mark.parametrize("options", [{"momentum": 0.0}, {"momentum": 0.9}, {"momentum": 0.95, "weight_decay": 0.1}], ids=str)
def test_muon(options, shape, monkeypatch):
    """PyTorch's works in bfloat16, and doesn't correct the bias of its first moments: steps without gradient wear that off."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal(shape).astype(np.float32)
    flat = torch.nn.Parameter(torch.tensor(kernel.reshape(-1, shape[-1]).T.copy()))
    optimizer = torch.optim.Muon([flat], 0.1, **{"weight_decay": 0.0, **options})
    tx = optimizers.muon(optimizers.constant(0.1), optimizers.sgd(optimizers.constant(0.1)), **options)
    update = jax.jit(tx.update)
    params = {"kernel": kernel}
    state = tx.init(params)
    for step in range(206):
        gradient = (step >= 200) * rng.standard_normal(shape).astype(np.float32)
        flat.grad = torch.tensor(gradient.reshape(-1, shape[-1]).T.copy())
        optimizer.step()
        updates, state = update({"kernel": gradient}, state, params)
        params = jax.tree.map(np.add, params, updates)
    theirs = flat.detach().numpy().T.reshape(shape)
    np.testing.assert_allclose(params["kernel"], theirs, rtol=1e-4, atol=1e-4)
    assert np.max(np.abs(theirs - kernel)) > 0.05
