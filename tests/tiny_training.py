"""train_cifar on a few small digits, in a process of its own where a test wants to kill it.

python tests/tiny_training.py EPOCH:STEP PRESET ...   stops there (step from 0), says so, and waits for a signal
python tests/tiny_training.py - PRESET ...            goes through
"""

import contextlib
import sys
import time
from unittest import mock

from colnorm import training
from colnorm.data import images
from experiments import train_cifar

SIZES = {"train": 70, "validation": 37, "test": 29}
"""Examples in each split; no batch of the tests divides them."""

_load = images.load


def load(name, data_dir=None, seed=0):
    """The first digits of each split, of every fourth pixel: 8x8, as they were published."""
    data = _load(name, data_dir, seed)
    parts = {
        split: images.Split(arrays.images[: SIZES[split], ::4, ::4], arrays.labels[: SIZES[split]])
        for split, arrays in data.splits.items()
    }
    return images.ImageData(data.name, data.class_names, mean=data.mean, std=data.std, **parts)


@contextlib.contextmanager
def tiny_images():
    """Everything in here loads tiny images."""
    with mock.patch.object(images, "load", load):
        yield


def pause_at(epoch, step):
    """Makes the command print a line and wait once it has seen the loss of that step."""
    check = training.check_finite

    def check_and_pause(losses, at_epoch, first_step=0):
        check(losses, at_epoch, first_step)
        if (at_epoch, first_step) == (epoch, step) and losses.ndim == 0:
            print("\nin the middle", flush=True)
            time.sleep(600)

    training.check_finite = check_and_pause


if __name__ == "__main__":
    place, *arguments = sys.argv[1:]
    if place != "-":
        pause_at(*map(int, place.split(":")))
    with tiny_images():
        sys.exit(train_cifar.main(arguments))
