"""Four CPU devices against one, and two processes of two devices each against that one."""

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from parallel_cases import CONFIG, SIZE, make_data, make_state, named_arrays, train
from tiny_training import tiny

from colnorm.data.batching import padded_batches, shuffled_batches
from colnorm.parallel import Parallel, Sharded, check_batch_size, make_engine
from colnorm.training import TrainState
from experiments import images as task

ROOT = Path(__file__).parents[1]
# Sums over 4 x 4 examples instead of 16 round differently, each by 6e-8 of its size at most; four steps made that 2e-7 of
# losses and 2e-7 of parameters, statistics and momentum, all of order 1.
CLOSE = {"rtol": 5e-6, "atol": 2e-6}


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.shape == theirs[name].shape, name
        np.testing.assert_allclose(array, theirs[name], err_msg=name, **CLOSE)


def assert_equal(ours, theirs):
    ours, theirs = named_arrays(ours), named_arrays(theirs)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert (array.dtype, array.shape) == (theirs[name].dtype, theirs[name].shape), name
        assert array.tobytes() == theirs[name].tobytes(), name


@pytest.mark.parametrize(
    ("network", "normalization", "kind"),
    [
        pytest.param("resnet", "bin", Sharded, marks=pytest.mark.slow),
        ("tiny", "bn", Sharded),
        pytest.param("tiny", "bn", Parallel, marks=pytest.mark.slow),
        pytest.param("tiny", "gn", Sharded, marks=pytest.mark.slow),
        pytest.param("tiny", "flax_bn", Sharded, marks=pytest.mark.slow),
    ],
)
def test_four_devices_train_as_one_does(network, normalization, kind):
    """Two epochs with augmentation, smoothing, decay, clipping and gates."""
    data = make_data()
    config = dataclasses.replace(CONFIG, normalization=normalization)
    with tiny() if network == "tiny" else contextlib.nullcontext():
        state, losses = make_state(task.make_model(config, 10)), partial(task.make_loss, config, data)
        one, four = make_engine(losses, 1), kind(losses, jax.local_devices())
        assert (one.num_devices, four.num_devices) == (1, 4)
        expected, result = train(one, state, data), train(four, state, data)
        assert_close(named_arrays(result), named_arrays(expected))

        for before, after in zip(*map(jax.tree.leaves, (state.params, result[0].params)), strict=True):
            assert np.max(np.abs(np.asarray(before) - after)) > 1e-4  # it did train
        assert result[2]["count"] == SIZE == result[2]["confusion"].sum()

        if normalization == "bn":
            # Off the devices after an epoch and onto them again: bit for bit as if it had stayed there.
            first, steps, _ = train(four, state, data, epochs=[1])
            second, more_steps, evaluated = train(four, first, data, epochs=[2])
            assert_equal((second, steps + more_steps, evaluated), result)


# ---------------------------------------------------------------------------------------------------- a toy, quick to compile


def toy_loss(axis_name=None):
    """A linear model with a running mean over all devices; ``seen`` counts how often each example was evaluated."""

    def loss_fn(variables, batch, key, train):
        noise = jax.vmap(lambda position: jax.random.normal(jax.random.fold_in(key, position)))(batch["positions"])
        errors = batch["x"] @ variables["params"]["w"] - batch["y"] + (0.1 * noise if train else 0)
        mean = jnp.mean(batch["x"]) if axis_name is None else jax.lax.pmean(jnp.mean(batch["x"]), axis_name)
        sums = {
            "loss": jnp.sum(errors**2 * batch["weights"]),
            "count": jnp.sum(batch["weights"]),
            "seen": batch["weights"] @ jax.nn.one_hot(batch["number"], SIZE),
        }
        return sums, {"mean": 0.9 * variables["batch_stats"]["mean"] + 0.1 * mean}

    return loss_fn


def toy_state(rate=0.01):
    params = {"w": jnp.asarray([0.5, -1.0, 2.0])}
    return TrainState.create(
        apply_fn=None, params=params, tx=optax.sgd(rate, momentum=0.9), batch_stats={"mean": jnp.zeros(())}
    )


def toy_data():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((SIZE, 3)).astype(np.float32), rng.standard_normal(SIZE).astype(np.float32)
    return {"x": x, "y": y, "number": np.arange(SIZE)}


def pmapped(count, scan=None):
    return Parallel(toy_loss, jax.local_devices()[:count], scan)


def sharded(count, scan=None, stream=False):
    return Sharded(toy_loss, jax.local_devices()[:count], scan, stream)


@pytest.fixture(
    scope="module", params=[partial(make_engine, toy_loss, 1), partial(sharded, 2), partial(sharded, 4), partial(pmapped, 4)]
)
def engine(request):
    return request.param()


@pytest.mark.parametrize("make", [sharded, pmapped])
def test_a_scan_is_the_loop(make):
    data, batches = toy_data(), shuffled_batches(SIZE, 8, 0, 1)
    results = []
    for scan in (True, False):
        engine = make(4, scan)
        state, sums = engine.train_epoch(engine.put_state(toy_state()), engine.put_data(data), batches)
        results.append((engine.get_state(state), sums))
    assert results[0][1]["loss"].shape == (4,)
    assert_close(*map(named_arrays, results))


@pytest.mark.parametrize("count", [1, 4])
def test_streamed_examples_train_as_those_on_the_devices(count, tmp_path):
    """Bit for bit, from a mapped file too; and no other rows than those of the batches are read."""
    data, orders = toy_data(), [shuffled_batches(SIZE, 8, 0, epoch) for epoch in (1, 2)]
    np.save(tmp_path / "x.npy", data["x"])
    results = []
    for stream in (False, True):
        engine = sharded(count, stream=stream)
        placed = engine.put_data({**data, "x": np.load(tmp_path / "x.npy", mmap_mode="r")})
        assert isinstance(placed["x"], np.memmap) == stream
        state, sums = engine.put_state(toy_state()), []
        for order in orders:
            state, of_epoch = engine.train_epoch(state, placed, order)
            sums.append(of_epoch)
        results.append((engine.get_state(state), sums, engine.evaluate(state, placed, padded_batches(SIZE, 8))))
    assert results[0][2]["count"] == SIZE
    assert_equal(*results)
    asked = []

    class Rows:
        """An array that tells what is asked of it."""

        shape = data["x"].shape

        def __getitem__(self, rows):
            asked.extend(rows.tolist())
            return data["x"][rows]

    engine.train_epoch(engine.put_state(toy_state()), {**data, "x": Rows()}, orders[0][:2])
    assert sorted(asked) == sorted(orders[0][:2].ravel().tolist())


def test_a_scan_needs_its_data_on_the_devices():
    with pytest.raises(ValueError, match="can't be one scan"):
        sharded(1, scan=True, stream=True)


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("make", [partial(sharded, 1), partial(sharded, 4), partial(pmapped, 4)])
def test_the_second_step_does_not_compile_again(make, scan, caplog):
    engine = make(scan=scan)
    data = engine.put_data(toy_data())
    state, _ = engine.train_epoch(engine.put_state(toy_state()), data, shuffled_batches(SIZE, 8, 0, 1)[: 4 if scan else 1])
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for epoch in (2, 3):
            state, _ = engine.train_epoch(state, data, shuffled_batches(SIZE, 8, 0, epoch))
        assert "Finished XLA compilation" not in caplog.text
        engine.evaluate(state, data, padded_batches(SIZE, 8))
        assert caplog.text.count("Finished XLA compilation") == 1  # which also proves that it would have been seen


@pytest.mark.parametrize(("size", "batch_size"), [(37, 16), (37, 4), (5, 8), (1, 4), (32, 8)])
def test_every_example_is_evaluated_once(engine, size, batch_size):
    data = toy_data()
    state = engine.put_state(toy_state())
    sums = engine.evaluate(state, engine.put_data(data), padded_batches(size, batch_size))
    expected = np.sum((data["x"][:size] @ np.array([0.5, -1.0, 2.0]) - data["y"][:size]) ** 2)
    np.testing.assert_array_equal(sums["seen"], np.arange(SIZE) < size)
    assert sums["count"] == size
    np.testing.assert_allclose(sums["loss"], expected, rtol=1e-5)


class Pending:
    """A result that is in flight until somebody waits for it."""

    waited = False

    def block_until_ready(self):
        self.waited = True
        return self

    def __array__(self, dtype=None, copy=None):
        return np.ones(())


@pytest.mark.parametrize("make", [sharded, pmapped])
def test_evaluations_on_a_cpu_wait_for_each_other(make):
    """Several in flight could each hold threads that another's all-reduce waits for: real networks hung on two cores."""
    engine, earlier = make(4), []

    def evaluate(*_):
        assert all(result.waited for result in earlier)
        earlier.append(Pending())
        return {"loss": earlier[-1]}

    engine._evaluate = evaluate
    sums = engine.evaluate(engine.put_state(toy_state()), engine.put_data(toy_data()), padded_batches(32, 4))
    assert sums == {"loss": 8}


def test_steps_are_reported_in_order(engine):
    reported = []
    state, sums = engine.train_epoch(
        engine.put_state(toy_state()),
        engine.put_data(toy_data()),
        shuffled_batches(SIZE, 4, 0, 1),
        lambda number, sums: reported.append((number, float(sums["loss"]))),
    )
    assert reported == list(enumerate(sums["loss"].tolist())) and len(reported) == 9
    assert int(engine.get_state(state).step) == 9


def test_a_state_comes_back_as_it_was_and_outlives_training(engine):
    state = toy_state()
    placed = engine.put_state(state)
    back = engine.get_state(placed)
    assert_equal(back, jax.tree.map(jnp.asarray, state))
    kept = jax.tree.map(np.copy, back)
    # The step donates its argument; what the caller holds, before and after, must not be that memory.
    engine.train_epoch(placed, engine.put_data(toy_data()), shuffled_batches(SIZE, 8, 0, 1))
    assert_equal(back, kept)
    assert_equal(jax.tree.map(jnp.asarray, state), jax.tree.map(jnp.asarray, toy_state()))


def test_batches_must_divide_over_the_devices():
    engine = make_engine(toy_loss, 4)
    state, data = engine.put_state(toy_state()), engine.put_data(toy_data())
    with pytest.raises(ValueError, match="a batch of 6 can't be split evenly over 4 devices"):
        engine.train_epoch(state, data, shuffled_batches(SIZE, 6, 0, 1))
    with pytest.raises(ValueError, match="a batch of 6 can't be split evenly over 4 devices"):
        engine.evaluate(state, data, padded_batches(SIZE, 6))
    for batch_size in (0, -4):
        with pytest.raises(ValueError, match=f"a batch of {batch_size} can't"):
            check_batch_size(batch_size, 4)
    check_batch_size(8, 4)
    check_batch_size(3, 1)


@pytest.mark.parametrize("devices", [5, 0, -1])
def test_devices_that_are_not_there(devices):
    with pytest.raises(ValueError, match=f"asked for {devices} devices, but there are 4"):
        make_engine(toy_loss, devices)


def test_all_devices_are_the_default():
    assert make_engine(toy_loss).num_devices == 4
    assert [make_engine(toy_loss, None, size).num_devices for size in (1, 2, 6, 8, 9)] == [1, 2, 3, 4, 3]
    assert make_engine(toy_loss, 4, 2).num_devices == 4  # what is asked for is not changed, and refused elsewhere


# ------------------------------------------------------------------------------------------------------------- two processes


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
def test_two_processes_train_as_one_device_does(tmp_path):
    """Two programs that meet over TCP, with two CPU devices each."""
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(ROOT / "tests" / "parallel_cases.py")]
    processes = [
        subprocess.Popen(
            [*command, str(number), str(port), str(tmp_path / f"{number}.npz")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)

    data = make_data()
    with tiny():
        engine = make_engine(partial(task.make_loss, CONFIG, data), 1)
        expected = named_arrays(train(engine, make_state(task.make_model(CONFIG, 10)), data))
    results = [dict(np.load(tmp_path / f"{number}.npz")) for number in range(2)]
    for result in results:
        assert result.pop("num_devices") == 4
        assert "every process takes part with all of its devices" in str(result.pop("refused"))
        assert_close(result, expected)
    for name, array in results[0].items():
        assert array.tobytes() == results[1][name].tobytes(), name
