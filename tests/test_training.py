"""Steps against gradients written out by hand, and the loop over epochs against what it promises."""

import json
from functools import partial
from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from colnorm import BatchNorm, optimizers
from colnorm.data.batching import padded_batches, shuffled_batches
from colnorm.parallel import Sharded, drive_steps
from colnorm.training import (
    Monitor,
    NonFiniteLossError,
    TrainState,
    check_finite,
    create_state,
    eval_step,
    fit,
    take_batch,
    train_step,
)

SIZE = 23


def make_data():
    rng = np.random.default_rng(1)
    return {
        "x": jnp.asarray(rng.standard_normal((SIZE, 3)), jnp.float32),
        "y": jnp.asarray(rng.standard_normal(SIZE), jnp.float32),
    }


class Linear(nn.Module):
    """A linear model that also keeps the sum of its inputs."""

    @nn.compact
    def __call__(self, x):
        total = self.variable("batch_stats", "total", jnp.zeros, ())
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            total.value = total.value + jnp.sum(x)
        return nn.Dense(1, name="dense")(x)[:, 0]


MODEL = Linear()


def make_loss(noise=0.0, calls=None):
    """Squared errors; ``calls`` counts how often it is traced."""

    def loss_fn(variables, batch, key, train):
        if calls is not None:
            calls.append(train)
        predictions, updated = MODEL.apply(variables, batch["x"], mutable=["batch_stats"] if train else [])
        if train and noise:
            keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(batch["positions"])
            predictions = predictions + noise * jax.vmap(jax.random.normal)(keys)
        losses = jnp.square(predictions - batch["y"])
        sums = {"loss": jnp.sum(losses * batch["weights"]), "count": jnp.sum(batch["weights"])}
        return sums, updated.get("batch_stats", {})

    return loss_fn


TX = optimizers.sgd(optimizers.constant(0.05))


def make_state(seed=0, tx=TX):
    return create_state(MODEL, tx, seed, jnp.zeros((1, 3)))


step = jax.jit(partial(train_step, loss_fn=make_loss()))
noisy_step = jax.jit(partial(train_step, loss_fn=make_loss(noise=1.0)))


def assert_same_tree(ours, theirs):
    """Bit for bit; a fresh state's step is a Python int."""
    ours, theirs = (jax.tree_util.tree_leaves_with_path(jax.tree.map(jnp.asarray, tree)) for tree in (ours, theirs))
    for (path, a), (same_path, b) in zip(ours, theirs, strict=True):
        assert path == same_path
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), jax.tree_util.keystr(path)


def assert_close_tree(ours, theirs):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=jax.tree_util.keystr(path))


# ----------------------------------------------------------------------------------------------------------------- steps


def test_a_batch_is_examples_weights_and_positions():
    data = {"x": jnp.arange(12.0).reshape(6, 2), "n": jnp.arange(6)}
    batch = jax.jit(take_batch)(data, jnp.asarray([4, 0, -1, -1]))
    assert batch.keys() == {"x", "n", "weights", "positions"}
    np.testing.assert_array_equal(batch["x"][:2], [[8, 9], [0, 1]])
    np.testing.assert_array_equal(batch["n"][:2], [4, 0])
    assert batch["x"].shape == (4, 2)
    np.testing.assert_array_equal(batch["weights"], [1, 1, 0, 0])
    assert batch["weights"].dtype == jnp.float32
    np.testing.assert_array_equal(batch["positions"], [0, 1, 2, 3])


def test_positions_count_through_all_devices():
    indices = jnp.arange(12).reshape(4, 3)
    batch = jax.pmap(lambda indices: take_batch({"n": jnp.arange(12) * 10}, indices, "devices"), "devices")(indices)
    np.testing.assert_array_equal(batch["positions"], indices)
    np.testing.assert_array_equal(batch["n"], indices * 10)


def test_train_step_is_one_step_on_the_mean_gradient():
    state, data = make_state(), make_data()
    indices = jnp.asarray([3, 1, 20, 7, 11])
    after, sums = step(state, data, indices)

    w, b = (np.asarray(state.params["dense"][name], np.float64) for name in ("kernel", "bias"))
    x, y = (np.asarray(data[name], np.float64)[np.asarray(indices)] for name in ("x", "y"))
    errors = (x @ w)[:, 0] + b - y
    np.testing.assert_allclose(sums["loss"], np.sum(errors**2), rtol=1e-5)
    assert sums["count"] == 5
    np.testing.assert_allclose(
        after.params["dense"]["kernel"][:, 0], w[:, 0] - 0.05 * np.mean(2 * errors[:, None] * x, 0), rtol=1e-5
    )
    np.testing.assert_allclose(after.params["dense"]["bias"], b - 0.05 * np.mean(2 * errors), rtol=1e-5)
    np.testing.assert_allclose(after.batch_stats["total"], np.sum(x), rtol=1e-5)
    assert (int(state.step), int(after.step)) == (0, 1)
    assert state.variables.keys() == {"params", "batch_stats"}


def test_padding_changes_nothing():
    """A step on three examples of five places is a step on three: the loss is divided by the weight, not by the places."""
    state, data = make_state(), make_data()
    padded, padded_sums = step(state, data, jnp.asarray([5, -1, 9, 2, -1]))
    small, small_sums = step(state, data, jnp.asarray([5, 9, 2]))
    assert_close_tree(padded.params, small.params)
    assert_close_tree(padded_sums, small_sums)


def test_a_batch_of_padding_alone_moves_nothing():
    state = make_state()
    after, sums = step(state, make_data(), jnp.asarray([-1, -1]))
    assert (float(sums["loss"]), float(sums["count"])) == (0, 0)
    assert_same_tree(after.params, state.params)


def test_evaluation_is_the_loss_without_training():
    state, data = make_state(), make_data()
    sums = eval_step(state.variables, data, jnp.asarray([4, 8, -1]), loss_fn=make_loss(noise=100.0))
    dense = state.params["dense"]
    errors = np.asarray(data["x"] @ dense["kernel"])[:, 0] + np.asarray(dense["bias"]) - np.asarray(data["y"])
    np.testing.assert_allclose(sums["loss"], np.sum(errors[[4, 8]] ** 2), rtol=1e-5)
    assert sums["count"] == 2


def test_randomness_is_a_function_of_seed_and_step():

    def loss(state):
        return float(noisy_step(state, make_data(), jnp.arange(4))[1]["loss"])

    state = make_state()
    first = loss(state)
    assert first == loss(state)
    assert first != loss(state.replace(step=1))
    assert first != loss(state.replace(seed=jnp.asarray(1, jnp.uint32)))


@pytest.mark.slow
def test_seeds_train_together_under_vmap():
    data, states = make_data(), [make_state(seed) for seed in (0, 1)]
    kernels = [state.params["dense"]["kernel"] for state in states]
    assert not np.array_equal(*kernels)
    orders = [shuffled_batches(SIZE, 8, seed, 1) for seed in (0, 1)]

    alone = []
    for state, batches in zip(states, orders, strict=True):
        for indices in batches:
            state, _ = noisy_step(state, data, jnp.asarray(indices))
        alone.append(state)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(jax.tree.map(jnp.asarray, state) for state in states))
    for indices in np.stack(orders, 1):
        together, sums = jax.vmap(noisy_step, in_axes=(0, None, 0))(together, data, jnp.asarray(indices))
    assert sums["loss"].shape == (2,)
    for number, state in enumerate(alone):
        assert_close_tree([leaf[number] for leaf in jax.tree.leaves(together)], jax.tree.leaves(state))


# ------------------------------------------------------------------------------------------------------------ one device


def one_device(loss_fn, scan=None):
    return Sharded(lambda axis_name: loss_fn, jax.devices()[:1], scan)


def test_a_scan_is_the_loop():
    data, states, all_sums = make_data(), [], []
    for scan in (False, True):
        engine = one_device(make_loss(noise=0.1), scan=scan)
        state, sums = engine.train_epoch(engine.put_state(make_state()), engine.put_data(data), shuffled_batches(SIZE, 5, 0, 1))
        states.append(engine.get_state(state))
        all_sums.append(sums)
    assert all_sums[0]["loss"].shape == (4,)
    assert_close_tree(*states)
    assert_close_tree(*all_sums)


def test_the_default_is_a_loop_on_the_cpu():
    assert one_device(make_loss()).scan == (jax.default_backend() != "cpu")


@pytest.mark.parametrize("scan", [False, True])
def test_each_step_is_traced_once(scan):
    calls = []
    engine = one_device(make_loss(calls=calls), scan=scan)
    data = engine.put_data(make_data())
    state = engine.put_state(make_state())
    for epoch in range(4):
        state, _ = engine.train_epoch(state, data, shuffled_batches(SIZE, 5, 0, epoch))
        engine.evaluate(state, data, padded_batches(SIZE, 5))
    traced = len(calls)
    assert calls.count(False) == 1
    assert calls.count(True) <= 2  # a scan may trace its body twice to settle types
    # A state that has been on the host, as after a resume, is traced once more at most: its step is no Python int.
    state = engine.put_state(engine.get_state(state))
    for epoch in range(2):
        state, _ = engine.train_epoch(state, data, shuffled_batches(SIZE, 5, 0, epoch))
    assert len(calls) <= traced + 2


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("on_host", [False, True])
def test_training_does_not_consume_what_the_caller_holds(scan, on_host):
    """Neither the state that was placed, nor one that was fetched: a host copy may share the memory that is donated."""
    engine = one_device(make_loss(), scan=scan)
    state = make_state()
    placed = engine.put_state(state)
    held = engine.get_state(placed) if on_host else state
    after, _ = engine.train_epoch(placed, engine.put_data(make_data()), shuffled_batches(SIZE, 5, 0, 1))
    assert int(after.step) == 4
    assert_same_tree(held, make_state())


def test_evaluation_adds_up_every_example_once():
    engine = one_device(make_loss())
    state, data = make_state(), make_data()
    by_batch = {size: engine.evaluate(state, data, padded_batches(SIZE, size)) for size in (1, 5, 23, 40)}
    whole = eval_step(state.variables, data, jnp.arange(SIZE), loss_fn=make_loss())
    for sums in by_batch.values():
        assert sums["count"] == SIZE and sums["loss"].dtype == np.float64
        np.testing.assert_allclose(sums["loss"], whole["loss"], rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_each_step_is_reported_once_in_order(steps):
    def step(state, data, indices):
        return state + 1, {"loss": jnp.sum(indices) + data, "count": jnp.ones(())}

    reported = []
    batches = np.arange(2 * steps).reshape(steps, 2)
    state, sums = drive_steps(
        step, 0, [(10, batch) for batch in batches], lambda number, sums: reported.append((number, int(sums["loss"])))
    )
    assert state == steps
    assert reported == [(number, 4 * number + 1 + 10) for number in range(steps)]
    np.testing.assert_array_equal(sums["loss"], [loss for _, loss in reported])


# -------------------------------------------------------------------------------------------------- the loop over epochs


def records(*values, metric="accuracy"):
    return [{"epoch": number, metric: value} for number, value in enumerate(values, 1)]


NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "higher", "best"),
    [
        ([], True, None),
        ([0.5], True, 1),
        ([0.5, 0.7, 0.7, 0.6], True, 2),  # the first of equals
        ([0.5, 0.7, 0.7, 0.6], False, 1),
        ([3.0, 1.0, 2.0, 1.0], False, 2),
        ([NAN, 0.1, NAN], True, 2),
        ([NAN, 0.1, float("inf")], True, 2),
        ([float("-inf"), 0.1], False, 2),
        ([NAN, NAN], True, None),
        ([0.0, 0.0], True, 1),
    ],
)
def test_the_best_epoch(values, higher, best):
    assert Monitor("accuracy", higher).best_epoch(records(*values)) == best


@pytest.mark.parametrize(
    ("values", "patience", "stops"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.5], 1, True),
        ([0.5, 0.6], 1, False),
        ([0.5, 0.4, 0.4], 3, False),
        ([0.5, 0.4, 0.4, 0.5], 3, True),
        ([0.5, 0.4, 0.4, 0.6], 3, False),
        ([NAN, NAN], 2, True),
        ([0.5] * 1000, None, False),
    ],
)
def test_patience(values, patience, stops):
    assert Monitor("accuracy", patience=patience).stops(records(*values)) is stops


@pytest.mark.parametrize(("done", "best", "stops"), [(4, 1, False), (6, 1, False), (7, 1, True), (7, 6, False), (8, 6, True)])
def test_patience_counts_from_its_start_on(done, best, stops):
    """Of 2 epochs, from the fifth: without a better one it ends after the seventh."""
    values = [0.6 if epoch == best else 0.5 for epoch in range(1, done + 1)]
    assert Monitor("accuracy", patience=2, start=5).stops(records(*values)) is stops


class Recorder:
    """A store and an engine that write down what is asked of them."""

    def __init__(self):
        self.events = []

    def append(self, record):
        self.events.append(("append", record["epoch"]))

    def save(self, state, epoch, best_epoch):
        self.events.append(("save", epoch, best_epoch, state))

    def prune(self, epoch, best_epoch):
        self.events.append(("prune", epoch, best_epoch))

    def get_state(self, state):
        return f"host {state}"


def run_fit(accuracies, history=(), epochs=None, patience=None):
    """Trains epochs of the given accuracies; states are numbers."""
    recorder = Recorder()

    def run_epoch(state, epoch):
        recorder.events.append(("run", epoch))
        return state + 1, {"accuracy": accuracies[epoch - 1]}

    state, records = fit(
        len(history),
        recorder,
        run_epoch,
        epochs=len(accuracies) if epochs is None else epochs,
        monitor=Monitor("accuracy", patience=patience),
        store=recorder,
        history=list(history),
        on_epoch=lambda record: recorder.events.append(("shown", record["epoch"])),
    )
    return state, records, recorder.events


def test_fit_records_then_stores_then_shows():
    state, history, events = run_fit([0.5, 0.7, 0.6])
    assert state == 3
    assert history == records(0.5, 0.7, 0.6)
    assert events == [
        *(("run", 1), ("append", 1), ("save", 1, 1, "host 1"), ("shown", 1)),
        *(("run", 2), ("append", 2), ("save", 2, 2, "host 2"), ("shown", 2)),
        *(("run", 3), ("append", 3), ("save", 3, 2, "host 3"), ("shown", 3)),
    ]


def test_fit_stops_when_patience_runs_out():
    _, history, _ = run_fit([0.5, 0.7, 0.6, 0.7, 0.9], patience=2)
    assert history == records(0.5, 0.7, 0.6, 0.7)


def test_fit_goes_on_where_it_stopped():
    """The epochs of the history count, for their number, for the best and for patience."""
    accuracies = [0.9, 0.7, 0.6, 0.7, 0.8]
    for done in range(6):
        earlier = records(*accuracies[:done])
        state, history, events = run_fit(accuracies, history=earlier)
        assert (state, history) == (5, records(*accuracies))
        assert [event[1] for event in events if event[0] == "run"] == list(range(done + 1, 6))
        # What a run that was killed in its last epoch could not delete any more goes even where there is nothing to train.
        assert [event for event in events if event[0] == "prune"] == ([("prune", done, 1)] if done else [])
        assert all(event[2] == 1 for event in events if event[0] == "save")
        assert len(earlier) == done  # the caller's list is the caller's

        _, history, _ = run_fit(accuracies, history=earlier, patience=3)
        assert history == records(*accuracies[: max(done, 4)])


def test_fit_stores_nothing_of_an_epoch_that_fails():
    recorder = Recorder()

    def run_epoch(state, epoch):
        check_finite(np.array([1.0, NAN if epoch == 2 else 1.0]), epoch)
        return state, {"accuracy": 0.5}

    with pytest.raises(NonFiniteLossError, match="at step 2 of epoch 2"):
        fit(0, recorder, run_epoch, epochs=3, monitor=Monitor("accuracy"), store=recorder, history=[])
    assert [event[:2] for event in recorder.events] == [("append", 1), ("save", 1)]


@pytest.mark.parametrize(
    ("losses", "arguments", "message"),
    [
        ([1.0, NAN, float("inf")], (7,), "the training loss is nan at step 2 of epoch 7"),
        ([float("inf")], (1,), "the training loss is inf at step 1 of epoch 1"),
        ([1.0, float("-inf")], (2, 10), "the training loss is -inf at step 12 of epoch 2"),
        (NAN, (3, 4), "the training loss is nan at step 5 of epoch 3"),
        (NAN, (3, 4, "validation loss"), "the validation loss is nan at step 5 of epoch 3"),
    ],
)
def test_a_loss_that_is_not_finite(losses, arguments, message):
    with pytest.raises(NonFiniteLossError) as error:
        check_finite(np.asarray(losses, np.float32), *arguments)
    assert str(error.value) == message


def test_finite_losses_pass():
    check_finite(np.array([0.0, -1.0, 1e38], np.float32), 1)
    check_finite(np.float32(2.0), 1, 5)
    check_finite(np.zeros(0), 1)


# ------------------------------------------------------------------------------------------------------------- all of it


def test_a_model_learns():
    """From create_state to fit, on a problem with a known answer."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 3)).astype(np.float32)
    data = {"x": x, "y": (x @ np.array([1.0, -2.0, 3.0]) + 0.5).astype(np.float32)}
    engine = one_device(make_loss())
    placed = engine.put_data(data)

    class Store:
        def append(self, record):
            json.dumps(record)

        def save(self, state, epoch, best_epoch):
            assert best_epoch == epoch

        def prune(self, epoch, best_epoch):
            raise AssertionError("a new run has nothing to delete")

    def run_epoch(state, epoch):
        state, _ = engine.train_epoch(state, placed, shuffled_batches(64, 16, 0, epoch))
        total = engine.evaluate(state, placed, padded_batches(64, 50))
        return state, {"loss": float(total["loss"] / total["count"])}

    state, history = fit(
        engine.put_state(make_state(tx=optimizers.sgd(optimizers.constant(0.05), momentum=0.5))),
        engine,
        run_epoch,
        epochs=15,
        monitor=Monitor("loss", higher_is_better=False),
        store=Store(),
        history=[],
    )
    assert all(later["loss"] < earlier["loss"] for earlier, later in pairwise(history))
    np.testing.assert_allclose(state.params["dense"]["kernel"][:, 0], [1, -2, 3], atol=0.05)
    np.testing.assert_allclose(state.params["dense"]["bias"], 0.5, atol=0.05)


def test_models_without_statistics_have_none():
    state = create_state(nn.Dense(2), optax.sgd(0.1), 5, jnp.zeros((1, 3)))
    assert state.batch_stats == {} and int(state.seed) == 5 and isinstance(state, TrainState)
    again = create_state(nn.Dense(2), optax.sgd(0.1), 5, jnp.zeros((1, 3)))
    assert_same_tree(state.params, again.params)


# ------------------------------------------------------------------------------------------------------ averaged parameters


def test_the_average_follows_the_parameters_by_its_formula():
    state = make_state().keep_average(0.6)
    jax.tree.map(np.testing.assert_array_equal, state.average, state.params)
    expected = jax.device_get(state.params)
    step = jax.jit(partial(train_step, loss_fn=make_loss()))
    for number in range(5):
        state, _ = step(state, make_data(), jnp.arange(4) + number)
        kept = min(0.6, (2 + number) / (11 + number))
        expected = jax.tree.map(lambda old, new, kept=kept: kept * old + (1 - kept) * np.asarray(new), expected, state.params)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), state.average, expected)
    assert state.variables["params"] is state.average and state.variables["batch_stats"] is state.average_stats


def test_batch_statistics_are_averaged_with_the_parameters():
    model = BatchNorm(use_running_average=False)
    state = create_state(model, optimizers.sgd(optimizers.constant(0.1)), 0, jnp.ones((2, 3))).keep_average(0.6)

    def loss_fn(variables, batch, key, train):
        y, updated = model.apply(variables, batch["x"], mutable=["batch_stats"])
        return {"loss": jnp.sum(y * batch["x"]), "count": jnp.sum(batch["weights"])}, updated["batch_stats"]

    data = {"x": jnp.asarray(np.random.default_rng(0).normal(5, 1, (8, 3)), jnp.float32)}
    expected = jax.device_get(state.batch_stats)
    for number in range(3):
        state, _ = train_step(state, data, jnp.arange(4) + number, loss_fn=loss_fn)
        kept = min(0.6, (2 + number) / (11 + number))
        new = jax.device_get(state.batch_stats)
        expected = jax.tree.map(lambda old, new, kept=kept: kept * old + (1 - kept) * new, expected, new)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), state.average_stats, expected)
        jax.tree.map(np.testing.assert_array_equal, state.variables["batch_stats"], state.average_stats)


def test_without_an_average_evaluation_uses_the_parameters():
    state = make_state()
    assert state.average == {}
    assert state.variables["params"] is state.params


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_the_decay_of_an_average_is_checked(decay):
    with pytest.raises(ValueError, match=f"between 0 and 1, got {decay}"):
        make_state().keep_average(decay)
