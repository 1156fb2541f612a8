"""Makes one file of a trained and evaluated tagger: half of its size, for ``colnorm tag --model FILE``.

colnorm pack runs/ner_dataset-best tagger.safetensors --what "entities of English news" --licence CC-BY-4.0
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from colnorm import model_file, predict, process
from colnorm.run_directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class Command:
    """What to pack, and what to say of it."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory of a tagger, evaluated."""
    file: Annotated[Path, tyro.conf.Positional]
    """Ends in .safetensors."""
    what: str = ""
    """One line: which entities of which text."""
    data: str = ""
    """What it was trained on, and where that is from."""
    licence: str = ""
    """Of the data, and so of the model."""
    limits: str = ""
    """What it is not good for."""


def run(command: Command) -> None:
    """Writes the file."""
    stored = RunDirectory.open(command.run)
    evaluated = stored.evaluation()
    if evaluated is None:
        raise ValueError(f"{command.run} is not evaluated, and so has neither metrics nor a temperature: evaluate it first")
    predictor = predict.load(command.run, str(evaluated["epoch"]))
    model_file.save(command.file, predictor, card(command, stored.config, evaluated))
    print(f"written: {command.file}, {command.file.stat().st_size / 1e6:.1f} MB")


def card(command: Command, config: dict[str, Any], evaluated: dict[str, Any]) -> dict[str, Any]:
    """What the reader of the file is told."""
    metrics = {
        name: {
            "micro F1": round(split["micro"]["f1"], 4),
            "macro F1": round(split["macro"]["f1"], 4),
            "calibration error": round(split["calibration"]["error"], 4),
            "sentences": split["examples"],
        }
        for name, split in evaluated["splits"].items()
        if name != "train"
    }
    told = {name: getattr(command, name) for name in ("what", "data", "licence", "limits")}
    return {**{name: text for name, text in told.items() if text}, "seed": config["seed"], "metrics": metrics}


main = process.command_line(Command, run, "colnorm pack", __doc__)
