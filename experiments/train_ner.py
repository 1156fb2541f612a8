"""Trains a sequence tagger; every epoch is checkpointed, and --resume goes on from the last.

python -m experiments.train_ner crf --data ner_dataset.csv --glove glove.6B.100d.txt    # a row of the report, by preset
python -m experiments.train_ner random --data CONLL_DIRECTORY --epochs 10
python -m experiments.train_ner random --characters --head crf                          # no download: the sample grammar
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.configs import NEEDS_GLOVE, NER_PRESETS, NerConfig, parse

# What may change between a run and its continuation without making it another run.
MAY_DIFFER = frozenset({"data", "glove", "devices", "patience"})


@dataclasses.dataclass(frozen=True)
class Command:
    """What to train, and where to keep it."""

    config: Annotated[NerConfig, tyro.conf.arg(name="")]
    run: Path | None = None
    """Run directory; runs/<data>-<preset> by default."""
    resume: bool = False
    """Go on from the run's last checkpoint."""
    overwrite: bool = False
    """Delete the run that is there."""


def train(config: NerConfig, run_path: Path, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Trains and returns the run directory; shows progress and a line an epoch."""
    from experiments import process

    process.prepare(config.devices or 1)

    import numpy as np

    from colnorm import tagger
    from colnorm.data import conll
    from colnorm.data.batching import epoch_plan
    from colnorm.data.glove import read_vectors
    from colnorm.files import write_json
    from colnorm.metrics import tagging_figures
    from colnorm.parallel import check_batch_size, make_engine
    from colnorm.predict import METRIC, read_tagger, write_tagger
    from colnorm.run_directory import COVERAGE, CURVES, MACHINE, RunDirectory
    from colnorm.training import Monitor, check_finite, fit
    from experiments import console, ner, plotting

    # What can be refused is refused before anything takes time, and the directory made when nothing can fail any more.
    with contextlib.ExitStack() as stack:
        stored_config = dataclasses.asdict(config)
        if resume:
            # Without a schedule that ends with them, more epochs are the same run, only longer.
            longer = frozenset() if config.schedule == "cosine" else frozenset({"epochs"})
            run = stack.enter_context(RunDirectory.open(run_path, lock=True))
            run.check_config("ner", stored_config, MAY_DIFFER | longer, dataclasses.asdict(NerConfig()))
        else:
            RunDirectory.check_free(run_path, overwrite)

        data = conll.load(config.data, config.seed, config.word_column, config.tag_column)
        encoder = ner.make_encoder(config, data)
        vectors = read_vectors(config.glove, encoder.words, config.seed) if config.glove is not None else None
        word_features = config.word_features if vectors is None else vectors.matrix.shape[1]
        fields = ner.tagger_fields(config, encoder, word_features)
        model = tagger.build(fields)
        engine = make_engine(lambda axis_name: ner.make_loss(config, model), config.devices, config.batch_size)
        check_batch_size(config.batch_size, engine.num_devices)

        train_split = ner.Split.make(data.train, encoder, config.buckets)
        validation = ner.Split.make(data.validation, encoder, config.buckets)
        steps_per_epoch = sum(len(batches) for _, batches in epoch_plan(train_split.buckets, config.batch_size, config.seed, 0))
        schedule = ner.make_schedule(config, steps_per_epoch)
        monitor = Monitor(METRIC, patience=config.patience)

        state = ner.make_state(config, model, encoder, schedule, vectors)
        if resume:
            if run.epochs() and read_tagger(run.path) != (fields, encoder):
                sources = f"{config.data} with {config.glove}" if config.vector_words else config.data
                raise ValueError(f"{sources} is not the data that {run_path} was begun with: other words, characters or tags")
            state, history = run.resume(state)
        else:
            run, history = stack.enter_context(RunDirectory.create(run_path, "ner", stored_config, overwrite)), []
        write_tagger(run.path, fields, encoder)
        if vectors is not None:
            write_json(run.file(COVERAGE), vectors.coverage._asdict())

        write_json(run.file(MACHINE), {**process.describe(), "devices": engine.num_devices})
        train_data = [engine.put_data(arrays) for arrays in train_split.arrays]
        predict = ner.make_predictor(config, model)
        gold = [sentence.tags for sentence in data.validation]

        with console.EpochProgress(config.epochs, steps_per_epoch, str(run_path)) as progress:
            progress.note(
                f"{run_path}: {data.name}, {len(data.train):,} training sentences ({data.dropped:,} repeated ones dropped), "
                f"{len(encoder.words):,} words, {len(encoder.tags.names)} tags, {engine.num_devices} device(s)"
                + (f", going on after epoch {len(history)}" if history else "")
            )
            if vectors is not None:
                progress.note(f"{config.glove}: {vectors.coverage}")

            for note in run.notes:
                progress.note(note)

            def run_epoch(state: Any, epoch: int) -> tuple[Any, dict[str, Any]]:
                began, compiled = time.perf_counter(), process.compile_clock().seconds
                done = 0
                history: list[dict[str, np.ndarray]] = []
                progress.step(epoch, 0)
                for bucket, batches in epoch_plan(train_split.buckets, config.batch_size, config.seed, epoch):

                    def on_step(number: int, sums: Any, first: int = done) -> None:
                        loss = sums["loss"] / sums["count"]
                        check_finite(loss, epoch, first + number)
                        progress.step(epoch, first + number + 1, float(loss))

                    state, stacked = engine.train_epoch(state, train_data[bucket], batches, on_step)
                    check_finite(stacked["loss"] / stacked["count"], epoch, done)
                    done += len(batches)
                    progress.step(epoch, done)
                    history.append(stacked)
                trained = time.perf_counter()
                summed = {name: sum(stacked[name].sum(dtype="float64") for stacked in history) for name in history[0]}

                predicted = predict(engine.get_state(state).variables["params"], validation)
                validation_loss = ner.mean_loss(config, data.validation, predicted.losses)
                # What the last step did to the parameters shows here only.
                check_finite(validation_loss, epoch, steps_per_epoch - 1, "validation loss")
                figures = tagging_figures(gold, predicted.tags)
                record = {
                    "train_loss": float(summed["loss"] / summed["count"]),
                    "train_accuracy": float(summed["right"] / summed["tokens"]),
                    "validation_loss": validation_loss,
                    "validation_accuracy": figures["accuracy"],
                    "validation_micro_f1": figures["micro"]["f1"],
                    "validation_macro_f1": figures["macro"]["f1"],
                    "learning_rate": float(schedule(epoch * steps_per_epoch - 1)),
                    "train_tokens_per_second": round(float(summed["tokens"]) / (trained - began)),
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
            picture = plotting.draw_tagging_curves(history, run.file(CURVES), run_path.name, best)
            if len(history) < config.epochs:
                progress.note(f"stopped: no better validation micro F1 for {config.patience} epochs")
            if best is not None:
                progress.note(f"best epoch {best}: validation micro F1 {history[best - 1]['validation_micro_f1']:.2%}")
            progress.note(f"picture: {picture}")
        return run.path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    presets = {name: (text, Command(config)) for name, (text, config) in NER_PRESETS.items()}
    command = parse(
        lambda: tyro.extras.overridable_config_cli(
            presets,
            prog="python -m experiments.train_ner",
            args=arguments,
            description=__doc__,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    )
    preset = next(iter(arguments if arguments is not None else sys.argv[1:]))
    run_path = command.run or Path("runs") / f"{Path(command.config.data).stem}-{preset}"
    from experiments.process import exit_status

    def run() -> None:
        if preset in NEEDS_GLOVE and command.config.glove is None:
            raise ValueError(f"{preset} starts from GloVe vectors: name their file with --glove (glove.6B.100d.txt)")
        train(command.config, run_path, resume=command.resume, overwrite=command.overwrite)

    return exit_status(run, run_path)


if __name__ == "__main__":
    sys.exit(main())
