"""A run directory: every file of it by name, a lock while it is trained, checkpoints of the latest and the best epoch.

    config.json             what was asked for, with the marker that makes the directory a run
    metrics.jsonl           one JSON object an epoch, oldest first
    checkpoints/<epoch>/    the state after that epoch, the config, a digest of the records; only the latest and the best stay
    damaged/<epoch>/        a checkpoint that could not be read when the run was resumed
    .lock                   held by the process that trains

and what commands add, all of it in :data:`NAMES`. Each file is complete or absent at any moment: a run that is killed, even by
SIGKILL, loses at most the epoch it was in. What a run doesn't know by name is never deleted.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from colnorm import checkpoint
from colnorm.checkpoint import DamagedError
from colnorm.files import TEMPORARY, Lock, StorageError, read_json, write_json, write_text
from colnorm.training import Monitor, TrainState

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged"
LOCK = ".lock"
MACHINE = "machine.json"
"""What trained it."""
CURVES = "curves.png"
FEATURES = "feature_percentiles.png"
EVALUATION = "evaluation.json"
CONFUSION = "confusion.png"
CALIBRATION = "calibration.png"
ENTITY_TYPES = "entity_types.png"
TRANSITIONS = "transitions.png"
TAGGER = "tagger.json"
"""The vocabularies and the shape of a tagger."""
COVERAGE = "vectors.json"
"""How many words and tokens pretrained vectors cover."""
PREDICTIONS = "test_predictions.conll"
"""Word, right tag and predicted tag of each token of the test sentences, as conlleval reads them."""
COUNTS = "test_counts.json"
"""For each test sentence the entities found and right, found, and to be found: what comparisons of taggers need of it."""

NAMES = frozenset(
    {
        *(CONFIG, METRICS, CHECKPOINTS, DAMAGED, LOCK, MACHINE, CURVES, FEATURES),
        *(EVALUATION, CONFUSION, CALIBRATION, ENTITY_TYPES, TRANSITIONS, TAGGER, COVERAGE, PREDICTIONS, COUNTS),
    }
)
"""Everything that may stand in a run directory, besides these with ``.tmp`` after them while they are written."""

FORMAT = "colnorm run"
VERSION = 1
# Runs of before there was a marker: their config was all of the file.
_OLD_TASKS = ("cifar", "ner")


class RunDirectory:
    """Creates, opens or resumes a run; :meth:`create` and :meth:`open` are the ways to get one.

    As a context manager it closes at the end. The directory stays the same when the process changes its own.

    Attributes:
      path: absolute.
      task: which command made it.
      config: what was asked for.
      notes: what :meth:`resume` found damaged and set aside, a line each.

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
        self.path = Path(os.path.abspath(path))
        self.task = task
        self.config = dict(config)
        self.notes: list[str] = []
        self._lock = Lock(self.path / LOCK)
        self._verified = False

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
        unknown: list[str] = []
        known: list[str] = []
        for entry in path.iterdir():
            name = entry.name.removesuffix(TEMPORARY)
            (known if name in NAMES else unknown).append(entry.name)
        # What a process leaves that is killed before it has written the marker is of no use to anybody.
        begun = {name for name in known if name != LOCK and not name.endswith(TEMPORARY)}
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

    # --------------------------------------------------------------------------------------------------------- records

    def history(self) -> list[dict[str, Any]]:
        """The records of the epochs; a last line that was cut off while it was written is left out.

        Raises:
          ValueError: a line is no record, or they are not those of the epochs 1, 2 and so on; names file and line.
        """
        path = self.path / METRICS
        if not path.exists():
            return []
        raw = path.read_bytes()
        records = []
        for number, line in enumerate(raw[: raw.rfind(b"\n") + 1].split(b"\n")[:-1], 1):
            try:
                record = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}:{number} is damaged: expected JSON, got {error}") from None
            if not isinstance(record, dict) or record.get("epoch") != number:
                got = record.get("epoch") if isinstance(record, dict) else str(record)[:40]
                raise ValueError(f"{path}:{number} is damaged: expected the record of epoch {number}, got {got!r}")
            records.append(record)
        return records

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a record, on disk when this returns.

        Raises:
          StorageError: it could not be written.
          ValueError: it holds a number that is NaN or infinite.
        """
        path = self.path / METRICS
        line = json.dumps(record, allow_nan=False) + "\n"
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"could not write {path}: {error.strerror}") from error

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

    # ----------------------------------------------------------------------------------------------------- checkpoints

    def save(self, state: TrainState, epoch: int, best_epoch: int | None) -> None:
        """Checkpoints the state after ``epoch``, then deletes all but this and the best epoch's checkpoint.

        The first one of a process is read again and compared.

        Raises:
          StorageError: it could not be written; all that was stored before is as it was.
        """
        about = {"epoch": epoch, "config": self.config, "records": _digest(self.history()[:epoch])}
        checkpoint.write(self._checkpoint(epoch), _arrays(state), about, verify=not self._verified)
        self._verified = True
        self.prune(epoch, best_epoch)

    def prune(self, epoch: int, best_epoch: int | None) -> None:
        """Deletes all checkpoints but these two."""
        for old in self.epochs():
            if old not in (epoch, best_epoch):
                _delete(self._checkpoint(old))

    def epochs(self) -> list[int]:
        """The epochs that have a checkpoint, in order."""
        directory = self.path / CHECKPOINTS
        if not directory.is_dir():
            return []
        return sorted(int(entry.name) for entry in directory.iterdir() if entry.name.isdecimal() and entry.is_dir())

    def choose(self, which: str, monitor: Monitor) -> int:
        """The epoch that ``which`` means: ``best`` by the monitor, ``latest``, or a number; it has a checkpoint.

        Raises:
          FileNotFoundError: there is no checkpoint of it.
          ValueError: ``which`` is none of these.
        """
        epochs = self.epochs()
        if not epochs:
            raise FileNotFoundError(f"{self.path} has no checkpoint yet")
        if which == "latest":
            epoch = epochs[-1]
        elif which == "best":
            done = self.history()[: epochs[-1]]
            if len(done) < epochs[-1]:
                raise ValueError(
                    f"{self.path / METRICS} has records of {len(done)} epochs, but there is a checkpoint of epoch "
                    f"{epochs[-1]}: which one is the best can't be told; choose {' or '.join(map(str, epochs))} by number"
                )
            self._check_about(checkpoint.about(self._checkpoint(epochs[-1])), epochs[-1])
            best = monitor.best_epoch(done)
            epoch = epochs[-1] if best is None else best
        elif which.isdecimal():
            epoch = int(which)
        else:
            raise ValueError(f"the checkpoint must be best, latest or an epoch's number, got {which!r}")
        self._check_stored(epoch)
        return epoch

    def restore(self, state: TrainState, epoch: int) -> TrainState:
        """The checkpoint of ``epoch``.

        Args:
          state: one of the same model and optimizer, whose arrays are replaced.
          epoch: one of :meth:`epochs`.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          DamagedError: it is damaged.
          ValueError: config or records are no longer those that it was written with; it holds arrays of other names or
            shapes than ``state``, the optimizer's included; or parameters that are not finite.
        """
        self._check_stored(epoch)
        path = self._checkpoint(epoch)
        target = jax.tree.map(_shape, jax.device_get(_arrays(state)))
        collections = ("params", "batch_stats", "opt_state", "average")
        checkpoint.same_shapes(checkpoint.shapes(path), target, collections, str(path))
        arrays, about = checkpoint.read(path, target)
        self._check_about(about, epoch)
        _check_finite(arrays, path)
        return state.replace(**arrays)

    def restore_variables(self, epoch: int) -> dict[str, Any]:
        """``params`` (the averaged ones where the run kept an average) and ``batch_stats`` of a checkpoint.

        For prediction: they come on the default device and need neither the model nor the optimizer.

        Raises:
          FileNotFoundError, DamagedError, ValueError: as :meth:`restore`.
        """
        self._check_stored(epoch)
        path = self._checkpoint(epoch)
        state, about = checkpoint.read(path, device=jax.devices()[0])
        self._check_about(about, epoch)
        _check_finite(state, path)
        return {"params": state.get("average", state["params"]), "batch_stats": state.get("batch_stats", {})}

    def resume(self, state: TrainState) -> tuple[TrainState, list[dict[str, Any]]]:
        """The latest state and the records up to it; a record of an epoch whose checkpoint wasn't written yet is cut off.

        A run without any checkpoint starts anew: ``state`` itself and no records. A damaged checkpoint is moved to
        ``damaged/`` and the one before it taken; :attr:`notes` then says so. What a killed process left unfinished is
        removed. The run must be locked.

        Raises:
          DamagedError: no checkpoint can be read.
          ValueError: the records are not those of the epochs up to the latest checkpoint; nothing was touched.
        """
        self._lock.acquire()
        epochs, history = self.epochs(), self.history()
        latest = epochs[-1] if epochs else 0
        if len(history) not in (latest, latest + 1):
            raise ValueError(
                f"{self.path / METRICS} has records of {len(history)} epochs, but the latest checkpoint is of epoch {latest}; "
                "put back what is missing of the two, or begin anew with --overwrite"
            )
        restored, damage = (state, 0), []
        for epoch in reversed(epochs):
            try:
                restored = (self.restore(state, epoch), epoch)
                break
            except DamagedError as error:
                damage.append((epoch, str(error)))
        epoch = restored[1]
        if epochs and not epoch:
            raise DamagedError(f"no checkpoint of {self.path} can be read: {damage[0][1]}; --overwrite begins anew")
        for entry in self._unfinished():
            shutil.rmtree(entry)
        for broken, said in damage:
            moved = self.path / DAMAGED / str(broken)
            moved.parent.mkdir(exist_ok=True)
            shutil.rmtree(moved, ignore_errors=True)
            os.replace(self._checkpoint(broken), moved)
            self.notes.append(f"{said}; it is in {moved} now, and training goes on after epoch {epoch}")
        history = history[:epoch]
        write_text(self.path / METRICS, "".join(json.dumps(record) + "\n" for record in history))
        return restored[0], history

    def close(self) -> None:
        """Lets others train it."""
        self._lock.release()

    def _checkpoint(self, epoch: int) -> Path:
        return self.path / CHECKPOINTS / str(epoch)

    def _unfinished(self) -> list[Path]:
        directory = self.path / CHECKPOINTS
        entries = directory.iterdir() if directory.is_dir() else ()
        return [entry for entry in entries if checkpoint.UNFINISHED.fullmatch(entry.name)]

    def _check_stored(self, epoch: int) -> None:
        if epoch not in self.epochs():
            raise FileNotFoundError(f"{self.path} has checkpoints of the epochs {self.epochs()}, not of {epoch}")

    def _check_about(self, about: Mapping[str, Any], epoch: int) -> None:
        """Compares what a checkpoint says of itself with the files beside it, which have no digest of their own."""
        path = self._checkpoint(epoch)
        if about.get("epoch") != epoch:
            raise DamagedError(f"the checkpoint {path} is damaged: it says that it is of epoch {about.get('epoch')!r}")
        if "records" not in about:  # of before there were digests
            return
        for name, same in (
            (CONFIG, about.get("config") == self.config),
            (METRICS, _digest(self.history()[:epoch]) == about["records"]),
        ):
            if not same:
                raise ValueError(f"{self.path / name} is damaged: it is not what the checkpoint {path} was written with")


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
        return task, config
    if "format" not in stored and task in _OLD_TASKS and "seed" in stored:
        return str(task), {name: value for name, value in stored.items() if name != "task"}
    return None


def _delete(path: Path) -> None:
    """Deletes a checkpoint so that at no moment a part of it could be taken for one."""
    aside = path.with_name(f"{path.name}.deleted")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(path, aside)
    shutil.rmtree(aside)


def _digest(records: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()


def _arrays(state: TrainState) -> dict[str, Any]:
    """The state's arrays; its functions are rebuilt from the config."""
    names = ("step", "params", "opt_state", "batch_stats", "seed", *(("average",) if state.average_decay else ()))
    return {name: getattr(state, name) for name in names}


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    leaf = np.asarray(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _check_finite(arrays: Mapping[str, Any], path: Path) -> None:
    for collection in ("params", "batch_stats", "average"):
        for where, leaf in jax.tree_util.tree_leaves_with_path(arrays.get(collection, {})):
            if not np.all(np.isfinite(np.asarray(leaf, np.float32))):
                name = jax.tree_util.keystr(where, simple=True, separator="/")
                raise ValueError(f"the checkpoint {path} holds numbers that are not finite, in {collection}/{name}")


def _some(names: Sequence[str]) -> str:
    """A few names, for a message."""
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
