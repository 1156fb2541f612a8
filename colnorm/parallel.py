"""The steps of :mod:`colnorm.training` on several devices and several hosts: one ``jit`` over a mesh, or ``pmap``.

Every device holds the state and the data set; a batch's indices are split over the devices, and the step itself reduces
gradients, sums and batch statistics over the axis :data:`AXIS`. The result is the single device's, up to the rounding of
sums. Left to automatic sharding, without the axis, a training step of ResNet-14 took 1.4 times as long on two virtual CPU
devices: the slices of the batch that a kernel's gradient sums over there are then no longer each on one device.

On several hosts call ``jax.distributed.initialize()`` first, in every process, with the same data and seed in each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from colnorm.training import (
    Data,
    Engine,
    LossFn,
    SingleDevice,
    Sums,
    TrainState,
    add_sums,
    drive_steps,
    eval_step,
    scan_steps,
    train_step,
)

AXIS = "devices"


def make_engine(
    loss_fn: Callable[[str | None], LossFn], num_devices: int | None = None, batch_size: int | None = None
) -> Engine:
    """The engine for ``num_devices`` of this process's devices; by default for all, or as many as divide ``batch_size``.

    Args:
      loss_fn: axis name -> loss function; its model takes batch statistics over that axis, None on a single device.
      num_devices: of each process; where there are several, all of its devices.
      batch_size: of training, where a batch too small for all devices should leave some of them idle.

    Raises:
      ValueError: more devices asked for than there are, or fewer where there are several processes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import parallel
      >>> def loss_fn(axis_name):  # a model with batch statistics takes the axis
      ...     return lambda variables, batch, key, train: ({"count": jnp.sum(batch["weights"])}, {})
      >>> engine = parallel.make_engine(loss_fn, num_devices=1)
      >>> type(engine).__name__
      'SingleDevice'
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
    if len(devices) == 1 and jax.process_count() == 1:
        return SingleDevice(loss_fn(None))
    return Sharded(loss_fn(AXIS), jax.devices() if jax.process_count() > 1 else devices)


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
    """Runs the steps as one program over a mesh; :class:`~colnorm.training.SingleDevice` with the batch split over devices.

    States and data are arrays of the whole mesh, a copy on each device, and their shapes are those of the host's.

    Args:
      loss_fn: the task's, its model built with ``axis_name=AXIS``.
      devices: of all processes.
      scan: an epoch as one compiled scan (by default everywhere but on the CPU) or as a Python loop of steps.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import parallel
      >>> def loss_fn(variables, batch, key, train):
      ...     return {"count": jnp.sum(batch["weights"])}, {}
      >>> engine = parallel.Sharded(loss_fn, jax.devices()[:1])
      >>> data = engine.put_data({"x": jnp.arange(4.0)})
      >>> data["x"].shape, engine.num_devices
      ((4,), 1)
    """

    def __init__(self, loss_fn: LossFn, devices: Sequence[jax.Device], scan: bool | None = None):
        self.num_devices = len(devices)
        self.mesh = Mesh(np.array(devices), (AXIS,))
        self.on_cpu = devices[0].platform == "cpu"
        self.scan = not self.on_cpu if scan is None else scan
        self._whole, self._split = (NamedSharding(self.mesh, spec) for spec in (P(), P(None, AXIS) if self.scan else P(AXIS)))

        train, evaluate = (partial(step, loss_fn=loss_fn, axis_name=AXIS) for step in (train_step, eval_step))

        def over_mesh(step: Callable[..., Any], indices: P) -> Callable[..., Any]:
            # Steps reduce over the axis themselves: gradients must not be added up a second time, as checked ones would be.
            return jax.shard_map(step, mesh=self.mesh, in_specs=(P(), P(), indices), out_specs=P(), check_vma=False)

        self._train = jax.jit(over_mesh(scan_steps(train) if self.scan else train, self._split.spec), donate_argnums=0)
        self._evaluate = jax.jit(over_mesh(evaluate, P(AXIS)))

    def _put(self, tree: Any, sharding: NamedSharding) -> Any:
        """Arrays of the mesh, each process giving what its devices hold."""

        def put(leaf: Any) -> jax.Array:
            array = np.array(leaf)  # a copy: the steps donate the state, which must not be the caller's
            return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

        return jax.tree.map(put, tree)

    def put_state(self, state: TrainState) -> TrainState:
        placed: TrainState = self._put(state, self._whole)
        return placed

    def get_state(self, state: TrainState) -> TrainState:
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), state)

    def put_data(self, data: Mapping[str, Any]) -> Data:
        placed: Data = self._put(dict(data), self._whole)
        return placed

    def train_epoch(
        self, state: TrainState, data: Data, batches: np.ndarray, on_step: Callable[[int, Sums], None] | None = None
    ) -> tuple[TrainState, dict[str, np.ndarray]]:
        """Trains on ``batches (steps, batch)``; returns the state and each step's sums, stacked ``(steps, ...)``."""
        check_batch_size(batches.shape[1], self.num_devices)
        if self.scan:
            state, sums = self._train(state, data, self._put(batches, self._split))
            return state, jax.device_get(sums)
        return drive_steps(self._train, state, data, (self._put(indices, self._split) for indices in batches), on_step)

    def evaluate(self, state: TrainState, data: Data, batches: np.ndarray) -> dict[str, np.ndarray]:
        """The sums over all of ``batches (steps, batch)``."""
        check_batch_size(batches.shape[1], self.num_devices)
        split = NamedSharding(self.mesh, P(AXIS))
        sums: Iterator[Sums] = (self._evaluate(state.variables, data, self._put(indices, split)) for indices in batches)
        return add_sums(_one_at_a_time(sums) if self.on_cpu else sums)


class Parallel:
    """Runs the steps under ``pmap``, which JAX keeps but recommends no more; what :class:`Sharded` does otherwise.

    Args:
      loss_fn: the task's, its model built with ``axis_name=AXIS``.
      devices: this process's devices; all of them where there are several processes.
      scan: an epoch as one compiled scan (by default everywhere but on the CPU) or as a Python loop of steps.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import parallel
      >>> def loss_fn(variables, batch, key, train):
      ...     return {"count": jnp.sum(batch["weights"])}, {}
      >>> engine = parallel.Parallel(loss_fn, jax.devices()[:1])
      >>> data = engine.put_data({"x": jnp.arange(4.0)})
      >>> data["x"].shape  # a copy on each device
      (1, 4)
    """

    def __init__(self, loss_fn: LossFn, devices: Sequence[jax.Device], scan: bool | None = None):
        self.devices = list(devices)
        self.num_devices = len(self.devices) * jax.process_count()
        self.scan = self.devices[0].platform != "cpu" if scan is None else scan

        train, evaluate = (partial(step, loss_fn=loss_fn, axis_name=AXIS) for step in (train_step, eval_step))

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
        return drive_steps(self._train, state, data, map(jnp.asarray, parts), on_step)

    def evaluate(self, state: TrainState, data: Data, batches: np.ndarray) -> dict[str, np.ndarray]:
        """The sums over all of ``batches (steps, batch)``."""
        sums: Iterator[Sums] = (self._evaluate(state.variables, data, part) for part in self.split(batches))
        return add_sums(_one_at_a_time(sums) if self.devices[0].platform == "cpu" else sums)


def _one_at_a_time(sums: Iterator[Sums]) -> Iterator[Sums]:
    """Each is computed before the next begins.

    Virtual CPU devices share few threads, and of several executions in flight those that wait for another device in a
    collective can take all of them. Training steps wait for each other's state anyway.
    """
    return map(jax.block_until_ready, sums)
