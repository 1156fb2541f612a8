"""A small pool of subprocesses: commands of this repository, each on its share of the machine, stopped together."""

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TextIO

from colnorm.process import available_cores

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Slot:
    """A share of the machine: the cores and the fraction of an accelerator's memory that a command may use.

    Attributes:
      cores: empty where the system can't keep a process to some.
      share: of the machine, 1 for all of it.
    """

    cores: tuple[int, ...] = ()
    share: float = 1.0


def make_slots(count: int) -> list[Slot]:
    """Cuts the cores of this process into ``count`` shares of neighbours, as even as can be.

    Raises:
      ValueError: fewer cores than shares, or count below 1.
    """
    if not 1 <= count <= available_cores():
        raise ValueError(f"--jobs must be between 1 and the number of cores, {available_cores()}, got {count}")
    if count == 1:
        return [Slot()]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    ends = [len(cores) * number // count for number in range(count + 1)]
    return [Slot(tuple(cores[start:end]), 1 / count) for start, end in itertools.pairwise(ends)]


# Keeps a command to some cores, and asks Linux to kill it when whoever started it dies; elsewhere it would go on. What a
# script starts in the background ignores SIGINT, and so would the command, which is stopped by it.
_START = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.platform.startswith("linux"):
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if cores := sys.argv[1]:
    os.sched_setaffinity(0, map(int, cores.split(",")))
del sys.argv[:2]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


class Pool:
    """The commands that run, so that all can be stopped. Threads may share one.

    Args:
      held: file descriptors that every command keeps open, of a lock say.
    """

    def __init__(self, held: Sequence[int] = ()):
        self._held = tuple(held)
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, command: Sequence[str], slot: Slot, errors: TextIO | None = None, say: Say | None = None) -> int:
        """Runs ``python -m`` of a command to its end, its standard error into a file; returns its exit status.

        Raises:
          KeyboardInterrupt: :meth:`stop` was called, before or meanwhile.
        """
        environment = dict(os.environ)
        if slot.share < 1:  # JAX takes three quarters of an accelerator's memory unless told otherwise
            environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 * slot.share:.3f}")
        with self._lock:
            if self._stopped:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                [sys.executable, "-c", _START, ",".join(map(str, slot.cores)), *command],
                stdout=None if say is None else subprocess.PIPE,
                stderr=errors,
                env=environment,
                encoding="utf-8",
                pass_fds=self._held,
                start_new_session=True,  # Ctrl-C reaches it through `stop`, and so once
            )
            self._running.add(process)
        with process:
            try:
                if say is not None and process.stdout is not None:
                    for line in filter(str.strip, process.stdout):
                        say(line.rstrip("\n"))
                status = process.wait()
            except KeyboardInterrupt:  # of the main thread, where no other waits for it
                process.send_signal(signal.SIGINT)
                raise
        with self._lock:
            self._running.discard(process)
            if status and self._stopped:
                raise KeyboardInterrupt
        return status

    def stop(self) -> None:
        """Asks all to stop, as Ctrl-C does, and lets none begin any more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.send_signal(signal.SIGINT)


def reason(status: int, said: str) -> str:
    """One line that says why a command failed, out of its exit status and what it wrote to standard error."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    lines = said.splitlines()
    ours = [line for line in lines if line.startswith("error: ")]
    return (ours or lines[-1:] or [f"exit status {status}"])[0].removeprefix("error: ")
