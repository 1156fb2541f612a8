"""What a kind of training has to say so that one ``train`` and one ``evaluate`` serve it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import optax

from colnorm.run_directory import RunDirectory
from colnorm.tasks.pictures import Curves, History
from colnorm.training import Engine, LossFn, Monitor, TrainState


class Task(Protocol):
    """A config with its data and its model.

    Made of a config alone it is what a training begins with. With a run directory besides, it is what that run was trained
    with, vocabularies included.

    Attributes:
      name: as a run directory stores it.
      config_type: of its configs.
      metric: of an epoch's line; the best epoch has the highest.
      columns: the metrics of a split that a comparison shows.
      curves: panel -> label -> key of an epoch's line: what pictures of a training show.
      data_path: the field of the config that says where the data is.
      cpu_devices: virtual devices that a CPU becomes unless ``devices`` says otherwise; None as many as divide a batch.
      train_data: arrays on the host, a dict for each padded shape.
    """

    name: ClassVar[str]
    config_type: ClassVar[type]
    metric: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    curves: ClassVar[Curves]
    data_path: ClassVar[str]
    cpu_devices: ClassVar[int | None]
    config: Any

    def __init__(self, config: Any, run: RunDirectory | None = None): ...

    @property
    def train_data(self) -> list[dict[str, np.ndarray]]: ...

    def describe(self) -> list[str]:
        """What is trained on what, for the reader of a log."""

    def plan(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """The batches of an epoch, in order: number of a dict of ``train_data``, indices ``(steps, batch)`` into it."""

    def schedule(self, steps_per_epoch: int) -> optax.Schedule:
        """Step -> learning rate."""

    def monitor(self) -> Monitor:
        """What chooses the best epoch, by ``metric``, and ends the training."""

    def loss(self, axis_name: str | None = None) -> LossFn:
        """The loss; batch statistics are those over ``axis_name``."""

    def init_state(self, schedule: optax.Schedule) -> TrainState:
        """A fresh state: parameters from the seed, the config's optimizer."""

    def save(self, run: RunDirectory) -> None:
        """Writes what the run needs beside its config."""

    def check(self, run: RunDirectory) -> None:
        """Raises ``ValueError`` where the run that is to be gone on with was begun with other data."""

    def train_metrics(self, sums: Mapping[str, Any], seconds: float) -> dict[str, float]:
        """Of an epoch, from its summed sums and how long it took."""

    def validation(self, engine: Engine) -> Callable[[TrainState], dict[str, Any]]:
        """Engine state -> the validation metrics of an epoch's line."""

    def draw(self, history: History, run: RunDirectory, best_epoch: int | None) -> list[Path]:
        """Pictures of a training."""

    def evaluate(self, run: RunDirectory, epoch: int, devices: int | None) -> dict[str, Any]:
        """Restores an epoch. Returns ``splits``, each with ``examples``, ``loss`` and its metrics, and what else there is."""

    def draw_evaluation(self, evaluated: Mapping[str, Any], run: RunDirectory, title: str) -> list[Path]:
        """Pictures of what :meth:`evaluate` returned."""

    @staticmethod
    def draw_comparison(histories: Mapping[str, History], directory: Path, title: str) -> list[Path]:
        """Pictures of several trainings."""


def task_of(run: RunDirectory, kinds: Mapping[str, type[Task]]) -> type[Task]:
    """What was trained in a run directory.

    Raises:
      ValueError: it is of a task that is none of ``kinds``.
    """
    if run.task not in kinds:
        raise ValueError(f"{run.path} holds a run of task {run.task[:80]!r}; known are {', '.join(kinds)}")
    return kinds[run.task]
