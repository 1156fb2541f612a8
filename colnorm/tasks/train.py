"""The training of a task in a run directory: every epoch is checkpointed, and a run goes on from the last."""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import tyro

from colnorm import process
from colnorm.files import write_json
from colnorm.parallel import check_batch_size, make_engine
from colnorm.run_directory import MACHINE, RunDirectory
from colnorm.tasks import console
from colnorm.tasks.task import Task
from colnorm.training import Monitor, check_finite, fit


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


# What may change between a run and its continuation without making it another run.
MAY_DIFFER = frozenset({"devices", "patience", "glove"})


def train(kind: type[Task], config: Any, run_path: Path, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Trains and returns the run directory; shows progress and a line an epoch.

    Args:
      kind: the task.
      config: one of its configs.
      run_path: the run directory.
      resume: whether to go on from its last checkpoint.
      overwrite: whether to delete a run that is there.
    """
    process.prepare(config.devices or kind.cpu_devices, config.batch_size)
    # What can be refused is refused before anything takes time, and the directory made when nothing can fail any more.
    with contextlib.ExitStack() as stack:
        stored_config = dataclasses.asdict(config)
        if resume:
            # Without a schedule that ends with them, more epochs are the same run, only longer.
            longer = set() if config.schedule == "cosine" else {"epochs"}
            run = stack.enter_context(RunDirectory.open(run_path, lock=True))
            may_differ = MAY_DIFFER | {kind.data_path} | longer
            run.check_config(kind.name, stored_config, may_differ, dataclasses.asdict(kind.config_type()))
        else:
            RunDirectory.check_free(run_path, overwrite)

        task = kind(config)
        engine = make_engine(task.loss, config.devices, config.batch_size)
        check_batch_size(config.batch_size, engine.num_devices)
        steps_per_epoch = sum(len(batches) for _, batches in task.plan(0))
        schedule = task.schedule(steps_per_epoch)
        monitor = Monitor(kind.metric, patience=config.patience)
        shown_metric = kind.metric.replace("_", " ").replace(" f1", " F1")

        state = task.init_state(schedule)
        if resume:
            task.check(run)
            state, history = run.resume(state)
        else:
            run, history = stack.enter_context(RunDirectory.create(run_path, kind.name, stored_config, overwrite)), []
        task.save(run)
        write_json(run.file(MACHINE), {**process.describe(), "devices": engine.num_devices})
        train_data = [engine.put_data(arrays) for arrays in task.train_data]
        validate = task.validation(engine)

        with console.EpochProgress(config.epochs, steps_per_epoch, str(run_path)) as progress:
            first, *more = task.describe()
            going_on = f", going on after epoch {len(history)}" if history else ""
            for note in (f"{run_path}: {first}, {engine.num_devices} device(s){going_on}", *more, *run.notes):
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
                # What the last step did to the parameters shows here only.
                check_finite(validated["validation_loss"], epoch, steps_per_epoch - 1, "validation loss")
                return state, {
                    **task.train_metrics(totals, train_seconds),
                    **validated,
                    "learning_rate": float(schedule(epoch * steps_per_epoch - 1)),
                    "train_seconds": round(train_seconds, 3),
                    "seconds": round(time.perf_counter() - began, 3),
                    "compile_seconds": round(process.compile_clock().seconds - compiled, 3),
                    "peak_memory_mib": round(process.peak_memory_mib(), 1),
                }

            state, history = fit(
                engine.put_state(state),
                engine,
                run_epoch,
                epochs=config.epochs,
                monitor=monitor,
                store=run,
                history=history,
                on_epoch=progress.epoch,
            )
            best = monitor.best_epoch(history)
            if len(history) < config.epochs:
                progress.note(f"stopped: no better {shown_metric} for {config.patience} epochs")
            if best is not None:
                progress.note(f"best epoch {best}: {shown_metric} {history[best - 1][kind.metric]:.2%}")
            progress.note(f"pictures: {', '.join(map(str, task.draw(history, run, best)))}")
        return run.path
