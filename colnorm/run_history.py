"""The epochs of a run: a record of each, and checkpoints of the latest and the best.

    metrics.jsonl           one JSON object an epoch, oldest first
    checkpoints/<epoch>/    the state after that epoch, the config, a digest of the records; only the latest and the best stay
    damaged/<epoch>/        a checkpoint that could not be read when the run was resumed
    .lock                   held by the process that trains

A process that is killed leaves a whole checkpoint, and at most one record more than that.
"""

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
from colnorm.files import Lock, StorageError, write_text
from colnorm.training import Monitor, TrainState

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged"
AVERAGES = ("average", "average_stats")  # of params and of batch_stats, where a run keeps them
LOCK = ".lock"


class RunHistory:
    """Writes and reads records and checkpoints of the run in the directory ``path``.

    Attributes:
      path: absolute.
      config: what was asked for; each checkpoint holds a copy.
      notes: what :meth:`resume` found damaged and set aside, a line each.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]):
        self.path = path
        self.config = dict(config)
        self.notes: list[str] = []
        self._lock = Lock(self.path / LOCK)
        self._verified = False

    def close(self) -> None:
        """Lets others train it."""
        self._lock.release()

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
        return sorted(int(entry.name) for entry in self._checkpoints() if entry.name.isdecimal() and entry.is_dir())

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
        collections = ("params", "batch_stats", "opt_state", *AVERAGES)
        checkpoint.same_shapes(checkpoint.shapes(path), target, collections, str(path))
        arrays, about = checkpoint.read(path, target)
        self._check_about(about, epoch)
        _check_finite(arrays, path)
        return state.replace(**arrays)

    def restore_variables(self, epoch: int) -> dict[str, Any]:
        """``params`` and ``batch_stats`` of a checkpoint; the averaged ones where the run kept averages.

        For prediction: they come on the default device and need neither the model nor the optimizer.

        Raises:
          FileNotFoundError, DamagedError, ValueError: as :meth:`restore`.
        """
        self._check_stored(epoch)
        path = self._checkpoint(epoch)
        state, about = checkpoint.read(path, device=jax.devices()[0])
        self._check_about(about, epoch)
        _check_finite(state, path)
        average, average_stats = AVERAGES
        return {
            "params": state.get(average, state["params"]),
            "batch_stats": state.get(average_stats, state.get("batch_stats", {})),
        }

    def resume(self, state: TrainState) -> tuple[TrainState, list[dict[str, Any]]]:
        """The latest state and the records up to it; a record of an epoch whose checkpoint wasn't written yet is cut off.

        A run without any checkpoint starts anew: ``state`` itself and no records. A damaged checkpoint is moved to
        ``damaged/`` and the one before it taken; :attr:`notes` then says so. What a killed process left unfinished is
        removed. The run stays locked until :meth:`close`.

        Raises:
          LockedError: another process trains it.
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
        for entry in self._checkpoints():
            if checkpoint.UNFINISHED.fullmatch(entry.name):
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

    def _checkpoint(self, epoch: int) -> Path:
        return self.path / CHECKPOINTS / str(epoch)

    def _checkpoints(self) -> list[Path]:
        """All that stands in the directory of checkpoints."""
        directory = self.path / CHECKPOINTS
        return list(directory.iterdir()) if directory.is_dir() else []

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
    # Without batch statistics there are no averages of them.
    averages = [name for name in AVERAGES if getattr(state, name)]
    return {name: getattr(state, name) for name in ("step", "params", "opt_state", "batch_stats", "seed", *averages)}


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    leaf = np.asarray(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _check_finite(arrays: Mapping[str, Any], path: Path) -> None:
    for collection in ("params", "batch_stats", *AVERAGES):
        for where, leaf in jax.tree_util.tree_leaves_with_path(arrays.get(collection, {})):
            if not np.all(np.isfinite(np.asarray(leaf, np.float32))):
                name = jax.tree_util.keystr(where, simple=True, separator="/")
                raise ValueError(f"the checkpoint {path} holds numbers that are not finite, in {collection}/{name}")
