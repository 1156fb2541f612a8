"""Runs of images from end to end: on the digits as they come, and a tiny network on a few of them where runs are killed.

The uninterrupted run that a resumed one must equal is trained in this process, the killed one in another.
"""

import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from tiny_training import SIZES, interrupt, tiny

from colnorm.data import images
from colnorm.run_directory import RunDirectory
from colnorm.tasks.configs import from_stored
from experiments import compare, evaluate, train
from experiments import images as task
from experiments.configs import ImageConfig
from experiments.presets import PRESETS
from experiments.whitening import whitening_kernel

ROOT = Path(__file__).parents[1]
DIGITS = ["bn", "--data", "digits", "--n", "1", "--learning-rate", "0.1", "--devices", "1"]
TINY = [
    "bn",
    "--data",
    "digits",
    "--learning-rate",
    "0.1",
    "--devices",
    "1",
    "--batch-size",
    "16",
    "--crop-padding",
    "1",
    "--flip",
    "--cut-out",
    "2",
    "--small-epochs",
    "1",
    "--small-size",
    "6",
    "--average-decay",
    "0.9",
]  # everything random that there is, a change of size between epochs, and a second set of parameters
TIMES = {"train_seconds", "seconds", "compile_seconds", "peak_memory_mib"}
RECORD = TIMES | {
    "epoch",
    "train_loss",
    "train_accuracy",
    "train_macro_f1",
    "validation_loss",
    "validation_accuracy",
    "validation_macro_f1",
    "feature_percentiles",
    "learning_rate",
}


def read_records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def is_picture(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5_000


# ------------------------------------------------------------------------------------------------- a run and its evaluation


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("digits") / "run"
    assert train.main([*DIGITS, "--epochs", "2", "--run", str(run)]) == 0
    return run


def test_a_run_holds_config_records_checkpoints_and_pictures(digits_run):
    config = json.loads((digits_run / "config.json").read_text(encoding="utf-8"))
    asked = dataclasses.replace(PRESETS["bn"].config, data="digits", n=1, learning_rate=0.1, devices=1, epochs=2)
    assert (config["task"], config["config"]) == ("images", json.loads(json.dumps(dataclasses.asdict(asked))))

    records = read_records(digits_run)
    assert [record["epoch"] for record in records] == [1, 2]
    for record in records:
        assert record.keys() == RECORD
        assert len(record["feature_percentiles"]) == 4
        assert record["feature_percentiles"] == sorted(record["feature_percentiles"])
    np.testing.assert_allclose([record["learning_rate"] for record in records], [0.1, 0.096], rtol=1e-6)
    assert records[1]["train_loss"] < records[0]["train_loss"]
    assert records[0]["compile_seconds"] > 0
    assert records[1]["compile_seconds"] == 0  # a step that compiled again would be another program

    best = 1 + int(np.argmax([record["validation_accuracy"] for record in records]))
    assert {int(path.name) for path in (digits_run / "checkpoints").iterdir()} == {best, 2}
    assert is_picture(digits_run / "curves.png")
    assert is_picture(digits_run / "feature_percentiles.png")


def test_evaluation_needs_the_run_directory_alone(digits_run, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(digits_run, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert evaluate.main(["moved", "--devices", "1"]) == 0
    assert "macro average" in capsys.readouterr().out
    assert is_picture(run / "confusion.png")

    written = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    records = read_records(run)
    best = max(records, key=lambda record: record["validation_accuracy"])
    data = images.load("digits")
    assert written["epoch"] == best["epoch"]
    assert written["splits"]["validation"]["accuracy"] == best["validation_accuracy"]
    assert written["splits"]["validation"]["macro"]["f1"] == best["validation_macro_f1"]
    np.testing.assert_allclose(written["splits"]["validation"]["loss"], best["validation_loss"], rtol=1e-5)
    for name, split in data.splits.items():
        result = written["splits"][name]
        assert result["examples"] == len(split.labels)
        assert np.sum(result["confusion"], axis=1).tolist() == np.bincount(split.labels).tolist()
        assert [each["support"] for each in result["classes"].values()] == np.bincount(split.labels).tolist()

    # The figures again, from the restored network to scikit-learn, without an engine and without batches.
    config = from_stored(ImageConfig, RunDirectory.open(run).config, "config.json")
    variables = RunDirectory.open(run).restore_variables(best["epoch"])
    inputs = images.standardize(data.test.images, data.mean, data.std)
    predictions = np.argmax(jax.jit(task.make_model(config, 10).apply)(variables, inputs), -1)
    result = written["splits"]["test"]
    np.testing.assert_allclose(result["accuracy"], accuracy_score(data.test.labels, predictions), atol=1.5 / 359)
    labels = np.arange(10)
    np.testing.assert_allclose(
        result["macro"]["f1"], f1_score(data.test.labels, predictions, average="macro", labels=labels), atol=0.01
    )
    # One image that lies between two classes may fall either way.
    assert np.abs(np.array(result["confusion"]) - confusion_matrix(data.test.labels, predictions, labels=labels)).sum() <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a run directory"),
        (["RUN", "--checkpoint", "7"], "not of 7"),
        (["RUN", "--checkpoint", "first"], "best, latest or an epoch's number, got 'first'"),
    ],
)
def test_evaluation_says_what_it_cannot_evaluate(digits_run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert evaluate.main([str(digits_run) if argument == "RUN" else argument for argument in arguments]) == 1
    assert message in capsys.readouterr().err


def test_evaluation_refuses_a_run_of_an_unknown_task(tmp_path, capsys):
    RunDirectory.create(tmp_path / "tags", "poetry", {})
    assert evaluate.main([str(tmp_path / "tags")]) == 1
    assert "holds a run of task 'poetry'; known are images, tagging" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- interrupted and resumed


def train_tiny(run, *more, command=TINY):
    """In this process; returns the exit status."""
    with tiny():
        return train.main([*command, "--run", str(run), *more])


def interrupt_tiny(place, run, how, *more):
    """Trains in a process of its own and sends it the signal ``how`` at ``place``, EPOCH:STEP; returns status and stderr."""
    return interrupt(place, how, *TINY, "--run", str(run), *more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three epochs without a break."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train_tiny(run, "--epochs", "3") == 0
    return run


@pytest.fixture(scope="module")
def template():
    """A state that checkpoints of the tiny runs fit into."""
    with tiny():
        config = ImageConfig(normalization="bn", data="digits", average_decay=0.9)
        kind = task.ImageTask(config)
        return kind.init_state(kind.schedule(1))


def arrays_of(run, epoch, template):
    opened = RunDirectory.open(run)
    restored = opened.restore(template, epoch)
    opened.close()
    leaves = jax.tree_util.tree_leaves_with_path(restored)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_run(run, other, template):
    """Bit for bit but for times."""

    def lasting(records):
        return [{name: value for name, value in record.items() if name not in TIMES} for record in records]

    assert lasting(read_records(run)) == lasting(read_records(other))
    kept = [sorted(path.name for path in (each / "checkpoints").iterdir()) for each in (run, other)]
    assert kept[0] == kept[1]
    for epoch in map(int, kept[0]):
        ours, theirs = arrays_of(run, epoch, template), arrays_of(other, epoch, template)
        assert ours.keys() == theirs.keys() and len(ours) > 20
        for name, array in ours.items():
            assert array.dtype == theirs[name].dtype, name
            assert array.tobytes() == theirs[name].tobytes(), name


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_epoch_resumes_as_if_it_had_not_been(whole, template, tmp_path):
    run = tmp_path / "run"
    status, _ = interrupt_tiny("3:1", run, signal.SIGKILL, "--epochs", "3")
    assert status == -signal.SIGKILL
    assert [record["epoch"] for record in read_records(run)] == [1, 2]
    # As if it had been killed later: after the record of epoch 3, in the middle of its checkpoint and of another line.
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({**read_records(run)[-1], "epoch": 3, "validation_accuracy": 1.0}) + '\n{"epoch": 4, "tr')
    shutil.copytree(run / "checkpoints" / "2", run / "checkpoints" / "3.orbax-checkpoint-tmp")

    assert train_tiny(run, "--epochs", "3", "--resume") == 0
    assert_same_run(run, whole, template)
    assert is_picture(run / "curves.png")


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_go_on_and_does(whole, template, tmp_path):
    run = tmp_path / "run"
    status, errors = interrupt_tiny("2:2", run, signal.SIGINT, "--epochs", "2")
    assert status == 130
    assert "--resume" in errors and str(run) in errors and "Traceback" not in errors
    assert [record["epoch"] for record in read_records(run)] == [1]
    # One epoch more than it was begun with: this schedule does not depend on their number.
    assert train_tiny(run, "--epochs", "3", "--resume") == 0
    assert_same_run(run, whole, template)


@pytest.mark.slow
def test_a_terminated_run_says_so_with_a_status_of_its_own_and_goes_on(whole, template, tmp_path):
    run = tmp_path / "run"
    status, errors = interrupt_tiny("2:2", run, signal.SIGTERM, "--epochs", "3")
    assert (
        status == 143
        and errors == f"\nterminated; stored up to epoch 1: go on with the same command and --resume --run {run}\n"
    )
    assert train_tiny(run, "--epochs", "3", "--resume") == 0
    assert_same_run(run, whole, template)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(whole, template, tmp_path, capsys):
    run = tmp_path / "run"
    assert train_tiny(run, "--epochs", "2") == 0
    second = shutil.copytree(run / "checkpoints" / "2", tmp_path / "second")
    assert train_tiny(run, "--epochs", "3", "--resume") == 0
    if not (run / "checkpoints" / "2").exists():  # the third epoch was better: as if the second had been
        shutil.copytree(second, run / "checkpoints" / "2")
    (run / "checkpoints" / "3" / "state" / "manifest.ocdbt").write_bytes(b"no manifest")
    capsys.readouterr()
    assert train_tiny(run, "--epochs", "3", "--resume") == 0
    said = capsys.readouterr().out
    assert "checkpoints/3 is damaged" in said and "training goes on after epoch 2" in said
    assert_same_run(run, whole, template)
    (run / "checkpoints" / "3" / "state" / "_METADATA").unlink()
    with tiny():
        assert evaluate.main([str(run), "--checkpoint", "latest", "--devices", "1"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: the checkpoint ") and said.count("\n") == 1 and len(said) < 500


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_with_room_training_goes_on(whole, template, tmp_path, capsys):
    def mount(*options):
        return subprocess.run(["mount", *options, str(tmp_path)], capture_output=True).returncode

    latest = whole / "checkpoints" / "3"
    pages = sum(-(-path.stat().st_size // 4096) for path in latest.rglob("*") if path.is_file())
    if mount("-t", "tmpfs", "-o", f"size={6 * pages + 24}k", "tmpfs"):  # one checkpoint and a half, of 4 kB a page
        pytest.skip("no file system can be mounted here")
    try:
        run = tmp_path / "run"
        assert train_tiny(run, "--epochs", "3") == 1
        said = capsys.readouterr().err
        assert re.fullmatch(
            rf"error: could not write the checkpoint {run}/checkpoints/2: No space left on device; "
            rf"stored up to epoch 1: go on with the same command and --resume --run {run}\n",
            said,
        ), said
        assert mount("-o", "remount,size=100m") == 0
        assert train_tiny(run, "--epochs", "3", "--resume") == 0
        assert_same_run(run, whole, template)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.slow
def test_records_that_are_cut_are_refused_and_the_checkpoints_stay(whole, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "metrics.jsonl").write_text("")
    before = sorted(run.glob("checkpoints/**/*"))
    assert train_tiny(run, "--epochs", "6", "--resume") == 1
    assert "metrics.jsonl has records of 0 epochs, but the latest checkpoint is of epoch 3" in capsys.readouterr().err
    assert sorted(run.glob("checkpoints/**/*")) == before


def test_a_run_that_is_trained_is_neither_resumed_nor_overwritten(whole, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    with RunDirectory.open(run, lock=True):
        for how in ("--resume", "--overwrite"):
            assert train_tiny(run, "--epochs", "3", how) == 1
            assert f"run is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert RunDirectory.open(run).epochs()[-1] == 3


@pytest.mark.slow
def test_a_run_of_any_name_is_trained_gone_on_with_and_evaluated(tmp_path, capsys):
    run = tmp_path / "lr[0.1] [/x] $a$_b \\ \udc80"
    assert train_tiny(run, "--epochs", "1") == 0
    assert train_tiny(run, "--epochs", "2", "--resume") == 0
    with tiny():
        assert evaluate.main([str(run), "--devices", "1"]) == 0
        assert compare.main([str(run), "--output", str(tmp_path / "[/y]")]) == 0
    assert is_picture(run / "curves.png") and is_picture(run / "confusion.png")
    assert "[/x]" in capsys.readouterr().out


def test_a_config_that_was_edited_is_named(whole, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    text = (run / "config.json").read_text()
    for old, new, message in (
        ('"momentum": 0.9', '"momentum": "x"', "config.json is damaged: momentum: it should be a valid number, got 'x'"),
        ('"momentum": 0.9', '"momentum": 0.8', "config.json is damaged: it is not what the checkpoint"),
        ('"task"', '"tusk"', "config.json is not that of a run"),
        ("{", "", "config.json is damaged: expected JSON"),
    ):
        assert old in text
        (run / "config.json").write_text(text.replace(old, new, 1))
        with tiny():
            assert evaluate.main([str(run), "--devices", "1"]) == 1
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1


def test_a_finished_run_is_neither_overwritten_nor_trained_further(whole, capsys):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert train_tiny(whole, "--epochs", "3") == 1
    assert "holds a run already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before
    assert train_tiny(whole, "--epochs", "3", "--resume") == 0
    assert (whole / "metrics.jsonl").read_bytes() == before[whole / "metrics.jsonl"]


@pytest.mark.parametrize(
    ("run", "command", "message"),
    [
        ("whole", [*TINY, "--epochs", "3", "--seed", "1"], "seed was 0, now 1"),
        ("nowhere", [*TINY, "--epochs", "3"], "nowhere is not a run directory"),
    ],
)
def test_resume_refuses_another_run(whole, tmp_path, capsys, run, command, message):
    run = whole if run == "whole" else tmp_path / run
    assert train_tiny(run, "--resume", command=command) == 1
    assert message in capsys.readouterr().err


def test_resume_with_a_cosine_schedule_refuses_another_number_of_epochs(tmp_path, capsys):
    command = ["modern_bn", "--data", "digits", "--batch-size", "16", "--devices", "1"]
    config = dataclasses.replace(PRESETS["modern_bn"].config, data="digits", batch_size=16, devices=1)
    RunDirectory.create(tmp_path / "run", "images", dataclasses.asdict(config)).close()
    assert train_tiny(tmp_path / "run", "--resume", "--epochs", "7", command=command) == 1
    assert "epochs was 20, now 7" in capsys.readouterr().err


def test_evaluation_says_what_both_ways_of_an_image_come_to(whole, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    with tiny():
        assert evaluate.main([str(run), "--devices", "1"]) == 0
        data, config = images.load("digits"), from_stored(ImageConfig, RunDirectory.open(run).config, "config.json")
        model = task.make_model(config, 10)
    assert "of both ways" in capsys.readouterr().out
    written = RunDirectory.open(run).evaluation()
    variables = RunDirectory.open(run).restore_variables(written["epoch"])
    apply = jax.jit(model.apply)
    for name, split in data.splits.items():
        ways = [images.standardize(pixels, data.mean, data.std) for pixels in (split.images, split.images[:, :, ::-1])]
        probabilities = [np.asarray(jax.nn.softmax(apply(variables, inputs)), np.float64) for inputs in ways]
        right = accuracy_score(split.labels, (probabilities[0] + probabilities[1]).argmax(1))
        assert written["splits"][name]["accuracy_mirrored"] == pytest.approx(right, abs=1.5 / len(split.labels))


@pytest.mark.parametrize("normalization", ["bn", pytest.param("nn", marks=pytest.mark.slow)])
def test_a_network_begins_as_its_config_says(normalization):
    begin = {"whiten": True, "zero_residual": True, "average_decay": 0.9}
    usually = {name: getattr(ImageConfig(), name) for name in begin}
    config = ImageConfig(data="digits", n=1, normalization=normalization, **begin)
    ours, plain = (task.ImageTask(dataclasses.replace(config, **change)) for change in ({}, usually))
    state, usual = (each.init_state(each.schedule(1)) for each in (ours, plain))
    first = images.standardize(ours.data.train.images, ours.data.mean, ours.data.std)
    np.testing.assert_array_equal(state.params["conv"]["kernel"], whitening_kernel(np.asarray(first), 16))
    assert not np.any(
        state.params["stage1_block1"]["conv2" if normalization == "nn" else "norm2"][("kernel", "scale")[normalization == "bn"]]
    )
    np.testing.assert_array_equal(
        state.params["stage2_block1"]["conv1"]["kernel"], usual.params["stage2_block1"]["conv1"]["kernel"]
    )
    jax.tree.map(np.testing.assert_array_equal, state.variables["params"], state.params)
    assert state.average_decay == 0.9 and not usual.average_decay


@pytest.mark.parametrize(("schedule", "start"), [("step", 50), ("constant", 0), ("decay", 0), ("cosine", 0)])
def test_no_training_is_stopped_before_its_rate_has_dropped(schedule, start):
    config = ImageConfig(data="digits", schedule=schedule, decay_epochs=(20, 50), patience=7)
    monitor = task.ImageTask(config).monitor()
    assert (monitor.metric, monitor.patience, monitor.start) == ("validation_accuracy", 7, start)


def test_epochs_take_turns_with_what_they_train_on():
    """Mirrored halves in turn, and small images in the first three epochs."""
    config = ImageConfig(data="digits", flip=True, alternate_flips=True, small_epochs=3, small_size=8)
    made = task.ImageTask(config)
    parts = [made.plan(epoch)[0][0] for epoch in (1, 2, 3, 4, 5, 6)]
    assert [made.train_data[part]["images"].shape[1] for part in parts] == [8, 8, 8, 32, 32, 32]
    full = made.data.train.images
    for one, other in itertools.pairwise(parts):
        assert one != other
    for part in parts[3:5]:
        same = (made.train_data[part]["images"] == full).all(axis=(1, 2, 3))
        mirrored = (made.train_data[part]["images"] == full[:, :, ::-1]).all(axis=(1, 2, 3))
        assert np.all(same | mirrored) and 0.4 < mirrored.mean() < 0.6
    np.testing.assert_array_equal(
        made.train_data[parts[1]]["images"], images.scaled_down(made.train_data[parts[3]]["images"], 8)
    )
    assert len(task.ImageTask(dataclasses.replace(config, flip=False)).train_data) == 2


# ------------------------------------------------------------------------------------------------------------------- failures


@pytest.mark.slow
def test_a_non_finite_loss_names_epoch_step_and_the_last_good_checkpoint(tmp_path, capsys):
    run = tmp_path / "run"
    command = ["nn", "--data", "digits", "--batch-size", "16", "--devices", "1", "--epochs", "3"]
    explode = ["--schedule", "step", "--decay-epochs", "1", "--decay-factor", "1e12"]
    assert train_tiny(run, *explode, command=command) == 1
    errors = capsys.readouterr().err
    # Its first step of the second epoch still has good parameters; it is not before the second that the loss shows.
    assert re.search(r"the training loss is (nan|inf) at step [234] of epoch 2", errors)
    assert f"the last good checkpoint is {run / 'checkpoints' / '1'}" in errors
    assert [record["epoch"] for record in read_records(run)] == [1]

    with tiny():
        assert evaluate.main([str(run), "--checkpoint", "latest", "--devices", "1"]) == 0
    written = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert written["epoch"] == 1
    assert written["splits"]["validation"]["accuracy"] == read_records(run)[0]["validation_accuracy"]
    assert {name: result["examples"] for name, result in written["splits"].items()} == SIZES


@pytest.mark.slow
def test_parameters_ruined_by_the_last_step_of_an_epoch_are_not_called_good(tmp_path, capsys):
    run = tmp_path / "run"
    command = ["nn", "--data", "digits", "--batch-size", "64", "--devices", "1", "--epochs", "3"]
    assert train_tiny(run, "--learning-rate", "1e15", command=command) == 1
    errors = capsys.readouterr().err
    assert "the validation loss is nan at step 1 of epoch 1; no checkpoint was written yet" in errors
    assert not (run / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "2", "--batch-size", "15"], "a batch of 15 can't be split evenly over 2 devices"),
        (["--devices", "5"], "asked for 5 devices, but there are 4"),
        (["--devices", "1", "--batch-size", "71"], "a batch of 71 can't be drawn from 70 training examples"),
    ],
)
def test_what_cannot_be_trained_is_an_error_before_training(tmp_path, capsys, arguments, message):
    assert train_tiny(tmp_path / "run", *arguments, command=["bn", "--data", "digits", "--n", "1"]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("main", "arguments", "status", "told"),
    [
        (train.main, ["--help"], 0, "modern_bin"),
        (train.main, ["bn", "--help"], 0, "--learning-rate"),
        (train.main, ["crf", "--help"], 0, "--glove"),
        (evaluate.main, ["--help"], 0, "--checkpoint"),
        (train.main, [], 2, "Missing subcommand"),
        (train.main, ["batchnorm"], 2, "batchnorm"),
        (train.main, ["bn", "--normalization", "batch"], 2, "batch"),
        (train.main, ["crf", "--normalization", "bn"], 2, "--normalization"),
        (evaluate.main, [], 2, "Required options"),
    ],
)
def test_the_command_line_explains_itself(capsys, main, arguments, status, told):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == status
    captured = capsys.readouterr()
    assert told in (captured.err if status else captured.out)


def test_devices_are_made_before_jax_starts():
    program = "from colnorm import process; process.prepare(3); import jax; print(jax.device_count())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "3\n"


@pytest.mark.parametrize("name", ["bin", "modern_bin"])
def test_what_presets_decay_and_how_fast_gates_learn(name):
    """One step from parameters of 1 with gradients of 0, which leaves the decay, and one with gradients of 1 less that."""
    config = dataclasses.replace(PRESETS[name].config, n=1, schedule="constant", nesterov=False)
    model, tx = task.make_model(config, 10), task.make_optimizer(config, task.make_schedule(config, 1))
    inputs = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    opt_state = tx.init(ones)
    decayed, _ = tx.update(jax.tree.map(jnp.zeros_like, ones), opt_state, ones)
    moved, _ = tx.update(ones, opt_state, ones)

    rate, decay = config.learning_rate, config.weight_decay
    seen = set()
    for (path, before), leaf in zip(jax.tree_util.tree_leaves_with_path(decayed), jax.tree.leaves(moved), strict=True):
        kind = path[-1].key
        seen.add(kind)
        if leaf.ndim == 4 and config.muon_learning_rate is not None:  # all ones have one singular value; it becomes about 1
            muon_rate, muon_decay = config.muon_learning_rate, config.muon_weight_decay
            np.testing.assert_allclose(before, -muon_rate * muon_decay, rtol=1e-5, err_msg=str(path))
            length = jnp.linalg.norm(leaf + muon_rate * muon_decay)
            assert 0.65 * muon_rate < length < 1.25 * muon_rate, path
            continue
        decays = name == "bin" or kind == "kernel"
        times = {"gate": 10, "bias": config.norm_bias_multiplier}.get(kind, 1) if name == "modern_bin" else 1
        times = 1 if path[0].key == "classifier" else times
        np.testing.assert_allclose(before, -rate * decay * decays, rtol=1e-5, err_msg=str(path))
        np.testing.assert_allclose(leaf, -rate * times * (1 + decay * decays), rtol=1e-5, err_msg=str(path))
    assert seen == {"kernel", "bias", "scale", "gate"}
