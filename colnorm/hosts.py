"""Several processes, on one host or many, as one training.

Each runs the same command. Process 0 alone reads and writes the run directory; what it finds, and what goes wrong there or in
any of them, all are told, so that none waits for one that has ended. A process that ends without a word is noticed by the
next sum over devices, or after :data:`HEARTBEAT` seconds.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import re
import signal
import socket
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

T = TypeVar("T")

HEARTBEAT = 30
"""Seconds after which a process that doesn't answer is taken for dead."""
PATIENCE = 120
"""Seconds that processes wait for each other at the start."""
LOST = "another process of this training has ended or can't be reached"

# How XLA's collectives and JAX's coordination service say that a process is gone; the type of the exception varies.
_GONE = re.compile(r"[Gg]loo|NCCL|coordination service|Connection (closed|reset)|heartbeat|unhealthy")
# What launchers tell a process that they started as one of several, of those that JAX itself knows.
_LAUNCHERS = (("SLURM_STEP_NODELIST", "SLURM_NTASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))


class HostError(RuntimeError):
    """Something went wrong in another process of the training."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """Which of several processes this one is. Under Slurm, Open MPI and on TPU pods JAX knows without."""

    coordinator: str | None = None
    """host:port at which process 0 is found by the others, where a training is split over processes."""
    processes: int | None = None
    """How many there are."""
    process_id: int | None = None
    """Which one this is, from 0."""

    def join(self) -> None:
        """Waits for the others, where there are any; before anything is computed.

        Raises:
          ValueError: some of the three are given and not all, or they are out of their range.
          HostError: the others can't be found.
        """
        given = {f"--{name.replace('_', '-')}": value for name, value in dataclasses.asdict(self).items()}
        missing = [name for name, value in given.items() if value is None]
        if len(missing) == len(given) and not _launched():
            return
        if 0 < len(missing) < len(given):
            raise ValueError(f"{', '.join(given)} go together; missing: {', '.join(missing)}")
        if not missing:
            address, count, number = self.coordinator or "", self.processes or 0, self.process_id or 0
            if not re.fullmatch(r".+:\d{1,5}", address):
                raise ValueError(f"--coordinator must be host:port, got {address!r}")
            if not 0 <= number < count:
                raise ValueError(f"--process-id must be from 0 to --processes - 1, got {number} of {count}")
        try:
            if not missing and number == 0:
                _check_free(int(address.rpartition(":")[2]))
            jax.distributed.initialize(
                self.coordinator,
                self.processes,
                self.process_id,
                initialization_timeout=PATIENCE,
                heartbeat_timeout_seconds=HEARTBEAT,
            )
            _catch_abort()
            with _silence():
                _connect()
        except Exception as error:
            # The socket of a coordinator that can't be had, and what JAX makes of a process that doesn't come.
            raise HostError(f"the processes of the training don't find each other: {_first_line(error)}") from error


ALONE = Launch()
"""No other process, unless a launcher says so."""


def _launched() -> bool:
    """Whether a launcher started this process as one of several."""
    counts = (os.environ.get(size, "") for mark, size in _LAUNCHERS if mark in os.environ)
    return any(count.isdecimal() and int(count) > 1 for count in counts) or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def several() -> bool:
    """Whether this process is one of several; asks no device where it isn't."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that reads and writes the run."""
    return not several() or jax.process_index() == 0


def agree(action: Callable[[], T]) -> T:
    """What process 0's ``action`` returns, in all processes; the others don't call theirs.

    Args:
      action: returns what JSON can hold.

    Raises:
      HostError: it raised, in the others than process 0.
    """
    if not several():
        return action()
    value: Any = None
    failure: Exception | None = None
    if is_first():
        try:
            value = action()
        except Exception as error:
            failure = error
    said = json.dumps({"value": value, "error": failure and _first_line(failure)})
    answer = json.loads(exchange(said)[0])
    if failure is not None:
        raise failure
    if answer["error"] is not None:
        raise HostError(f"process 0: {answer['error']}")
    result: T = value if is_first() else answer["value"]
    return result


def together(action: Callable[[], T]) -> T:
    """What ``action`` returns here; raises in all processes where it raises in one.

    Raises:
      HostError: it raised in another process.
    """
    if not several():
        return action()
    value: Any = None
    failure: Exception | None = None
    try:
        value = action()
    except Exception as error:
        failure = error
    failures = exchange("" if failure is None else _first_line(failure))
    if failure is not None:
        raise failure
    for number, told in enumerate(failures):
        if told:
            raise HostError(f"process {number}: {told}")
    result: T = value
    return result


def check_same(config: Mapping[str, Any], data: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Raises ``ValueError``, in all processes, where one has another config or other training data than process 0."""
    if not several():
        return
    digest = 0
    for arrays in data:
        for name in sorted(arrays):
            digest = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), digest)
    stated = [json.loads(said) for said in exchange(json.dumps({**config, "the training data": digest}))]
    for number, theirs in enumerate(stated):
        changed = [name for name in theirs if theirs[name] != stated[0].get(name)]
        if changed:
            values = (f"{name} {stated[0].get(name)!r} and {theirs[name]!r}" for name in changed if name in config)
            told = ", ".join(values) or "other training data"
            raise ValueError(f"process 0 and process {number} were not given the same: {told}")


def share(tree: T) -> T:
    """Process 0's arrays in all processes."""
    if not several():
        return tree
    from jax.experimental import multihost_utils

    # Python's numbers are wider than the arrays that a checkpoint gives back in their place.
    canonical = jax.tree.map(lambda leaf: np.asarray(jnp.asarray(leaf)), tree)
    shared: T = jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(canonical))
    return shared


def exchange(said: str) -> list[str]:
    """What each process says, by its number."""
    from jax.experimental import multihost_utils

    data = said.encode()
    sizes = np.ravel(multihost_utils.process_allgather(np.array(len(data), np.int32)))
    width = 1 << max(int(sizes.max()) - 1, 255).bit_length()  # few widths: each is a program
    padded = np.frombuffer(data.ljust(width, b"\0"), np.uint8)
    rows = np.reshape(multihost_utils.process_allgather(padded), (-1, width))
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Inside it the failure of a sum over devices, because a process is gone, is a :class:`HostError` of one line."""
    try:
        yield
    except HostError:
        raise
    except Exception as error:
        if several() and _GONE.search(str(error)):
            raise HostError(LOST) from error
        raise


def leave(status: int, last_words: str) -> None:
    """Ends this process at once, if it is one of several and failed; what it says is the last that is said.

    The usual end waits for the others, who may wait for this one, and XLA's threads go on saying that they are gone.
    """
    global _leaving
    if status and jax.distributed.is_initialized():
        _leaving = True
        sys.stdout.flush()
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.write(stderr, f"{last_words}\n".encode(errors="backslashreplace"))
        os._exit(status)


def _check_free(port: int) -> None:
    """Raises ``OSError`` where another program listens at the port: JAX's service would end this one without a word."""
    dual = socket.has_dualstack_ipv6()
    socket.create_server(("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual).close()


def _connect() -> None:
    """The first sums over devices: those who take part connect within 30 s of each other, which only now is sure."""
    exchange("")
    share(np.zeros(1))
    mesh = Mesh(np.array(jax.devices()), ("all",))
    ones = jax.make_array_from_callback((jax.device_count(),), NamedSharding(mesh, P("all")), lambda _: np.ones(1, np.float32))
    add = jax.shard_map(partial(jax.lax.psum, axis_name="all"), mesh=mesh, in_specs=P("all"), out_specs=P())
    jax.block_until_ready(jax.jit(add)(ones))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps from standard output what gloo prints there of who is connected with whom."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


_on_abort: Any = None
_leaving = False


def _catch_abort() -> None:
    """Makes the end of a process by XLA's coordination service, a call of ``abort``, one that says what to do.

    That is how XLA ends a process when another one stops answering; it can't be caught as an exception. Python's own handlers
    of signals run too late: ``abort`` ends the process when they return to it.
    """
    global _on_abort
    if os.name != "posix":
        return

    def say(_: int) -> None:
        while _leaving:  # the main thread has its last words
            time.sleep(1)
        os.write(2, f"\nerror: {LOST}, or what XLA says above; start all of them again with --resume\n".encode())
        os._exit(1)

    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(say)  # kept for as long as the process lives
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:300] or type(error).__name__
