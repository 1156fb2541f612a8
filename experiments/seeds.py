"""Trains several seeds of one image network at once, under ``vmap``.

    python -m experiments.seeds gn --data-dir DIR --seeds 3 --study runs/study    # runs/study/runs/gn-seed0, 1 and 2

It is meant for accelerators, which one network of 170,000 parameters can't be expected to fill. What several at once cost
there, ``experiments.benchmarks.epoch`` measures. On a CPU it is slow, and ``experiments.reproduce`` is the way.

Every seed ends as a run directory and a summary, as the commands for one leave them: its own split of the data, its own best
epoch, stopped by its own patience. A seed whose loss is no longer finite is given up; the others go on.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from colnorm import process
from colnorm.data import images as image_data
from colnorm.data.batching import shuffled_batches
from colnorm.files import write_json
from colnorm.parallel import scan_steps
from colnorm.run_directory import EVALUATION, MACHINE, RunDirectory
from colnorm.tasks import console
from colnorm.training import Monitor, NonFiniteLossError, TrainState, check_finite, eval_step, train_step
from experiments import images, summary
from experiments.configs import ImageConfig
from experiments.job import Job
from experiments.presets import PRESETS
from experiments.study import Scale

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Command:
    """What to train, and where to keep it."""

    rows: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Rows of the study, of images; one after another."""
    data_dir: str | None = None
    """Directory with CIFAR-10's binary or python version."""
    seeds: int = 3
    """How many, from 0."""
    scale: Scale = "full"
    """demo, reduced or full."""
    study: Path = Path("runs/seeds")
    """Directory for runs/ and records/. Seeds that have a record there are kept."""
    minutes: float | None = None
    """Stop after so long, with what there is stored: ``experiments.train --resume`` goes on with each."""


class Seeds:
    """Networks of one config and several seeds, their data, and the steps of all at once.

    Args:
      config: of all; its own seed is not used.
      seeds: which.
    """

    def __init__(self, config: ImageConfig, seeds: Sequence[int]):
        self.config = config
        self.configs = [dataclasses.replace(config, seed=seed) for seed in seeds]
        self.tasks = [images.ImageTask(each) for each in self.configs]
        data = self.tasks[0].data
        self.class_names = data.class_names
        self.steps = len(self.batches(1)[0])
        self.schedule = images.make_schedule(config, self.steps)
        states = [task.init_state(self.schedule) for task in self.tasks]
        # One structure for all: each state has an optimizer of its own, which is another one though it does the same.
        stacked = [jnp.stack(leaves) for leaves in zip(*map(jax.tree.leaves, states), strict=True)]
        self.states = jax.tree.unflatten(jax.tree.structure(states[0]), stacked)
        self.data = {
            split: self._stack([images.split_arrays(task.data.splits[split]) for task in self.tasks]) for split in data.splits
        }
        self.train_data = [self._stack(parts) for parts in zip(*(task.train_data for task in self.tasks), strict=True)]
        self.means = self._stack([{"mean": task.data.mean, "std": task.data.std} for task in self.tasks])
        self._on_cpu = jax.default_backend() == "cpu"

        def loss_fn(means: Mapping[str, Any], mirrored: bool = False) -> Any:
            return images.make_loss(config, dataclasses.replace(data, mean=means["mean"], std=means["std"]), mirrored=mirrored)

        def train(states: Any, means: Any, arrays: Any, batches: Any) -> Any:
            step = partial(train_step, loss_fn=loss_fn(means))
            # XLA's CPU backend is slow at convolutions in a loop of its own; see colnorm.parallel.Sharded.
            return (step if self._on_cpu else scan_steps(step))(states, arrays, batches)

        def evaluate(variables: Any, means: Any, arrays: Any, indices: Any, mirrored: bool) -> Any:
            return eval_step(variables, arrays, indices, loss_fn=loss_fn(means, mirrored=mirrored))

        def quantiles(variables: Any, means: Any, pixels: Any) -> Any:
            inputs = image_data.standardize(pixels, means["mean"], means["std"])
            return images.feature_percentiles(images.make_model(config, data.num_classes), variables, inputs)

        self._train = jax.jit(jax.vmap(train), donate_argnums=0)
        self._evaluate = {
            mirrored: jax.jit(jax.vmap(partial(evaluate, mirrored=mirrored), in_axes=(0, 0, 0, None)))
            for mirrored in (False, True)
        }
        self._quantiles = jax.jit(jax.vmap(quantiles))

    @staticmethod
    def _stack(arrays: Sequence[Mapping[str, np.ndarray]]) -> dict[str, jax.Array]:
        """The arrays of every seed with an axis of seeds before theirs, on the device."""
        return {name: jnp.asarray(np.stack([each[name] for each in arrays])) for name in arrays[0]}

    def batches(self, epoch: int) -> np.ndarray:
        """The order of an epoch, ``(seeds, steps, batch)``: that of each seed when it is trained alone."""
        count, size = len(self.tasks[0].data.train.labels), self.config.batch_size
        return np.stack([shuffled_batches(count, size, each.seed, epoch) for each in self.configs])

    def train_epoch(self, epoch: int) -> dict[str, np.ndarray]:
        """Trains all for an epoch; returns the sums of every step, ``(seeds, steps, ...)``."""
        batches, data = jnp.asarray(self.batches(epoch)), self.train_data[images.part_of(self.config, epoch)]
        if not self._on_cpu:
            self.states, sums = self._train(self.states, self.means, data, batches)
            return {name: np.asarray(value) for name, value in sums.items()}
        stepped = []
        for step in range(self.steps):
            self.states, sums = self._train(self.states, self.means, data, batches[:, step])
            stepped.append(jax.device_get(sums))
        return {name: np.stack([sums[name] for sums in stepped], 1) for name in stepped[0]}

    def evaluate(self, variables: Any, split: str, mirrored: bool = False) -> list[dict[str, np.ndarray]]:
        """The sums of each seed over a split; with ``mirrored`` also those of :func:`experiments.images.make_loss`."""
        count = self.data[split]["labels"].shape[1]
        indices = jnp.asarray(images.evaluation_batches(count, 1))
        parts = jax.device_get([self._evaluate[mirrored](variables, self.means, self.data[split], part) for part in indices])
        sums = {name: np.stack([part[name] for part in parts]).sum(0, dtype=np.float64) for name in parts[0]}
        return [{name: value[number] for name, value in sums.items()} for number in range(len(self.tasks))]

    def quantiles(self) -> np.ndarray:
        """The percentiles of each seed's features on its validation data, ``(seeds, percentiles)``."""
        pixels = self.data["validation"]["images"][:, : images.QUANTILE_BATCH]
        return np.asarray(self._quantiles(self.states.variables, self.means, pixels))

    def state_of(self, number: int) -> TrainState:
        """A copy of one seed's state, on the host."""
        return jax.tree.map(lambda leaf: np.asarray(leaf[number]), self.states)


@dataclasses.dataclass
class Progress:
    """Of one seed."""

    history: list[dict[str, Any]]
    monitor: Monitor
    epochs: int
    best: TrainState | None = None
    last: TrainState | None = None
    failure: str | None = None

    @property
    def goes_on(self) -> bool:
        return self.failure is None and len(self.history) < self.epochs and not self.monitor.stops(self.history)


def train_seeds(
    config: ImageConfig, seeds: Sequence[int], runs: Sequence[Path], say: Report, deadline: float | None = None
) -> list[str | None]:
    """Trains, evaluates and writes a run directory for each seed.

    Args:
      config: of all.
      seeds: which.
      runs: a directory for each, which must be free.
      say: takes a line after each epoch.
      deadline: of :func:`time.monotonic`, after which no epoch begins.

    Returns:
      of each seed why it has no evaluation, None where it has one.
    """
    for run in runs:
        RunDirectory.check_free(run)
    all_seeds = Seeds(config, seeds)
    found = [Progress([], images.make_monitor(config), config.epochs) for _ in seeds]
    late = False
    while any(each.goes_on for each in found) and not late:
        _run_epoch(all_seeds, found, say)
        late = deadline is not None and time.monotonic() > deadline
    return _store(all_seeds, found, runs)


def _run_epoch(all_seeds: Seeds, found: Sequence[Progress], say: Report) -> None:
    """One epoch of all; those that have stopped are computed with the others, and what comes of it is dropped."""
    began, compiled = time.perf_counter(), process.compile_clock().seconds
    epoch = max(len(each.history) for each in found) + 1
    sums = all_seeds.train_epoch(epoch)
    train_seconds = time.perf_counter() - began
    validated = all_seeds.evaluate(all_seeds.states.variables, "validation")
    quantiles = all_seeds.quantiles()
    names = all_seeds.class_names
    about = {
        "learning_rate": float(all_seeds.schedule(epoch * all_seeds.steps - 1)),
        "train_seconds": round(train_seconds, 3),
        "seconds": round(time.perf_counter() - began, 3),
        "compile_seconds": round(process.compile_clock().seconds - compiled, 3),
        "peak_memory_mib": round(process.peak_memory_mib(), 1),
        "seeds_at_once": len(found),
    }
    for number, each in enumerate(found):
        if not each.goes_on:
            continue
        own = {name: values[number] for name, values in sums.items()}
        totals = {name: values.sum(0, dtype="float64") for name, values in own.items()}
        validation = images.epoch_metrics(validated[number], names, "validation_")
        try:
            check_finite(own["loss"] / own["count"], epoch, 0)
            check_finite(validation["validation_loss"], epoch, all_seeds.steps - 1, "validation loss")
        except NonFiniteLossError as error:
            each.failure = str(error)
            continue
        measured = images.epoch_metrics(totals, names, "train_") | validation
        each.history.append({"epoch": epoch, **measured, "feature_percentiles": quantiles[number].tolist(), **about})
        each.last = all_seeds.state_of(number)
        if each.monitor.best_epoch(each.history) == epoch:
            each.best = each.last
    accuracies = ", ".join(
        "lost" if each.failure is not None else f"{each.history[-1][each.monitor.metric]:.2%}" for each in found
    )
    say(f"epoch {epoch:3}/{all_seeds.config.epochs}  {about['seconds']:6.1f} s  validation accuracy {accuracies}")


def _store(all_seeds: Seeds, found: Sequence[Progress], runs: Sequence[Path]) -> list[str | None]:
    """Writes what came of each; evaluates those that came to their end."""
    best = [each.best if each.best is not None else all_seeds.state_of(number) for number, each in enumerate(found)]
    variables = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(dict(state.variables) for state in best))
    evaluated = {split: all_seeds.evaluate(variables, split, all_seeds.config.flip) for split in all_seeds.data}
    results: list[str | None] = []
    for number, (each, path, config) in enumerate(zip(found, runs, all_seeds.configs, strict=True)):
        best_epoch = each.monitor.best_epoch(each.history)
        with RunDirectory.create(path, images.ImageTask.name, dataclasses.asdict(config)) as run:
            write_json(run.file(MACHINE), {**process.describe(), "devices": 1})
            for record in each.history:
                run.append(record)
            if best_epoch is not None and best_epoch < len(each.history):
                run.save(best[number], best_epoch, best_epoch)
            if each.last is not None:
                run.save(each.last, len(each.history), best_epoch)
            if each.goes_on or each.failure is not None:
                results.append(each.failure or f"stopped after {len(each.history)} of at most {config.epochs} epochs")
                continue
            splits = {name: images.split_metrics(sums[number], all_seeds.class_names) for name, sums in evaluated.items()}
            stated = {"epoch": best_epoch, "splits": splits, "class_names": list(all_seeds.class_names)}
            write_json(run.file(EVALUATION), {**stated, "machine": process.describe()})
        results.append(None)
    return results


def do_row(
    name: str, seeds: int, scale: Scale, study: Path, data_dir: str | None, say: Report, deadline: float | None = None
) -> list[str]:
    """Trains the seeds of a row that have no record in a study, and writes their records; returns what failed.

    Raises:
      FileExistsError: a run without a record stands there.
    """
    jobs = [job for seed in range(seeds) if not (job := Job(PRESETS[name], seed, scale, study)).is_finished]
    if not jobs:
        return []
    config = jobs[0].config
    assert isinstance(config, ImageConfig)
    config = dataclasses.replace(config, data_dir=data_dir)
    say(f"{name}: seeds {', '.join(str(job.seed) for job in jobs)} at once")
    failures = train_seeds(config, [job.seed for job in jobs], [job.run for job in jobs], say, deadline)
    for job, failure in zip(jobs, failures, strict=True):
        if failure is None:
            summary.write(job.run, scale, job.summary)
    return [f"{job.name}: {failure}" for job, failure in zip(jobs, failures, strict=True) if failure is not None]


def run(command: Command) -> None:
    """Trains the seeds of each row.

    Raises:
      ValueError: there is no such row of images.
      RuntimeError: some came to no end.
    """
    known = [row for row in PRESETS if PRESETS[row].task == "images"]
    if unknown := [row for row in command.rows if row not in known]:
        raise ValueError(f"there is no row {unknown[0]!r} of images; there are {', '.join(known)}")
    process.prepare(1)
    screen = console.make_console()
    deadline = None if command.minutes is None else time.monotonic() + 60 * command.minutes

    def say(line: str) -> None:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)

    failures = []
    for row in command.rows:
        if deadline is not None and time.monotonic() > deadline:
            failures.append(f"{row}: no time was left")
            continue
        try:
            failures += do_row(row, command.seeds, command.scale, command.study, command.data_dir, say, deadline)
        except FileExistsError as error:  # a run that was stopped before; it says how to go on
            failures.append(str(error))
    if failures:
        raise RuntimeError("; ".join(failures))
    say(f"written: {command.study / 'runs'}, {command.study / 'records'}")


main = process.command_line(Command, run, "python -m experiments.seeds", __doc__)

if __name__ == "__main__":
    sys.exit(main())
