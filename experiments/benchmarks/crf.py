"""Times the linear-chain CRF beside pytorch-crf and torch-struct, in one process, interleaved.

    python -m experiments.benchmarks.crf --output benchmark.json

Float32, the same numbers and threads on all sides. Before anything is timed losses and gradients are compared with those of
pytorch-crf in float64 (the rows' "gradient_error"), and decoded paths with each other.
The loss is the negative log-likelihood of the tags, the gradient is by emissions, transitions, start and end. Further rows
have no peer: the same with moves forbidden as in BIO, and every other function of colnorm.crf beside the forward pass: its
first call is mostly compilation. :mod:`experiments.benchmarks.crf_grid` times two of them from tiny to huge.

What bounds ours on two cores: at K = 17 a step of a scan is a product of 10 to 40 microseconds, so what XLA spends around it
counts as much; at K = 64 the products are half of the time. Tried without gain: forward and backward recursion in one scan
over a doubled batch (as fast, and not as simple), (B, K) instead of (K, B) in a step (up to twice the time), one product over
all positions for the gradient of the transitions (slower than one a position), exponentials inside of the scan.
"""

import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colnorm import crf, process
from experiments.benchmarks import harness

Shape = tuple[int, int, int]
STRUCT_LIMIT = 10**7  # potentials (B, T, K, K) with which torch-struct still fits: it takes 6 GB for 17 million
K_BEST = 5
CONSTRAINED = "colnorm, BIO"


@dataclasses.dataclass(frozen=True)
class Command:
    """What to time."""

    shapes: tuple[Shape, ...] = ((32, 64, 17), (128, 104, 17), (32, 128, 64), (8, 1024, 17))
    """Batch, length, tags."""
    ragged: bool = False
    """Lengths from half to the whole, instead of all the same."""
    struct: bool = True
    """Time torch-struct too, except where it takes gigabytes."""
    repeats: int = 11
    """Visits to each side."""
    output: Path | None = None
    """Write the measurements here as JSON."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The same numbers for all sides, as NumPy: a chain's parts, emissions, tags, lengths."""

    transitions: np.ndarray
    start: np.ndarray
    end: np.ndarray
    emissions: np.ndarray
    tags: np.ndarray
    lengths: np.ndarray

    @classmethod
    def draw(cls, shape: Shape, ragged: bool) -> "Inputs":
        """Standard normal potentials."""
        rng = np.random.default_rng(0)
        B, T, K = shape
        transitions, start, end, emissions = (
            rng.normal(size=size).astype(np.float32) for size in ((K, K), (K,), (K,), (B, T, K))
        )
        lengths = rng.integers((T + 1) // 2, T + 1, B) if ragged else np.full(B, T)
        lengths[0] = T
        return cls(transitions, start, end, emissions, rng.integers(0, K, (B, T)).astype(np.int32), lengths.astype(np.int32))


def ours(inputs: Inputs, constrained: bool = False) -> dict[str, Callable[[], Any]]:
    """The compiled functions by what they do; each waits for its result."""

    chain = crf.Chain(*(jnp.asarray(part) for part in (inputs.transitions, inputs.start, inputs.end)))
    emissions, tags, lengths = (jnp.asarray(part) for part in (inputs.emissions, inputs.tags, inputs.lengths))
    names = ["O"] + [f"{prefix}-{number}" for number in range(len(inputs.start) // 2) for prefix in "BI"]
    constrain = functools.partial(crf.constrain, tag_names=names) if constrained else lambda chain: chain
    if constrained:
        tags = crf.viterbi(constrain(chain), emissions, lengths)[0]  # a path that is legal

    def loss(chain: Any, emissions: Any) -> Any:
        return -jnp.sum(crf.log_likelihood(constrain(chain), emissions, tags, lengths))

    functions: dict[str, Callable[..., Any]] = {
        "loss + gradient": jax.value_and_grad(loss, (0, 1)),
        "decode": lambda chain, emissions: crf.viterbi(constrain(chain), emissions, lengths),
    }
    return {name: _waiting(jax.jit(function), chain, emissions) for name, function in functions.items()}


def _waiting(compiled: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(compiled(*arguments))


def without_peer(inputs: Inputs) -> dict[str, Callable[[], Any]]:
    """The forward pass, and what no peer has: the mask is that of the lengths, allowed are all tags but one in ten."""
    chain = crf.Chain(*(jnp.asarray(part) for part in (inputs.transitions, inputs.start, inputs.end)))
    emissions, tags, lengths = (jnp.asarray(part) for part in (inputs.emissions, inputs.tags, inputs.lengths))
    mask = jnp.arange(tags.shape[1])[None] < lengths[:, None]
    rng = np.random.default_rng(1)
    gaps = jnp.asarray(rng.random(tags.shape) < 0.9)
    allowed = jnp.asarray((rng.random(emissions.shape) < 0.9) | (np.arange(emissions.shape[2]) == 0))
    functions: dict[str, Callable[..., Any]] = {
        "forward": lambda chain, e: crf.log_partition(chain, e, lengths),
        "forward, mask as lengths": lambda chain, e: crf.log_partition(chain, e, mask=mask),
        "forward, mask with gaps": lambda chain, e: crf.log_partition(chain, e, mask=gaps),
        "marginals": lambda chain, e: crf.marginals(chain, e, lengths),
        "pairwise marginals": lambda chain, e: crf.pairwise_marginals(chain, e, lengths),
        "entropy": lambda chain, e: crf.entropy(chain, e, lengths),
        "sample": lambda chain, e: crf.sample(jax.random.key(0), chain, e, lengths),
        "posterior decode": lambda chain, e: crf.posterior_decode(chain, e, lengths),
        f"{K_BEST} best": lambda chain, e: crf.k_best(chain, e, lengths, k=K_BEST),
        "partial likelihood": lambda chain, e: crf.partial_log_likelihood(chain, e, allowed, lengths),
        "marginal likelihood": lambda chain, e: crf.marginal_log_likelihood(chain, e, tags, lengths),
        "expected cost": lambda chain, e: crf.expected_cost(chain, e, jnp.abs(e), lengths),
        "hinge loss": lambda chain, e: crf.hinge_loss(chain, e, tags, lengths),
        "cross entropy": lambda chain, e: crf.cross_entropy(chain, e, chain, e[::-1], lengths),
        "divergence": lambda chain, e: crf.kl_divergence(chain, e, chain, e[::-1], lengths),
    }
    return {name: _waiting(jax.jit(function), chain, emissions) for name, function in functions.items()}


def pytorch_crf(inputs: Inputs) -> dict[str, Callable[[], Any]]:
    """pytorch-crf; its decode returns lists."""
    import torch
    import torchcrf

    peer: Any = torchcrf.CRF(len(inputs.start), batch_first=True)
    names = {"transitions": inputs.transitions, "start_transitions": inputs.start, "end_transitions": inputs.end}
    peer.load_state_dict({name: torch.tensor(value) for name, value in names.items()})
    emissions: Any = torch.tensor(inputs.emissions, requires_grad=True)
    tags, lengths = torch.tensor(inputs.tags).long(), torch.tensor(inputs.lengths)
    mask = torch.arange(emissions.shape[1])[None] < lengths[:, None]

    def loss_and_gradient() -> Any:
        peer.zero_grad()
        emissions.grad = None
        loss = -peer(emissions, tags, mask=mask)
        loss.backward()
        gradients = [peer.transitions.grad, peer.start_transitions.grad, peer.end_transitions.grad]
        return harness.waited((loss.detach(), (gradients, emissions.grad)))

    @torch.no_grad()
    def decode() -> Any:
        return peer.decode(emissions, mask=mask)

    return {"loss + gradient": loss_and_gradient, "decode": decode}


def torch_struct(inputs: Inputs) -> dict[str, Callable[[], Any]]:
    """torch-struct's LinearChainCRF over (B, T - 1, to, from) potentials, which are part of the work."""
    import torch
    import torch_struct as struct

    parts: Any = [torch.tensor(part, requires_grad=True) for part in (inputs.transitions, inputs.start, inputs.end)]
    emissions: Any = torch.tensor(inputs.emissions, requires_grad=True)
    tags, lengths = torch.tensor(inputs.tags).long(), torch.tensor(inputs.lengths).long()
    B, T = tags.shape
    rows = torch.arange(B)

    def distribution() -> Any:
        transitions, start, end = parts
        potentials = transitions.T[None, None] + emissions[:, 1:, :, None]
        first = torch.nn.functional.pad((start + emissions[:, 0])[:, None, None, :], (0, 0, 0, 0, 0, T - 2))
        # Where a sequence ends its last move takes the end in.
        ends = torch.zeros(B, T - 1).index_put((rows, lengths - 2), torch.ones(B))
        potentials = potentials + first + ends[:, :, None, None] * end[None, None, :, None]
        return struct.LinearChainCRF(potentials.contiguous(), lengths=lengths)

    def loss_and_gradient() -> Any:
        for leaf in (*parts, emissions):
            leaf.grad = None
        crf = distribution()
        event = struct.LinearChainCRF.struct.to_parts(tags, len(inputs.start), lengths=lengths).type_as(emissions).contiguous()
        loss = -crf.log_prob(event).sum()
        loss.backward()
        return harness.waited((loss.detach(), ([part.grad for part in parts], emissions.grad)))

    def decode() -> Any:
        return harness.waited(struct.LinearChainCRF.struct.from_parts(distribution().argmax)[0])

    return {"loss + gradient": loss_and_gradient, "decode": decode}


PEERS = {"pytorch-crf": pytorch_crf, "torch-struct": torch_struct}


def gradient_errors(inputs: Inputs, results: Mapping[str, Any]) -> dict[str, float]:
    """The largest error of each side's gradient of the transitions, counts that add up to B * (T - 1).

    Raises AssertionError where any number is off by more than rounding.
    """
    wide = {name: getattr(inputs, name).astype(np.float64) for name in ("transitions", "start", "end", "emissions")}
    loss, (chain, emissions) = harness.arrays(pytorch_crf(dataclasses.replace(inputs, **wide))["loss + gradient"]())
    errors = {}
    for name in results.keys() - {CONSTRAINED}:
        of_side, (of_chain, of_emissions) = harness.arrays(results[name])
        message = f"{name} has another loss or gradient"
        np.testing.assert_allclose(of_side, loss, rtol=1e-5, err_msg=message)
        np.testing.assert_allclose(of_emissions, emissions, rtol=0, atol=2e-3, err_msg=message)
        for actual, expected in zip(of_chain, chain, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-5 * inputs.tags.size, err_msg=message)
        errors[name] = float(np.abs(of_chain[0] - chain[0]).max())
    return errors


def check_paths(inputs: Inputs, results: Mapping[str, Any]) -> dict[str, float]:
    """Raises AssertionError where a peer's paths have other scores than ours: in float32 one tag of thousands may be a tie."""
    best = path_scores(inputs, np.asarray(results["colnorm"][0]))
    results = harness.arrays(results)
    for name in results.keys() & PEERS.keys():
        padded = [
            np.pad(np.asarray(path)[:length], (0, inputs.tags.shape[1] - length))
            for path, length in zip(results[name], inputs.lengths, strict=True)
        ]
        scores = path_scores(inputs, np.stack(padded))
        np.testing.assert_allclose(scores, best, rtol=2e-7, err_msg=f"{name} decodes another path")
    return {}


def path_scores(inputs: Inputs, paths: np.ndarray) -> np.ndarray:
    """In float64, ``(B,)``."""
    inside = np.arange(paths.shape[1]) < inputs.lengths[:, None]
    emitted = np.take_along_axis(inputs.emissions, paths[..., None], 2)[..., 0].astype(np.float64)
    moved = inputs.transitions[paths[:, :-1], paths[:, 1:]].astype(np.float64)
    ends = inputs.start[paths[:, 0]] + inputs.end[paths[np.arange(len(paths)), inputs.lengths - 1]].astype(np.float64)
    return (emitted * inside).sum(1) + (moved * inside[:, 1:]).sum(1) + ends


def measure(command: Command) -> dict[str, Any]:
    """Compares and times every shape."""
    machine = harness.machine()
    rows: dict[str, Any] = {}
    for shape in command.shapes:
        inputs = Inputs.draw(shape, command.ragged)
        mine, constrained = ours(inputs), ours(inputs, constrained=True) if shape[2] % 2 else {}
        fits = command.struct and inputs.emissions.size * shape[2] <= STRUCT_LIMIT
        peers = {name: make(inputs) for name, make in PEERS.items() if fits or name != "torch-struct"}
        for work, check in (("loss + gradient", gradient_errors), ("decode", check_paths)):
            sides = {"colnorm": mine[work], **{name: peer[work] for name, peer in peers.items()}}
            if constrained:
                sides[CONSTRAINED] = constrained[work]
            check = functools.partial(check, inputs)
            rows[f"{shape} {work}"] = harness.measure(sides, check=check, repeats=command.repeats)
        rows[f"{shape} functions"] = harness.measure(without_peer(inputs), repeats=command.repeats)
    what = f"linear-chain CRF, (batch, length, tags), float32{', ragged' if command.ragged else ''}"
    return {"what": what, "machine": machine, "rows": rows}


def run(command: Command) -> None:
    """Measures, shows and draws."""
    harness.check_peers()
    process.prepare(cache=False)
    # pytorch-crf selects by bytes, torch-struct builds distributions without checks: both warn on every call.
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    measured = measure(command)
    harness.finish(measured, command.output)


main = process.command_line(Command, run, "python -m experiments.benchmarks.crf", __doc__)

if __name__ == "__main__":
    sys.exit(main())
