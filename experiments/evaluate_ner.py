"""Evaluates a trained tagger on its training, validation and test sentences: seqeval's figures as tables, JSON and pictures.

python -m experiments.evaluate_ner runs/ner_dataset-crf
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.configs import NerConfig, from_stored


@dataclasses.dataclass(frozen=True)
class Command:
    """What to evaluate."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory; its config, vocabularies and checkpoint say everything else."""
    checkpoint: str = "best"
    """best (by validation micro F1), latest, or the number of an epoch that is still stored."""
    data: str | None = None
    """Where the data is now, if it has moved since training."""


def evaluate(command: Command, quiet: bool = False) -> dict[str, Any]:
    """Restores, evaluates, writes ``evaluation.json``, predictions and counts on test, and pictures; returns the first.

    Prints the tables as well, unless ``quiet``.
    """
    from experiments import process

    process.prepare()

    import numpy as np

    from colnorm import crf, tagger
    from colnorm.data import conll, schemes
    from colnorm.files import write_json, write_text
    from colnorm.metrics import calibration, entity_counts, tagging_figures
    from colnorm.predict import METRIC, read_tagger
    from colnorm.run_directory import (
        CALIBRATION,
        CONFIG,
        COUNTS,
        ENTITY_TYPES,
        EVALUATION,
        PREDICTIONS,
        TRANSITIONS,
        RunDirectory,
    )
    from colnorm.training import Monitor
    from experiments import console, ner, plotting

    run = RunDirectory.open(command.run)
    run.check_task("ner")
    config = from_stored(NerConfig, run.config, str(run.file(CONFIG)))
    fields, encoder = read_tagger(run.path)
    model = tagger.build(fields)
    epoch = run.choose(command.checkpoint, Monitor(METRIC))
    params = run.restore_variables(epoch)["params"]
    tagger.check_parameters(model, params)
    data = conll.load(command.data or config.data, config.seed, config.word_column, config.tag_column)

    # All splits at once share their padded lengths, and so their compilations.
    everything = [sentence for sentences in data.splits.values() for sentence in sentences]
    split = ner.Split.make(everything, encoder, config.buckets)
    tags, losses, found = ner.make_predictor(config, model, posteriors=True)(params, split)
    assert found is not None  # as posteriors were asked for
    results: dict[str, Any] = {}
    first = 0
    for name, sentences in data.splits.items():
        part = slice(first, first + len(sentences))
        first = part.stop
        figures = tagging_figures([sentence.tags for sentence in sentences], tags[part])
        loss = ner.mean_loss(config, sentences, losses[part])
        said, right = [], []
        for sentence, of_sentence in zip(sentences, found[part], strict=True):
            gold = set(schemes.entities(sentence.tags))
            said += [posterior for *_, posterior in of_sentence]
            right += [tuple(entity) in gold for *entity, _ in of_sentence]
        results[name] = {"sentences": len(sentences), "loss": loss, **figures, "calibration": calibration(said, right)}
    on_test = tags[first - len(data.test) :]
    lines = (
        "".join(f"{' '.join(columns)}\n" for columns in zip(sentence.words, sentence.tags, predicted, strict=True))
        for sentence, predicted in zip(data.test, on_test, strict=True)
    )
    write_text(run.file(PREDICTIONS), "\n".join(lines))
    counts = entity_counts([sentence.tags for sentence in data.test], on_test)
    write_text(run.file(COUNTS), json.dumps(counts.tolist()) + "\n")
    written: dict[str, Any] = {
        "epoch": epoch,
        "mode": "seqeval's default: entities as conlleval reads them, exact span and type",
        "splits": results,
        "machine": process.describe(),
    }
    chain = None
    if "crf" in params:
        chain = crf.Chain(**params["crf"])
        chain = crf.constrain(chain, encoder.tags.names) if config.constrained else chain
        # JSON has no infinity: None is a forbidden move.
        parts = {name: np.asarray(values).astype(object) for name, values in chain._asdict().items()}
        scores = {name: np.where(values == -np.inf, np.array(None), values).tolist() for name, values in parts.items()}
        written["chain"] = {"tag_names": list(encoder.tags.names), **scores}
    write_json(run.file(EVALUATION), written)
    title = f"{run.path.name}, epoch {epoch}"
    pictures = [
        plotting.draw_entity_types(results, run.file(ENTITY_TYPES), title),
        plotting.draw_calibration({title: results["test"]["calibration"]}, run.file(CALIBRATION)),
    ]
    if chain is not None:
        pictures.append(plotting.draw_transitions(chain, encoder.tags.names, run.file(TRANSITIONS), title))
    if quiet:
        return written

    screen = console.make_console()
    for name, result in results.items():
        about = f"{title}, {name}: {result['sentences']:,} sentences, token accuracy {result['accuracy']:.2%}"
        screen.print(about, highlight=False, soft_wrap=True)
        screen.print(console.entities_table(result))
    screen.print(f"entities by {written['mode']}", highlight=False)
    files = [run.file(EVALUATION), run.file(PREDICTIONS), run.file(COUNTS), *pictures]
    screen.print(f"written: {', '.join(map(str, files))}", highlight=False, soft_wrap=True)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    command = tyro.cli(Command, prog="python -m experiments.evaluate_ner", args=arguments, description=__doc__)
    from experiments.process import exit_status

    return exit_status(lambda: evaluate(command))


if __name__ == "__main__":
    sys.exit(main())
