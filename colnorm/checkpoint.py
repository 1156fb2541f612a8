"""Arrays in a directory that orbax writes, with a digest of their values that is checked wherever they are read.

    <directory>/state    the arrays
    <directory>/about    JSON: what the caller says of them, and ``arrays``, the SHA-256 of their names, types, shapes and bytes

A directory is there whole or not at all. Damage of any kind, one flipped bit included, is a :class:`DamagedError` of one line.
"""

import contextlib
import errno
import gc
import hashlib
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from colnorm.files import StorageError

UNFINISHED = re.compile(r"\d+\.(orbax-checkpoint-tmp.*|deleted)")
"""Names beside a checkpoint ``<number>`` that is being written or deleted: of no use once that process is gone."""


class DamagedError(ValueError):
    """What is stored can't be read, or isn't what was written."""


class WideError(ValueError):
    """What is stored needs 64 bits, and JAX is not told to use them."""


def digest(arrays: Any) -> str:
    """SHA-256 of a tree of arrays: of each leaf's path, dtype, shape and bytes, in the order of the paths."""
    leaves = {_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)}
    total = hashlib.sha256()
    for name in sorted(leaves):
        leaf = leaves[name]
        total.update(f"{name} {leaf.dtype.name} {leaf.shape}\n".encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def write(path: Path, arrays: Any, about: Mapping[str, Any], verify: bool = False) -> None:
    """Writes a checkpoint that doesn't exist yet.

    Args:
      path: its directory.
      arrays: a tree of arrays.
      about: what JSON can hold.
      verify: read it again and compare.

    Raises:
      FileExistsError: there is something at ``path``.
      StorageError: it could not be written, or what is read again is not what was written.
    """
    if path.exists():
        raise FileExistsError(f"there is a checkpoint {path} already")
    path.parent.mkdir(exist_ok=True)
    arrays = jax.tree.map(_canonical, jax.device_get(arrays))
    described = {**about, "arrays": digest(arrays)}
    try:
        with _orbax(path) as (ocp, checkpointer, place):
            args = ocp.args.Composite(state=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(described))
            checkpointer.save(place, args=args)
    except Exception as error:  # of orbax and tensorstore, in many types
        reason = os.strerror(errno.ENOSPC) if _is_full(error) else _first_line(error)
        raise StorageError(f"could not write the checkpoint {path}: {reason}") from error
    if not path.is_dir():
        raise StorageError(f"the checkpoint {path} was not written, though nothing failed")
    if verify:
        try:
            read(path)
        except ValueError as error:
            raise StorageError(f"the checkpoint {path} was written, but is not what is read of it: {error}") from error


def read(path: Path, target: Any = None, device: Any = None) -> tuple[Any, dict[str, Any]]:
    """What :func:`write` stored: ``(arrays, about)``.

    Args:
      path: its directory.
      target: a tree of the same arrays' ``jax.ShapeDtypeStruct`` that they come in; by default dictionaries and lists. They
        keep the dtypes that they were stored in.
      device: where they are put; by default on this process's first one.

    Raises:
      FileNotFoundError: there is none.
      DamagedError: it can't be read, or isn't what was written. Other shapes than the target's are damage too: compare
        :func:`shapes` first.
      WideError: it was written with ``jax_enable_x64`` and is read without.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    with _reading(path) as (ocp, checkpointer, place):
        stored = _item(checkpointer.metadata(place), "state")
        dtypes = {_name(name): leaf.dtype for name, leaf in jax.tree_util.tree_leaves_with_path(stored)}
        if wide := {str(dtype) for dtype in dtypes.values() if jax.dtypes.canonicalize_dtype(dtype) != dtype}:
            raise WideError(f"the checkpoint {path} holds {', '.join(sorted(wide))}, which JAX has with jax_enable_x64 only")
        # Said even where it is the default: without, orbax asks all processes, of which only one may be reading.
        sharding = jax.sharding.SingleDeviceSharding(device or jax.local_devices()[0])
        target = jax.tree_util.tree_map_with_path(
            lambda name, leaf: jax.ShapeDtypeStruct(leaf.shape, dtypes[_name(name)], sharding=sharding),
            stored if target is None else target,
        )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target), about=ocp.args.JsonRestore())
        restored = checkpointer.restore(place, args=args)
        described = _about(restored)
        # Checkpoints of before there were digests have none.
        if "arrays" in described and digest(restored.state) != described["arrays"]:
            raise DamagedError("its arrays are not those that were written")
    return restored.state, described


def about(path: Path) -> dict[str, Any]:
    """What :func:`write` was told of a checkpoint, and the digest of its arrays; no array is read.

    Raises:
      FileNotFoundError, DamagedError: as :func:`read`.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    with _reading(path) as (ocp, checkpointer, place):
        return _about(checkpointer.restore(place, args=ocp.args.Composite(about=ocp.args.JsonRestore())))


def shapes(path: Path) -> Any:
    """The tree of a checkpoint's arrays with ``shape`` and ``dtype`` at the leaves; no array is read.

    Raises:
      FileNotFoundError, DamagedError: as :func:`read`.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    with _reading(path) as (_, checkpointer, place):
        return _item(checkpointer.metadata(place), "state")


def same_shapes(stored: Any, expected: Any, collections: tuple[str, ...], where: str) -> None:
    """Raises ``ValueError`` naming the arrays of these collections that are not the same in both trees."""

    def named(tree: Any) -> dict[str, tuple[int, ...]]:
        return {_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}

    for collection in collections:
        theirs, ours = named(stored.get(collection, {})), named(expected.get(collection, {}))
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


def _canonical(leaf: Any) -> np.ndarray:
    """A leaf in the dtype in which JAX will give it back: Python's numbers are wider than its own."""
    array = np.asarray(leaf)
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype))


def _name(path: Any) -> str:
    # Optimizer states are tuples in memory and lists or dicts on disk, with the same names in this form.
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _about(restored: Any) -> dict[str, Any]:
    if not isinstance(restored.about, dict):
        raise DamagedError("what it says of itself is no JSON object")
    return dict(restored.about)


def _item(metadata: Any, name: str) -> Any:
    """The tree of an item's metadata."""
    found = metadata.item_metadata[name]
    tree = getattr(found, "tree", found)
    if not isinstance(tree, dict) or "params" not in tree:
        raise DamagedError(f"there are no arrays in its {name}")
    if not all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in jax.tree.leaves(tree)):
        raise DamagedError(f"not all of its {name} are arrays")
    return tree


@contextlib.contextmanager
def _orbax(path: Path) -> Iterator[tuple[Any, Any, Path]]:
    """Orbax, a checkpointer, and ``path`` in a form that it takes; silent, as what fails is said by whoever catches it."""
    import orbax.checkpoint as ocp

    me = jax.process_index()  # of several processes the one that calls: the others are not waited for
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}")
    handlers = {
        "state": ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        "about": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(_silence())
        # Orbax looks for its parts by patterns and writes "\\" as "/": it gets a plain name for a parent that has others.
        place = Path(os.path.abspath(path))
        if not re.fullmatch(r"[\w./-]*", str(place), re.ASCII):
            link = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
            link.symlink_to(place.parent, target_is_directory=True)
            place = link / place.name
        checkpointer = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone), **handlers),
            multiprocessing_options=alone,
        )
        stack.callback(checkpointer.close)
        yield ocp, checkpointer, place


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[tuple[Any, Any, Path]]:
    try:
        with _orbax(path) as parts:
            yield parts
    except DamagedError as error:
        raise DamagedError(f"the checkpoint {path} is damaged: {error}") from error
    except (MemoryError, WideError):
        raise
    except Exception as error:  # what damaged bytes do to orbax, tensorstore and JSON has no bounded set of types
        raise DamagedError(f"the checkpoint {path} is damaged: {_first_line(error)}") from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps orbax from logging tracebacks of its threads: a failure comes as an exception as well."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        sys.unraisablehook = lambda _: None
        try:
            yield
        except BaseException as error:
            # What failed complains once more when its futures and coroutines are collected: that is now.
            failed: BaseException | None = error
            while failed is not None:
                traceback.clear_frames(failed.__traceback__)
                failed = failed.__cause__ or failed.__context__
            gc.collect()
            # Reads that were under way end later, on threads of tensorstore, and complain that nobody waits any more.
            hook = hook if isinstance(hook, _LateReads) else _LateReads(hook)
            raise
    finally:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _LateReads:
    """A hook for exceptions that nobody can catch: leaves out those of an event loop that has ended."""

    def __init__(self, before: Any):
        self._before = before

    def __call__(self, unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
            self._before(unraisable)


def _is_full(error: BaseException) -> bool:
    text = str(error)
    return (isinstance(error, OSError) and error.errno == errno.ENOSPC) or os.strerror(errno.ENOSPC) in text


def _first_line(error: BaseException) -> str:
    """What an error says, short: orbax's go on for pages."""
    lines = str(error).strip().splitlines()
    said = re.sub(r" \[tensorstore_spec=.*| \[source locations?=.*", "", lines[0]) if lines else ""
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__
