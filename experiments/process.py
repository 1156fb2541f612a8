"""What a process needs before JAX starts, and what it says about itself afterwards."""

import contextlib
import platform
import resource
import sys
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
