"""Evaluates a trained tagger on its training, validation and test data: tables, JSON, pictures; fits its temperature.

colnorm evaluate runs/labelled
colnorm evaluate runs/labelled --checkpoint latest
"""

import functools

from colnorm import process
from colnorm.tasks.evaluate import Command, evaluate
from colnorm.tasks.tagging import TaggingTask

main = process.command_line(Command, functools.partial(evaluate, {TaggingTask.name: TaggingTask}), "colnorm evaluate", __doc__)
