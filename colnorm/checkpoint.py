"""A run directory: the config, a line of metrics an epoch, and orbax checkpoints of the latest and the best epoch.

    config.json             what was asked for
    metrics.jsonl           one JSON object an epoch, oldest first
    checkpoints/<epoch>/    the state after that epoch, its config and number; only the latest and the best stay

Each file is complete or absent at any moment: a run that is killed, even by SIGKILL, loses at most the epoch it was in.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from colnorm.training import Monitor, TrainState


class RunDirectory:
    """Creates, opens or resumes a run directory; :meth:`create` and :meth:`open` are the ways to get one."""

    def __init__(self, path: str | os.PathLike[str], config: Mapping[str, Any]):
        self.path = Path(path)
        self.config = dict(config)
        self._opened: Any = None

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Mapping[str, Any], overwrite: bool = False) -> "RunDirectory":
        """A new run.

        Args:
          path: a directory that doesn't exist or is empty.
          config: what JSON can hold; written to ``config.json``.
          overwrite: delete a run that is there already. Only a run: another directory is never deleted.

        Raises:
          FileExistsError: the directory holds something.
        """
        path = Path(path)
        cls.check_free(path, overwrite)
        if is_run(path):
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "config.json", config)
        return cls.open(path)

    @staticmethod
    def check_free(path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Raises what :meth:`create` would, and touches nothing."""
        path = Path(path)
        if path.exists() and any(path.iterdir()):
            if not is_run(path):
                raise FileExistsError(f"{path} exists and is not a run directory (no config.json in it); nothing was touched")
            if not overwrite:
                raise FileExistsError(f"{path} holds a run already: resume it, overwrite it, or choose another directory")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunDirectory":
        """A run that exists, finished or not.

        Raises:
          FileNotFoundError: there is no run at ``path``.
        """
        path = Path(path)
        if not is_run(path):
            raise FileNotFoundError(f"{path} is not a run directory: it has no config.json")
        return cls(path, json.loads((path / "config.json").read_text(encoding="utf-8")))

    def check_config(self, config: Mapping[str, Any], may_differ: frozenset[str] = frozenset()) -> None:
        """Raises ``ValueError`` naming each field in which ``config`` differs from the run's own, those allowed aside."""
        config = json.loads(json.dumps(config))
        fields = (self.config.keys() | config.keys()) - may_differ
        changed = [name for name in sorted(fields) if self.config.get(name) != config.get(name)]
        if changed:
            details = ", ".join(f"{name} was {self.config.get(name)!r}, now {config.get(name)!r}" for name in changed)
            raise ValueError(f"{self.path} was begun with another configuration: {details}")

    def history(self) -> list[dict[str, Any]]:
        """The records of ``metrics.jsonl``; a last line that was cut off while it was written is left out."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        text = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a record to ``metrics.jsonl``, on disk when this returns."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def save(self, state: TrainState, epoch: int, best_epoch: int | None) -> None:
        """Checkpoints the state after ``epoch``, then deletes all but this and the best epoch's checkpoint."""
        import orbax.checkpoint as ocp

        manager = self._manager()
        described = {"epoch": epoch, "config": self.config}
        manager.save(
            epoch,
            args=ocp.args.Composite(state=ocp.args.StandardSave(_arrays(state)), about=ocp.args.JsonSave(described)),
        )
        manager.wait_until_finished()
        for old in manager.all_steps():
            if old not in (epoch, best_epoch):
                manager.delete(old)

    def epochs(self) -> list[int]:
        """The epochs that have a complete checkpoint, in order."""
        return sorted(self._manager().all_steps()) if (self.path / "checkpoints").exists() else []

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
            done = [record for record in self.history() if record["epoch"] <= epochs[-1]]
            best = monitor.best_epoch(done)
            epoch = epochs[-1] if best is None else best
        elif which.isdecimal():
            epoch = int(which)
        else:
            raise ValueError(f"the checkpoint must be best, latest or an epoch's number, got {which!r}")
        if epoch not in epochs:
            raise FileNotFoundError(f"{self.path} has checkpoints of the epochs {epochs}, not of {epoch}")
        return epoch

    def restore(self, state: TrainState, epoch: int) -> TrainState:
        """The checkpoint of ``epoch``.

        Args:
          state: one of the same model and optimizer, whose arrays are replaced.
          epoch: one of :meth:`epochs`.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          ValueError: it holds arrays of other names or shapes than ``state``, the optimizer's included.
        """
        import orbax.checkpoint as ocp

        if epoch not in self.epochs():
            raise FileNotFoundError(f"{self.path} has checkpoints of the epochs {self.epochs()}, not of {epoch}")
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, jax.device_get(_arrays(state)))
        stored = self._manager().item_metadata(epoch).state
        _check_same_arrays(stored, target, f"{self.path}/checkpoints/{epoch}")
        restored = self._manager().restore(epoch, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))
        return state.replace(**restored.state)

    def restore_variables(self, epoch: int) -> dict[str, Any]:
        """``params`` (the averaged ones where the run kept an average) and ``batch_stats`` of a checkpoint.

        For prediction: they come on the default device and need neither the model nor the optimizer.

        Raises:
          FileNotFoundError: there is no such checkpoint.
        """
        import orbax.checkpoint as ocp

        if epoch not in self.epochs():
            raise FileNotFoundError(f"{self.path} has checkpoints of the epochs {self.epochs()}, not of {epoch}")
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(
            lambda stored: jax.ShapeDtypeStruct(stored.shape, stored.dtype, sharding=device),
            self._manager().item_metadata(epoch).state,
        )
        state = self._manager().restore(epoch, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))).state
        return {"params": state.get("average", state["params"]), "batch_stats": state["batch_stats"]}

    def resume(self, state: TrainState) -> tuple[TrainState, list[dict[str, Any]]]:
        """The latest state and the records up to it; later records are cut from ``metrics.jsonl``.

        A run without any checkpoint starts anew: ``state`` itself and no records. What a killed writer left unfinished is
        removed: call this only where the run is going on, not to read one that another process may be writing.
        """
        self.close()
        self._manager(remove_unfinished=True)
        epochs = self.epochs()
        latest = epochs[-1] if epochs else 0
        history = [record for record in self.history() if record["epoch"] <= latest]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history))
        return (self.restore(state, latest) if epochs else state), history

    def close(self) -> None:
        """Releases the checkpoint files."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _manager(self, remove_unfinished: bool = False) -> Any:
        if self._opened is None:
            import orbax.checkpoint as ocp

            # Checkpoints are small; written in the background, one could be lost after its epoch was reported as safe.
            options = ocp.CheckpointManagerOptions(
                enable_async_checkpointing=False, cleanup_tmp_directories=remove_unfinished, max_to_keep=None
            )
            handlers = {"state": ocp.StandardCheckpointHandler(), "about": ocp.JsonCheckpointHandler()}
            self._opened = ocp.CheckpointManager(self.path.resolve() / "checkpoints", options=options, item_handlers=handlers)
        return self._opened


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a run directory."""
    return (Path(path) / "config.json").is_file()


def write_text(path: Path, text: str) -> None:
    """Replaces a file at once: readers see the old text or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """:func:`write_text` of indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _arrays(state: TrainState) -> dict[str, Any]:
    """The state's arrays; its functions are rebuilt from the config."""
    names = ("step", "params", "opt_state", "batch_stats", "seed", *(("average",) if state.average_decay else ()))
    return {name: getattr(state, name) for name in names}


def _check_same_arrays(stored: Any, expected: Any, where: str) -> None:
    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        # Optimizer states are tuples in memory and lists or dicts on disk, with the same names in this form.
        return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}

    for collection in ("params", "batch_stats", "opt_state", "average"):
        theirs, ours = shapes(stored.get(collection, {})), shapes(expected.get(collection, {}))
        differences = [
            f"{collection}/{name}: stored {theirs.get(name, 'nothing')}, expected {ours.get(name, 'nothing')}"
            for name in sorted(theirs.keys() | ours.keys())
            if theirs.get(name) != ours.get(name)
        ]
        if differences:
            raise ValueError(
                f"{where} is of another {'optimizer' if collection == 'opt_state' else 'model'}: "
                + "; ".join(differences[:5])
                + (" ..." if differences[5:] else "")
            )
