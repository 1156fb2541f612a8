"""What every benchmark does: sides timed in turn in one process, their spread and memory; rows as a table, JSON, curves."""

import ctypes
import gc
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

from colnorm import process
from colnorm.files import write_json
from colnorm.tasks import console

Call = Callable[[], Any]
"""One piece of work, finished when it returns: what JAX computes is waited for (``jax.block_until_ready``)."""


def measure(
    sides: Mapping[str, Call],
    *,
    check: Callable[[dict[str, Any]], Mapping[str, float]] | None = None,
    repeats: int = 11,
    visit_s: float = 0.05,
    budget_s: float = 6.0,
) -> dict[str, dict[str, Any]]:
    """Times each side, in turn, ``repeats`` times, after one call that is timed apart.

    A visit to a side is one call that nobody times, after which its threads and caches are its own again, and then as many
    as fill ``visit_s``; what is kept is their mean. The order of the sides is drawn anew for every round, as each finds the
    caches as the one before left them.

    Args:
      sides: by name; every ratio is to the first.
      check: is given what the first call of each side returned, before anything else is timed; raises where they differ, and
        may return how far sides are off, by side, which becomes ``gradient_error`` of their rows.
      repeats: visits to each side.
      visit_s: seconds that a visit takes at least.
      budget_s: seconds after which a slow side is not visited again, if it was three times.

    Returns:
      of each side ``first_call_s`` (compilation, warm-up), ``median_ms``, ``quartiles_ms``, ``peak_mib`` (None where the
      system can't tell) and ``ratio``: its median time over that of the first side.
    """
    names = list(sides)
    first, results = {}, {}
    for name, call in sides.items():
        began = time.perf_counter()
        results[name] = call()
        first[name] = time.perf_counter() - began
    errors = {} if check is None else check(results)
    del results
    calls = {}
    for name, call in sides.items():
        began = time.perf_counter()
        call()
        calls[name] = max(1, math.ceil(visit_s / max(time.perf_counter() - began, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    for _ in range(repeats):
        for name in rng.permutation(names).tolist():
            call, spent = sides[name], sum(times[name]) * calls[name]
            if len(times[name]) >= 3 and spent > budget_s:
                continue
            call()
            began = time.perf_counter()
            for _ in range(calls[name]):
                call()
            times[name].append((time.perf_counter() - began) / calls[name])
    medians = {name: float(np.median(values)) for name, values in times.items()}
    return {
        name: {
            "first_call_s": round(first[name], 3),
            "median_ms": _digits(1e3 * medians[name]),
            "quartiles_ms": [_digits(1e3 * float(quartile)) for quartile in np.percentile(values, (25, 75))],
            "ratio": _digits(medians[name] / medians[names[0]]),
            "peak_mib": peak_mib(sides[name]),
            **({"gradient_error": _digits(errors[name])} if name in errors else {}),
        }
        for name, values in times.items()
    }


def peak_mib(call: Call) -> float | None:
    """The most memory that a call takes beyond what the process holds before it, in MiB; None where Linux doesn't tell.

    The allocator first gives back what it keeps, and the kernel's peak of the resident set is reset.
    """
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
        gc.collect()
        trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident_kib("VmRSS")
        call()
        return round(max(resident_kib("VmHWM") - before, 0) / 1024, 1)
    except (OSError, AttributeError):
        return None


def resident_kib(name: str) -> int:
    """A line of this process's status, in KiB."""
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) if found else 0


def machine() -> dict[str, Any]:
    """Hardware, versions, threads and settings of both sides, made alike.

    The peers' threads become as many as there are cores. Where JAX computes on a GPU PyTorch does too, if it can, and both
    multiply float32 as float32, not as TF32.
    """
    import torch

    threads = process.available_cores()
    torch.set_num_threads(threads)
    settings = {name: os.environ[name] for name in ("XLA_FLAGS", "GLIBC_TUNABLES") if os.environ.get(name)}
    if jax.default_backend() != "cpu":
        jax.config.update("jax_default_matmul_precision", "highest")
        settings["products"] = "float32, no TF32"
    if peers_on_gpu():
        torch.set_default_device("cuda")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return {**process.describe(), "torch": torch.__version__, "threads": threads, **settings}


def peers_on_gpu() -> bool:
    """Whether both JAX and PyTorch have a GPU."""
    import torch

    return jax.default_backend() == "gpu" and torch.cuda.is_available()


def peers_ready() -> bool:
    """Whether PyTorch computes where JAX does."""
    return jax.default_backend() == "cpu" or peers_on_gpu()


def waited(result: Any) -> Any:
    """What a peer returned, when its GPU has computed it."""
    if peers_on_gpu():
        import torch

        torch.cuda.synchronize()
    return result


def arrays(tree: Any) -> Any:
    """NumPy's arrays in the place of those of JAX and PyTorch; lists of numbers stay."""
    return jax.tree.map(lambda leaf: np.asarray(leaf.detach().cpu() if hasattr(leaf, "detach") else leaf), tree)


def check_peers(*names: str) -> None:
    """Raises ``ModuleNotFoundError`` where one of the peers is missing."""
    missing = [name for name in names or ("torch", "torchcrf", "torch_struct") if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"{', '.join(missing)} missing: pip install torch==2.13.0 'colnorm[bench]' brings CPU builds")


def finish(measured: Mapping[str, Any], output: Path | None) -> None:
    """Shows what was measured, and writes it where it is wanted."""
    show(measured)
    for note in measured.get("notes", ()):
        print(note)
    if output is not None:
        write_json(output, measured)


def show(measured: Mapping[str, Any]) -> None:
    """Prints ``{"what", "machine", "rows": {case: {side: figures}}}``, one line a side."""
    with_errors = any("gradient_error" in row for sides in measured["rows"].values() for row in sides.values())
    header = ["", "side", "first call", "median", "quartiles", "time / first", "peak memory"]
    header += ["gradient error"] if with_errors else []
    lines = []
    for case, sides in measured["rows"].items():
        for number, (name, row) in enumerate(sides.items()):
            peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:,.1f} MiB"
            quartiles = "{:g} to {:g}".format(*row["quartiles_ms"])
            figures = (f"{row['first_call_s']:.2f} s", f"{row['median_ms']:g} ms", quartiles, f"{row['ratio']:.2f}", peak)
            error = [f"{row['gradient_error']:.1g}" if "gradient_error" in row else ""] if with_errors else []
            lines.append((case if not number else "", name, *figures, *error))
    screen = console.make_console()
    screen.print(console.plain_table(measured["what"], header, lines))
    screen.print(", ".join(f"{key} {value}" for key, value in measured["machine"].items()), soft_wrap=True, highlight=False)


def _digits(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")
