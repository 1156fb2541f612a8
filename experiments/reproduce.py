"""The whole study with one command: trains every row, evaluates it, and writes a page with every table and figure.

python -m experiments.reproduce                                            # embedded data: half an hour on two cores
python -m experiments.reproduce --data-dir DIR --scale reduced --jobs 2    # real data, few epochs: two hours on two cores
python -m experiments.reproduce --data-dir DIR --seeds 3 --resume          # the report's sizes; goes on where it was stopped

DIR holds CIFAR-10 (binary or python version), GMB's ner_dataset.csv and glove.6B.100d.txt; --ner-data and --glove name them
where they are elsewhere. Every row is a command of its own, ``experiments.train`` with a preset, and the page shows it.

Rows of real data may have different scales in one study: a row keeps the scale it was begun with. So some rows at the report's
sizes and all others reduced are two commands, the first with --scale full --rows and both with the same --output.
"""

import contextlib
import dataclasses
import fcntl
import queue
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console

from colnorm import process
from colnorm.files import read_json, write_json
from colnorm.tasks import console
from experiments import gather, page
from experiments.job import Job
from experiments.pool import Pool, Slot, make_slots
from experiments.presets import PRESETS
from experiments.study import SCALES, Scale, choose, has_scale, worth

STUDY = "study.json"


@dataclasses.dataclass(frozen=True)
class Command:
    """What to reproduce, and where."""

    scale: Scale | None = None
    """Of the rows that aren't begun. demo: embedded data, small networks; reduced: real data, few epochs; full: the report's
    sizes. By default full where data is named, else demo."""
    data_dir: str | None = None
    """Directory with CIFAR-10 and, unless named below, GMB and GloVe."""
    ner_data: str | None = None
    """GMB's csv, or a directory of CoNLL files."""
    glove: str | None = None
    """GloVe text file."""
    rows: tuple[str, ...] = ()
    """Rows by name, or images, or tagging, of like worth in this order; by default all, or with --resume and no --scale those
    that were begun."""
    seeds: int = 1
    """Seeds of each row, from 0."""
    jobs: int = 1
    """Rows at a time, each on its share of the cores. On a CPU, where a small network can't keep several cores busy, as
    many as there are cores is fastest. Batches of images are split over as many virtual devices as a row has cores: figures
    of another number of jobs are the same but for the rounding of sums, which training magnifies."""
    output: Path | None = None
    """Directory for runs, page and pictures; runs/study-SCALE by default."""
    resume: bool = False
    """Go on with what is there: finished rows are kept, a row that was stopped continues from its last epoch."""
    page_only: bool = False
    """Train nothing, write the page anew from what is there."""


def reproduce(command: Command) -> Path:
    """Does what is left of the study and writes the page; returns the page.

    Raises:
      ValueError: there is no such row, no data, or something stands in the output that is not to be gone on with; or
        a summary there is of another run than the row's.
      RuntimeError: some rows failed; the others are done.
    """
    named = any((command.data_dir, command.ner_data, command.glove))
    scale = command.scale or ("full" if named else "demo")
    if command.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {command.seeds}")
    rows = [row.name for row in choose(command.rows) if has_scale(row, scale)]
    if not rows:
        raise ValueError(f"at scale {scale} there is no row {' '.join(command.rows)}: the embedded data has no GloVe vectors")
    output = command.output or Path("runs") / f"study-{scale}"
    # All that can be refused is refused before anything is written.
    slots = make_slots(command.jobs)
    scales, seeds = read_study(output, going_on=command.resume or command.page_only)
    if command.page_only and not scales:
        raise ValueError(f"{output} holds no study: there is nothing to write a page of")
    if scales and not command.rows and command.scale is None:
        rows = list(scales)
    if not command.page_only:
        scales, seeds = add_rows(scales, rows, scale, output), max(seeds, command.seeds)
    jobs = [Job(PRESETS[name], seed, scales[name], output) for seed in range(seeds) for name in scales]
    for job in jobs:
        if job.is_finished:
            job.read_summary()
    screen = console.make_console()

    def write_page() -> Path:
        results = gather.gather(jobs)
        write_json(output / "results.json", results)
        return page.write(results, {(job.row.name, job.seed): job.summary for job in jobs if job.is_finished}, output)

    failed = []
    if not command.page_only:
        wanted = [job for job in jobs if job.row.name in rows and job.seed < command.seeds]
        unfinished = (job for job in wanted if not job.is_finished)
        waiting = sorted(unfinished, key=lambda job: (worth(job.row, job.seed), rows.index(job.row.name)))
        data = find_data(command, waiting)
        (output / "runs").mkdir(parents=True, exist_ok=True)
        with locked(output / ".lock") as lock:
            write_json(output / STUDY, {"scales": scales, "seeds": seeds})
            counts = ", ".join(f"{count} rows {scale}" for scale, count in Counter(scales.values()).items())
            done = len(wanted) - len(waiting)
            screen.print(f"{output}: {counts}; {seeds} seed(s); {done} of {len(wanted)} runs are done", soft_wrap=True)
            if kept := [name for name in rows if scales[name] != (command.scale or scales[name])]:
                screen.print(f"begun at another scale than {scale}, which they keep: {', '.join(kept)}", soft_wrap=True)
            pool = Pool([lock])
            do_jobs(waiting, data, slots, pool, screen, jobs, after=write_page)
            failed = [job.name for job in jobs if job.failure is not None]
            cost = output / "crf_cost.json"
            if any(job.row.task == "tagging" for job in jobs) and not cost.exists():
                screen.print("the cost of a CRF over the number of tags:")
                if pool.run(["experiments.benchmarks.crf_cost", "--output", str(cost)], Slot()):
                    failed.append("the cost of a CRF")
    written = write_page()
    screen.print(f"written: {written}, {output / 'RESULTS.md'}, {output / 'results.json'}", highlight=False, soft_wrap=True)
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed: {', '.join(failed)}; --resume tries them again")
    return written


def do_jobs(
    waiting: Sequence[Job],
    data: Mapping[str, Mapping[str, str]],
    slots: Sequence[Slot],
    pool: Pool,
    screen: Console,
    jobs: Sequence[Job],
    after: Callable[[], object],
) -> None:
    """Does the waiting jobs in order, as many at a time as there are slots.

    Args:
      waiting: what is left.
      data: for each row the paths of its data, by field of its config.
      slots: where they run; with more than one, what jobs print is marked with their names.
      pool: what they start is one of; all are stopped when this one is.
      screen: where to say what begins, and how long all may take.
      jobs: all of the study: how long its epochs took tells how long others will.
      after: called after every job that came to an end: whoever looks at the page then sees what there is.

    Raises:
      KeyboardInterrupt: Ctrl-C; what runs has stopped by then.
    """
    free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)

    def do(number: int, job: Job) -> bool:
        slot = free.get()
        try:
            unfinished = [other for other in waiting if other is job or not (other.is_finished or other.failure)]
            left, whole = time_left(unfinished, jobs)
            left /= min(len(slots), len(unfinished))
            about = f"; {'about' if whole else 'more than'} {console.duration(left)} left for all" if left else ""
            screen.print(f"[{number}/{len(waiting)}] {job.name}: {job.row.title}{about}", markup=False, soft_wrap=True)

            def say(line: str) -> None:
                screen.print(f"{job.name}: {line}", highlight=False, markup=False, soft_wrap=True)

            return job.do(data[job.row.name], slot, pool, None if len(slots) == 1 else say)
        finally:
            free.put(slot)

    with ThreadPoolExecutor(len(slots)) as threads:
        begun: list[Future[bool]] = [threads.submit(do, number, job) for number, job in enumerate(waiting, 1)]
        try:
            for future in as_completed(begun):
                if future.result():
                    after()
        except BaseException:
            for future in begun:
                future.cancel()
            pool.stop()
            raise


@contextlib.contextmanager
def locked(path: Path, patience: float = 10.0) -> Iterator[int]:
    """Holds a lock on a file, and gives its descriptor: whoever inherits that holds it too.

    Raises:
      ValueError: another process holds it and does so for ``patience`` seconds, in which one that was killed is gone.
    """
    with open(path, "w", encoding="utf-8") as file:
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - began > patience:
                    raise ValueError(
                        f"another command is at work in {path.parent}; --page-only writes its page meanwhile"
                    ) from None
                time.sleep(0.1)
        yield file.fileno()


def time_left(waiting: Sequence[Job], jobs: Sequence[Job]) -> tuple[float, bool]:
    """Seconds that the waiting jobs may take one after another, from the epochs that are done, and whether that is all of them.

    An epoch of a row that was never trained is taken to be as long as the mean one of its task, and all epochs to be run; a
    task of which nothing was trained is left out.
    """
    known: dict[str, list[float]] = {}
    for job in jobs:
        if seconds := job.epoch_seconds:
            known.setdefault(job.row.name, []).extend(seconds)
            known.setdefault(job.row.task, []).extend(seconds)
    total, whole = 0.0, True
    for job in waiting:
        seconds = known.get(job.row.name, known.get(job.row.task, []))
        epochs = max(job.config.epochs - len(job.epoch_seconds), 0)
        total += epochs * sum(seconds) / max(len(seconds), 1)
        whole = whole and bool(seconds)
    return total, whole


def read_study(output: Path, going_on: bool) -> tuple[dict[str, Scale], int]:
    """The scale of each row of the study in a directory and its number of seeds; nothing where it is empty or missing.

    Raises:
      ValueError: it holds something else, or a study that is not to be gone on with; or the study's file is damaged.
    """
    file = output / STUDY
    if file.exists():
        if not going_on:
            raise ValueError(f"{output} holds a study already; go on with --resume, or choose another --output")
        stored = read_json(file)
        scales, seeds = (stored.get(name) for name in ("scales", "seeds")) if isinstance(stored, dict) else (None, None)
        if not isinstance(scales, dict) or not set(map(str, scales.values())) <= SCALES.keys() or type(seeds) is not int:
            raise ValueError(f"{file} is damaged: expected rows with their scales, {', '.join(SCALES)}, and a number of seeds")
        if gone := sorted(scales.keys() - PRESETS.keys()):
            raise ValueError(f"{file} has rows that the study has not: {', '.join(gone)[:200]}; take them out of it to go on")
        return scales, seeds
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no study; choose another --output")
    return {}, 0


def add_rows(scales: Mapping[str, Scale], names: Sequence[str], scale: Scale, output: Path) -> dict[str, Scale]:
    """The rows of a study, those of ``names`` that it lacks added at a scale; in the order of the study.

    Raises:
      ValueError: embedded and real data would stand in one study.
    """
    added = {**dict.fromkeys(names, scale), **scales}
    if "demo" in added.values() and len(set(added.values())) > 1:
        raise ValueError(f"{output} holds a study at scale {next(iter(scales.values()))}, to which {scale} can't be added")
    return {name: added[name] for name in PRESETS if name in added}


def find_data(command: Command, jobs: Sequence[Job]) -> dict[str, dict[str, str]]:
    """For each row the paths of its data, by field of its config.

    Raises:
      ValueError: nothing says where it is.
    """
    options = {
        "data_dir": ("--data-dir", command.data_dir, None),
        "data": ("--ner-data", command.ner_data, "ner_dataset.csv"),
        "glove": ("--glove", command.glove, "glove.6B.100d.txt"),
    }

    def find(name: str, scale: Scale) -> str:
        option, given, usual = options[name]
        inside = None if usual is None or command.data_dir is None else Path(command.data_dir) / usual
        if given is None and (inside is None or not inside.exists()):
            where = "" if inside is None else f"; there is no {inside}"
            raise ValueError(f"at scale {scale} these rows need {option}{where}")
        if given is not None and not Path(given).exists():
            raise ValueError(f"{option} {given} does not exist")
        return str(inside) if given is None else given

    return {job.row.name: {name: find(name, job.scale) for name in job.needs} for job in jobs}


main = process.command_line(Command, reproduce, "python -m experiments.reproduce", __doc__)

if __name__ == "__main__":
    sys.exit(main())
