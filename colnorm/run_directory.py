"""A run directory: every file of it by name, which directory is one, and which may become one.

    config.json                                     what was asked for, with the marker that makes the directory a run
    metrics.jsonl, checkpoints/, damaged/, .lock    the epochs, see :mod:`colnorm.run_history`

and what commands add, all of it in :data:`NAMES`. Each file is complete or absent at any moment: a run that is killed, even by
SIGKILL, loses at most the epoch it was in. What a run doesn't know by name is never deleted.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from colnorm import checkpoint
from colnorm.files import TEMPORARY, Lock, read_json, write_json
from colnorm.run_history import CHECKPOINTS, CONFIG, DAMAGED, LOCK, METRICS, RunHistory

MACHINE = "machine.json"
"""What trained it."""
CURVES = "curves.png"
FEATURES = "feature_percentiles.png"
EVALUATION = "evaluation.json"
CONFUSION = "confusion.png"
CALIBRATION = "calibration.png"
PRECISION_RECALL = "precision_recall.png"
ENTITY_TYPES = "entity_types.png"
TRANSITIONS = "transitions.png"
TAGGER = "tagger.json"
"""The vocabularies and the shape of a tagger."""
TEMPERATURE = "temperature.json"
"""By what a tagger's scores are divided for its probabilities to be honest, and of which epoch."""
COVERAGE = "vectors.json"
"""How many words and tokens pretrained vectors cover."""
PREDICTIONS = "test_predictions.conll"
"""Word, gold tag and predicted tag of each token of the test sentences, as conlleval reads them."""
MISTAKES = "test_mistakes.json"
"""The test images that a network gets wrong, the surest first, with its probabilities."""
COUNTS = "test_counts.json"
"""The numbers of correct, predicted and gold entities in each test sentence, which comparisons of taggers read."""

NAMES = frozenset(
    {
        *(CONFIG, METRICS, CHECKPOINTS, DAMAGED, LOCK, MACHINE, CURVES, FEATURES),
        *(EVALUATION, CONFUSION, CALIBRATION, PRECISION_RECALL, ENTITY_TYPES, TRANSITIONS),
        *(TAGGER, TEMPERATURE, COVERAGE, PREDICTIONS, COUNTS, MISTAKES),
    }
)
"""Everything that may stand in a run directory, besides these with ``.tmp`` after them while they are written."""

FORMAT = "colnorm run"
VERSION = 1
# What tasks were called in earlier runs. Those of before there was a marker have a config that is all of the file.
_OLD_TASKS = {"cifar": "images", "ner": "tagging"}


class RunDirectory(RunHistory):
    """Creates, opens or resumes a run; :meth:`create` and :meth:`open` are the ways to get one.

    As a context manager it closes at the end. The directory stays the same when the process changes its own.

    Attributes:
      task: which command made it.
      path, config, notes: as in :class:`~colnorm.run_history.RunHistory`.

    Example:
      >>> import tempfile
      >>> from colnorm.run_directory import RunDirectory
      >>> with tempfile.TemporaryDirectory() as place:
      ...     with RunDirectory.create(f"{place}/run", "mine", {"learning_rate": 0.1}) as run:
      ...         run.append({"epoch": 1, "validation_accuracy": 0.5})
      ...     with RunDirectory.open(f"{place}/run") as run:
      ...         print(run.config, run.history())
      {'learning_rate': 0.1} [{'epoch': 1, 'validation_accuracy': 0.5}]
    """

    def __init__(self, path: str | os.PathLike[str], task: str, config: Mapping[str, Any]):
        super().__init__(Path(os.path.abspath(path)), config)
        self.task = task

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], task: str, config: Mapping[str, Any], overwrite: bool = False
    ) -> "RunDirectory":
        """A new run, locked until :meth:`close`.

        Args:
          path: a directory that doesn't exist or is empty.
          task: the kind of run.
          config: what JSON can hold.
          overwrite: delete the run that is there already. Only what a run knows by name is ever deleted.

        Raises:
          FileExistsError: the directory holds something that is not to be deleted.
          LockedError: another process trains it.
          StorageError: it can't be written.
        """
        path = Path(os.path.abspath(path))
        cls.check_free(path, overwrite)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, task, json.loads(json.dumps(config)))
        run._lock.acquire()
        try:
            # The marker goes last: a directory half emptied by a killed process is still a run, which may be overwritten.
            for entry in list(path.iterdir()):
                if entry.name in (CONFIG, LOCK) or entry.name.removesuffix(TEMPORARY) not in NAMES:
                    continue
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            write_json(path / CONFIG, {"format": FORMAT, "version": VERSION, "task": task, "config": run.config})
        except BaseException:
            run.close()
            raise
        return run

    @staticmethod
    def check_free(path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Raises what :meth:`create` would, and touches nothing."""
        path = Path(path)
        if not path.exists():
            return
        if not path.is_dir():
            raise FileExistsError(f"{path} exists and is not a directory; nothing was touched")
        names = [entry.name for entry in path.iterdir()]
        unknown = [name for name in names if name.removesuffix(TEMPORARY) not in NAMES]
        # A lock and unfinished files alone are of a process that was killed before it wrote the marker: of no use to anybody.
        begun = NAMES.intersection(names) - {LOCK}
        if begun and not is_run(path):
            raise FileExistsError(f"{path} exists and is not a run directory (no {CONFIG} of one in it); nothing was touched")
        if unknown and not begun:
            raise FileExistsError(f"{path} exists and is not a run directory; it holds {_some(unknown)}; nothing was touched")
        if not begun:
            return
        if not overwrite:
            raise FileExistsError(f"{path} holds a run already: resume it, overwrite it, or choose another directory")
        inside = path / CHECKPOINTS
        if inside.is_dir():
            unknown += [
                f"{CHECKPOINTS}/{entry.name}"
                for entry in inside.iterdir()
                if not entry.name.isdecimal() and not checkpoint.UNFINISHED.fullmatch(entry.name)
            ]
        if unknown:
            raise FileExistsError(
                f"{path} holds a run and {_some(unknown)}, which is not of it; move that away first; nothing was touched"
            )
        lock = Lock(path / LOCK)
        lock.acquire()
        lock.release()

    @classmethod
    def open(cls, path: str | os.PathLike[str], lock: bool = False) -> "RunDirectory":
        """A run that exists, finished or not.

        Args:
          path: its directory.
          lock: whether to keep others from training it, until :meth:`close`.

        Raises:
          FileNotFoundError: there is no run at ``path``.
          ValueError: its config is damaged, or of a later version of this program.
          LockedError: ``lock`` is wanted, and another process trains it.
        """
        path = Path(path)
        if not (path / CONFIG).is_file():
            raise FileNotFoundError(f"{path} is not a run directory: it has no {CONFIG}")
        stored = read_json(path / CONFIG)
        described = _described(stored)
        if described is None:
            raise ValueError(f"{path / CONFIG} is not that of a run: expected the format {FORMAT!r}, got {str(stored)[:80]}")
        if isinstance(stored.get("version"), int) and stored["version"] > VERSION:
            raise ValueError(
                f"{path} was written by a later version of colnorm: format {stored['version']}, known is {VERSION}"
            )
        run = cls(path, *described)
        if lock:
            run._lock.acquire()
        return run

    def file(self, name: str) -> Path:
        """The place of one of :data:`NAMES`."""
        if name not in NAMES:
            raise ValueError(f"a run has no file {name!r}")
        return self.path / name

    def check_config(
        self, task: str, config: Mapping[str, Any], may_differ: frozenset[str] = frozenset(), defaults: Mapping[str, Any] = {}
    ) -> None:
        """Raises ``ValueError`` naming each field in which ``config`` differs from the run's own, those allowed aside.

        A field that came after the run was begun was then what ``defaults`` say.
        """
        self.check_task(task)
        own, config = {**json.loads(json.dumps(defaults)), **self.config}, json.loads(json.dumps(config))
        fields = (own.keys() | config.keys()) - may_differ
        changed = [name for name in sorted(fields) if own.get(name) != config.get(name)]
        if changed:
            details = ", ".join(f"{name} was {own.get(name)!r}, now {config.get(name)!r}" for name in changed)
            raise ValueError(f"{self.path} was begun with another configuration: {details}")

    def check_task(self, task: str) -> None:
        """Raises ``ValueError`` where it is a run of another kind."""
        if self.task != task:
            raise ValueError(f"{self.path} holds a run of task {self.task[:80]!r}, not {task!r}")

    def evaluation(self) -> dict[str, Any] | None:
        """What evaluation wrote, ``epoch`` and ``splits`` by name among it; None where the run isn't evaluated.

        Raises:
          ValueError: the file is damaged; names it.
        """
        path = self.path / EVALUATION
        if not path.exists():
            return None
        stored = read_json(path)
        splits = stored.get("splits") if isinstance(stored, dict) else None
        if not isinstance(splits, dict) or not {"train", "validation", "test"} <= splits.keys() or "epoch" not in stored:
            raise ValueError(f"{path} is damaged: expected an epoch and the splits train, validation and test")
        return dict(stored)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a run directory: it has a config with the marker of one."""
    with contextlib.suppress(OSError, ValueError):
        return _described(read_json(Path(path) / CONFIG)) is not None
    return False


def _described(stored: Any) -> tuple[str, dict[str, Any]] | None:
    """Task and config out of what ``config.json`` holds; None where it is not that of a run."""
    if not isinstance(stored, dict):
        return None
    task, config = stored.get("task"), stored.get("config")
    if stored.get("format") == FORMAT and isinstance(task, str) and isinstance(config, dict):
        return _OLD_TASKS.get(task, task), config
    if "format" not in stored and task in _OLD_TASKS and "seed" in stored:
        return _OLD_TASKS[task], {name: value for name, value in stored.items() if name != "task"}
    return None


def _some(names: Sequence[str]) -> str:
    """A few names, for a message."""
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
