"""The command ``colnorm``. Each of its commands is a module, imported when it is called."""

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": "train a tagger on your own data",
    "evaluate": "evaluate a trained tagger, and fit how sure it is",
    "tag": "tag text, with the packaged model or another",
    "serve": "a page to type into, and a JSON API",
    "models": "the packaged models, and what they are",
    "pack": "make one file of a trained run",
}
EXTRAS = {"train": "train", "evaluate": "train", "serve": "serve"}
"""What has to be installed besides: command -> extra of the package."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        try:
            command = importlib.import_module(f"colnorm.cli.{given[0]}")
        except ModuleNotFoundError as error:
            if given[0] not in EXTRAS or (error.name or "").startswith("colnorm"):
                raise
            extra = EXTRAS[given[0]]
            print(f"error: colnorm {given[0]} needs {error.name}: pip install 'colnorm[{extra}]'", file=sys.stderr)
            return 1
        status: int = command.main(given[1:])
        return status
    lines = "".join(f"  colnorm {name:8}{about}\n" for name, about in COMMANDS.items())
    if given and given[0] in ("-h", "--help"):
        print(f"{lines}\ncolnorm COMMAND --help says more.")
        return 0
    problem = f"no command {given[0]!r}" if given else "which command?"
    print(f"error: {problem}; there are:\n\n{lines}", file=sys.stderr)
    return 2
