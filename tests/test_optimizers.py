"""SGD against a loop in float64 NumPy, and learning rates at the very steps where they change."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optimizer_cases import STEPS, draw, gradients, run

from colnorm import optimizers


def reference(
    rate=lambda step: 0.1,
    momentum=0.9,
    nesterov=False,
    weight_decay=0.0,
    decay_vectors=True,
    clip_global_norm=None,
    gate_multiplier=1.0,
    norm_bias_multiplier=1.0,
):
    """The parameters after each step, by the definition in float64."""
    params = {(a, b): p.astype(np.float64) for a, inner in draw(0).items() for b, p in inner.items()}
    buffers = {name: np.zeros_like(p) for name, p in params.items()}
    seen = []
    for step in range(STEPS):
        grads = {(a, b): g.astype(np.float64) for a, inner in gradients(step).items() for b, g in inner.items()}
        norm = math.sqrt(sum(np.sum(g**2) for g in grads.values()))
        if clip_global_norm is not None and norm > clip_global_norm:
            grads = {name: g * clip_global_norm / norm for name, g in grads.items()}
        for name, p in params.items():
            is_gate = name[1] == "gate"
            decays = (decay_vectors or p.ndim > 1) and not (is_gate and gate_multiplier != 1)
            g = grads[name] + weight_decay * p * decays
            buffers[name] = momentum * buffers[name] + g
            direction = g + momentum * buffers[name] if nesterov else buffers[name]
            times = gate_multiplier if is_gate else norm_bias_multiplier if name == ("norm", "bias") else 1
            params[name] = p - rate(step) * times * direction
        seen.append(dict(params))
    return seen


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.0},
        {"nesterov": True},
        {"momentum": 0.0, "weight_decay": 0.1},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decay_vectors": False},
        {"clip_global_norm": 5.0},
        {"clip_global_norm": 5.0, "weight_decay": 0.1},
        {"gate_multiplier": 10.0},
        {"gate_multiplier": 10.0, "weight_decay": 0.1},
        {"norm_bias_multiplier": 4.0, "gate_multiplier": 3.0, "nesterov": True},
        {"norm_bias_multiplier": 4.0, "weight_decay": 0.1},
        {
            "momentum": 0.5,
            "nesterov": True,
            "weight_decay": 0.1,
            "decay_vectors": False,
            "clip_global_norm": 5.0,
            "gate_multiplier": 3.0,
        },
    ],
    ids=lambda options: "-".join(options) or "defaults",
)
def test_sgd_is_its_definition(options):
    expected = reference(**options)
    for step, params in enumerate(run(optimizers.sgd(optimizers.constant(0.1), **options))):
        for (outer, inner), value in expected[step].items():
            name = f"{outer}/{inner} after step {step}"
            np.testing.assert_allclose(params[outer][inner], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_muon_is_its_definition():
    """Singular values, in float64, sent through the quintic that five Newton-Schulz steps are on each of them."""
    momentum, decay = 0.8, 0.1
    steps = run(
        optimizers.muon(
            optimizers.step_decay(0.3, 0.1, (1,), 3),
            optimizers.sgd(optimizers.constant(0.1)),
            momentum=momentum,
            weight_decay=decay,
        )
    )
    others = reference()
    kernel, moment = draw(0)["conv"]["kernel"].astype(np.float64).reshape(-1, 4), np.zeros((18, 4))
    for number, params in enumerate(steps):
        gradient = gradients(number)["conv"]["kernel"].astype(np.float64).reshape(-1, 4)
        moment = momentum * moment + (1 - momentum) * gradient
        ahead = momentum * moment / (1 - momentum ** (number + 2)) + (1 - momentum) * gradient / (1 - momentum ** (number + 1))
        left, values, right = np.linalg.svd(ahead, full_matrices=False)
        values = values / np.sqrt(np.sum(values**2))
        for _ in range(5):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        assert values.min() > 0.6 and values.max() < 1.3
        rate = 0.3 if number < 3 else 0.03
        kernel = kernel - rate * (left * values @ right + decay * kernel)
        np.testing.assert_allclose(params["conv"]["kernel"].reshape(-1, 4), kernel, rtol=1e-4, atol=1e-5)
        for (outer, inner), value in others[number].items():
            if outer != "conv":
                np.testing.assert_allclose(params[outer][inner], value, rtol=1e-5, atol=1e-5, err_msg=f"{outer}/{inner}")


def test_muon_takes_longer_steps_where_more_comes_out_than_goes_in():
    tx = optimizers.muon(optimizers.constant(1.0), optimizers.sgd(optimizers.constant(1.0)))
    for outs in (1, 2, 8):
        params = {"kernel": jnp.zeros((1, 1, 2, outs))}
        updates, _ = tx.update({"kernel": jnp.asarray(np.eye(2, outs)[None, None])}, tx.init(params), params)
        values = np.linalg.svd(updates["kernel"][0, 0], compute_uv=False)
        low, high = np.array([0.65, 1.25]) * max(1, outs / 2) ** 0.5
        assert low < values.min() and values.max() < high, outs


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-6, 1e6, 1e15])
def test_muon_heeds_no_length(scale):
    """Its steps are as long for any gradient that isn't lost to float32, and none for none."""
    tx = optimizers.muon(optimizers.constant(1.0), optimizers.sgd(optimizers.constant(1.0)))
    gradient = jax.tree.map(jnp.asarray, {"kernel": gradients(1)["conv"]["kernel"]})
    params = jax.tree.map(jnp.zeros_like, gradient)
    expected, _ = tx.update(gradient, tx.init(params), params)
    updates, _ = tx.update(jax.tree.map(lambda g: scale * g, gradient), tx.init(params), params)
    if scale == 0:
        assert not np.any(updates["kernel"])
    elif scale > 1e-8:
        np.testing.assert_allclose(updates["kernel"], expected["kernel"], rtol=2e-3, atol=2e-3)
    else:
        assert np.all(np.isfinite(updates["kernel"]))


def test_sgd_follows_the_schedule():
    tx = optimizers.sgd(optimizers.step_decay(0.2, 0.1, (1, 2), 2), weight_decay=0.1)
    expected = reference(rate=lambda step: 0.2 * 0.1 ** min(step // 2, 2), weight_decay=0.1)
    for params, values in zip(run(tx), expected, strict=True):
        for (outer, inner), value in values.items():
            np.testing.assert_allclose(params[outer][inner], value, rtol=1e-5, atol=1e-5)


def test_decay_shrinks_what_has_no_gradient():
    """optax.chain(sgd, add_decayed_weights), in that order, makes it grow."""
    tx = optimizers.sgd(optimizers.constant(0.5), momentum=0.0, weight_decay=0.1)
    params = {"kernel": jnp.full((2, 2), 3.0)}
    updates, _ = tx.update({"kernel": jnp.zeros((2, 2))}, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.5 * 0.1 * 3.0, rtol=1e-6)


def test_clipping_leaves_short_gradients_alone():
    tx = optimizers.sgd(optimizers.constant(1.0), momentum=0.0, clip_global_norm=5.0)
    params = {"a": jnp.zeros(1), "b": jnp.zeros((1, 1))}
    for gradient, expected in [((3.0, 4.0), (-3.0, -4.0)), ((6.0, 8.0), (-3.0, -4.0)), ((0.0, 0.0), (0.0, 0.0))]:
        given = {"a": jnp.full(1, gradient[0]), "b": jnp.full((1, 1), gradient[1])}
        updates, _ = tx.update(given, tx.init(params), params)
        np.testing.assert_allclose([updates["a"][0], updates["b"][0, 0]], expected, rtol=1e-6)


# -------------------------------------------------------------------------------------------------------------------- schedules

STEPS_PER_EPOCH = 313


@pytest.fixture(params=["python", "jit"])
def at(request):
    """Evaluates a schedule at a step, as the training record does and as the compiled step does."""
    if request.param == "python":
        return lambda schedule, step: float(schedule(step))
    return lambda schedule, step: float(jax.jit(schedule)(jnp.asarray(step, jnp.int32)))


def test_constant(at):
    for step in (0, 1, 10**6):
        assert at(optimizers.constant(0.3), step) == pytest.approx(0.3)


def test_step_decay_keeps_the_full_rate_through_the_epochs_before(at):
    schedule = optimizers.step_decay(1.0, 0.1, (50, 75), STEPS_PER_EPOCH)
    for first, last, rate in [(0, 50, 1.0), (50, 75, 0.1), (75, 100, 0.01)]:
        assert at(schedule, first * STEPS_PER_EPOCH) == pytest.approx(rate)
        assert at(schedule, last * STEPS_PER_EPOCH - 1) == pytest.approx(rate)


def test_step_decay_with_nowhere_to_drop_is_constant(at):
    assert at(optimizers.step_decay(0.5, 0.1, (), STEPS_PER_EPOCH), 10**6) == 0.5


def test_decay_per_epoch_is_a_staircase(at):
    schedule = optimizers.decay_per_epoch(1.0, 0.96, STEPS_PER_EPOCH)
    for epoch in (0, 1, 2, 39, 99):
        for step in (epoch * STEPS_PER_EPOCH, (epoch + 1) * STEPS_PER_EPOCH - 1):
            assert at(schedule, step) == pytest.approx(0.96**epoch, rel=1e-5)


def test_warmup_cosine_rises_to_its_peak_and_ends_at_zero(at):
    schedule = optimizers.warmup_cosine(0.2, 5, 100, STEPS_PER_EPOCH)
    warmup, total = 5 * STEPS_PER_EPOCH, 100 * STEPS_PER_EPOCH
    assert at(schedule, 0) == 0
    assert at(schedule, 1) == pytest.approx(0.2 / warmup)
    assert at(schedule, warmup // 5) == pytest.approx(0.2 / 5)
    assert at(schedule, warmup) == pytest.approx(0.2)
    for share in (0.25, 0.5, 0.75):
        step = round(warmup + share * (total - warmup))
        angle = math.pi * (step - warmup) / (total - warmup)
        assert at(schedule, step) == pytest.approx(0.1 * (1 + math.cos(angle)), rel=1e-4)
    assert 0 < at(schedule, total - 1) < 1e-8
    assert [at(schedule, step) for step in (total, total + 7)] == pytest.approx([0, 0], abs=1e-12)


def test_warmup_cosine_without_warmup_starts_at_the_peak(at):
    assert at(optimizers.warmup_cosine(0.2, 0, 2, 10), 0) == pytest.approx(0.2)
    assert at(optimizers.warmup_cosine(0.2, 0.5, 2, 10), 5) == pytest.approx(0.2)


@pytest.mark.parametrize(("warmup", "epochs"), [(5, 5), (5, 3), (-1, 3)])
def test_a_warmup_must_end_before_the_training(warmup, epochs):
    with pytest.raises(ValueError, match=rf"a warm-up of {warmup} epochs doesn't fit into {epochs}"):
        optimizers.warmup_cosine(0.2, warmup, epochs, 10)


def test_a_warmup_may_round_up_to_the_whole_training():
    """Evaluation builds the optimizer anew, as if an epoch had one step."""
    assert float(optimizers.warmup_cosine(0.2, 0.6, 1, 1)(0)) == 0


def test_adam_spares_vectors_from_decay_unless_told():
    """Gradients are equal, so that what differs is the decay alone: of kernels always, of vectors when asked for."""
    runs = {
        decay_vectors: run(optimizers.adam(optimizers.constant(0.01), weight_decay=0.5, decay_vectors=decay_vectors))
        for decay_vectors in (False, True)
    }
    plain = run(optimizers.adam(optimizers.constant(0.01)))[0]
    for path, undecayed in jax.tree_util.tree_leaves_with_path(plain):
        names = [key.key for key in path]
        first = {flag: runs[flag][0][names[0]][names[1]] for flag in runs}
        decays = {False: np.ndim(undecayed) > 1, True: True}
        for flag, value in first.items():
            before = draw(0)[names[0]][names[1]]
            expected = undecayed - 0.01 * 0.5 * before if decays[flag] else undecayed
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6, err_msg=f"{names} {flag}")
