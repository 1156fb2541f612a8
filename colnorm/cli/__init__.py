"""The command ``colnorm``. Each of its commands is a module, imported when it is called."""

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "tag": "tag text, with the packaged model or another",
    "models": "the packaged models, and what they are",
    "pack": "make one file of a trained run",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        status: int = importlib.import_module(f"colnorm.cli.{given[0]}").main(given[1:])
        return status
    lines = "".join(f"  colnorm {name:8}{about}\n" for name, about in COMMANDS.items())
    if given and given[0] in ("-h", "--help"):
        print(f"{lines}\ncolnorm COMMAND --help says more.")
        return 0
    problem = f"no command {given[0]!r}" if given else "which command?"
    print(f"error: {problem}; there are:\n\n{lines}", file=sys.stderr)
    return 2
