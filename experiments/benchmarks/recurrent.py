"""Times bidirectional LSTMs, forward and backward, beside PyTorch's, in one process, interleaved.

    python -m experiments.benchmarks.recurrent --output benchmark.json --plot benchmark.png

The plain LSTM runs against ``torch.nn.LSTM``, the layer-normalized ones against the same cell in a loop (and, with
``--compiled``, that cell under ``torch.compile``). Sides have the same parameters; a call computes outputs and the gradients of
all parameters and of x, in float32, and what two sides return is compared before anything is timed. On a
GPU (with a CUDA build of PyTorch) cuDNN's LSTM through ``jax.experimental.rnn`` and ours in bfloat16 are timed too.

Most of the time is products, and on 2 CPU cores those of the loop are slower than the large ones around it. Tried there without
gain: a loop for each direction (XLA runs them one after the other), both directions as one batched product, gradients
of h carried transposed as h is; activations written over the input's product, with tanh(c) and slopes computed again on the
way back (a fifth less memory, the same time); gradients of gates written over those activations (XLA copied the whole buffer
at every step: five times slower); Eigen's products instead of YNNPACK's (``xla_cpu_experimental_ynn_fusion_type`` of
``-individual_dot``: in a loop by themselves 120 instead of 75 GFLOP/s at H = 128, but not faster at H = 256, and whole calls no
faster anywhere); XLA's concurrency-optimized scheduler; both kernels' gradients as one product; x copied once for all uses.

Where the time goes, of 225 to 250 ms at B, T, D, H = 128, 104, 150, 128: 175 ms are products at the machine's 130 GFLOP/s, a
step forward takes 0.59 ms (0.36 products, the rest activations and what is kept for the way back, on one core), a step
back 0.65 ms (0.45 products), and what is kept moves 540 MB at 20 GB/s.
"""

import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colnorm import LSTM, Bidirectional, LayerNormLSTM, process
from experiments import plotting
from experiments.benchmarks import harness

SIZES = ("32x64x100x100", "128x104x150x128", "128x104x150x256")
SWEEPS = {
    "steps T": ((8, "128x8x100x100"), (32, "128x32x100x100"), (128, "128x128x100x100")),
    "features H": ((32, "32x32x100x32"), (128, "32x32x100x128"), (512, "32x32x100x512")),
    "sequences B": ((4, "4x32x100x100"), (32, "32x32x100x100"), (256, "256x32x100x100")),
}
LSTM_PARAMS = ("input_kernel", "recurrent_kernel", "bias")
COMPILE_SECONDS = 120

Sides = dict[str, Callable[[], Any]]
Check = Callable[[dict[str, Any]], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Command:
    """What to time."""

    sizes: tuple[str, ...] = SIZES
    """BxTxDxH: sequences, steps, input features, features of a direction."""
    kinds: tuple[str, ...] = ("plain", "gates", "output")
    """plain, or where the layer-normalized cell normalizes."""
    ragged: bool = False
    """Sequences of random lengths up to T, which PyTorch packs."""
    compiled: bool = False
    """Time the layer-normalized cell under torch.compile too: it takes a C++ compiler and minutes."""
    repeats: int = 11
    """Visits to each side."""
    output: Path | None = None
    """Write the measurements here as JSON."""
    plot: Path | None = None
    """Draw times over T, H and B here: a sweep of the plain LSTM of its own."""


def run(command: Command) -> None:
    """Measures, shows and draws."""
    harness.check_peers()
    process.prepare(cache=False)
    measured = measure(command)
    harness.finish(measured, command.output)
    if command.plot is not None:
        draw(measured["sweeps"], command.plot)


def measure(command: Command) -> dict[str, Any]:
    """Compares and times every kind at every size."""
    machine = harness.machine()
    notes: list[str] = []
    rows = {}
    for kind in command.kinds:
        for size in command.sizes:
            sides, check = make_sides(kind, _parse(size), command, notes)
            rows[f"{kind} {size}"] = harness.measure(sides, check=check, repeats=command.repeats)
    sweeps: dict[str, dict[str, Any]] = {}
    if command.plot is not None:
        for name, points in SWEEPS.items():
            sweeps[name] = {}
            for value, size in points:
                sides, check = make_sides("plain", _parse(size), command, notes)
                sweeps[name][str(value)] = harness.measure(sides, check=check, repeats=command.repeats)
    what = f"BiLSTM forward + backward, BxTxDxH, float32{', ragged' if command.ragged else ''}"
    return {"what": what, "machine": machine, "rows": rows, "sweeps": sweeps, "notes": notes}


def make_sides(kind: str, size: tuple[int, ...], command: Command, notes: list[str]) -> tuple[Sides, Check]:
    """The calls by name, PyTorch's first, and what compares those that compute the same in float32."""
    import torch

    from experiments.benchmarks.peers import cudnn_lstm
    from experiments.benchmarks.peers.recurrent import TorchLayerNormLSTM, TorchLSTM

    B, T, D, H = size
    rng = np.random.default_rng(0)
    x, cotangent = (rng.standard_normal((B, T, F)).astype(np.float32) for F in (D, 2 * H))
    lengths = None
    if command.ragged:
        lengths = rng.integers(1, T + 1, B).astype(np.int32)
        lengths[0] = T
    cell: Any = partial(LSTM, H) if kind == "plain" else partial(LayerNormLSTM, H, normalize=kind)
    params = jax.jit(Bidirectional(cell).init)(jax.random.key(0), jnp.zeros((1, 1, D)))["params"]
    if kind != "plain":
        # As they start, layer-normalized cells are chaotic: over 100 steps two orders of summation part by 1e-3, PyTorch's own
        # float32 and float64 too. Weaker recurrences contract, and can be compared; they take as long.
        recurrent = "recurrent_scale" if kind == "gates" else "recurrent_kernel"
        params = {name: {**values, recurrent: 0.5 * values[recurrent]} for name, values in params.items()}
    on_gpu = jax.default_backend() == "gpu"

    def in_jax(apply: Callable[..., Any], read: Sequence[str] | None) -> Callable[[], Any]:
        @jax.jit
        def run(params: Any, x: Any, lengths: Any, cotangent: Any) -> Any:
            outputs: Any
            outputs, pull_back = jax.vjp(lambda params, x: apply(params, x, lengths), params, x)
            return outputs, *pull_back(cotangent.astype(outputs.dtype))

        own = {name: {key: values[key] for key in read or values} for name, values in params.items()}
        arguments = jax.device_put((own, x, lengths, cotangent))
        return lambda: jax.block_until_ready(run(*arguments))

    def ours(cell: Any) -> Callable[[], Any]:
        layer = Bidirectional(cell)
        read = LSTM_PARAMS if cell.func is LSTM else None
        return in_jax(lambda params, x, lengths: layer.apply({"params": params}, x, lengths), read)

    def peer(module: Any) -> Callable[[], Any]:
        device = "cuda" if on_gpu else "cpu"
        module.to(device)
        inputs: Any = torch.tensor(x, device=device, requires_grad=True)
        counts = None if lengths is None else torch.tensor(lengths, device=device)
        of_outputs = torch.tensor(cotangent, device=device)

        def run() -> Any:
            module.zero_grad()
            inputs.grad = None
            outputs = module(inputs, counts)
            outputs.backward(of_outputs)
            return harness.waited(outputs)

        def results(outputs: Any) -> Any:
            """Of the call that returned these outputs, which must be the latest."""
            return outputs.detach().cpu().numpy(), module.gradients(), inputs.grad.cpu().numpy()

        run.results = results  # type: ignore[attr-defined]  # functions carry attributes; mypy knows none of theirs
        return run

    reference: Any = peer(TorchLSTM(params) if kind == "plain" else TorchLayerNormLSTM(params, kind))
    sides: Sides = {"torch.nn.LSTM" if kind == "plain" else "PyTorch, a loop": reference}
    if kind != "plain" and command.compiled:
        compiled = peer(TorchLayerNormLSTM(params, kind, wrap=partial(torch.compile, dynamic=False)))
        try:
            with _time_limit(COMPILE_SECONDS):
                began = time.perf_counter()
                results = compiled.results(compiled())  # type: ignore[attr-defined]  # set by peer
                notes.append(f"{kind} {size}: torch.compile took {time.perf_counter() - began:.1f} s")
                _compare(results, reference.results(reference()), "torch.compile")
            sides["PyTorch, compiled"] = compiled
        except AssertionError:
            raise
        except Exception as error:  # no compiler, an unsupported platform, too slow: its own kinds of error
            notes.append(f"{kind} {size}: torch.compile is not available: {str(error).splitlines()[0]}")
    sides["colnorm"] = ours(cell)
    if kind != "plain":
        sides["colnorm, plain LSTM"] = ours(partial(LSTM, H))
    exact = ["colnorm"]
    if on_gpu:
        sides["colnorm, bfloat16"] = ours(partial(cell, dtype=jnp.bfloat16))
    if on_gpu and kind == "plain":
        sides["cuDNN"] = in_jax(cudnn_lstm.apply, LSTM_PARAMS)
        exact.append("cuDNN")

    def check(results: dict[str, Any]) -> dict[str, float]:
        expected = reference.results(results[next(iter(sides))])
        for name in exact:
            _compare(results[name], expected, name)
        return {}

    return sides, check


def _parse(size: str) -> tuple[int, ...]:
    numbers = tuple(int(number) for number in size.split("x"))
    if len(numbers) != 4 or min(numbers) < 1:
        raise ValueError(f"expected a size as BxTxDxH, got {size!r}")
    return numbers


def _compare(results: Any, reference: Any, name: str) -> None:
    """Outputs and gradients, each relative to its largest entry."""

    def check(ours: Any, theirs: Any) -> None:
        largest = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * largest, err_msg=f"{name} computes something else")

    jax.tree.map(check, results, reference)


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Raises TimeoutError inside the block after so long, where the system has alarms."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not ready after {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def draw(sweeps: dict[str, Any], path: Path) -> None:
    """A panel for T, H and B: median times of each side."""

    swept: dict[str, dict[str, Any]] = {}
    for name, points in sweeps.items():
        sides = next(iter(points.values()))
        times = {side: [rows[side]["median_ms"] for rows in points.values()] for side in sides}
        swept[name] = {"sizes": [int(value) for value in points], "forward + backward": times}
    title = "bidirectional LSTM; where not varied, 128 (over H 32) sequences of 32 steps, 100 inputs and 100 features"
    plotting.draw_sweep(swept, path, title)


main = process.command_line(Command, run, "python -m experiments.benchmarks.recurrent", __doc__)

if __name__ == "__main__":
    sys.exit(main())
