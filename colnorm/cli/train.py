"""Trains a tagger on your own data; every epoch is checkpointed, and --resume goes on from the last.

colnorm train --data labelled.jsonl                       # JSON lines: text, and entities by character offsets
colnorm train --data folder --glove glove.6B.100d.txt     # train.txt, valid.txt and test.txt in CoNLL columns
colnorm train --data labelled.jsonl --resume --run runs/labelled
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from colnorm import process
from colnorm.tasks.configs import RECOMMENDED, TaggingConfig, parse
from colnorm.tasks.tagging import TaggingTask
from colnorm.tasks.train import Command, train


@dataclasses.dataclass(frozen=True)
class TaggingCommand(Command):
    """What to train, and where to keep it."""

    config: Annotated[TaggingConfig, tyro.conf.arg(name="")] = RECOMMENDED


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    command = parse(lambda: tyro.cli(TaggingCommand, prog="colnorm train", args=arguments, description=__doc__))
    run_path = command.run or Path("runs") / Path(command.config.data).stem

    def run() -> None:
        train(TaggingTask, command.config, run_path, resume=command.resume, overwrite=command.overwrite, launch=command.launch)
        print(f"next: colnorm evaluate {run_path}, then colnorm tag --model {run_path} 'Your text.'")

    return process.exit_status(run, run_path)
