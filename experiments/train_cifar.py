"""Trains a ResNet under one of the normalizations; every epoch is checkpointed, and --resume goes on from the last.

python -m experiments.train_cifar bn --data-dir DIR              # a row of the report, by preset
python -m experiments.train_cifar modern_bn --epochs 30 --devices 4
python -m experiments.train_cifar bn --data digits --epochs 5    # no download: scikit-learn's digits
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.configs import CIFAR_PRESETS, CifarConfig, parse

# What may change between a run and its continuation without making it another run.
MAY_DIFFER = frozenset({"data_dir", "devices", "patience"})


@dataclasses.dataclass(frozen=True)
class Command:
    """What to train, and where to keep it."""

    config: Annotated[CifarConfig, tyro.conf.arg(name="")]
    run: Path | None = None
    """Run directory; runs/<data>-<preset> by default."""
    resume: bool = False
    """Go on from the run's last checkpoint."""
    overwrite: bool = False
    """Delete the run that is there."""


def train(config: CifarConfig, run_path: Path, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Trains and returns the run directory; shows progress and a line an epoch."""
    from experiments import process

    process.prepare(config.devices, config.batch_size)

    from colnorm.data import images
    from colnorm.data.batching import shuffled_batches
    from colnorm.files import write_json
    from colnorm.parallel import check_batch_size, make_engine
    from colnorm.run_directory import CURVES, FEATURES, MACHINE, RunDirectory
    from colnorm.training import Monitor, check_finite, fit
    from experiments import cifar, console, plotting

    # What can be refused is refused before anything takes time, and the directory made when nothing can fail any more.
    with contextlib.ExitStack() as stack:
        stored_config = dataclasses.asdict(config)
        if resume:
            # Without a schedule that ends with them, more epochs are the same run, only longer.
            longer = frozenset() if config.schedule == "cosine" else frozenset({"epochs"})
            run = stack.enter_context(RunDirectory.open(run_path, lock=True))
            run.check_config("cifar", stored_config, MAY_DIFFER | longer, dataclasses.asdict(CifarConfig()))
        else:
            RunDirectory.check_free(run_path, overwrite)

        data = images.load(config.data, config.data_dir, config.seed)
        engine = make_engine(cifar.make_loss(config, data), config.devices, config.batch_size)
        check_batch_size(config.batch_size, engine.num_devices)
        num_train = len(data.train.labels)
        steps_per_epoch = len(shuffled_batches(num_train, config.batch_size, config.seed, 0))
        schedule = cifar.make_schedule(config, steps_per_epoch)
        monitor = Monitor("validation_accuracy", higher_is_better=True, patience=config.patience)

        state = cifar.make_state(config, data.num_classes, steps_per_epoch)
        if resume:
            state, history = run.resume(state)
        else:
            run, history = stack.enter_context(RunDirectory.create(run_path, "cifar", stored_config, overwrite)), []

        write_json(run.file(MACHINE), {**process.describe(), "devices": engine.num_devices})
        train_data = engine.put_data(cifar.split_arrays(data.train))
        validation_data = engine.put_data(cifar.split_arrays(data.validation))
        validation_batches = cifar.evaluation_batches(len(data.validation.labels), engine.num_devices)
        quantiles = cifar.make_quantiles(config, data)

        with console.EpochProgress(config.epochs, steps_per_epoch, str(run_path)) as progress:
            progress.note(
                f"{run_path}: ResNet-{6 * config.n + 2} {config.normalization}, {data.name}, {num_train:,} training images, "
                f"{engine.num_devices} device(s)" + (f", going on after epoch {len(history)}" if history else "")
            )

            for note in run.notes:
                progress.note(note)

            def run_epoch(state: Any, epoch: int) -> tuple[Any, dict[str, Any]]:
                began, compiled = time.perf_counter(), process.compile_clock().seconds
                batches = shuffled_batches(num_train, config.batch_size, config.seed, epoch)

                def on_step(number: int, sums: Any) -> None:
                    loss = sums["loss"] / sums["count"]
                    check_finite(loss, epoch, number)
                    progress.step(epoch, number + 1, float(loss))

                progress.step(epoch, 0)
                state, stacked = engine.train_epoch(state, train_data, batches, on_step)
                check_finite(stacked["loss"] / stacked["count"], epoch)
                trained = time.perf_counter()
                summed = {name: values.sum(0, dtype="float64") for name, values in stacked.items()}
                validated = cifar.figures(engine.evaluate(state, validation_data, validation_batches), "validation_")
                # What the last step did to the parameters shows here only.
                check_finite(validated["validation_loss"], epoch, steps_per_epoch - 1, "validation loss")
                record = {
                    **cifar.figures(summed, "train_"),
                    **validated,
                    "feature_percentiles": quantiles(engine.get_state(state)),
                    "learning_rate": float(schedule(epoch * steps_per_epoch - 1)),
                    "train_seconds": round(trained - began, 3),
                    "seconds": round(time.perf_counter() - began, 3),
                    "compile_seconds": round(process.compile_clock().seconds - compiled, 3),
                    "peak_memory_mib": round(process.peak_memory_mib(), 1),
                }
                return state, record

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
            pictures = [
                plotting.draw_curves(history, run.file(CURVES), run_path.name, best),
                plotting.draw_quantiles({run_path.name: history}, cifar.PERCENTILES, run.file(FEATURES)),
            ]
            if len(history) < config.epochs:
                progress.note(f"stopped: no better validation accuracy for {config.patience} epochs")
            if best is not None:
                progress.note(f"best epoch {best}: validation accuracy {history[best - 1]['validation_accuracy']:.2%}")
            progress.note(f"pictures: {', '.join(map(str, pictures))}")
        return run.path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    presets = {name: (text, Command(config)) for name, (text, config) in CIFAR_PRESETS.items()}
    command = parse(
        lambda: tyro.extras.overridable_config_cli(
            presets,
            prog="python -m experiments.train_cifar",
            args=arguments,
            description=__doc__,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    )
    preset = next(iter(arguments if arguments is not None else sys.argv[1:]))
    run_path = command.run or Path("runs") / f"{command.config.data}-{preset}"
    from experiments.process import exit_status

    return exit_status(lambda: train(command.config, run_path, resume=command.resume, overwrite=command.overwrite), run_path)


if __name__ == "__main__":
    sys.exit(main())
