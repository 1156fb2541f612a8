"""The commands from end to end: on scikit-learn's digits as they come, and on a few of them, 8x8, where runs are killed.

The uninterrupted run that a resumed one must equal is trained in this process, the killed one in another.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score
from tiny_training import SIZES, tiny_images

from colnorm.checkpoint import RunDirectory
from colnorm.data import images
from experiments import cifar, evaluate_cifar, train_cifar
from experiments.configs import CIFAR_PRESETS, CifarConfig

ROOT = Path(__file__).parents[1]
TINY = ["bn", "--data", "digits", "--n", "1", "--batch-size", "16", "--learning-rate", "0.1", "--devices", "1"]
STEPS = SIZES["train"] // 16
RECORD = {
    "epoch",
    "train_loss",
    "train_accuracy",
    "train_macro_f1",
    "validation_loss",
    "validation_accuracy",
    "validation_macro_f1",
    "feature_percentiles",
    "learning_rate",
    "train_seconds",
    "seconds",
    "peak_memory_mib",
}
TIMES = ("train_seconds", "seconds", "peak_memory_mib")


@pytest.fixture(autouse=True, scope="module")
def _four_devices():
    jax.devices()  # before a command asks for fewer


def train_tiny(run, *more, preset=TINY):
    """In this process; returns the exit status."""
    with tiny_images():
        return train_cifar.main([*preset, "--run", str(run), *more])


def start_tiny(place, run, *more):
    """In a process of its own, which waits at ``place``, EPOCH:STEP; returns once it is there."""
    command = [sys.executable, str(ROOT / "tests" / "tiny_training.py"), place, *TINY, "--run", str(run), *more]
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line == "in the middle\n":
            return process
    pytest.fail("".join(seen) + process.stderr.read())
