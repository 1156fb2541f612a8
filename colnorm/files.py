"""Files that are complete or absent, and a lock: what a run needs so that nothing is lost whatever happens to the machine."""

import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # a module where there is one

TEMPORARY = ".tmp"  # how the name of a file ends while it is written


class LockedError(ValueError):
    """Another process is at work there."""


class StorageError(OSError):
    """A file could not be written, for want of space say; what was there before is as it was."""


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` of UTF-8.

    What utf-8 has no bytes for, as half of a surrogate pair out of a file's name, is written as an escape.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces a file at once: readers see the old bytes or the new, never a part.

    Raises:
      StorageError: it could not be written; names the file, and the old one is as it was.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(f"could not write {path}: {error.strerror}") from error


def write_json(path: Path, value: Any) -> None:
    """:func:`write_text` of indented JSON.

    Raises:
      ValueError: a number is NaN or infinite, which JSON has no word for; names the file.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} can't hold {error}") from None
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged; names the file and where in it.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:  # no UTF-8 and no JSON are ValueErrors; hostile nesting is not
        raise ValueError(f"{path} is damaged: expected JSON, got {error}") from None


class Lock:
    """At most one process holds the lock file ``path``; the system releases it when that process ends, however it ends.

    The file stays, empty, so that nobody locks a file that another has just deleted. Where the system has no ``flock``
    (Windows), every process gets the lock. One that is forgotten is released when it is collected.
    """

    def __init__(self, path: Path):
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> "Lock":
        """Takes the lock, at once.

        Raises:
          LockedError: another process holds it; says which, where and since when.
          StorageError: the file can't be written.
        """
        if self._descriptor is not None:
            return self
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageError(f"could not write {self.path}: {error.strerror}") from error
        if not _flock(descriptor):
            holder = os.read(descriptor, 1000).decode("utf-8", "replace").strip() or "another process"
            os.close(descriptor)
            raise LockedError(f"{self.path.parent} is in use by {holder}")
        self._descriptor = descriptor
        holder = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        with contextlib.suppress(OSError):  # a full disk: it is locked all the same
            os.truncate(descriptor, 0)
            os.write(descriptor, holder.encode())
        return self

    def release(self) -> None:
        """Gives it back; what holds none does nothing."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.truncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        # At the end of the process the modules that this needs may be gone; the system then releases it.
        if not sys.is_finalizing():
            self.release()


def _flock(descriptor: int) -> bool:
    """Whether the lock could be had."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
