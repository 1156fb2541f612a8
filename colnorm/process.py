"""What a process needs before JAX starts, how it ends, and what it says about itself."""

import contextlib
import ctypes
import functools
import io
import os
import platform
import re
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import flax
import jax
import optax

from colnorm import hosts
from colnorm.files import StorageError
from colnorm.run_directory import RunDirectory, is_run
from colnorm.training import NonFiniteLossError

C = TypeVar("C")

MOST_DEVICES = 8  # virtual ones; with more, a batch's parts become too small to fill a core's kernels
# Without this XLA's CPU pipeline drops every optimization barrier before it fuses; colnorm/convolution.py needs them.
XLA_FLAGS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
# Where devices share the cores, each keeps to its own; one comparison of a step on two: 293 ms against 324.
FLAGS_OF_SEVERAL_DEVICES = {"xla_cpu_multi_thread_eigen": "false"}


def prepare(devices: int | None = 1, batch_size: int | None = None, *, keep_memory: bool = True, cache: bool = True) -> None:
    """Sets allocator, compiler and virtual CPU devices; where JAX runs already, as in a notebook, it changes nothing.

    What the user has set, in ``XLA_FLAGS`` or for the compilation cache, stays. Results don't depend on any of this but for
    the rounding of sums, which are others on another number of devices.

    Args:
      devices: how many virtual devices a CPU becomes; accelerators are not affected. None: what :func:`cpu_devices` says.
      batch_size: what they share; of use where ``devices`` is None.
      cache: whether compiled programs are kept on disk; benchmarks want to see compilation.
      keep_memory: whether the allocator keeps what it is given back, see :func:`keep_freed_memory`.

    Raises:
      ValueError: devices below 1.

    Example:
      >>> from colnorm import process
      >>> process.prepare(devices=None, batch_size=128)  # before anything is computed
    """
    if devices is not None and devices < 1:
        raise ValueError(f"--devices must be at least 1, got {devices}")
    flags = os.environ.get("XLA_FLAGS", "")
    if devices is None:
        forced = re.search(r"xla_force_host_platform_device_count=(\d+)", flags)
        devices = int(forced[1]) if forced else cpu_devices(batch_size)
    try:
        jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError:  # JAX runs: the devices are what they are, and `make_engine` says so if they don't do
        return
    added = XLA_FLAGS | (FLAGS_OF_SEVERAL_DEVICES if devices > 1 else {})
    os.environ["XLA_FLAGS"] = " ".join([flags, *(f"--{name}={value}" for name, value in added.items() if name not in flags)])
    if cache and jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # of a second, JAX's own least, a text takes two
    if keep_memory:
        keep_freed_memory()


def cpu_devices(batch_size: int | None) -> int:
    """As many devices as there are cores, up to :data:`MOST_DEVICES`, but a number that divides the batch, if there is one.

    XLA's convolutions on a CPU use one core each. Two devices on two cores took 0.8 to 1.0 of one's time.
    """
    most = min(available_cores(), MOST_DEVICES)
    return max(count for count in range(1, most + 1) if (batch_size or 0) % count == 0)


def available_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory for the next step; does nothing where there is another C library.

    XLA allocates a step's temporaries at its start and frees them at its end. By default glibc maps such blocks and gives
    them back, and the kernel clears every page anew: 52,000 page faults in a step of ResNet-14. The process then stays as
    large as it was at its peak.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 64 * 2**20)
    mallopt(arena_max, 1)  # those of other threads hold 64 MiB at most and map what is larger whatever mmap_max says


def cache_directory() -> Path:
    """Where compiled programs are kept: ``$XDG_CACHE_HOME/colnorm``, or else ``~/.cache/colnorm``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "colnorm"


class Terminated(BaseException):
    """SIGTERM came: what runs is dropped, and what is stored stays."""


def exit_status(action: Callable[[], Any], run_path: Path | None = None) -> int:
    """Runs a command and returns its exit status; what users can mend becomes one line on standard error.

    Args:
      action: the command.
      run_path: the run directory that a training writes: after a failure the line says what is left of the run.

    Returns:
      0; 1 after an error, 130 after Ctrl-C, 143 after SIGTERM. The two drop the epoch that is trained: it is trained again
      when the run is resumed. Of several processes one that failed doesn't return: it ends at once, see :func:`hosts.leave`.
    """

    def stored() -> str:
        if not hosts.is_first() and run_path is not None and not is_run(run_path):
            return ""  # it is on another host
        epochs = RunDirectory.open(run_path).epochs() if run_path is not None and is_run(run_path) else []
        if not epochs:
            return "" if run_path is None else "; no epoch was stored yet"
        return f"; stored up to epoch {epochs[-1]}: go on with the same command and --resume --run {run_path}"

    status, told = _outcome(action, run_path, stored)
    hosts.leave(status, told)
    if told:
        print(told, file=sys.stderr)
    return status


def _outcome(action: Callable[[], Any], run_path: Path | None, stored: Callable[[], str]) -> tuple[int, str]:
    """The exit status of a command and what it says at its end."""
    for stream in (sys.stdout, sys.stderr):  # names of files may hold bytes that are no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _terminable():
            action()
    except NonFiniteLossError as error:
        epochs = RunDirectory.open(run_path).epochs() if run_path is not None else []
        good = f"the last good checkpoint is {run_path}/checkpoints/{epochs[-1]}" if epochs else "no checkpoint was written yet"
        return 1, f"error: {error}; {good}"
    except KeyboardInterrupt:
        return 130, f"\ninterrupted{stored()}"
    except Terminated:
        return 143, f"\nterminated{stored()}"
    except (StorageError, hosts.HostError) as error:
        return 1, f"error: {error}{stored()}"
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        return 1, f"error: {error}"
    return 0, ""


def command_line(kind: type[C], action: Callable[[C], Any], prog: str, about: str | None) -> Callable[..., int]:
    """The ``main`` of a module: reads a command of this ``kind``, does it, returns the exit status.

    Args:
      kind: a dataclass, its fields the options.
      action: takes the command.
      prog: how the command is called, for ``--help``.
      about: its docstring, for ``--help``.
    """

    def main(arguments: Sequence[str] | None = None) -> int:
        import tyro  # an eighth of a second

        command = tyro.cli(kind, prog=prog, args=arguments, description=about)
        return exit_status(lambda: action(command))

    return main


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Inside it SIGTERM raises :class:`Terminated`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def peak_memory_mib() -> float:
    """The accelerator's peak memory, or on a CPU this process's peak resident set, in MiB."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class CompileClock:
    """Adds up the seconds that this process compiles for; a program out of the cache on disk counts what reading it takes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.seconds += duration_secs


@functools.cache  # JAX keeps its listeners for good
def compile_clock() -> CompileClock:
    """The one clock of the process; it starts with the first call."""
    return CompileClock()


def describe() -> dict[str, Any]:
    """Hardware and versions, for the record beside a measurement."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
    }


def _processor() -> str:
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    count = os.cpu_count() or 1
    return f"{name}, {count} cores" if available_cores() == count else f"{name}, {available_cores()} of {count} cores"
