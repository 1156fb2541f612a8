"""Run directories: what is stored comes back bit for bit, and what a killed writer leaves behind does no harm."""

import json
import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colnorm import optimizers
from colnorm.files import write_json, write_text
from colnorm.run_directory import RunDirectory, is_run
from colnorm.training import Monitor, TrainState

CONFIG = {"rate": 0.1, "drops": (1, 2), "directory": None}
MONITOR = Monitor("accuracy")


def make_state(epoch=0, features=3, names=("first", "second"), seed=7, **more):
    """A state whose every number depends on ``epoch``; at 0 a fresh one."""
    params = {name: {"kernel": jnp.ones((2, features)), "bias": jnp.zeros(features)} for name in names}
    state = TrainState.create(
        apply_fn=None,
        params=params,
        tx=optimizers.sgd(optimizers.constant(0.1), weight_decay=1e-4, **more),
        batch_stats={"norm": {"mean": jnp.zeros(features), "var": jnp.ones(features)}},
        seed=jnp.asarray(seed, jnp.uint32),
    )
    if epoch:
        rng = np.random.default_rng(epoch)

        def draw(leaf):
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            return rng.standard_normal(leaf.shape).astype(leaf.dtype) if floating else leaf

        state = jax.tree.map(draw, jax.device_get(jax.tree.map(jnp.asarray, state)))
        state = state.replace(step=np.asarray(10 * epoch, np.int32))
    return state


def named_arrays(state):
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_state(ours, theirs):
    ours, theirs = named_arrays(ours), named_arrays(theirs)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.shape == theirs[name].shape, name
        assert array.tobytes() == theirs[name].astype(array.dtype).tobytes(), name
        assert array.dtype == theirs[name].dtype or name == ".step", name  # a Python int in a fresh state


def make_run(path, accuracies=(), overwrite=False):
    """A run that was trained for some epochs; epoch n has the state ``make_state(n)``."""
    run = RunDirectory.create(path, "toy", CONFIG, overwrite)
    history = []
    for epoch, accuracy in enumerate(accuracies, 1):
        history.append({"epoch": epoch, "accuracy": accuracy})
        run.append(history[-1])
        run.save(make_state(epoch), epoch, MONITOR.best_epoch(history))
    run.close()
    return RunDirectory.open(path)


# ------------------------------------------------------------------------------------------------------ save and restore


@pytest.mark.parametrize("more", [{}, {"momentum": 0.0}, {"clip_global_norm": 1.0, "gate_multiplier": 10.0}])
def test_every_array_comes_back_bit_for_bit(tmp_path, more):
    run = RunDirectory.create(tmp_path / "run", "toy", CONFIG)
    state = make_state(4, **more)
    # What a comparison of values would not see.
    odd = state.params["first"]["kernel"]
    odd[0] = [-0.0, 3.0, np.float32(1e-45)]
    run.save(state, 4, 4)
    run.close()
    restored = RunDirectory.open(tmp_path / "run").restore(make_state(0, seed=0, **more), 4)
    assert_same_state(restored, state)
    assert int(restored.step) == 40 and int(restored.seed) == 7
    assert len(named_arrays(restored)) >= 9
    # The restored state goes on: functions and structure are those of the state it was restored into.
    gradients = jax.tree.map(jnp.ones_like, restored.params)
    assert int(restored.apply_gradients(grads=gradients).step) == 41


def test_a_state_that_never_took_a_step_comes_back(tmp_path):
    """Its step is a number of Python's, which is wider than JAX's."""
    run = RunDirectory.create(tmp_path / "run", "toy", CONFIG)
    assert isinstance(make_state().step, int)
    run.save(make_state(), 1, 1)
    assert_same_state(run.restore(make_state(), 1), make_state())


def test_what_needs_64_bits_says_so(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "toy", CONFIG)
    with jax.enable_x64(True):
        run.save(make_state().replace(params={"a": np.float64(1e-300)}), 1, 1)
    with pytest.raises(ValueError, match=r"checkpoints/1 holds float64, int64, which JAX has with jax_enable_x64 only"):
        run.restore_variables(1)


def test_only_the_best_and_the_latest_stay(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "toy", CONFIG)
    history, kept = [], []
    for epoch, accuracy in enumerate([0.5, 0.7, 0.6, 0.65, 0.8], 1):
        history.append({"epoch": epoch, "accuracy": accuracy})
        run.save(make_state(epoch), epoch, MONITOR.best_epoch(history))
        kept.append(run.epochs())
        assert sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()) == kept[-1]
    assert kept == [[1], [2], [2, 3], [2, 4], [5]]
    assert_same_state(run.restore(make_state(), 5), make_state(5))


def test_a_checkpoint_says_whose_it_is(tmp_path):
    make_run(tmp_path / "run", [0.5])
    texts = [path.read_text() for path in (tmp_path / "run" / "checkpoints" / "1" / "about").iterdir() if path.is_file()]
    about = [json.loads(text) for text in texts if text.startswith("{")]
    (said,) = [of for of in about if "epoch" in of]
    assert said["epoch"] == 1 and said["config"] == {**CONFIG, "drops": [1, 2]}
    assert re.fullmatch("[0-9a-f]{64}", said["arrays"]) and re.fullmatch("[0-9a-f]{64}", said["records"])


def test_the_current_directory_may_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run("run", [0.5, 0.6])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    state, _ = run.resume(make_state())
    run.append({"epoch": 3, "accuracy": 0.7})
    run.save(state, 3, 3)
    monkeypatch.chdir(tmp_path)
    assert RunDirectory.open("run").epochs() == [3] and list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(("which", "epoch"), [("best", 2), ("latest", 4), ("2", 2), ("4", 4)])
def test_choosing_a_checkpoint(tmp_path, which, epoch):
    run = make_run(tmp_path / "run", [0.5, 0.9, 0.6, 0.9])
    assert run.choose(which, MONITOR) == epoch
    assert_same_state(run.restore(make_state(), epoch), make_state(epoch))


@pytest.mark.parametrize(
    ("which", "error", "message"),
    [
        ("3", FileNotFoundError, r"checkpoints of the epochs \[2, 4\], not of 3"),
        ("-1", ValueError, "best, latest or an epoch's number, got '-1'"),
        ("newest", ValueError, "best, latest or an epoch's number, got 'newest'"),
        ("", ValueError, "best, latest or an epoch's number, got ''"),
    ],
)
def test_choosing_what_is_not_there(tmp_path, which, error, message):
    run = make_run(tmp_path / "run", [0.5, 0.9, 0.6, 0.9])
    with pytest.raises(error, match=message):
        run.choose(which, MONITOR)


def test_a_run_without_checkpoints(tmp_path):
    run = make_run(tmp_path / "run")
    assert run.epochs() == [] and run.history() == []
    for which in ("best", "latest", "1"):
        with pytest.raises(FileNotFoundError, match="has no checkpoint yet"):
            run.choose(which, MONITOR)
    with pytest.raises(FileNotFoundError, match="not of 1"):
        run.restore(make_state(), 1)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_without_any_finite_figure_the_best_is_the_latest(tmp_path):
    class Never(Monitor):
        def best_epoch(self, history):
            return None

    assert make_run(tmp_path / "run", [0.5, 0.6]).choose("best", Never("accuracy")) == 2


def test_what_is_no_number_is_not_written_as_one(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "toy", CONFIG)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.append({"epoch": 1, "accuracy": float("nan")})
    with pytest.raises(ValueError, match=r"evaluation\.json can't hold"):
        write_json(tmp_path / "evaluation.json", {"loss": float("inf")})
    assert run.history() == [] and not (tmp_path / "evaluation.json").exists()


def test_variables_come_back_without_model_and_optimizer(tmp_path):
    run = make_run(tmp_path / "run", [0.5])
    variables = run.restore_variables(1)
    assert_same_state(variables, {"params": make_state(1).params, "batch_stats": make_state(1).batch_stats})
    with pytest.raises(FileNotFoundError, match=r"has checkpoints of the epochs \[1\], not of 2"):
        run.restore_variables(2)


def test_an_average_is_stored_and_is_what_evaluation_restores(tmp_path):
    state = make_state(1).keep_average(0.9)
    state = state.replace(average=make_state(2).params, average_stats=make_state(2).batch_stats)
    run = RunDirectory.create(tmp_path / "run", "toy", CONFIG)
    run.save(state, 1, 1)
    run.close()
    run = RunDirectory.open(tmp_path / "run")
    assert_same_state(run.restore(make_state().keep_average(0.9), 1), state)
    assert_same_state(run.restore_variables(1), {"params": make_state(2).params, "batch_stats": make_state(2).batch_stats})
    with pytest.raises(ValueError, match="of another model: average/first/bias: stored"):
        run.restore(make_state(), 1)


# --------------------------------------------------------------------------------------------------------- another model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": 4}, r"another model: .*params/first/kernel: stored \(2, 3\), expected \(2, 4\)"),
        ({"names": ("first",)}, r"another model: params/second/bias: stored \(3,\), expected nothing"),
        ({"names": ("first", "second", "third")}, r"another model: params/third/bias: stored nothing, expected \(3,\)"),
        ({"momentum": 0.0}, r"another optimizer: .*opt_state/1/trace/first/bias: stored \(3,\), expected nothing"),
        ({"gate_multiplier": 10.0}, r"another optimizer: opt_state/2/count: stored \(\), expected nothing"),
    ],
)
def test_restoring_into_another_model_names_the_arrays(tmp_path, change, message):
    run = make_run(tmp_path / "run", [0.5])
    with pytest.raises(ValueError, match=rf"run/checkpoints/1 is of {message}"):
        run.restore(make_state(**change), 1)


def test_restoring_into_other_statistics_names_them(tmp_path):
    run = make_run(tmp_path / "run", [0.5])
    with pytest.raises(ValueError, match=r"another model: batch_stats/norm/mean: stored \(3,\), expected nothing"):
        run.restore(make_state().replace(batch_stats={}), 1)


# ------------------------------------------------------------------------------------------------ records and resumption


def test_resume_goes_on_from_the_latest_checkpoint(tmp_path):
    run = make_run(tmp_path / "run", [0.5, 0.9, 0.6])
    state, history = run.resume(make_state())
    assert_same_state(state, make_state(3))
    assert history == [{"epoch": n, "accuracy": a} for n, a in [(1, 0.5), (2, 0.9), (3, 0.6)]] == run.history()
    run.append({"epoch": 4, "accuracy": 0.95})
    run.save(make_state(4), 4, 4)
    assert run.epochs() == [4]


@pytest.mark.parametrize("torn", ["", '{"epoch": 5, "accu', '{"epoch": 4, "accuracy": 0.99}'])
def test_resume_cuts_the_records_back_to_the_checkpoint(tmp_path, torn):
    """Killed after epoch 4's record and before its checkpoint; then, perhaps, in the middle of a line."""
    make_run(tmp_path / "run", [0.5, 0.9, 0.6])
    path = tmp_path / "run" / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"epoch": 4, "accuracy": 0.99}\n' + torn)

    run = RunDirectory.open(tmp_path / "run")
    assert [record["epoch"] for record in run.history()] == [1, 2, 3, 4]
    assert run.choose("best", MONITOR) == 2  # epoch 4 was never stored
    _, history = run.resume(make_state())
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert path.read_text() == whole


def test_resume_before_the_first_checkpoint_starts_anew(tmp_path):
    run = make_run(tmp_path / "run")
    run.append({"epoch": 1, "accuracy": 0.5})
    run.close()
    fresh = make_state()
    state, history = RunDirectory.open(tmp_path / "run").resume(fresh)
    assert state is fresh and history == []
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""


def leave_unfinished(run_path, epoch):
    """What orbax leaves of a save that is killed: its directory is renamed when all is written."""
    checkpoints = run_path / "checkpoints"
    unfinished = checkpoints / f"{epoch}.orbax-checkpoint-tmp"
    shutil.copytree(checkpoints / str(epoch - 1), unfinished)
    (unfinished / "commit_success.txt").unlink(missing_ok=True)
    (unfinished / "state" / "left over").write_text("half of an array")
    return unfinished


def test_a_save_that_was_killed_is_ignored_and_then_replaced(tmp_path):
    make_run(tmp_path / "run", [0.5, 0.9])
    unfinished = leave_unfinished(tmp_path / "run", 3)
    shutil.copytree(unfinished, unfinished.with_name("7.orbax-checkpoint-tmp"))
    run = RunDirectory.open(tmp_path / "run")
    assert run.epochs() == [2]
    state, _ = run.resume(make_state())
    assert_same_state(state, make_state(2))
    run.save(make_state(3), 3, 2)
    assert run.epochs() == [2, 3]
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["2", "3"]
    assert not list((tmp_path / "run").rglob("left over"))
    assert_same_state(run.restore(make_state(), 3), make_state(3))


def test_reading_a_run_leaves_a_save_that_is_under_way_alone(tmp_path):
    """A run may be evaluated while it is trained."""
    make_run(tmp_path / "run", [0.5, 0.9])
    unfinished = leave_unfinished(tmp_path / "run", 3)
    before = sorted(tmp_path.rglob("*"))
    run = RunDirectory.open(tmp_path / "run")
    run.restore(make_state(), run.choose("best", MONITOR))
    run.close()
    assert unfinished.exists() and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("lost", ["state", "_CHECKPOINT_METADATA", "about"])
def test_a_deletion_that_was_killed_does_no_harm(tmp_path, lost):
    """An old checkpoint is deleted after a new one is complete; half of it may be left."""
    make_run(tmp_path / "run", [0.5, 0.9])
    checkpoints = tmp_path / "run" / "checkpoints"
    half = shutil.copytree(checkpoints / "2", checkpoints / "1")
    (shutil.rmtree if (half / lost).is_dir() else os.remove)(half / lost)
    run = RunDirectory.open(tmp_path / "run")
    assert run.choose("latest", MONITOR) == run.choose("best", MONITOR) == 2
    state, _ = run.resume(make_state())
    assert_same_state(state, make_state(2))
    run.save(make_state(3), 3, 2)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["2", "3"]


# ---------------------------------------------------------------------------------------------- creating and overwriting


def test_a_run_is_not_overwritten_unless_asked(tmp_path):
    make_run(tmp_path / "run", [0.5])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="holds a run already"):
        RunDirectory.create(tmp_path / "run", "other", {})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    run = RunDirectory.create(tmp_path / "run", "other", {"a": 1}, overwrite=True)
    assert run.epochs() == [] and run.history() == [] and (run.task, run.config) == ("other", {"a": 1})


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_run_is_never_deleted(tmp_path, overwrite):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(FileExistsError, match="not a run directory"):
        RunDirectory.create(tmp_path / "home", "toy", CONFIG, overwrite)
    with pytest.raises(OSError):
        RunDirectory.create(tmp_path / "home" / "thesis.txt", "toy", CONFIG, overwrite)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "ten years of work"
    assert not is_run(tmp_path / "home")


def test_an_empty_directory_may_become_a_run(tmp_path):
    (tmp_path / "run").mkdir()
    RunDirectory.create(tmp_path / "run", "toy", CONFIG)
    assert is_run(tmp_path / "run") and is_run(str(tmp_path / "run"))
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored == {"format": "colnorm run", "version": 1, "task": "toy", "config": {**CONFIG, "drops": [1, 2]}}


def test_opening_what_is_no_run(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="is not a run directory"):
            RunDirectory.open(path)


@pytest.mark.parametrize("reopened", [False, True])
def test_differences_between_configurations_are_named(tmp_path, reopened):
    run = RunDirectory.create(tmp_path / "run", "toy", CONFIG)
    if reopened:
        run = RunDirectory.open(tmp_path / "run")
    run.check_config("toy", CONFIG)
    run.check_config("toy", {**CONFIG, "directory": "elsewhere"}, frozenset({"directory"}))
    run.check_config("toy", {**CONFIG, "later": 1}, defaults={"later": 1, "rate": 5})
    with pytest.raises(ValueError, match=r"another configuration: drops was \[1, 2\], now \[3\], rate was 0\.1, now 0\.2$"):
        run.check_config("toy", {**CONFIG, "rate": 0.2, "drops": (3,), "directory": "elsewhere"}, frozenset({"directory"}))
    with pytest.raises(ValueError, match=r"momentum was None, now 0\.9"):
        run.check_config("toy", {**CONFIG, "momentum": 0.9})
    with pytest.raises(ValueError, match=r"rate was 0\.1, now None"):
        run.check_config("toy", {"drops": [1, 2], "directory": None})
    with pytest.raises(ValueError, match=r"holds a run of task 'toy', not 'other'"):
        run.check_config("other", CONFIG)


def test_files_are_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "evaluation.json"
    write_json(path, {"a": 1})

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "half of a te")
    assert json.loads(Path(path).read_text()) == {"a": 1}
