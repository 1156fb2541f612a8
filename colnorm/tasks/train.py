"""The training of a task in a run directory: every epoch is checkpointed, and a run goes on from the last."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from colnorm import hosts, process
from colnorm.files import write_json
from colnorm.parallel import check_batch_size, make_engine
from colnorm.run_directory import MACHINE, RunDirectory
from colnorm.tasks import console
from colnorm.tasks.task import Task
from colnorm.training import TrainState, check_finite, fit


@dataclasses.dataclass(frozen=True)
class Command:
    """What to train, and where to keep it."""

    config: Annotated[Any, tyro.conf.arg(name="")]
    run: Path | None = None
    """Run directory; by default one in runs/ that is named after the data and what is trained."""
    resume: bool = False
    """Go on from the run's last checkpoint."""
    overwrite: bool = False
    """Delete the run that is there."""
    launch: Annotated[hosts.Launch, tyro.conf.arg(name="")] = hosts.ALONE


# What may change between a run and its continuation without making it another run.
MAY_DIFFER = frozenset({"devices", "stream", "patience", "glove"})


def train(
    kind: type[Task],
    config: Any,
    run_path: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    launch: hosts.Launch = hosts.ALONE,
) -> Path:
    """Trains and returns the run directory; shows progress and a line an epoch.

    In each of several processes it is called alike. Process 0 reads and writes the run directory for all of them.

    Args:
      kind: the task.
      config: one of its configs.
      run_path: the run directory.
      resume: whether to go on from its last checkpoint.
      overwrite: whether to delete a run that is there.
      launch: which of several processes this is.
    """
    process.prepare(config.devices or kind.cpu_devices, config.batch_size // (launch.processes or 1))
    launch.join()
    # What can be refused is refused before anything takes time, and the directory made when nothing can fail any more.
    with contextlib.ExitStack() as stack, hosts.watched():
        stored_config = dataclasses.asdict(config)
        run: Any = None  # process 0's alone, where there are several

        def find_run() -> None:
            nonlocal run
            if not resume:
                RunDirectory.check_free(run_path, overwrite)
                return
            # Without a schedule that ends with them, more epochs are the same run, only longer.
            longer = set() if config.schedule == "cosine" else {"epochs"}
            run = stack.enter_context(RunDirectory.open(run_path, lock=True))
            may_differ = MAY_DIFFER | {kind.data_path} | longer
            run.check_config(kind.name, stored_config, may_differ, dataclasses.asdict(kind.config_type()))

        hosts.agree(find_run)
        task = hosts.together(lambda: kind(config))
        own_paths = {kind.data_path, "glove"}
        hosts.check_same({name: value for name, value in stored_config.items() if name not in own_paths}, task.train_data)
        engine = make_engine(task.loss, config.devices, config.batch_size, stream=config.stream)
        check_batch_size(config.batch_size, engine.num_devices)
        steps_per_epoch = sum(len(batches) for _, batches in task.plan(0))
        schedule = task.schedule(steps_per_epoch)
        monitor = task.monitor()
        shown_metric = kind.metric.replace("_", " ").replace(" f1", " F1")

        state = task.init_state(schedule)

        def begin() -> list[dict[str, Any]]:
            nonlocal run, state
            history: list[dict[str, Any]] = []
            if resume:
                task.check(run)
                state, history = run.resume(state)
            else:
                run = stack.enter_context(RunDirectory.create(run_path, kind.name, stored_config, overwrite))
            task.save(run)
            write_json(run.file(MACHINE), {**process.describe(), "devices": engine.num_devices})
            return history

        history = hosts.agree(begin)
        state = hosts.share(state)
        train_data = [engine.put_data(arrays) for arrays in task.train_data]
        validate = task.validation(engine)

        with console.EpochProgress(config.epochs, steps_per_epoch, str(run_path), quiet=not hosts.is_first()) as progress:
            first, *more = task.describe()
            going_on = f", going on after epoch {len(history)}" if history else ""
            split = f" of {jax.process_count()} processes" if hosts.several() else ""
            found = run.notes if hosts.is_first() else []
            for note in (f"{run_path}: {first}, {engine.num_devices} device(s){split}{going_on}", *more, *found):
                progress.note(note)

            def run_epoch(state: Any, epoch: int) -> tuple[Any, dict[str, Any]]:
                began, compiled = time.perf_counter(), process.compile_clock().seconds
                done = 0
                totals: dict[str, Any] = {}
                progress.step(epoch, 0)
                for part, batches in task.plan(epoch):

                    def on_step(number: int, sums: Any, first: int = done) -> None:
                        loss = sums["loss"] / sums["count"]
                        check_finite(loss, epoch, first + number)
                        progress.step(epoch, first + number + 1, float(loss))

                    state, stacked = engine.train_epoch(state, train_data[part], batches, on_step)
                    check_finite(stacked["loss"] / stacked["count"], epoch, done)
                    done += len(batches)
                    progress.step(epoch, done)
                    for name, values in stacked.items():
                        totals[name] = totals.get(name, 0) + values.sum(0, dtype="float64")
                train_seconds = time.perf_counter() - began
                validated = validate(state)
                validated = hosts.agree(lambda: validated)  # it decides when training stops
                # What the last step did to the parameters shows here only.
                check_finite(validated["validation_loss"], epoch, steps_per_epoch - 1, "validation loss")
                measured = {
                    **task.train_metrics(totals, train_seconds),
                    **validated,
                    "learning_rate": float(schedule(epoch * steps_per_epoch - 1)),
                    "train_seconds": round(train_seconds, 3),
                    "seconds": round(time.perf_counter() - began, 3),
                    "compile_seconds": round(process.compile_clock().seconds - compiled, 3),
                    "peak_memory_mib": round(process.peak_memory_mib(), 1),
                }
                return state, hosts.agree(lambda: measured)

            state, history = fit(
                engine.put_state(state),
                engine,
                run_epoch,
                epochs=config.epochs,
                monitor=monitor,
                store=_Store(run),
                history=history,
                on_epoch=progress.epoch,
            )
            best = monitor.best_epoch(history)
            if len(history) < config.epochs:
                progress.note(f"stopped: no better {shown_metric} for {config.patience} epochs")
            if best is not None:
                progress.note(f"best epoch {best}: {shown_metric} {history[best - 1][kind.metric]:.2%}")
            pictures = hosts.agree(lambda: [str(picture) for picture in task.draw(history, run, best)])
            progress.note(f"pictures: {', '.join(pictures)}")
    return Path(os.path.abspath(run_path))


class _Store:
    """The run of process 0; what fails there fails in all processes."""

    def __init__(self, run: Any):
        self._run = run

    def append(self, record: Mapping[str, Any]) -> None:
        hosts.agree(lambda: self._run.append(record))

    def save(self, state: TrainState, epoch: int, best_epoch: int | None) -> None:
        hosts.agree(lambda: self._run.save(state, epoch, best_epoch))

    def prune(self, epoch: int, best_epoch: int | None) -> None:
        hosts.agree(lambda: self._run.prune(epoch, best_epoch))
