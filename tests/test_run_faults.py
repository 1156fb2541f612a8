"""What may happen to a run: kills, a full disk, flipped bits, edits, others at work in it, names of every kind.

Nothing of it may lose data or give another figure without a word. The long ones try more of the same: ``pytest -m long``.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_run_directory import CONFIG, MONITOR, assert_same_state, make_run, make_state, named_arrays

from colnorm.checkpoint import DamagedError
from colnorm.files import Lock, LockedError
from colnorm.run_directory import RunDirectory

long = pytest.mark.long


def everything(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != ".lock"}


# ---------------------------------------------------------------------------------------------------- kills and full disks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "points"),
    [
        ("kill", 8),
        ("time", 4),
        ("disk", 8),
        *(pytest.param(w, n, marks=long) for w, n in (("kill", 250), ("time", 100), ("disk", 75))),
    ],
)
def test_runs_survive(what, points, tmp_path):
    if what == "disk":
        (tmp_path / "try").mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(tmp_path / "try")], capture_output=True)
        if mounted.returncode:
            pytest.skip("no file system can be mounted here")
        subprocess.run(["umount", str(tmp_path / "try")], check=True)
    script = Path(__file__).with_name("run_faults.py")
    command = [sys.executable, "-W", "ignore", str(script), what, str(tmp_path), str(points)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)
    print(what, counted)
    assert counted["well"] == counted["attempts"] >= min(points, 80), counted
    # Most kills and some disks have to hit, or nothing was tried. How many of those at a time do is the clock's affair.
    assert counted["hit"] >= counted["attempts"] * {"disk": 0.25, "kill": 0.5, "time": 0}[what], counted


# ---------------------------------------------------------------------------------------------------------------- damage


def flip(path, rng):
    raw = bytearray(path.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


@pytest.mark.parametrize("flips", [4, pytest.param(160, marks=pytest.mark.slow), pytest.param(2000, marks=long)])
def test_no_flipped_bit_goes_unnoticed(tmp_path, flips):
    """Of a checkpoint, of the records and of the config: an error that names a file of the run, or the very same arrays."""
    make_run(tmp_path / "run", [0.5, 0.9])
    expected = named_arrays(make_state(2))
    whole = everything(tmp_path / "run")
    files = [path for path, raw in whole.items() if raw]
    # Array data, which is most of what there is, has most of the flips.
    rng, found, same = random.Random(1), 0, 0
    for number in range(flips):
        path = files[number % len(files)] if number % 2 else max(files, key=lambda path: len(whole[path]) * rng.random())
        flip(path, rng)
        try:
            run = RunDirectory.open(tmp_path / "run")
            restored = named_arrays(run.restore(make_state(), run.choose("best", MONITOR)))
            run.restore_variables(2)
        except ValueError as error:
            assert str(tmp_path / "run") in str(error) and "\n" not in str(error), error
            found += 1
        except FileNotFoundError as error:  # of a config that is none any more
            assert "run" in str(error)
            found += 1
        else:
            for name, array in restored.items():
                assert array.tobytes() == expected[name].astype(array.dtype).tobytes(), (path, name)
            same += 1
        path.write_bytes(whole[path])
    print(f"{flips} flips: {found} found, {same} without consequence, none unnoticed")
    assert found > flips / 4  # some bits of what Orbax stores mean nothing


def damage(path):
    """Flips a bit in every tenth byte of the files that hold arrays."""
    for file in path.rglob("d/*"):
        file.write_bytes(bytes(byte ^ 4 if place % 10 == 0 else byte for place, byte in enumerate(file.read_bytes())))


@pytest.mark.slow
def test_resume_takes_the_checkpoint_before_a_damaged_one_and_keeps_that(tmp_path):
    make_run(tmp_path / "run", [0.5, 0.9, 0.6])
    damage(tmp_path / "run" / "checkpoints" / "3")
    with pytest.raises(DamagedError, match=r"checkpoints/3 is damaged: "):
        RunDirectory.open(tmp_path / "run").restore(make_state(), 3)
    with RunDirectory.open(tmp_path / "run", lock=True) as run:
        state, history = run.resume(make_state())
        assert_same_state(state, make_state(2))
        assert [record["epoch"] for record in history] == [1, 2] and run.history() == history
        (note,) = run.notes
        assert "checkpoints/3 is damaged" in note and "training goes on after epoch 2" in note and "damaged/3" in note
        run.append({"epoch": 3, "accuracy": 0.6})
        run.save(make_state(3), 3, 2)
        assert run.epochs() == [2, 3] and (tmp_path / "run" / "damaged" / "3" / "state").exists()
    RunDirectory.create(tmp_path / "run", "toy", CONFIG, overwrite=True)  # damaged/ is of the run


@pytest.mark.slow
def test_without_a_good_checkpoint_resume_says_so_and_touches_nothing(tmp_path):
    make_run(tmp_path / "run", [0.5, 0.9, 0.6])
    for epoch in (2, 3):
        damage(tmp_path / "run" / "checkpoints" / str(epoch))
    before = everything(tmp_path / "run")
    with pytest.raises(DamagedError, match=r"no checkpoint of .*run can be read: .*checkpoints/3 is damaged: .*--overwrite"):
        RunDirectory.open(tmp_path / "run").resume(make_state())
    assert everything(tmp_path / "run") == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("state/_METADATA", "checkpoints/2 is damaged"),
        ("_CHECKPOINT_METADATA", "checkpoints/2 is damaged"),
        ("about/metadata", "checkpoints/2 is damaged"),
        ("state/manifest.ocdbt", "checkpoints/2 is damaged"),
        ("state", "checkpoints/2 is damaged"),
    ],
)
def test_a_missing_part_is_damage_of_one_line(tmp_path, lost, message, capfd):
    make_run(tmp_path / "run", [0.5, 0.9])
    path = tmp_path / "run" / "checkpoints" / "2" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        assert_same_state(RunDirectory.open(tmp_path / "run").restore(make_state(), 2), make_state(2))
        assert lost == "_CHECKPOINT_METADATA"  # not needed to read the arrays
    except DamagedError as error:
        assert message in str(error) and "\n" not in str(error) and len(str(error)) < 500
    assert capfd.readouterr().err == ""


def test_parameters_that_are_not_finite_are_refused(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "toy", CONFIG)
    state = make_state(1)
    state.params["first"]["kernel"][0, 0] = np.nan
    run.append({"epoch": 1, "accuracy": 0.5})
    run.save(state, 1, 1)
    for restore in (lambda: run.restore(make_state(), 1), lambda: run.restore_variables(1), lambda: run.resume(make_state())):
        with pytest.raises(ValueError, match=r"checkpoints/1 holds numbers that are not finite, in params/first/kernel"):
            restore()


# ------------------------------------------------------------------------------------------------------- records and config


@pytest.mark.parametrize("kept", [None, 0, 1, 2])
def test_records_that_are_not_those_of_the_checkpoints_are_refused(tmp_path, kept):
    """Of three epochs; ``None``: the file is gone."""
    make_run(tmp_path / "run", [0.5, 0.9, 0.6])
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.unlink() if kept is None else path.write_text("".join(lines[:kept]))
    before = everything(tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        run.resume(make_state())
    with pytest.raises(ValueError, match=r"metrics\.jsonl has records of \d epochs, but there is a checkpoint of epoch 3"):
        run.choose("best", MONITOR)
    assert everything(tmp_path / "run") == before and run.epochs() == [2, 3]


@pytest.mark.parametrize("extra", [1, 2])
def test_a_checkpoint_that_is_gone_is_noticed(tmp_path, extra):
    """One record more than checkpoints is what a kill leaves; two are not."""
    make_run(tmp_path / "run", [0.9, 0.5, 0.6])
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text(path.read_text() + "".join(f'{{"epoch": {4 + n}, "accuracy": 0.1}}\n' for n in range(extra)))
    run = RunDirectory.open(tmp_path / "run")
    if extra == 1:
        assert len(run.resume(make_state())[1]) == 3
    else:
        with pytest.raises(ValueError, match="has records of 5 epochs, but the latest checkpoint is of epoch 3"):
            run.resume(make_state())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.replace("0.9", "0.8"), r"metrics\.jsonl is damaged: it is not what the checkpoint .*2 was written"),
        (lambda text: text.replace('{"epoch": 1,', '{"epoch": 1'), r"metrics\.jsonl:1 is damaged: expected JSON"),
        (lambda text: "[1]\n" + text, r"metrics\.jsonl:1 is damaged: expected the record of epoch 1"),
        (lambda text: text + text, r"metrics\.jsonl:3 is damaged: expected the record of epoch 3, got 1"),
        (lambda text: "\udcff" + text, r"metrics\.jsonl:1 is damaged"),
        (lambda text: "[" * 100_000 + "\n", r"metrics\.jsonl:1 is damaged"),
    ],
)
def test_edited_records_are_named_by_line(tmp_path, edit, message):
    make_run(tmp_path / "run", [0.5, 0.9])
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text(edit(path.read_text()), errors="surrogateescape")
    before = everything(tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        RunDirectory.open(tmp_path / "run").resume(make_state())
    assert everything(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config\.json is damaged: expected JSON"),
        ("[]", r"config\.json is not that of a run: expected the format 'colnorm run'"),
        ('{"format": "colnorm run", "task": 1, "config": {}}', r"config\.json is not that of a run"),
        ('{"format": "colnorm run", "version": 9, "task": "toy", "config": {}}', "a later version of colnorm: format 9"),
        ('{"format": "colnorm run", "version": 1, "task": "toy", "config": {"rate": 0.2}}', "is not what the checkpoint"),
    ],
)
def test_a_config_that_is_not_the_runs_is_an_error(tmp_path, text, message):
    make_run(tmp_path / "run", [0.5])
    (tmp_path / "run" / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        RunDirectory.open(tmp_path / "run").restore(make_state(), 1)


def test_runs_of_before_there_was_a_marker_are_read_and_gone_on_with(tmp_path):
    make_run(tmp_path / "run", [0.5, 0.9])
    path = tmp_path / "run" / "config.json"
    about = next(path for path in (tmp_path / "run" / "checkpoints" / "2" / "about").iterdir() if "arrays" in path.read_text())
    stored = json.loads(about.read_text())
    flat = {"task": "cifar", "seed": 0, **CONFIG}
    about.write_text(json.dumps({"epoch": 2, "config": flat}))
    assert stored["epoch"] == 2
    path.write_text(json.dumps(flat))
    run = RunDirectory.open(tmp_path / "run")
    assert run.task == "images" and run.config["rate"] == 0.1
    state, history = run.resume(make_state())
    assert_same_state(state, make_state(2))
    assert len(history) == 2


# ---------------------------------------------------------------------------------------------------- other files, other hands


@pytest.mark.parametrize("place", ["thesis.txt", "checkpoints/thesis.txt", "notes/thesis.txt"])
def test_overwriting_never_deletes_what_is_not_the_runs(tmp_path, place):
    make_run(tmp_path / "run", [0.5])
    (tmp_path / "run" / place).parent.mkdir(exist_ok=True)
    (tmp_path / "run" / place).write_text("ten years of work")
    before = everything(tmp_path / "run")
    with pytest.raises(FileExistsError, match=f"holds a run and {place.split('/')[0]}.*; nothing was touched"):
        RunDirectory.create(tmp_path / "run", "toy", CONFIG, overwrite=True)
    assert everything(tmp_path / "run") == before


def test_a_config_of_something_else_makes_no_run(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.json").write_text('{"editor": "dark", "task": "write"}')
    (home / "thesis.txt").write_text("ten years of work")
    before = everything(home)
    with pytest.raises(FileExistsError, match="not a run directory"):
        RunDirectory.create(home, "toy", CONFIG, overwrite=True)
    with pytest.raises(ValueError, match="is not that of a run"):
        RunDirectory.open(home)
    assert everything(home) == before


@pytest.mark.parametrize("left", [["config.json.tmp"], [".lock"], [".lock", "config.json.tmp"]])
def test_what_a_kill_leaves_before_the_marker_is_written_bars_nobody(tmp_path, left):
    (tmp_path / "run").mkdir()
    for name in left:
        (tmp_path / "run" / name).write_text("half")
    RunDirectory.create(tmp_path / "run", "toy", CONFIG).close()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", ".lock"}


def test_an_old_checkpoint_that_was_not_deleted_any_more_is_deleted_by_the_next_resume(tmp_path):
    make_run(tmp_path / "run", [0.5, 0.9, 0.6])
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoints / "2", checkpoints / "1.deleted")
    with RunDirectory.open(tmp_path / "run", lock=True) as run:
        run.resume(make_state())
    assert sorted(path.name for path in checkpoints.iterdir()) == ["2", "3"]


HOLD = """
import sys, time
from colnorm.run_directory import RunDirectory
run = RunDirectory.open(sys.argv[1], lock=True)
print("locked", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_two_processes_never_train_one_run_and_a_dead_one_stops_nobody(tmp_path):
    make_run(tmp_path / "run", [0.5])
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        before = everything(tmp_path / "run")
        who = rf"run is in use by process {holder.pid} on \S+ since \d{{4}}-"
        with pytest.raises(LockedError, match=who):
            RunDirectory.open(tmp_path / "run", lock=True)
        with pytest.raises(LockedError, match=who):
            RunDirectory.create(tmp_path / "run", "toy", CONFIG, overwrite=True)
        with pytest.raises(LockedError, match=who):
            RunDirectory.open(tmp_path / "run").resume(make_state())
        RunDirectory.open(tmp_path / "run").restore(make_state(), 1)  # it may be read
        assert everything(tmp_path / "run") == before
    finally:
        holder.kill()
        holder.communicate()
    with RunDirectory.open(tmp_path / "run", lock=True) as run:
        assert_same_state(run.resume(make_state())[0], make_state(1))
        with pytest.raises(LockedError, match=rf"process {os.getpid()} on"):
            Lock(tmp_path / "run" / ".lock").acquire()
    Lock(tmp_path / "run" / ".lock").acquire().release()


# ----------------------------------------------------------------------------------------------------------------- names

NAMES = ["lr[0.1]", "a b", " a ", "a#b?c", "*", "%20", "back\\slash", "new\nline", "tab\t", "\x01", "[/x]", "漢é", "-x", "$x$"]
NAMES += ["a:b;c", "{a}", "'", '"', "surrogate\udc80", "<b>", "|", "~", "x" * 200, ".", "a//b"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_may_have_any_name(tmp_path, name):
    run = make_run(tmp_path / name / "run", [0.5, 0.9])
    assert run.epochs() == [2]
    assert_same_state(run.restore(make_state(), 2), make_state(2))
    state, _ = run.resume(make_state())
    run.append({"epoch": 3, "accuracy": 0.5})
    run.save(state, 3, 2)
    assert run.epochs() == [2, 3]
    assert_same_state(run.restore_variables(3)["params"], make_state(2).params)


def test_a_first_save_that_can_not_be_read_again_is_an_error(tmp_path, monkeypatch):
    from colnorm import checkpoint

    read = checkpoint.read

    def other(path, *more, **named):
        damage(path)
        return read(path, *more, **named)

    monkeypatch.setattr(checkpoint, "read", other)
    run = RunDirectory.create(tmp_path / "run", "toy", CONFIG)
    with pytest.raises(OSError, match=r"checkpoints/1 was written, but is not what is read of it: .*damaged"):
        run.save(make_state(1), 1, 1)


def test_a_lock_says_since_when(tmp_path):
    lock = Lock(tmp_path / "lock").acquire()
    assert time.strftime("since %Y-") in (tmp_path / "lock").read_text()
    assert lock.acquire() is lock
    lock.release()
    assert (tmp_path / "lock").read_text() == ""


def test_a_lock_that_is_held_to_the_end_of_a_process_says_nothing(tmp_path):
    program = "import sys; from pathlib import Path; from colnorm.files import Lock; held = Lock(Path(sys.argv[1])).acquire()"
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "lock")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    Lock(tmp_path / "lock").acquire().release()
