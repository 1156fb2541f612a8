"""The study as one command: real runs of a few rows, killed and gone on with; what is refused; how long it will take."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from colnorm import process
from colnorm.data import sample
from colnorm.run_directory import RunDirectory
from experiments import job, pool, reproduce, study
from experiments.presets import PRESETS

ROOT = Path(__file__).parents[1]
TIMES = {"seconds", "epoch_seconds", "compile_seconds", "peak_memory_mib"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """By task what makes a demo smaller still: few sentences, a small network, few steps."""
    directory = tmp_path_factory.mktemp("sentences")
    for (name, size), sentences in zip({"train": 200, "valid": 30, "test": 30}.items(), sample.generate(), strict=True):
        blocks = ("".join(f"{w} {t}\n" for w, t in zip(*sentence, strict=True)) for sentence in sentences[:size])
        (directory / f"{name}.txt").write_text("\n".join(blocks), encoding="utf-8")
    return {"images": {"batch_size": 64, "epochs": 2}, "tagging": {"data": str(directory), "hidden": 8, "epochs": 30}}


@pytest.fixture(autouse=True)
def _small_rows(small, monkeypatch):
    """In this process too: a summary is compared with the row's config."""
    monkeypatch.setattr(job, "at_scale", lambda row, scale: dataclasses.replace(study.at_scale(row, scale), **small[row.task]))


# What is started in the background of a shell script ignores Ctrl-C, and so would the tests' own commands.
START = """
import dataclasses, json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from experiments import job, reproduce, study
small = json.loads(sys.argv[1])
job.at_scale = lambda row, scale: dataclasses.replace(study.at_scale(row, scale), **small[row.task])
sys.exit(reproduce.main(sys.argv[2:]))
"""


def start(small, output, *more):
    """The command in a process group of its own, as on a terminal, where Ctrl-C reaches all of the group."""
    command = [sys.executable, "-c", START, json.dumps(small), "--output", str(output), *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)


def wait_for(path, process, lines=1):
    """Waits for a file of so many lines."""
    for _ in range(1200):
        if path.exists() and path.read_text().count("\n") >= lines:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError(f"{path} did not come")


def metrics(output):
    results = json.loads((output / "results.json").read_text())
    return {
        row["name"]: [{key: value for key, value in seed.items() if key not in TIMES} for seed in row["seeds"]]
        for row in results["rows"]
    }


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """A row of images and one of taggers, without a break."""
    output = tmp_path_factory.mktemp("reproduce") / "whole"
    process = start(small, output, "--rows", "nn", "random")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return output, out


@pytest.mark.slow
def test_rows_are_trained_evaluated_and_on_the_page(whole):
    output, out = whole
    results = json.loads((output / "results.json").read_text())
    assert [row["name"] for row in results["rows"]] == ["nn", "random"]
    for row in results["rows"]:
        (seed,) = row["seeds"]
        assert seed["epochs"] == row["epochs_at_most"] and 0 < seed["metrics"]["test_accuracy"] <= 1
        assert f'id="row-{row["name"]}"' in (output / "index.html").read_text()
    command = results["rows"][1]["command"]
    assert command.startswith("python -m experiments.train random --data") and command.endswith("--seed 0 --run RUN")
    cost = json.loads((output / "crf_cost.json").read_text())
    assert len(cost["milliseconds"]) == len(cost["tags"]) > 3
    assert "[2/2] random, seed 0: BiLSTM, random word embeddings" in out
    assert not list(output.glob("**/*.stderr"))


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_same_metrics(whole, small, tmp_path):
    output = tmp_path / "killed"
    epochs = output / "runs" / "random-seed0" / "metrics.jsonl"
    process = start(small, output, "--rows", "random")
    wait_for(epochs, process)
    process.kill()  # the machine dies: what it had started must not go on
    process.communicate()
    process = start(small, output, "--rows", "random", "--resume")
    wait_for(epochs, process, 1 + epochs.read_text().count("\n"))
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "interrupted" in err and not list(output.glob("**/*.stderr"))
    process = start(small, output, "--rows", "random", "--resume")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "going on after epoch" in out and "left" in out
    assert metrics(output) == {"random": metrics(whole[0])["random"]}


def without_mistakes(page):
    """The page, and its data without what rows get wrong."""
    head, data, tail = re.fullmatch(r'(?s)(.*id="data">)(.*?)(</script>.*)', page).groups()
    data = json.loads(data)
    for row in data["rows"].values():
        row.pop("images", row.pop("sentences", None))
    return head, data, tail


@pytest.mark.slow
def test_finished_rows_are_kept_and_the_page_can_be_written_alone(whole, tmp_path, capsys):
    output, _ = whole
    before = {path: path.stat().st_mtime_ns for path in output.glob("runs/*/metrics.jsonl")}
    page = (output / "index.html").read_text()
    (output / "index.html").unlink()
    arguments = ["--output", str(output), "--rows", "nn", "random"]
    assert reproduce.main([*arguments, "--page-only"]) == 0
    assert (output / "index.html").read_text() == page
    assert reproduce.main(["--output", str(output), "--resume"]) == 0  # the rows that were begun
    assert "2 of 2 runs are done" in capsys.readouterr().out
    # What the runs came to is enough, on this machine or another.
    other = tmp_path / "other"
    shutil.copytree(output, other, ignore=shutil.ignore_patterns("runs", "pictures", "index.html"))
    assert reproduce.main(["--output", str(other), "--resume"]) == 0
    assert "2 of 2 runs are done" in capsys.readouterr().out
    assert without_mistakes((other / "index.html").read_text()) == without_mistakes(page) and not list(other.glob("runs/*"))
    assert '"images":' in page and '"sentences":' in page  # what is wrong on test data comes from the run directories
    assert str(output) not in "".join(path.read_text() for path in other.glob("records/*"))
    assert {path: path.stat().st_mtime_ns for path in output.glob("runs/*/metrics.jsonl")} == before


@pytest.mark.slow
def test_what_cant_be_done_is_refused_at_once(whole, tmp_path, capsys):
    def refused(*arguments):
        assert reproduce.main(arguments) == 1
        return capsys.readouterr().err

    output, _ = whole
    assert "go on with --resume" in refused("--output", str(output))
    assert "at scale demo, to which reduced can't be added" in refused(
        "--output", str(output), "--scale", "reduced", "--resume"
    )
    assert "there is no row 'xn'" in refused("--rows", "xn", "--output", str(tmp_path / "a"))
    assert "at least 1, got 0" in refused("--seeds", "0", "--output", str(tmp_path / "b"))
    assert "--jobs must be between 1 and the number of cores" in refused("--jobs", "1000", "--output", str(tmp_path / "b"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    assert "is not empty and holds no study" in refused("--output", str(tmp_path / "full"))
    assert "these rows need --data-dir" in refused("--scale", "full", "--output", str(tmp_path / "c"))
    missing = refused("--data-dir", str(tmp_path), "--rows", "crf", "--output", str(tmp_path / "d"))
    assert "need --ner-data; there is no" in missing and "ner_dataset.csv" in missing
    missing = refused("--ner-data", str(tmp_path / "none.csv"), "--rows", "random", "--output", str(tmp_path / "e"))
    assert "none.csv does not exist" in missing  # and no sample was taken in its place
    changed = tmp_path / "changed"
    shutil.copytree(output, changed, ignore=shutil.ignore_patterns("runs"))
    (of_nn,) = changed.glob("records/nn-*")
    of_nn.write_text(of_nn.read_text().replace('"learning_rate":0.01', '"learning_rate":0.02', 1))
    assert "nn-seed0.json is damaged: it is not what was written" in refused("--output", str(changed), "--resume")
    stored = json.loads(of_nn.read_text())
    del stored["sha256"], stored["commit"]  # as of before there were digests, with another config
    of_nn.write_text(json.dumps(stored))
    assert "nn-seed0.json is of a run with another config" in refused("--output", str(changed), "--resume")
    assert "holds no study" in refused("--page-only", "--output", str(tmp_path / "f"))
    assert not any((tmp_path / name).exists() for name in "abcdef")  # what is mended can be tried again


def test_data_is_found_in_the_directory_or_where_it_is_named(tmp_path):
    (tmp_path / "ner_dataset.csv").touch()
    jobs = [job.Job(row, 0, "full", tmp_path) for row in study.choose(("bn", "random", "crf"))]
    vectors = str(tmp_path / "vectors.txt")
    Path(vectors).touch()
    command = reproduce.Command(data_dir=str(tmp_path), glove=vectors)
    assert reproduce.find_data(command, jobs) == {
        "bn": {"data_dir": str(tmp_path)},
        "random": {"data": str(tmp_path / "ner_dataset.csv")},
        "crf": {"data": str(tmp_path / "ner_dataset.csv"), "glove": vectors},
    }


def test_a_row_keeps_the_scale_it_was_begun_with(tmp_path):
    scales = reproduce.add_rows({}, ["crf", "bn"], "full", tmp_path)
    assert list(scales.items()) == [("bn", "full"), ("crf", "full")]
    assert reproduce.add_rows(scales, ["bn", "gn"], "reduced", tmp_path) == {"bn": "full", "gn": "reduced", "crf": "full"}
    with pytest.raises(ValueError, match="at scale full, to which demo can't be added"):
        reproduce.add_rows(scales, ["gn"], "demo", tmp_path)


def test_two_commands_are_not_at_work_in_one_study(tmp_path):
    def lock():
        return reproduce.locked(tmp_path / ".lock", patience=0)

    with lock(), pytest.raises(ValueError, match="another command is at work"), lock():
        pass
    with lock():
        pass


def test_a_stop_reaches_what_runs_and_nothing_begins_after_it():
    running_pool = pool.Pool()
    waiting = threading.Timer(0.5, running_pool.stop)
    waiting.start()
    with pytest.raises(KeyboardInterrupt):
        running_pool.run(["timeit", "-n1", "-r1", "import time; time.sleep(600)"], pool.Slot())
    with pytest.raises(KeyboardInterrupt):
        running_pool.run(["timeit", "pass"], pool.Slot())


def test_the_reason_of_a_failure_is_one_line():
    assert pool.reason(1, "a warning\nerror: ner.csv:3: no tag\nsome more") == "ner.csv:3: no tag"
    assert pool.reason(1, "Traceback\n  ...\nKeyError: 'x'") == "KeyError: 'x'"
    assert pool.reason(-9, "a warning of long ago") == "killed by SIGKILL"
    assert pool.reason(3, "") == "exit status 3"


def test_a_run_that_was_stopped_before_its_first_epoch_begins_anew(tmp_path, monkeypatch):
    """It may lack any of its files, so that nothing could go on with it."""
    begun = job.Job(PRESETS["random"], 0, "demo", tmp_path)
    begun.run.mkdir(parents=True)
    (begun.run / "config.json.tmp").write_text("{")
    done = []

    def run(command, *_):
        done.append(command)
        if "experiments.train" in command:
            RunDirectory.create(begun.run, "tagging", {}, overwrite=True).close()
        else:
            splits = {name: {} for name in ("train", "validation", "test")}
            (begun.run / "evaluation.json").write_text(json.dumps({"epoch": 1, "splits": splits}))
        return 0

    running_pool = pool.Pool()
    monkeypatch.setattr(running_pool, "run", run)
    assert begun.do({}, pool.Slot(), running_pool)
    assert begun.is_finished
    assert "--resume" not in done[0] and done[1] == ["experiments.evaluate", str(begun.run)]


@pytest.mark.slow
def test_damaged_records_of_a_run_stop_that_row_alone_and_delete_nothing(whole, tmp_path, capfd):
    """The row fails with the file's name, as often as it is tried; another is trained."""
    output = tmp_path / "study"
    broken, other = (job.Job(PRESETS[name], 0, "demo", output) for name in ("nn", "random"))
    RunDirectory.create(broken.run, "images", dataclasses.asdict(broken.config)).close()
    (broken.run / "metrics.jsonl").write_text('{"epoch": 1\n')
    (broken.run / "checkpoints").mkdir()
    assert broken.epoch_seconds == []
    (output / "study.json").write_text(json.dumps({"scales": {"nn": "demo", "random": "demo"}, "seeds": 1}))
    (output / "crf_cost.json").write_text((whole[0] / "crf_cost.json").read_text())
    assert reproduce.main(["--output", str(output), "--resume"]) == 1
    said = capfd.readouterr().err
    assert f"{broken.run / 'metrics.jsonl'}:1 is damaged: expected JSON" in said and "1 runs failed: nn, seed 0" in said
    assert other.is_finished and "metrics.jsonl:1 is damaged" in (broken.failure or "")
    assert (broken.run / "metrics.jsonl").read_text() == '{"epoch": 1\n'
    for page in ("RESULTS.md", "index.html"):
        assert "metrics.jsonl:1 is damaged" in (output / page).read_text()
    rows = {row["name"]: row for row in json.loads((output / "results.json").read_text())["rows"]}
    assert "metrics.jsonl:1 is damaged" in rows["nn"]["failures"]["0"] and rows["random"]["seeds"]


@pytest.mark.parametrize("left", ["records", "a checkpoint", "neither"])
def test_a_run_of_which_anything_is_stored_is_never_overwritten(tmp_path, left):
    of_row = job.Job(PRESETS["nn"], 0, "demo", tmp_path)
    with RunDirectory.create(of_row.run, "images", {}) as run:
        if left == "records":
            run.append({"epoch": 1, "seconds": 1.0})
        if left == "a checkpoint":  # its records are gone: resuming says so
            (of_row.run / "checkpoints" / "1").mkdir(parents=True)
    assert of_row.commands({})[0][-1] == ("--overwrite" if left == "neither" else "--resume")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "study.json is damaged: expected JSON"),
        ("{}", "study.json is damaged: expected rows with their scales"),
        ('{"scales": {"nn": "huge"}, "seeds": 1}', "study.json is damaged: expected rows with their scales"),
        ('{"scales": {"nn": "demo"}, "seeds": "1"}', "study.json is damaged: expected rows with their scales"),
        ('{"scales": {"nn": "demo", "xn": "demo"}, "seeds": 1}', "has rows that the study has not: xn"),
    ],
)
def test_a_damaged_study_is_named(tmp_path, capsys, text, message):
    (tmp_path / "study.json").write_text(text)
    assert reproduce.main(["--output", str(tmp_path), "--page-only"]) == 1
    said = capsys.readouterr().err
    assert message in said and str(tmp_path) in said and said.count("\n") == 1
    assert (tmp_path / "study.json").read_text() == text


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"scale": "demo"}', '{"scale": "demo", "config": {}, "history": []'])
def test_a_damaged_record_is_named(tmp_path, capsys, text):
    (tmp_path / "study.json").write_text('{"scales": {"nn": "demo"}, "seeds": 1}')
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "nn-seed0.json").write_text(text)
    assert reproduce.main(["--output", str(tmp_path), "--page-only"]) == 1
    said = capsys.readouterr().err
    assert "records/nn-seed0.json is damaged" in said and said.count("\n") == 1


def test_rows_at_a_time_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 5, 7}, raising=False)
    assert pool.make_slots(1) == [pool.Slot((), 1.0)]  # all that there is, whatever it is
    assert pool.make_slots(2) == [pool.Slot((0, 2), 0.5), pool.Slot((4, 5, 7), 0.5)]
    assert [slot.cores for slot in pool.make_slots(5)] == [(0,), (2,), (4,), (5,), (7,)]
    for number in (0, 6):
        with pytest.raises(ValueError, match=f"between 1 and the number of cores, 5, got {number}"):
            pool.make_slots(number)


@pytest.mark.slow
@pytest.mark.skipif(process.available_cores() < 2, reason="one core")
def test_two_rows_at_a_time_stop_together_and_end_as_alone(whole, small, tmp_path):
    output = tmp_path / "two"
    arguments = ("--rows", "random", "nn", "--jobs", "2")
    running = start(small, output, *arguments)
    for name in ("nn", "random"):  # both have begun, neither waits for the other
        wait_for(output / "runs" / f"{name}-seed0" / "config.json", running, 0)
    # The second epoch's record comes after the first one's line.
    wait_for(output / "runs" / "random-seed0" / "metrics.jsonl", running, 2)
    assert not list(output.glob("runs/*/evaluation.json"))
    running.send_signal(signal.SIGINT)  # to it alone: it stops what it runs
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130 and "interrupted" in err
    assert "random, seed 0: epoch   1/30" in out and "[2/2] nn, seed 0" in out
    running = start(small, output, *arguments, "--resume")
    out, err = running.communicate(timeout=300)
    assert running.returncode == 0, err
    # On one core sums are taken in another order.
    (alone,), (beside,) = metrics(whole[0])["random"], metrics(output)["random"]
    assert beside["best_epoch"] == alone["best_epoch"]
    assert beside["metrics"] == pytest.approx(alone["metrics"], rel=1e-4)


def test_time_left_comes_from_the_epochs_that_were_trained(tmp_path):
    jobs = [job.Job(row, 0, "demo", tmp_path) for row in study.choose(("nn", "bn", "random"))]
    nn, bn, random = jobs
    assert reproduce.time_left(jobs, jobs) == (0, False)
    with RunDirectory.create(nn.run, "images", {}) as run:
        run.append({"epoch": 1, "seconds": 4.0})
        run.append({"epoch": 2, "seconds": 2.0})
    epochs = bn.config.epochs
    assert reproduce.time_left([nn, bn], jobs) == (3.0 * (epochs - 2) + 3.0 * epochs, True)
    RunDirectory.create(bn.run, "images", {}).close()
    (bn.run / "metrics.jsonl").write_text('{"epoch": 1, "seconds": 10.0}\n{"epoch": 2, "seco')  # killed while it wrote
    assert reproduce.time_left([bn], jobs) == (10.0 * (epochs - 1), True)
    assert reproduce.time_left([bn, random], jobs) == (10.0 * (epochs - 1), False)  # nothing is known of taggers
