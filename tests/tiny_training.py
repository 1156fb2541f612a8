"""Training commands in a process of their own that a test can kill; images are few small digits, their network a small one.

python tests/tiny_training.py EPOCH:STEP PRESET ...   stops there (step from 0), says so, and waits for a signal
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import flax.linen as nn
import jax

from colnorm import resnet
from colnorm.data import images
from colnorm.tasks import console
from experiments import images as task
from experiments import train

ROOT = Path(__file__).parents[1]

SIZES = {"train": 70, "validation": 37, "test": 29}
"""Examples in each split; no batch of the tests divides them."""

_load = images.load


class TinyNet(nn.Module):
    """Two convolutions with the study's normalizations: what a run stores and resumes, with a tenth of the compilation."""

    num_classes: int
    normalization: str
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Any, train: bool = False, *, return_features: bool = False) -> Any:
        normalization = resnet.make_normalization(self.normalization, train, self.axis_name)
        x = nn.relu(resnet.norm(resnet.conv(x, 16, 2, normalization, None, "1"), normalization, "1"))
        before = resnet.norm(resnet.conv(x, 16, 1, normalization, None, "2"), normalization, "2")
        logits = nn.Dense(self.num_classes)(nn.relu(before).mean((1, 2)))
        return (logits, {"last_preactivation": before}) if return_features else logits


def load(name, data_dir=None, seed=0):
    """The first digits of each split, of every fourth pixel: 8x8, as they were published."""
    data = _load(name, data_dir, seed)
    parts = {
        split: images.Split(arrays.images[: SIZES[split], ::4, ::4], arrays.labels[: SIZES[split]])
        for split, arrays in data.splits.items()
    }
    return images.ImageData(data.name, data.class_names, mean=data.mean, std=data.std, **parts)


def make_model(config, num_classes, axis_name=None):
    return TinyNet(num_classes, config.normalization, axis_name)


@contextlib.contextmanager
def tiny():
    """The commands in here load small images and train a small network."""
    with mock.patch.object(images, "load", load), mock.patch.object(task, "make_model", make_model):
        yield


def pause_at(epoch, step):
    """Makes the command print a line and wait once it shows the loss of that step."""
    show = console.EpochProgress.step

    def show_and_pause(self, at_epoch, number, loss=None):
        show(self, at_epoch, number, loss)
        if (at_epoch, number, loss is None) == (epoch, step + 1, False):
            print("\nin the middle", flush=True)
            time.sleep(600)

    console.EpochProgress.step = show_and_pause


def interrupt(place, how, *arguments):
    """Runs this file, sends it the signal ``how`` at ``place``, EPOCH:STEP; returns exit status and standard error."""
    command = [sys.executable, str(ROOT / "tests" / "tiny_training.py"), place, *arguments]
    # Paths and not an installation: these tests run in any checkout.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        try:
            seen = []
            for line in process.stdout:
                seen.append(line)
                if line == "in the middle\n":
                    break
            else:
                raise AssertionError("".join(seen) + process.stderr.read())
            process.send_signal(how)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    return process.returncode, errors


if __name__ == "__main__":
    # What is started in the background of a shell script ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    jax.devices()  # as in conftest.py: a command in that process compiles with the same flags
    pause_at(*map(int, sys.argv[1].split(":")))
    with tiny():
        sys.exit(train.main(sys.argv[2:]))
