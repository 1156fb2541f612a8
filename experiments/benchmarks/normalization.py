"""Times normalization layers, forward and backward, beside PyTorch's and Flax's, in one process, interleaved.

    python -m experiments.benchmarks.normalization --output benchmark.json

A call computes the output and the gradients of x, scale, bias (and gate), in float32 and training mode, and what the sides
return is compared before anything is timed. Batch-instance normalization is built of PyTorch's and of Flax's own two layers;
layer normalization, with one scale and bias a channel, is their group normalization with one group, the fastest they have for
it. PyTorch runs in both memory layouts. The sizes are those of the study's ResNet.

What bounds the rest: XLA makes a pass over all examples for each sum and each result, seven in all, where PyTorch's layer and
group normalization keep an example in the cache through all of theirs. Tried without gain: XLA's own reductions instead of
YNNPACK's (``xla_cpu_experimental_ynn_fusion_type`` empty: up to three times slower), sums as matrix products.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import colnorm
from colnorm import process
from experiments.benchmarks import harness

SIZES = ("128x32x32x16", "128x16x16x32", "128x8x8x64")
KINDS = ("batch", "instance", "batch-instance", "layer", "group")
GROUPS = 8

Side = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Command:
    """What to time."""

    sizes: tuple[str, ...] = SIZES
    """NxHxWxC: images, height, width, channels."""
    kinds: tuple[str, ...] = KINDS
    """Which layers."""
    repeats: int = 11
    """Visits to each side."""
    output: Path | None = None
    """Write the measurements here as JSON."""


def run(command: Command) -> None:
    """Measures and shows."""
    harness.check_peers()
    process.prepare(cache=False)
    harness.finish(measure(command), command.output)


def measure(command: Command) -> dict[str, Any]:
    """Compares and times every layer at every size."""
    machine = harness.machine()
    rows = {}
    for kind in command.kinds:
        for size in command.sizes:
            sides = make_sides(kind, tuple(int(number) for number in size.split("x")))
            rows[f"{kind} {size}"] = harness.measure(sides, check=check, repeats=command.repeats)
    return {"what": "normalization layers, forward + backward, NxHxWxC, float32", "machine": machine, "rows": rows}


def make_sides(kind: str, shape: tuple[int, ...]) -> dict[str, Side]:
    """The calls by name; each returns the output and the gradients of x and of the parameters by name, channels last."""

    rng = np.random.default_rng(0)
    x, cotangent = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    names = ("scale", "bias", "gate") if kind == "batch-instance" else ("scale", "bias")
    params = {name: rng.uniform(0.2, 0.8, shape[-1]).astype(np.float32) for name in names}
    return {
        "colnorm": _jax_side(_our_layer(kind), x, cotangent, params),
        "flax": _jax_side(_flax_layer(kind), x, cotangent, params),
        "torch, channels last": _torch_side(kind, x, cotangent, params, channels_last=True),
        "torch, contiguous": _torch_side(kind, x, cotangent, params, channels_last=False),
    }


def check(results: dict[str, Any]) -> dict[str, float]:
    """Every output and gradient, relative to its largest entry."""

    def compare(name: str) -> Callable[[Any, Any], None]:
        def compare_one(ours: Any, theirs: Any) -> None:
            largest = np.abs(theirs).max()
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * largest, err_msg=f"{name} computes something else")

        return compare_one

    results = harness.arrays(results)
    for name, result in results.items():
        jax.tree.map(compare(name), results["colnorm"], result)
    return {}


def _jax_side(layer: Callable[[Any, Any], Any], x: Any, cotangent: Any, params: Any) -> Side:

    @jax.jit
    def run(params: Any, x: Any, cotangent: Any) -> Any:
        y, pull_back = jax.vjp(layer, params, x)
        of_params, of_x = pull_back(cotangent)
        return y, of_x, of_params

    arguments = jax.device_put((params, x, cotangent))
    return lambda: jax.block_until_ready(run(*arguments))


def _our_layer(kind: str) -> Callable[[Any, Any], Any]:

    layers: dict[str, Any] = {
        "batch": lambda: colnorm.BatchNorm(use_running_average=False),
        "instance": colnorm.InstanceNorm,
        "batch-instance": lambda: colnorm.BatchInstanceNorm(use_running_average=False),
        "layer": colnorm.LayerNorm,
        "group": lambda: colnorm.GroupNorm(num_groups=GROUPS),
    }
    layer = layers[kind]()

    def run(params: Any, x: Any) -> Any:
        channels = x.shape[-1]
        statistics = {"mean": jnp.zeros(channels), "var": jnp.ones(channels)}
        return layer.apply({"params": params, "batch_stats": statistics}, x, mutable=["batch_stats"])[0]

    return run


def _flax_layer(kind: str) -> Callable[[Any, Any], Any]:

    def run(params: Any, x: Any) -> Any:
        channels = x.shape[-1]
        affine = {name: params[name] for name in ("scale", "bias")}

        def batch(params: Any, **options: Any) -> Any:
            statistics = {"mean": jnp.zeros(channels), "var": jnp.ones(channels)}
            layer = nn.BatchNorm(use_running_average=False, epsilon=1e-5, **options)
            return layer.apply({"params": params, "batch_stats": statistics}, x, mutable=["batch_stats"])[0]

        def of_groups(params: Any, groups: int, **options: Any) -> Any:
            return nn.GroupNorm(num_groups=groups, epsilon=1e-5, **options).apply({"params": params}, x)

        if kind == "batch":
            return batch(affine)
        if kind == "batch-instance":
            bare = {"use_scale": False, "use_bias": False}
            gate = params["gate"]
            y = gate * batch({}, **bare) + (1 - gate) * of_groups({}, channels, **bare)
            return y * params["scale"] + params["bias"]
        return of_groups(affine, {"instance": channels, "layer": 1, "group": GROUPS}[kind])

    return run


def _torch_side(kind: str, x: Any, cotangent: Any, params: Any, *, channels_last: bool) -> Side:
    import torch
    from torch.nn import functional

    layout: Any = torch.channels_last if channels_last else torch.contiguous_format

    def tensor(values: Any) -> Any:
        return torch.tensor(values).permute(0, 3, 1, 2).contiguous(memory_format=layout)

    inputs, of_outputs = tensor(x).requires_grad_(), tensor(cotangent)
    learned = {name: torch.tensor(values, requires_grad=True) for name, values in params.items()}
    channels = x.shape[-1]
    mean, var = torch.zeros(channels), torch.ones(channels)

    def forward() -> Any:
        scale, bias = learned["scale"], learned["bias"]
        if kind == "batch":
            return functional.batch_norm(inputs, mean, var, scale, bias, training=True)
        if kind == "instance":
            return functional.instance_norm(inputs, weight=scale, bias=bias)
        if kind == "batch-instance":
            scale, bias, gate = (values.reshape(1, -1, 1, 1) for values in (scale, bias, learned["gate"]))
            of_batch = functional.batch_norm(inputs, mean, var, training=True)
            return (gate * of_batch + (1 - gate) * functional.instance_norm(inputs)) * scale + bias
        return functional.group_norm(inputs, 1 if kind == "layer" else GROUPS, scale, bias)

    def run() -> Any:
        y = forward()
        of_x, *gradients = torch.autograd.grad(y, (inputs, *learned.values()), of_outputs)
        y, of_x = (values.detach().permute(0, 2, 3, 1) for values in (y, of_x))
        return harness.waited((y, of_x, dict(zip(learned, gradients, strict=True))))

    return run


main = process.command_line(Command, run, "python -m experiments.benchmarks.normalization", __doc__)

if __name__ == "__main__":
    sys.exit(main())
