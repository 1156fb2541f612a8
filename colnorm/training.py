"""Training: a state, pure steps, and the loop over epochs. What drives the steps of an epoch is in :mod:`colnorm.parallel`.

The pieces fit any task that can say what its loss is::

    def loss_fn(variables, batch, key, train) -> (sums, batch_stats)

``sums`` is a dict of arrays *summed* over the examples of the batch, with at least ``loss`` and ``count`` (the weight of the
examples); what a task reports is a ratio of such sums, so that averages over ragged or padded batches and over devices are
right. A batch is what :func:`take_batch` cuts out of a data set: its arrays indexed by examples, and ``weights``,
``positions``.

Everything random is a function of (seed, step), and the order of examples one of (seed, epoch): a run that is restored from
a checkpoint goes on exactly as if it had never stopped.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from flax.training import train_state

Array = jax.Array
Data = Mapping[str, Array]
Sums = dict[str, Array]
LossFn = Callable[[Mapping[str, Any], Data, Array, bool], tuple[Sums, Any]]


class TrainState(train_state.TrainState):
    """Everything a run is: step, params, optimizer state, ``batch_stats``, and the seed of its random numbers.

    ``seed`` is an array, so that states of several seeds stack and train together under ``vmap``. ``average`` and
    ``average_stats`` are empty, or with :meth:`keep_average` exponential moving averages of ``params`` and ``batch_stats`` over
    the steps, which evaluation then uses.

    Example:
      >>> import flax.linen as nn, jax.numpy as jnp
      >>> from colnorm import optimizers, training
      >>> state = training.create_state(nn.Dense(2), optimizers.sgd(optimizers.constant(0.1)), 0, jnp.ones((1, 3)))
      >>> sorted(state.variables), int(state.step), int(state.seed)
      (['batch_stats', 'params'], 0, 0)
    """

    batch_stats: Any = struct.field(default_factory=dict)
    seed: Array = struct.field(default_factory=lambda: jnp.zeros((), jnp.uint32))
    average: Any = struct.field(default_factory=dict)
    average_stats: Any = struct.field(default_factory=dict)
    average_decay: float = struct.field(pytree_node=False, default=0.0)

    @property
    def variables(self) -> dict[str, Any]:
        """What ``model.apply`` takes in evaluation: the averages where they are kept."""
        if self.average_decay:
            return {"params": self.average, "batch_stats": self.average_stats}
        return {"params": self.params, "batch_stats": self.batch_stats}

    def keep_average(self, decay: float) -> "TrainState":
        """Averages ``params`` from here on: ``average <- d * average + (1 - d) * params`` after every step.

        ``batch_stats`` likewise, as those of other parameters would not fit. With n steps done
        ``d = min(decay, (1 + n) / (10 + n))``, so that the first steps are soon forgotten.

        Raises:
          ValueError: ``decay`` is not inside (0, 1).
        """
        if not 0 < decay < 1:
            raise ValueError(f"the decay of an average must be between 0 and 1, got {decay}")
        average, average_stats = jax.tree.map(jnp.array, (self.params, self.batch_stats))
        return self.replace(average=average, average_stats=average_stats, average_decay=decay)


def create_state(
    model: Any, tx: optax.GradientTransformation, seed: int, *example_inputs: Any, **named_inputs: Any
) -> TrainState:
    """Initializes a Flax model on inputs of the right shapes, and the optimizer on its parameters.

    Example:
      >>> import flax.linen as nn, jax.numpy as jnp
      >>> from colnorm import optimizers, training
      >>> state = training.create_state(nn.Dense(2), optimizers.sgd(optimizers.constant(0.1)), 0, jnp.ones((1, 3)))
      >>> state.params["kernel"].shape
      (3, 2)
    """
    # Compiling the random numbers takes seconds; on the CPU a quarter of them with fewer optimizations, which run once.
    quick = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    variables = jax.jit(model.init, compiler_options=quick)(jax.random.key(seed), *example_inputs, **named_inputs)
    return TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        tx=tx,
        batch_stats=variables.get("batch_stats", {}),
        seed=jnp.asarray(seed, jnp.uint32),
    )


def take_batch(data: Data, indices: Array, axis_name: str | None = None, taken: bool = False) -> dict[str, Array]:
    """Examples of ``data`` by index, with two arrays more.

    Args:
      data: arrays with a leading axis of examples.
      indices: ``(B,)``; -1 stands for padding.
      axis_name: the device axis, where the batch is split over devices.
      taken: ``data`` is the examples of ``indices`` already, in their order; at padding it may hold any example.

    Returns:
      ``data``'s keys indexed, ``weights (B,)`` float32, 0 at padding and 1 elsewhere, and ``positions (B,)``, each example's
      place in the whole batch over all devices: randomness drawn per position is the same on any number of devices.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import training
      >>> batch = training.take_batch({"x": jnp.array([10, 20, 30])}, jnp.array([2, 0, -1]))
      >>> batch["x"].tolist(), batch["weights"].tolist(), batch["positions"].tolist()
      ([30, 10, 10], [1.0, 1.0, 0.0], [0, 1, 2])
    """
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * indices.shape[0]
    batch = dict(data)
    if not taken:
        batch = {name: jnp.take(values, jnp.maximum(indices, 0), axis=0) for name, values in data.items()}
    batch["weights"] = (indices >= 0).astype(jnp.float32)
    batch["positions"] = first + jnp.arange(indices.shape[0])
    return batch


def train_step(
    state: TrainState, data: Data, indices: Array, *, loss_fn: LossFn, axis_name: str | None = None, taken: bool = False
) -> tuple[TrainState, Sums]:
    """One optimizer step on the mean loss of a batch.

    Under ``axis_name`` each device holds a part of the indices; gradients and sums are added up over the axis and divided
    by the whole batch's count, so that the step is that of one device with all of it. ``taken`` is that of
    :func:`take_batch`.

    Returns:
      the next state, and the batch's ``sums`` before the update, over all devices.

    Example:
      >>> import flax.linen as nn, jax.numpy as jnp
      >>> from colnorm import optimizers, training
      >>> model = nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros)
      >>> def loss_fn(variables, batch, key, train):
      ...     errors = model.apply({"params": variables["params"]}, batch["x"])[:, 0] - batch["y"]
      ...     return {"loss": jnp.sum(batch["weights"] * errors**2), "count": jnp.sum(batch["weights"])}, {}
      >>> data = {"x": jnp.array([[1.0], [2.0]]), "y": jnp.array([2.0, 4.0])}
      >>> state = training.create_state(model, optimizers.sgd(optimizers.constant(0.1), momentum=0), 0, data["x"])
      >>> state, sums = training.train_step(state, data, jnp.array([0, 1]), loss_fn=loss_fn)
      >>> float(sums["loss"] / sums["count"]), round(float(state.params["kernel"][0, 0]), 3)
      (10.0, 1.0)
    """
    batch = take_batch(data, indices, axis_name, taken)
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)

    def objective(params: Any) -> tuple[Array, tuple[Sums, Any]]:
        sums, batch_stats = loss_fn({"params": params, "batch_stats": state.batch_stats}, batch, key, True)
        return sums["loss"], (sums, batch_stats)

    gradients, (sums, batch_stats) = jax.grad(objective, has_aux=True)(state.params)
    if axis_name is not None:
        gradients, sums = jax.lax.psum((gradients, sums), axis_name)
    count = jnp.maximum(sums["count"], 1)
    gradients = jax.tree.map(lambda gradient: gradient / count.astype(gradient.dtype), gradients)
    state = state.apply_gradients(grads=gradients, batch_stats=batch_stats)
    if state.average_decay:
        done = jnp.asarray(state.step, jnp.float32)
        kept = jnp.minimum(state.average_decay, (1 + done) / (10 + done))
        average, average_stats = jax.tree.map(
            lambda old, new: old + (1 - kept).astype(old.dtype) * (new - old),
            (state.average, state.average_stats),
            (state.params, state.batch_stats),
        )
        state = state.replace(average=average, average_stats=average_stats)
    return state, sums


def eval_step(
    variables: Mapping[str, Any],
    data: Data,
    indices: Array,
    *,
    loss_fn: LossFn,
    axis_name: str | None = None,
    taken: bool = False,
) -> Sums:
    """The sums of a batch in evaluation mode, over all devices; padding (index -1) has weight 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import training
      >>> def loss_fn(variables, batch, key, train):
      ...     return {"loss": jnp.sum(batch["weights"] * batch["x"]), "count": jnp.sum(batch["weights"])}, {}
      >>> sums = training.eval_step({}, {"x": jnp.array([1.0, 2.0, 4.0])}, jnp.array([1, 2, -1]), loss_fn=loss_fn)
      >>> float(sums["loss"]), float(sums["count"])
      (6.0, 2.0)
    """
    batch = take_batch(data, indices, axis_name, taken)
    sums, _ = loss_fn(variables, batch, jax.random.key(0), False)
    return sums if axis_name is None else jax.lax.psum(sums, axis_name)


class Engine(Protocol):
    """Where steps run, :class:`colnorm.parallel.Sharded` say.

    ``put_state`` and ``put_data`` move arrays to where the steps want them, ``get_state`` brings a state back to one copy on
    the host. ``train_epoch`` and ``evaluate`` take batches of indices ``(steps, batch)``.
    """

    num_devices: int

    def put_state(self, state: TrainState) -> TrainState: ...
    def get_state(self, state: TrainState) -> TrainState: ...
    def put_data(self, data: Mapping[str, Any]) -> Data: ...
    def train_epoch(
        self, state: TrainState, data: Data, batches: np.ndarray, on_step: Callable[[int, Sums], None] | None = None
    ) -> tuple[TrainState, dict[str, np.ndarray]]: ...
    def evaluate(self, state: TrainState, data: Data, batches: np.ndarray) -> dict[str, np.ndarray]: ...


class NonFiniteLossError(RuntimeError):
    """The training loss became NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Monitor:
    """Which validation figure chooses the best epoch, and when to stop for want of a better one.

    Attributes:
      metric: a key of an epoch's record, ``validation_accuracy`` say.
      higher_is_better: its direction.
      patience: stop after this many epochs without a new best; None never does.
      start: the epoch from which patience counts at the earliest, that of a learning rate's last drop say.

    Example:
      >>> from colnorm.training import Monitor
      >>> monitor = Monitor("validation_accuracy", patience=2)
      >>> history = [{"epoch": epoch, "validation_accuracy": value} for epoch, value in enumerate((0.5, 0.7, 0.6, 0.6), 1)]
      >>> monitor.best_epoch(history), monitor.stops(history[:3]), monitor.stops(history)
      (2, False, True)
    """

    metric: str
    higher_is_better: bool = True
    patience: int | None = None
    start: int = 0

    def best_epoch(self, history: Iterable[Mapping[str, Any]]) -> int | None:
        """The epoch with the best value, the first of equals; None where there is none yet."""
        best: tuple[float, int] | None = None
        for record in history:
            value = record[self.metric] * (1 if self.higher_is_better else -1)
            if math.isfinite(value) and (best is None or value > best[0]):
                best = (value, record["epoch"])
        return None if best is None else best[1]

    def stops(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether patience has run out after the last epoch of ``history``."""
        if self.patience is None or not history:
            return False
        return history[-1]["epoch"] - max(self.best_epoch(history) or 0, self.start) >= self.patience


class Store(Protocol):
    """What :func:`fit` needs of a run directory (:class:`colnorm.run_directory.RunDirectory` is one)."""

    def append(self, record: Mapping[str, Any]) -> None: ...
    def save(self, state: TrainState, epoch: int, best_epoch: int | None) -> None: ...
    def prune(self, epoch: int, best_epoch: int | None) -> None: ...


def fit(
    state: TrainState,
    engine: Engine,
    run_epoch: Callable[[TrainState, int], tuple[TrainState, dict[str, Any]]],
    *,
    epochs: int,
    monitor: Monitor,
    store: Store,
    history: list[dict[str, Any]],
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[TrainState, list[dict[str, Any]]]:
    """Trains until ``epochs`` are done or the monitor stops, writing a record and a checkpoint after every epoch.

    Args:
      state: where to start, as ``engine.put_state`` returns it.
      engine: where the steps run.
      run_epoch: trains and validates epoch number n (from 1): ``(state, n) -> (state, record)``.
      epochs: how many in all, those in ``history`` counted in.
      monitor: chooses the best epoch.
      store: takes the records and the checkpoints.
      history: the records of the epochs already done, oldest first; empty for a new run.
      on_epoch: called with each new record, after it is safe on disk.

    Returns:
      the state after the last epoch, and all records.

    Raises:
      NonFiniteLossError: raised by ``run_epoch`` through :func:`check_finite`; what is stored stays good.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from colnorm import optimizers, parallel, training
      >>> import flax.linen as nn
      >>> class Forgetful:  # a store; a run directory is one that keeps everything
      ...     def append(self, record): print(record)
      ...     def save(self, state, epoch, best_epoch): print("best so far:", best_epoch)
      ...     def prune(self, epoch, best_epoch): pass
      >>> state = training.create_state(nn.Dense(1), optimizers.sgd(optimizers.constant(0.1)), 0, jnp.ones((1, 1)))
      >>> engine = parallel.Sharded(lambda axis_name: lambda variables, batch, key, train: ({}, {}))
      >>> def run_epoch(state, epoch):  # here one would call engine.train_epoch and engine.evaluate
      ...     return state, {"validation_accuracy": 1 / epoch}
      >>> monitor = training.Monitor("validation_accuracy", patience=1)
      >>> state, history = training.fit(
      ...     engine.put_state(state), engine, run_epoch, epochs=9, monitor=monitor, store=Forgetful(), history=[]
      ... )
      {'epoch': 1, 'validation_accuracy': 1.0}
      best so far: 1
      {'epoch': 2, 'validation_accuracy': 0.5}
      best so far: 1
    """
    history = list(history)
    if history:  # a run killed while it deleted an old checkpoint, perhaps in its last epoch, still has it
        store.prune(history[-1]["epoch"], monitor.best_epoch(history))
    while len(history) < epochs and not monitor.stops(history):
        epoch = len(history) + 1
        state, measured = run_epoch(state, epoch)
        record = {"epoch": epoch, **measured}
        history.append(record)
        # The record first: a run killed between the two is cut back to its checkpoint when it is resumed.
        store.append(record)
        store.save(engine.get_state(state), epoch, monitor.best_epoch(history))
        if on_epoch is not None:
            on_epoch(record)
    return state, history


def check_finite(losses: np.ndarray | float, epoch: int, first_step: int = 0, name: str = "training loss") -> None:
    """Raises :class:`NonFiniteLossError` at the first NaN or infinity, naming epoch and step (both from 1).

    Check the validation loss too: an epoch's last step may ruin the parameters, which no training loss of it shows.

    Example:
      >>> import numpy as np
      >>> from colnorm import training
      >>> training.check_finite(np.array([1.0, 2.0]), epoch=3)
      >>> training.check_finite(np.array([1.0, np.nan]), epoch=3)
      Traceback (most recent call last):
      colnorm.training.NonFiniteLossError: the training loss is nan at step 2 of epoch 3
    """
    bad = np.flatnonzero(~np.isfinite(np.atleast_1d(losses)))
    if bad.size:
        step = first_step + int(bad[0])
        raise NonFiniteLossError(f"the {name} is {np.atleast_1d(losses)[bad[0]]} at step {step + 1} of epoch {epoch}")
