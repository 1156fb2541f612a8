"""CIFAR-10 by tensorflow-datasets itself: a small set in its own form, written here, is read without a directory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

tfds = pytest.importorskip("tensorflow_datasets")

ROOT = Path(__file__).parents[2]
LOAD = """
import sys
import numpy as np
from colnorm.data import images
data = images.load("cifar10", seed=3)
parts = {f"{split}_{name}": getattr(arrays, name) for split, arrays in data.splits.items() for name in ("images", "labels")}
np.savez(sys.argv[1], class_names=data.class_names, **parts)
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Where the set is, and its images and labels by split."""
    from tensorflow_datasets.core import dataset_builders
    from tensorflow_datasets.image_classification import cifar

    folder = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    arrays = {
        split: (rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), rng.permutation(count) % 10)
        for split, count in (("train", 50), ("test", 20))
    }
    published = cifar.Cifar10(data_dir=folder)
    dataset_builders.store_as_tfds_dataset(
        name="cifar10",
        version=str(published.version),
        features=published.info.features,
        split_datasets={
            split: [
                (f"{split}_{place:05}", {"image": image, "label": int(label), "id": f"{split}_{place:05}"})
                for place, (image, label) in enumerate(zip(images, labels, strict=True))
            ]
            for split, (images, labels) in arrays.items()
        },
        data_dir=folder,
    )
    return folder, arrays


def run(folder, *command):
    """A Python of its own: where the sets are is read once, when the package is imported."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TFDS_DATA_DIR": str(folder), "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300)


def test_images_and_labels_are_those_that_were_stored(stored, tmp_path):
    folder, arrays = stored
    done = run(folder, "-c", LOAD, str(tmp_path / "loaded.npz"))
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "loaded.npz") as loaded:
        assert [len(loaded[f"{split}_labels"]) for split in ("train", "validation", "test")] == [40, 10, 20]
        assert loaded["class_names"].tolist()[:2] == ["airplane", "automobile"] and len(loaded["class_names"]) == 10

        def pairs(images, labels):  # their order is the package's
            return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))

        both = [
            np.concatenate([loaded[f"{split}_{name}"] for split in ("train", "validation")]) for name in ("images", "labels")
        ]
        assert pairs(*both) == pairs(*arrays["train"])
        assert pairs(loaded["test_images"], loaded["test_labels"]) == pairs(*arrays["test"])


def test_a_training_needs_no_directory(stored, tmp_path):
    options = ["--n", "1", "--epochs", "1", "--batch-size", "8", "--devices", "1", "--run", str(tmp_path / "run")]
    done = run(stored[0], "-m", "experiments.train", "bn", *options)
    assert done.returncode == 0, done.stderr
    assert "cifar10, 40 training images" in done.stdout and (tmp_path / "run" / "metrics.jsonl").exists()
    assert run(stored[0], "-m", "experiments.evaluate", str(tmp_path / "run")).returncode == 0
