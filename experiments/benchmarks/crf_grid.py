"""How many times colnorm's time pytorch-crf and torch-struct take for a linear-chain CRF, from tiny to huge, as heat maps.

    python -m experiments.benchmarks.crf_grid --output grid.json --plot grid.png

Loss with gradient and decoding, as in :mod:`experiments.benchmarks.crf`, at every number of tags, length and batch size whose
potentials a peer holds in memory: pytorch-crf saves about three times ``B * T * K^2`` numbers for its gradient, torch-struct
many times that.
"""

import dataclasses
import itertools
import sys
import warnings
from pathlib import Path
from typing import Any

from colnorm import process
from colnorm.files import read_json, write_json
from colnorm.tasks import console
from experiments import plotting
from experiments.benchmarks import harness
from experiments.benchmarks.crf import PEERS, STRUCT_LIMIT, Inputs, Shape, ours

LIMITS = {"pytorch-crf": 3 * 10**8, "torch-struct": STRUCT_LIMIT}
"""Potentials B * T * K^2 up to which a peer is timed."""

WORKS = ("loss + gradient", "decode")


@dataclasses.dataclass(frozen=True)
class Command:
    """What to time."""

    tags: tuple[int, ...] = (2, 5, 17, 64, 256, 1024)
    lengths: tuple[int, ...] = (16, 128, 1024, 8192)
    batches: tuple[int, ...] = (1, 32, 256)
    ragged: bool = False
    """Lengths from half to the whole, instead of all the same."""
    struct: bool = False
    """Time torch-struct too."""
    repeats: int = 3
    """Visits to each side."""
    output: Path | None = None
    """Write the measurements here as JSON, after every cell."""
    resume: bool = False
    """Keep the cells that --output has already."""
    plot: Path | None = None
    """Draw the heat maps here."""


def measure_cell(command: Command, shape: Shape) -> dict[str, Any]:
    """Work -> side -> median milliseconds, and the seconds that ours compile; empty where no peer fits."""
    B, T, K = shape
    names = [name for name in PEERS if (command.struct or name != "torch-struct") and LIMITS[name] >= B * T * K**2 and T > 1]
    if not names:
        return {}
    inputs = Inputs.draw(shape, command.ragged)
    mine, peers = ours(inputs), {name: PEERS[name](inputs) for name in names}
    cell: dict[str, Any] = {}
    for work in WORKS:
        sides = {"colnorm": mine[work], **{name: peer[work] for name, peer in peers.items()}}
        timed = harness.measure(sides, repeats=command.repeats, visit_s=0.02, budget_s=3)
        cell[work] = {side: row["median_ms"] for side, row in timed.items()}
        cell[work]["first_call_s"] = timed["colnorm"]["first_call_s"]
    return cell


def run(command: Command) -> None:
    """Measures cell by cell, shows and draws."""
    harness.check_peers()
    process.prepare(cache=False)
    # pytorch-crf selects by bytes, torch-struct builds distributions without checks: both warn on every call.
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    measured: dict[str, Any] = {
        "what": f"linear-chain CRF, float32{', ragged' if command.ragged else ''}: (batch, length, tags) -> work -> ms",
        "machine": harness.machine(),
        "cells": {},
    }
    if command.resume and command.output is not None and command.output.exists():
        measured["cells"] = read_json(command.output)["cells"]
    screen = console.make_console()
    for shape in itertools.product(command.batches, command.lengths, command.tags):
        if str(shape) in measured["cells"] or not (cell := measure_cell(command, shape)):
            continue
        measured["cells"][str(shape)] = cell
        for work, times in cell.items():
            ratios = ", ".join(f"{name} {times[name] / times['colnorm']:.3g}" for name in PEERS if name in times)
            screen.print(f"{shape} {work}: {times['colnorm']:g} ms; times that: {ratios}", highlight=False, soft_wrap=True)
        if command.output is not None:
            write_json(command.output, measured)
    if command.plot is not None:
        print(f"picture: {plotting.draw_ratios(measured['cells'], 'pytorch-crf', command.plot)}")


main = process.command_line(Command, run, "python -m experiments.benchmarks.crf_grid", __doc__)

if __name__ == "__main__":
    sys.exit(main())
