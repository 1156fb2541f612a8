"""A run summary: what a finished run came to in one small file, all that the page of a study needs of it.

It holds neither weights nor text of a data set nor paths of the machine. Runs of several machines become one study by copying
their summaries into one directory, and the page can be written where the runs are gone.
"""

import base64
import hashlib
import json
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from colnorm.files import read_json, write_text
from colnorm.metrics import classification_metrics
from colnorm.run_directory import COUNTS, COVERAGE, MACHINE, RunDirectory
from experiments.study import Scale

PATHS = ("data_dir", "data", "glove")  # fields of a config
FIELDS = ("scale", "config", "history", "evaluation", "machine", "vectors", "test_counts")


def write(run: Path, scale: Scale, path: Path) -> None:
    """Writes the summary of an evaluated run."""
    opened = RunDirectory.open(run)
    evaluation = opened.evaluation()
    if evaluation is not None:
        evaluation.pop("min_posterior", None)  # the curves of precision and recall are of use beside the run
    summary = {
        "scale": scale,
        "config": {name: Path(value).name if name in PATHS and value else value for name, value in opened.config.items()},
        "history": opened.history(),
        "evaluation": evaluation,
        "machine": _read(opened.file(MACHINE)),
        "vectors": _read(opened.file(COVERAGE)),
        "test_counts": _packed(_read(opened.file(COUNTS))),
        "commit": commit(),
    }
    path.parent.mkdir(exist_ok=True)
    stored = {**summary, "sha256": _digest(summary)}
    write_text(path, json.dumps(stored, allow_nan=False, separators=(",", ":")) + "\n")  # a quarter of it would be spaces


def read(path: Path) -> dict[str, Any]:
    """The summary in a file.

    Returns:
      ``scale``; ``config``; ``history``, the lines of the epochs; ``evaluation``; ``machine`` that trained it; of taggers
      ``vectors``, what was found of the vocabulary, and ``test_counts``, of :func:`colnorm.metrics.entity_counts`, else None;
      ``commit`` of the code that finished it, None where it isn't known.

    Raises:
      ValueError: it is damaged; names the file.
    """
    stored = read_json(path)
    missing = [name for name in FIELDS if name not in stored] if isinstance(stored, dict) else list(FIELDS)
    if missing:
        raise ValueError(f"{path} is damaged: expected the summary of a run, which has {', '.join(missing)} too")
    # Summaries of before there were digests have none; some others would be read, too, if theirs could be left out.
    digest = stored.pop("sha256", None)
    if digest != _digest(stored) and (digest is not None or stored.keys() != set(FIELDS)):
        raise ValueError(f"{path} is damaged: it is not what was written")
    try:
        counts = _unpacked(stored["test_counts"])
        return {"commit": None, **stored, "evaluation": upgraded(stored["evaluation"]), "test_counts": counts}
    except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def commit() -> str | None:
    """The commit of this code, with ``-dirty`` after it where files of it differ; None outside of a checkout with git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", "../colnorm")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def upgraded(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation with the metrics of its splits as :mod:`colnorm.metrics` has them; before, each task had its own form."""
    splits = {}
    for name, split in evaluation["splits"].items():
        if "types" in split:
            kept = {key: value for key, value in split.items() if key not in ("sentences", "types")}
            split = {"examples": split["sentences"], **kept, "classes": split["types"]}
        elif "macro_f1" in split:
            kept = {key: split[key] for key in ("examples", "loss", "confusion")}
            split = kept | classification_metrics(split["confusion"], evaluation["class_names"])
        splits[name] = split
    return {**evaluation, "splits": splits}


def _packed(counts: list[list[int]] | None) -> str | None:
    """The counts, deflated: a tenth of their digits, which would be most of the file."""
    if counts is None:
        return None
    return base64.urlsafe_b64encode(zlib.compress(np.array(counts, "<u2").tobytes(), 9)).decode()


def _unpacked(stored: str | list[list[int]] | None) -> list[list[int]] | None:
    """Summaries of before there was packing hold the counts themselves."""
    if not isinstance(stored, str):
        return stored
    counts: list[list[int]] = np.frombuffer(zlib.decompress(base64.urlsafe_b64decode(stored)), "<u2").reshape(-1, 3).tolist()
    return counts


def _digest(summary: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(summary, sort_keys=True).encode()).hexdigest()


def _read(file: Path) -> Any:
    """None where there is no such file."""
    return read_json(file) if file.exists() else None
