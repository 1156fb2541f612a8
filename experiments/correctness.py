"""Every layer and every function of the CRF, values and gradients, on one device against another.

    JAX_PLATFORMS=cpu python -m experiments.correctness --save reference.npz
    python -m experiments.correctness --reference reference.npz --output compared.json

The inputs are the same everywhere; products are of full float32. A result is as far off as its largest error is of its largest
entry. The reference may come from another machine.
"""

import dataclasses
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

import colnorm
from colnorm import crf, process
from colnorm.files import write_json
from colnorm.resnet import Normalization
from colnorm.tasks import console

TOLERANCE = 1e-3
"""Of a result's largest entry: sums of thousands of float32 numbers in another order, through a network's layers.
Untried on a GPU."""

ROW = ("error", "whole_numbers_that_differ")
SEPARATOR = ": "


class Case(NamedTuple):
    """A layer or function.

    Attributes:
      make: axis -> a function of the parameters and the arrays; batch statistics are taken over the axis, where there is one.
      params: its parameters.
      arrays: what else it takes, each with the batch as its leading axis. The gradient is by the first one, too.
    """

    make: Callable[[str | None], Callable[..., Any]]
    params: Any
    arrays: tuple[jax.Array, ...]


class Sizes(NamedTuple):
    """Of the inputs: sequences or images, steps, tags or features, pixels of a side, features of a layer."""

    batch: int = 16
    steps: int = 24
    tags: int = 9
    side: int = 16
    features: int = 16


CRF: dict[str, Callable[..., Any]] = {
    "score": lambda chain, e, tags, n: crf.score(chain, e, tags, n),
    "log_partition": lambda chain, e, tags, n: crf.log_partition(chain, e, n),
    "log_likelihood": lambda chain, e, tags, n: crf.log_likelihood(chain, e, tags, n),
    "log_likelihood, gaps": lambda chain, e, tags, n: crf.log_likelihood(chain, e, tags, mask=e[..., 0] > -0.5),
    "partial_log_likelihood": lambda chain, e, tags, n: crf.partial_log_likelihood(chain, e, jnp.abs(e) < 1.5, n),
    "marginals": lambda chain, e, tags, n: crf.marginals(chain, e, n),
    "pairwise_marginals": lambda chain, e, tags, n: crf.pairwise_marginals(chain, e, n),
    "entropy": lambda chain, e, tags, n: crf.entropy(chain, e, n),
    "viterbi": lambda chain, e, tags, n: crf.viterbi(chain, e, n),
    "k_best": lambda chain, e, tags, n: crf.k_best(chain, e, n, k=2),
    "posterior_decode": lambda chain, e, tags, n: crf.posterior_decode(chain, e, n),
    "cross_entropy": lambda chain, e, tags, n: crf.cross_entropy(chain, e, chain, 2 * e, n),
    "kl_divergence": lambda chain, e, tags, n: crf.kl_divergence(chain, e, chain, 2 * e, n),
    "hinge_loss": lambda chain, e, tags, n: crf.hinge_loss(chain, e, tags, n),
    "expected_cost": lambda chain, e, tags, n: crf.expected_cost(chain, e, jnp.abs(e), n),
    "marginal_log_likelihood": lambda chain, e, tags, n: crf.marginal_log_likelihood(chain, e, tags, n),
}
SEGMENTS: dict[str, Callable[..., Any]] = {
    "segments.log_partition": lambda chain, e, n: crf.segments.log_partition(chain, e, n),
    "segments.marginals": lambda chain, e, n: crf.segments.marginals(chain, e, n),
    "segments.token_marginals": lambda chain, e, n: crf.segments.token_marginals(chain, e, n),
    "segments.entropy": lambda chain, e, n: crf.segments.entropy(chain, e, n),
    "segments.viterbi": lambda chain, e, n: crf.segments.viterbi(chain, e, n),
}
NORMS: dict[str, Callable[[str | None], Any]] = {
    "BatchNorm": lambda axis: colnorm.BatchNorm(use_running_average=False, axis_name=axis),
    "BatchInstanceNorm": lambda axis: colnorm.BatchInstanceNorm(use_running_average=False, axis_name=axis),
    "InstanceNorm": lambda axis: colnorm.InstanceNorm(),
    "LayerNorm": lambda axis: colnorm.LayerNorm(),
    "GroupNorm": lambda axis: colnorm.GroupNorm(2),
}


class Training(NamedTuple):
    """A network in training."""

    model: colnorm.ResNet

    def init(self, key: jax.Array, x: jax.Array) -> Any:
        return self.model.init(key, x, train=False)

    def apply(self, params: Any, x: jax.Array, **how: Any) -> Any:
        return self.model.apply(params, x, train=True, **how)


def with_statistics(make: Callable[[str | None], Any], axis: str | None, **arguments: Any) -> Callable[..., Any]:
    """A layer or a network as a function of parameters and arrays; its new statistics are told for every example."""

    def call(params: Any, x: jax.Array, *arrays: jax.Array) -> Any:
        y, updated = make(axis).apply(params, x, **dict(zip(arguments, arrays, strict=True)), mutable=["batch_stats"])
        return y, jax.tree.map(lambda part: jnp.broadcast_to(part, (len(x), *part.shape)), updated)

    return call


def make_cases(sizes: Sizes) -> dict[str, Case]:
    """All of them, by name; lengths go from 0 to all steps."""
    return dict(_cases(sizes))


def _cases(sizes: Sizes) -> Iterator[tuple[str, Case]]:
    B, T, K, side, features = sizes
    rng = np.random.default_rng(0)
    emissions = jnp.asarray(rng.standard_normal((B, T, K)), jnp.float32)
    tags = jnp.asarray(rng.integers(0, K, (B, T)), jnp.int32)
    lengths = jnp.arange(B, dtype=jnp.int32) * 7 % (T + 1)
    chain = crf.Chain(*(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((K, K), (K,), (K,))))
    segment_shapes = ((K, K), (K,), (K,), (3, K))
    segment_chain = crf.segments.SegmentChain(*(jnp.asarray(rng.standard_normal(s), jnp.float32) for s in segment_shapes))
    images = jnp.asarray(rng.standard_normal((B, side, side, 4)), jnp.float32)
    pixels = jnp.asarray(rng.random((B, side, side)) < 0.7)
    for name, function in CRF.items():
        yield name, Case(lambda axis, function=function: function, chain, (emissions, tags, lengths))  # type: ignore[misc]  # a lambda's default
    for name, function in SEGMENTS.items():
        yield name, Case(lambda axis, function=function: function, segment_chain, (emissions, lengths))  # type: ignore[misc]  # a lambda's default
    layers = {
        "LSTM": colnorm.LSTM(features),
        "LayerNormLSTM, gates": colnorm.LayerNormLSTM(features),
        "LayerNormLSTM, output": colnorm.LayerNormLSTM(features, normalize="output"),
        "Bidirectional": colnorm.Bidirectional(partial(colnorm.LSTM, features)),
    }
    for name, layer in layers.items():
        params = layer.init(jax.random.key(0), emissions, lengths)
        yield name, Case(lambda axis, layer=layer: layer.apply, params, (emissions, lengths))  # type: ignore[misc]  # a lambda's default
    for name, make in NORMS.items():
        params = make(None).init(jax.random.key(0), images)
        for more, arrays in (("", ()), (", mask", (pixels,))):
            function = partial(with_statistics, make, **dict.fromkeys(("mask",)[: len(arrays)]))
            yield name + more, Case(function, params, (images, *arrays))
    for normalization in get_args(Normalization):

        def network(axis: str | None, normalization: Any = normalization) -> Training:
            return Training(colnorm.ResNet(1, K, normalization, axis, num_groups=4))

        params = jax.jit(network(None).init)(jax.random.key(0), images)
        yield f"ResNet, {normalization}", Case(partial(with_statistics, network), params, (images,))


def with_gradients(function: Callable[..., Any], over: str | None = None) -> Callable[..., Any]:
    """Results, and the gradients of their sum by parameters and by the first array; ``over`` an axis to add up over."""

    def loss(params: Any, *arrays: jax.Array) -> Any:
        results = function(params, *arrays)
        floating = (leaf for leaf in jax.tree.leaves(results) if jnp.issubdtype(leaf.dtype, jnp.floating))
        total = sum(jnp.sum(leaf) for leaf in floating)
        return total if over is None else jax.lax.psum(total, over), results

    def call(params: Any, *arrays: jax.Array) -> Any:
        gradients, results = jax.grad(loss, (0, 1), has_aux=True)(params, *arrays)
        return results, gradients

    return call


def compute(cases: Mapping[str, Case]) -> Iterator[tuple[str, dict[str, np.ndarray] | Exception]]:
    """Values and gradients of each case on JAX's first device, by their place in it; several compile at a time.

    Yields cases as they end, and of one that fails its error.
    """

    def compute_one(case: Case) -> dict[str, np.ndarray]:
        with jax.default_matmul_precision("highest"):
            results = jax.jit(with_gradients(case.make(None)))(case.params, *case.arrays)
        return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(results)}

    with ThreadPoolExecutor(process.available_cores()) as threads:
        futures = {threads.submit(compute_one, case): name for name, case in cases.items()}
        for future in as_completed(futures):
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield futures[future], error or future.result()


def compare(reference: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Of one case the largest error of a real result, of its largest entry, and how many of its whole numbers differ.

    The error is None where shapes differ or a number is not finite.
    """
    errors, differing = [0.0], 0
    if reference.keys() != found.keys():
        return {"error": None, "whole_numbers_that_differ": 0}
    for place, theirs in reference.items():
        ours = found[place]
        if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            return {"error": None, "whole_numbers_that_differ": differing}
        if not np.issubdtype(theirs.dtype, np.floating):
            differing += int(np.sum(theirs != ours))
        elif theirs.size:
            errors.append(float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-6)))
    return {"error": float(f"{max(errors):.3g}"), "whole_numbers_that_differ": differing}


def agrees(row: Mapping[str, Any]) -> bool:
    """Whether a comparison is within :data:`TOLERANCE`."""
    return row.get("error") is not None and row["error"] <= TOLERANCE and not row["whole_numbers_that_differ"]


@dataclasses.dataclass(frozen=True)
class Command:
    """What to compute, and with what to compare it."""

    save: Path | None = None
    """Write values and gradients here (npz), for a comparison with another device."""
    reference: Path | None = None
    """Compare with these, which another device has saved."""
    output: Path | None = None
    """Write the comparison here as JSON, after every case."""
    cases: tuple[str, ...] = ()
    """Those whose names begin so; all by default."""


def run(command: Command) -> None:
    """Computes, compares, writes.

    Raises:
      ValueError: there is no such case.
      RuntimeError: something differs, or came to nothing.
    """
    process.prepare(1)
    screen = console.make_console()
    every = make_cases(Sizes())
    cases = {name: case for name, case in every.items() if name.startswith(command.cases or ("",))}
    if not cases:
        raise ValueError(f"no case begins with {' or '.join(command.cases)}; there are {', '.join(every)}")
    references = None if command.reference is None else read(command.reference)
    rows: dict[str, dict[str, Any]] = {}
    kept: dict[str, np.ndarray] = {}
    for name, found in compute(cases):
        if isinstance(found, Exception):
            rows[name] = {"failed": next(iter(str(found).splitlines()), type(found).__name__)}
        else:
            kept |= {f"{name}{SEPARATOR}{place}": array for place, array in found.items()}
            rows[name] = {} if references is None else compare(references.get(name, {}), found)
        if command.output is not None:
            about = {"what": "values and gradients, of the largest entry", "tolerance": TOLERANCE}
            write_json(command.output, {**about, "machine": process.describe(), "rows": rows})
    failed = [name for name, row in rows.items() if "failed" in row]
    if command.save is not None:
        np.savez_compressed(command.save, **kept)  # type: ignore[arg-type]  # of arrays by any name
        screen.print(f"written: {command.save}, {len(rows) - len(failed)} cases", highlight=False, soft_wrap=True)
    if references is not None:
        header = ("", "largest error of the largest entry", "whole numbers that differ")
        lines = [(name, *(str(row.get(key, "failed")) for key in ROW)) for name, row in rows.items()]
        screen.print(console.plain_table(f"on {jax.devices()[0].device_kind}", header, lines))
        if far := [name for name, row in rows.items() if not agrees(row)]:
            raise RuntimeError(f"{len(far)} of {len(rows)} cases differ: {', '.join(far)}")
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(rows)} cases failed; {failed[0]}: {rows[failed[0]]['failed']}")


def read(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Case -> place -> array of a saved file.

    Raises:
      ValueError: it is none.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    try:
        with np.load(path) as stored:
            for key in stored.files:
                name, _, place = key.partition(SEPARATOR)
                found.setdefault(name, {})[place] = stored[key]
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no file that --save wrote: {error}") from error
    return found


main = process.command_line(Command, run, "python -m experiments.correctness", __doc__)

if __name__ == "__main__":
    sys.exit(main())
