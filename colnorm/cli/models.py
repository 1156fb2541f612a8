"""Lists the models that come with colnorm, or says what one is: its data, licence, metrics and limits."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from colnorm import model_file, process


@dataclasses.dataclass(frozen=True)
class Command:
    """Which model to describe."""

    model: Annotated[str | None, tyro.conf.Positional] = None
    """A packaged model's name or a .safetensors file; without it all packaged ones are listed."""


def run(command: Command) -> None:
    """Prints."""
    packaged = model_file.packaged()
    if command.model is None:
        for name, path in packaged.items():
            print(f"{name:8}{path.stat().st_size / 1e6:.1f} MB  {model_file.describe(path).get('what', '')}")
        return
    path = packaged.get(command.model, Path(command.model))
    print(path)
    for key, value in model_file.describe(path).items():
        print(f"{key}: {value}")


main = process.command_line(Command, run, "colnorm models", __doc__)
