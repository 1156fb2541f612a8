"""Trains a preset of the study, or what you make of it; every epoch is checkpointed, and --resume goes on from the last.

python -m experiments.train bn --data-dir DIR                 # a ResNet on CIFAR-10, a row of the report
python -m experiments.train modern_bn --epochs 30 --devices 4
python -m experiments.train crf --data ner_dataset.csv --glove glove.6B.100d.txt    # a tagger
python -m experiments.train bn --data digits --epochs 5       # no download: scikit-learn's digits
python -m experiments.train random --head crf                 # no download: sentences of a grammar
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from colnorm import process
from colnorm.tasks.configs import TaggingConfig, parse
from colnorm.tasks.train import Command, train
from experiments.configs import ImageConfig
from experiments.presets import PRESETS
from experiments.task import TASKS


@dataclasses.dataclass(frozen=True)
class ImageCommand(Command):
    """What to train, and where to keep it."""

    config: Annotated[ImageConfig, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True)
class TaggingCommand(Command):
    """What to train, and where to keep it."""

    config: Annotated[TaggingConfig, tyro.conf.arg(name="")]


def read(arguments: Sequence[str] | None = None) -> Command:
    """The command that a command line asks for."""
    kinds = {"images": ImageCommand, "tagging": TaggingCommand}
    presets: dict[str, tuple[str, Command]] = {
        name: (f"{preset.section} {preset.title}".strip(), kinds[preset.task](preset.config))
        for name, preset in PRESETS.items()
    }
    return parse(
        lambda: tyro.extras.overridable_config_cli(
            presets,
            prog="python -m experiments.train",
            args=arguments,
            description=__doc__,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    command = read(arguments)
    preset = PRESETS[next(iter(arguments if arguments is not None else sys.argv[1:]))]
    run_path = command.run or Path("runs") / f"{Path(command.config.data).stem}-{preset.name}"

    def run() -> None:
        # There are no vectors of the embedded sentences.
        if preset.glove == "must" and command.config.glove is None and command.config.data != "sample":
            raise ValueError(f"{preset.name} starts from GloVe vectors: name their file with --glove (glove.6B.100d.txt)")
        kind, overwrite = TASKS[preset.task], command.overwrite
        train(kind, command.config, run_path, resume=command.resume, overwrite=overwrite, launch=command.launch)

    return process.exit_status(run, run_path)


if __name__ == "__main__":
    sys.exit(main())
