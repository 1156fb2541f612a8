"""What a process needs before JAX starts, how it ends, and what it says about itself."""

import contextlib
import platform
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax


def prepare(devices: int | None) -> None:
    """Makes ``devices`` virtual devices out of a CPU; accelerators are not affected. Call it before JAX runs anything."""
    if devices is not None:
        if devices < 1:
            raise ValueError(f"--devices must be at least 1, got {devices}")
        # Where JAX runs already, as in a notebook, the devices are what they are; `make_engine` says so if they don't do.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", devices)


def exit_status(action: Callable[[], Any], run_path: Path | None = None) -> int:
    """Runs a command and returns its exit status; what users can mend becomes one line on standard error.

    ``run_path`` is the run directory that a training writes: after a failure the line says what is left of the run.
    """
    from colnorm.checkpoint import RunDirectory, is_run
    from colnorm.training import NonFiniteLossError

    try:
        action()
    except NonFiniteLossError as error:
        epochs = RunDirectory.open(run_path).epochs() if run_path is not None else []
        good = f"the last good checkpoint is {run_path}/checkpoints/{epochs[-1]}" if epochs else "no checkpoint was written yet"
        print(f"error: {error}; {good}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        left = ""
        if run_path is not None:
            stored = is_run(run_path)
            left = f"; go on with the same command and --resume --run {run_path}" if stored else "; nothing was stored yet"
        print(f"\ninterrupted{left}", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def peak_memory_mib() -> float:
    """The accelerator's peak memory, or on a CPU this process's peak resident set, in MiB."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def describe() -> dict[str, Any]:
    """Hardware and versions, for the record beside a measurement."""
    import flax
    import optax

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
    import os

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"
