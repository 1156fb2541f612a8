"""What a finished run came to in one small file, the record: all that the page of a study needs of it.

It holds neither weights nor text of a data set nor places of the machine. Runs of several machines become one study by
copying their records into one directory, and the page can be written where the runs are gone.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colnorm.files import read_json, write_text
from colnorm.run_directory import COUNTS, COVERAGE, MACHINE, RunDirectory
from experiments.study import Scale

PLACES = ("data_dir", "data", "glove")  # fields of a config
FIELDS = ("scale", "config", "history", "evaluation", "machine", "vectors", "test_counts")


def write(run: Path, scale: Scale, path: Path) -> None:
    """Writes the record of an evaluated run."""
    opened = RunDirectory.open(run)
    record = {
        "scale": scale,
        "config": {name: Path(value).name if name in PLACES and value else value for name, value in opened.config.items()},
        "history": opened.history(),
        "evaluation": opened.evaluation(),
        "machine": _read(opened.file(MACHINE)),
        "vectors": _read(opened.file(COVERAGE)),
        "test_counts": _read(opened.file(COUNTS)),
    }
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps({**record, "sha256": _digest(record)}, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """A record.

    Args:
      path: of its file.

    Returns:
      ``scale``; ``config``; ``history``, the entries of the epochs; ``evaluation``; ``machine`` that trained it; of taggers
      ``vectors``, what was found of the vocabulary, and ``test_counts``, of :func:`colnorm.metrics.entity_counts`, else None.

    Raises:
      ValueError: it is damaged; names the file.
    """
    stored = read_json(path)
    missing = [name for name in FIELDS if name not in stored] if isinstance(stored, dict) else list(FIELDS)
    if missing:
        raise ValueError(f"{path} is damaged: expected the record of a run, which has {', '.join(missing)} too")
    # Records of before there were digests have none; some others would be read, too, if theirs could be left out.
    digest = stored.pop("sha256", None)
    if digest != _digest(stored) and (digest is not None or stored.keys() != set(FIELDS)):
        raise ValueError(f"{path} is damaged: it is not what was written")
    return dict(stored)


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _read(file: Path) -> Any:
    """None where there is no such file."""
    return read_json(file) if file.exists() else None
