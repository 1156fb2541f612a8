"""The two tasks of the study."""

from colnorm.tasks.tagging import TaggingTask
from colnorm.tasks.task import Task
from experiments.images import ImageTask

TASKS: dict[str, type[Task]] = {task.name: task for task in (ImageTask, TaggingTask)}
