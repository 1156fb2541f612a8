"""Where the steps of :mod:`colnorm.training` run: one ``jit`` over a mesh of devices, of one host or several, or ``pmap``.

Every device holds the state; a batch is split over the devices, and the step itself reduces gradients, sums and batch
statistics over the axis :data:`AXIS`. The result is the single device's, up to the rounding of sums. Left to automatic
sharding, without the axis, a training step of ResNet-14 took 1.4 times as long on two virtual CPU devices: the slices of the
batch that a kernel's gradient sums over there are then no longer each on one device.

The data set is on every device too, or, where it is too large for that, stays with the host, which sends each batch.

On several hosts call ``jax.distributed.initialize()`` first, in every process, with the same data and seed in each.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from colnorm.training import Data, Engine, LossFn, Sums, TrainState, eval_step, train_step

AXIS = "devices"


def make_engine(
    loss_fn: Callable[[str | None], LossFn],
    num_devices: int | None = None,
    batch_size: int | None = None,
    *,
    stream: bool = False,
) -> Engine:
    """The engine for ``num_devices`` of this process's devices; by default for all, or as many as divide ``batch_size``.

    Args:
      loss_fn: axis name -> loss function, as :class:`Sharded` takes it.
      num_devices: of each process; where there are several, all of its devices.
      batch_size: of training, where a batch too small for all devices should leave some of them idle.
      stream: the data stays with the host, see :class:`Sharded`.

    Raises:
      ValueError: more devices asked for than there are, or fewer where there are several processes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import parallel
      >>> def loss_fn(axis_name):  # a model with batch statistics takes the axis
      ...     return lambda variables, batch, key, train: ({"count": jnp.sum(batch["weights"])}, {})
      >>> engine = parallel.make_engine(loss_fn, num_devices=1)
      >>> engine.num_devices
      1
    """
    available = jax.local_devices()
    if num_devices is not None and not 1 <= num_devices <= len(available):
        raise ValueError(f"asked for {num_devices} devices, but there are {len(available)}: {available}")
    if num_devices not in (None, len(available)) and jax.process_count() > 1:
        raise ValueError(
            f"asked for {num_devices} of {len(available)} devices, but where there are several processes, "
            "every process takes part with all of its devices"
        )
    if num_devices is None and batch_size is not None and jax.process_count() == 1:
        num_devices = max(count for count in range(1, len(available) + 1) if batch_size % count == 0)
    devices = available[:num_devices]
    return Sharded(loss_fn, jax.devices() if jax.process_count() > 1 else devices, stream=stream)


def check_batch_size(batch_size: int, num_devices: int) -> None:
    """Raises ``ValueError`` where a batch can't be split evenly over the devices.

    Example:
      >>> from colnorm import parallel
      >>> parallel.check_batch_size(128, 4)
      >>> parallel.check_batch_size(10, 4)
      Traceback (most recent call last):
      ValueError: a batch of 10 can't be split evenly over 4 devices
    """
    if batch_size < 1 or batch_size % num_devices:
        raise ValueError(f"a batch of {batch_size} can't be split evenly over {num_devices} devices")


class Sharded:
    """Runs the steps as one program over a mesh of one or more devices, the batch split over them.

    On an accelerator a whole epoch is one compiled ``lax.scan`` over the batches, with the state donated: no time in Python
    or on the way between host and device. On the CPU it is a Python loop over the compiled step, since XLA's CPU backend
    runs convolutions inside a loop body many times slower (https://github.com/jax-ml/jax/issues/12868).

    States and data are arrays of the whole mesh, a copy on each device, and their shapes are those of the host's.

    Args:
      loss_fn: axis name -> loss function; its model takes batch statistics over that axis, None on a single device.
      devices: of all processes; by default all there are.
      scan: an epoch as one compiled scan (by default everywhere but on the CPU) or as a Python loop of steps.
      stream: the data stays with the host as it is given, arrays in memory or mapped files (``numpy.load(...,
        mmap_mode="r")``), and each batch goes to the devices while the step before it runs. Of several processes each reads
        only the examples of its own devices. An epoch is then a loop of steps.

    Raises:
      ValueError: ``scan`` and ``stream`` are both wanted.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import parallel
      >>> def loss_fn(axis_name):
      ...     return lambda variables, batch, key, train: ({"count": jnp.sum(batch["weights"])}, {})
      >>> engine = parallel.Sharded(loss_fn, jax.devices()[:1])
      >>> data = engine.put_data({"x": jnp.arange(4.0)})
      >>> data["x"].shape, engine.num_devices
      ((4,), 1)
    """

    def __init__(
        self,
        loss_fn: Callable[[str | None], LossFn],
        devices: Sequence[jax.Device] | None = None,
        scan: bool | None = None,
        stream: bool = False,
    ):
        devices = jax.devices() if devices is None else devices
        self.num_devices = len(devices)
        self.stream = stream
        if scan and stream:
            raise ValueError("an epoch can't be one scan over data that stays with the host")
        self._on_cpu = devices[0].platform == "cpu"
        self.scan = not (self._on_cpu or stream) if scan is None else scan
        axis_name = AXIS if self.num_devices > 1 else None
        mesh = Mesh(np.array(devices), (AXIS,))
        self._whole, self._split, self._steps = (NamedSharding(mesh, spec) for spec in (P(), P(AXIS), P(None, AXIS)))

        def compiled(step: Callable[..., Any], indices: P, **options: Any) -> Callable[..., Any]:
            if axis_name is not None:
                in_specs = (P(), P(AXIS) if stream else P(), indices)
                # Steps reduce over the axis themselves: gradients must not be added up a second time, as checked ones would be.
                step = jax.shard_map(step, mesh=mesh, in_specs=in_specs, out_specs=P(), check_vma=False)
            return jax.jit(step, **options)

        options: dict[str, Any] = {"loss_fn": loss_fn(axis_name), "axis_name": axis_name, "taken": stream}
        train, evaluate = (partial(step, **options) for step in (train_step, eval_step))
        step, indices = (scan_steps(train), self._steps) if self.scan else (train, self._split)
        self._train = compiled(step, indices.spec, donate_argnums=0)
        self._evaluate = compiled(evaluate, self._split.spec)

    def _put(self, tree: Any, sharding: NamedSharding) -> Any:
        """Arrays of the mesh, each process giving what its devices hold."""

        def put(leaf: Any) -> jax.Array:
            array = np.array(leaf)  # a copy: the steps donate the state, which must not be the caller's
            return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

        return jax.tree.map(put, tree)

    def _batches(self, data: Data, batches: np.ndarray) -> Iterator[tuple[Data, jax.Array]]:
        """What a step takes besides the state: the data, or of a host's data the examples, and indices."""
        for indices in batches:
            examples = data
            if self.stream:
                examples = {name: self._examples(values, np.maximum(indices, 0)) for name, values in data.items()}
            yield examples, self._put(indices, self._split)

    def _examples(self, values: Any, indices: np.ndarray) -> jax.Array:
        """Rows of a host's array, each on the device that has its part of the batch."""

        def rows(index: Any) -> np.ndarray:
            return np.asarray(values[indices[index[0]]])

        return jax.make_array_from_callback((len(indices), *values.shape[1:]), self._split, rows)

    def put_state(self, state: TrainState) -> TrainState:
        placed: TrainState = self._put(state, self._whole)
        return placed

    def get_state(self, state: TrainState) -> TrainState:
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), state)

    def put_data(self, data: Mapping[str, Any]) -> Data:
        if self.stream:
            return dict(data)
        placed: Data = self._put(dict(data), self._whole)
        return placed

    def train_epoch(
        self, state: TrainState, data: Data, batches: np.ndarray, on_step: Callable[[int, Sums], None] | None = None
    ) -> tuple[TrainState, dict[str, np.ndarray]]:
        """Trains on ``batches (steps, batch)``; returns the state and each step's sums, stacked ``(steps, ...)``."""
        check_batch_size(batches.shape[1], self.num_devices)
        if self.scan:
            state, sums = self._train(state, data, self._put(batches, self._steps))
            return state, jax.device_get(sums)
        return drive_steps(self._train, state, self._batches(data, batches), on_step)

    def evaluate(self, state: TrainState, data: Data, batches: np.ndarray) -> dict[str, np.ndarray]:
        """The sums over all of ``batches (steps, batch)``."""
        check_batch_size(batches.shape[1], self.num_devices)
        sums: Iterator[Sums] = (self._evaluate(state.variables, *inputs) for inputs in self._batches(data, batches))
        return add_sums(_one_at_a_time(sums) if self._on_cpu or self.stream else sums)


class Parallel:
    """Runs the steps under ``pmap``, which JAX keeps but recommends no more; what :class:`Sharded` does otherwise.

    Args:
      loss_fn: axis name -> loss function, as :class:`Sharded` takes it.
      devices: this process's devices; all of them where there are several processes.
      scan: an epoch as one compiled scan (by default everywhere but on the CPU) or as a Python loop of steps.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import parallel
      >>> def loss_fn(axis_name):
      ...     return lambda variables, batch, key, train: ({"count": jnp.sum(batch["weights"])}, {})
      >>> engine = parallel.Parallel(loss_fn, jax.devices()[:1])
      >>> data = engine.put_data({"x": jnp.arange(4.0)})
      >>> data["x"].shape  # a copy on each device
      (1, 4)
    """

    def __init__(self, loss_fn: Callable[[str | None], LossFn], devices: Sequence[jax.Device], scan: bool | None = None):
        self.devices = list(devices)
        self.num_devices = len(self.devices) * jax.process_count()
        self.scan = self.devices[0].platform != "cpu" if scan is None else scan

        train, evaluate = (partial(step, loss_fn=loss_fn(AXIS), axis_name=AXIS) for step in (train_step, eval_step))

        # pmap takes either every device of every process or a list of them.
        over = None if jax.process_count() > 1 else self.devices
        self._train = jax.pmap(
            scan_steps(train) if self.scan else train, AXIS, out_axes=(0, None), donate_argnums=0, devices=over
        )
        self._evaluate = jax.pmap(evaluate, AXIS, out_axes=None, devices=over)
        self._replicate = jax.pmap(lambda _, tree: tree, AXIS, in_axes=(0, None), devices=over)

    def put_state(self, state: TrainState) -> TrainState:
        return self._replicate(np.arange(len(self.devices)), state)

    def get_state(self, state: TrainState) -> TrainState:
        return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data).reshape(x.shape[1:]), state)

    def put_data(self, data: Mapping[str, Any]) -> Data:
        return self._replicate(np.arange(len(self.devices)), dict(data))

    def split(self, batches: np.ndarray) -> np.ndarray:
        """``(steps, batch) -> (steps, devices here, batch per device)``."""
        steps, batch_size = batches.shape
        check_batch_size(batch_size, self.num_devices)
        first = jax.process_index() * len(self.devices)
        return batches.reshape(steps, self.num_devices, -1)[:, first : first + len(self.devices)]

    def train_epoch(
        self, state: TrainState, data: Data, batches: np.ndarray, on_step: Callable[[int, Sums], None] | None = None
    ) -> tuple[TrainState, dict[str, np.ndarray]]:
        """Trains on ``batches (steps, batch)``; returns the state and each step's sums, stacked ``(steps, ...)``."""
        parts = self.split(batches)
        if self.scan:
            state, sums = self._train(state, data, jnp.asarray(parts.swapaxes(0, 1)))
            return state, jax.device_get(sums)
        return drive_steps(self._train, state, ((data, jnp.asarray(part)) for part in parts), on_step)

    def evaluate(self, state: TrainState, data: Data, batches: np.ndarray) -> dict[str, np.ndarray]:
        """The sums over all of ``batches (steps, batch)``."""
        sums: Iterator[Sums] = (self._evaluate(state.variables, data, part) for part in self.split(batches))
        return add_sums(_one_at_a_time(sums) if self.devices[0].platform == "cpu" else sums)


def scan_steps(step: Callable[..., Any]) -> Callable[..., Any]:
    """Makes ``step(state, data, indices)`` one over ``indices`` with a leading axis of steps; sums come out stacked."""

    def epoch(state: TrainState, data: Data, batches: jax.Array) -> tuple[TrainState, Sums]:
        return jax.lax.scan(lambda state, indices: step(state, data, indices), state, batches)

    return epoch


def drive_steps(
    step: Callable[..., Any],
    state: TrainState,
    batches: Iterable[tuple[Any, ...]],
    on_step: Callable[[int, Sums], None] | None = None,
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """A Python loop over a compiled ``step(state, *batch)``, two steps ahead of the device at most.

    Calls ``on_step(number, its sums)``.
    """
    history: list[Sums] = []

    def report(number: int) -> None:
        # Waiting for an older step, not for the one just begun, keeps the device busy.
        history[number] = jax.device_get(history[number])
        if on_step is not None:
            on_step(number, history[number])

    for number, batch in enumerate(batches):
        state, sums = step(state, *batch)
        history.append(sums)
        if number >= 2:
            report(number - 2)
    for number in range(max(len(history) - 2, 0), len(history)):
        report(number)
    return state, jax.tree.map(lambda *values: np.stack(values), *history)


def add_sums(batches: Iterator[Sums]) -> dict[str, np.ndarray]:
    """Sums of sums, in float64 on the host; all batches are in flight before the first is waited for."""
    return jax.tree.map(lambda *values: np.sum(values, axis=0, dtype=np.float64), *jax.device_get(list(batches)))


def _one_at_a_time(sums: Iterator[Sums]) -> Iterator[Sums]:
    """Each is computed before the next begins.

    Virtual CPU devices share few threads, and of several executions in flight those that wait for another device in a
    collective can take all of them. Training steps wait for each other's state anyway. Nor must a data set that is too large
    for the devices come to them as batches in flight.
    """
    return map(jax.block_until_ready, sums)
