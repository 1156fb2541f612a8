"""Evaluates a run on its training, validation and test data: tables, JSON, pictures.

python -m experiments.evaluate runs/cifar10-gn
python -m experiments.evaluate runs/ner_dataset-crf --checkpoint latest
"""

import functools
import sys

from colnorm import process
from colnorm.tasks.evaluate import Command
from colnorm.tasks.evaluate import evaluate as evaluate_task
from experiments.task import TASKS

evaluate = functools.partial(evaluate_task, TASKS)
main = process.command_line(Command, evaluate, "python -m experiments.evaluate", __doc__)

if __name__ == "__main__":
    sys.exit(main())
