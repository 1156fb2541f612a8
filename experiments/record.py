"""What a finished run came to in one small file, the record: all that the page of a study needs of it.

It holds neither weights nor text of a data set nor places of the machine. Runs of several machines become one study by
copying their records into one directory, and the page can be written where the runs are gone.
"""

import json
from pathlib import Path
from typing import Any

from experiments.evaluate_ner import COUNTS
from experiments.process import MACHINE
from experiments.study import Scale
from experiments.train_ner import COVERAGE

PLACES = ("data_dir", "data", "glove")  # fields of a config


def write(run: Path, scale: Scale, path: Path) -> None:
    """Writes the record of an evaluated run."""
    from colnorm.checkpoint import RunDirectory, write_text

    opened = RunDirectory.open(run)
    record = {
        "scale": scale,
        "config": {name: Path(value).name if name in PLACES and value else value for name, value in opened.config.items()},
        "history": opened.history(),
        "evaluation": _read(run / "evaluation.json"),
        "machine": _read(run / MACHINE),
        "vectors": _read(run / COVERAGE),
        "test_counts": _read(run / COUNTS),
    }
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(record) + "\n")


def read(path: Path) -> dict[str, Any]:
    """A record.

    Args:
      path: of its file.

    Returns:
      ``scale``; ``config``; ``history``, the entries of the epochs; ``evaluation``; ``machine`` that trained it; of taggers
      ``vectors``, what was found of the vocabulary, and ``test_counts``, of :func:`colnorm.metrics.entity_counts`, else None.
    """
    record: dict[str, Any] = _read(path)
    return record


def _read(file: Path) -> Any:
    """None where there is no such file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
