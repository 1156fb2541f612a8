"""Images for classification: digits and CIFAR-10, split by a seed, standardized and augmented on the device.

Images stay `uint8` until they are on the device: four times less to hold and to move than `float32`. An image set is
checked once, where it is read; what is random takes a key of its own for each example, so that an example's
augmentation does not depend on the batch or the device that it lands on.
"""

import os
import pickle
import reprlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from colnorm.data import pickles
from colnorm.data.split import shuffled_fifths

_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PIXELS = 3 * 32 * 32
_RECORD = 1 + _PIXELS  # bytes of a record of the binary form: its label, then the red, green and blue plane


class Split(NamedTuple):
    """One split of a set: `images` (N, H, W, 3) uint8 and `labels` (N,) int32."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)  # eq=False: arrays have no single truth value, so that a generated `==` would raise
class ImageData:
    """An image set in three disjoint splits. `class_names[label]` is the name of a label.

    `mean` and `std` are (3,) float32: per channel over the pixels of the training split alone, scaled to [0, 1]. The
    variance behind `std` is biased (divided by the number of pixels).
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    mean: np.ndarray
    std: np.ndarray

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


def load(name: str, data_dir: str | os.PathLike[str] | None = None, seed: int = 0) -> ImageData:
    """The image set called `name`: "digits" (which needs no `data_dir` and ignores it) or "cifar10".

    Raises ValueError for another name, and what `load_digits` and `load_cifar10` raise.
    """
    if name == "digits":
        return load_digits(seed)
    if name == "cifar10":
        return load_cifar10(data_dir, seed)
    raise ValueError(f"unknown image set {name!r}: expected 'digits' or 'cifar10'")


def load_digits(seed: int = 0) -> ImageData:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey levels 0 to 16, as (32, 32, 3) uint8 with three equal channels.

    Resized bilinearly (centres of pixels aligned, edges repeated), then `round(255 / 16 * level)`. The order is
    `np.random.default_rng(seed).permutation`; of it the last fifth (359) is the test split, the fifth before it the
    validation split, and the first 1,079 the training split.

    Raises ModuleNotFoundError where scikit-learn is not installed.
    """
    try:
        import sklearn.datasets  # here, because it takes a second that who trains on CIFAR need not pay
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the digits come with scikit-learn: pip install 'colnorm[study]'") from error

    digits = sklearn.datasets.load_digits()
    # Row i of `weights` interpolates position i of 32 from the 8 old ones: a hat of width 1 around its place.
    position = np.clip((np.arange(32) + 0.5) * 8 / 32 - 0.5, 0, 7)
    weights = np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(8)))  # shape: (32, 8)
    grey = np.rint(weights @ digits.images @ weights.T * (255 / 16)).astype(np.uint8)  # shape: (1797, 32, 32)
    images = np.repeat(grey[..., None], 3, axis=-1)
    labels = digits.target.astype(np.int32)

    train, validation, test = (Split(images[part], labels[part]) for part in shuffled_fifths(len(labels), seed))
    return _image_data("digits", tuple("0123456789"), train, validation, test)


def load_cifar10(data_dir: str | os.PathLike[str] | None = None, seed: int = 0) -> ImageData:
    """CIFAR-10: 40,000 training, 10,000 validation and the 10,000 published test images, (32, 32, 3) uint8.

    `data_dir` is the published directory, or the one that holds it, in the binary form (`cifar-10-batches-bin`) or the
    python form (`cifar-10-batches-py`); the binary form is taken where both are there. Without `data_dir` the set comes
    from tensorflow-datasets, which may download it.

    The last fifth of `np.random.default_rng(seed).permutation` of the published training images is the validation
    split. Both published forms hold the images in one order and so split alike; tensorflow-datasets has its own order.

    Raises FileNotFoundError naming the directory or all files that are missing, ValueError naming the file that does
    not hold what it should, and RuntimeError where neither a directory nor tensorflow-datasets provides the set.
    """
    published, test = _cifar10_from_tfds() if data_dir is None else _cifar10_from_directory(Path(data_dir))
    parts = shuffled_fifths(len(published.labels), seed, held_out=1)
    train, validation = (Split(published.images[part], published.labels[part]) for part in parts)
    return _image_data("cifar10", _CIFAR10_CLASSES, train, validation, test)


def standardize(images: ArrayLike, mean: ArrayLike, std: ArrayLike, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """`(images / 255 - mean) / std` for uint8 images (..., C) and the statistics (C,) of their channels.

    Computed in float32, in float64 for that `dtype`, and only then rounded to `dtype`. Raises ValueError for images of
    another kind or statistics of another shape.
    """
    images, mean, std = jnp.asarray(images), jnp.asarray(mean), jnp.asarray(std)
    if images.dtype != jnp.uint8:
        raise ValueError(f"expected images of dtype uint8, got {images.dtype}")
    if images.ndim == 0 or not images.shape[-1:] == mean.shape == std.shape:
        raise ValueError(f"expected a mean and a std a channel of images {images.shape}, got {mean.shape}, {std.shape}")
    compute = jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32
    per_channel = (1,) * (images.ndim - 1) + mean.shape
    scaled = images.astype(compute) / 255
    centred = scaled - mean.astype(compute).reshape(per_channel)
    return (centred / std.astype(compute).reshape(per_channel)).astype(dtype)


def random_crop(key: jax.Array, image: jax.Array, padding: int = 4) -> jax.Array:
    """A window of the size of `image` (H, W, C), drawn evenly from the (2 padding + 1)^2 of the padded image.

    The padding mirrors the image without repeating its edge; `padding` is static. The dtype is kept. Raises ValueError
    unless `image` has three axes and 0 <= padding < min(H, W), beyond which there is nothing to mirror.
    """
    if image.ndim != 3 or not 0 <= padding < min(image.shape[:2]):
        raise ValueError(f"expected an image (H, W, C) with 0 <= padding < min(H, W), got {image.shape} and {padding}")
    # A fixed width of the draws here and in `random_flip`: the same crops and flips with and without jax_enable_x64.
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1, dtype=jnp.int32)
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
    return jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """`image` (H, W, C), mirrored left to right with probability 1/2. Raises ValueError unless it has three axes."""
    if image.ndim != 3:
        raise ValueError(f"expected an image (H, W, C), got shape {image.shape}")
    return jnp.where(jax.random.bernoulli(key, jnp.float32(0.5)), image[:, ::-1], image)


def augment(keys: jax.Array, images: jax.Array, crop_padding: int = 4, flip: bool = True) -> jax.Array:
    """`random_crop`, then `random_flip`, of each of `images` (N, H, W, C) with its own of `keys` (N,).

    Example i depends on `keys[i]` and `images[i]` alone, hence not on how a batch is spread over devices. `keys` are
    of `jax.random.key`'s kind; `crop_padding` (0: no crop) and `flip` are static. Raises ValueError for other shapes.
    """
    if images.ndim != 4 or keys.shape != images.shape[:1] or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        got = f"{images.shape} and {keys.dtype} {keys.shape}"
        raise ValueError(f"expected images (N, H, W, C) and keys (N,) of jax.random.key, got {got}")

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        if crop_padding != 0:
            image = random_crop(crop_key, image, crop_padding)
        return random_flip(flip_key, image) if flip else image

    return jax.vmap(one)(keys, images)


def cut_out(key: jax.Array, image: jax.Array, size: int) -> jax.Array:
    """`image` (H, W, C) with a square of zeros, as far as it lies inside (DeVries and Taylor 2017, arXiv 1708.04552).

    Its centre is drawn evenly from the pixels; row i is zero from `centre - size // 2` on, for `size` rows, and columns
    likewise. In a standardized image zero is the mean colour. Raises ValueError unless `image` has three axes and `size` > 0.
    """
    if image.ndim != 3 or size < 1:
        raise ValueError(f"expected an image (H, W, C) and a size of at least 1, got {image.shape} and {size}")
    inside = []
    for axis, one in enumerate(jax.random.split(key)):
        first = jax.random.randint(one, (), 0, image.shape[axis], dtype=jnp.int32) - size // 2
        places = jnp.arange(image.shape[axis], dtype=jnp.int32)
        inside.append((places >= first) & (places < first + size))
    inside_both = inside[0][:, None, None] & inside[1][None, :, None]
    return jnp.where(inside_both, jnp.zeros((), image.dtype), image)


def mirrored_halves(images: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two copies of `images` (N, H, W, C): in the first a random half is mirrored left to right, in the second the other.

    Training on them in turn shows every image both ways in two epochs, which flips drawn at random do for half of the images
    only (Jordan 2024, arXiv 2404.00498).
    """
    half = np.random.default_rng(seed).permutation(len(images)) < len(images) // 2
    mirrored = images[:, :, ::-1]
    return np.where(half[:, None, None, None], mirrored, images), np.where(half[:, None, None, None], images, mirrored)


def scaled_down(images: np.ndarray, size: int) -> np.ndarray:
    """`images` (N, H, W, C) uint8 as (N, size, size, C) uint8: bilinear, each old pixel weighing what it covers.

    Raises ValueError where `size` is not in 1 to H and W.
    """
    if images.ndim != 4 or not 1 <= size <= min(images.shape[1:3]):
        raise ValueError(f"expected images (N, H, W, C) and a size from 1 to H and W, got {images.shape} and {size}")

    @jax.jit
    def scale(part: jax.Array) -> jax.Array:
        shape = (len(part), size, size, part.shape[-1])
        scaled = jax.image.resize(part.astype(jnp.float32), shape, "linear", antialias=True)
        return jnp.clip(jnp.round(scaled), 0, 255).astype(jnp.uint8)

    parts = [images[first : first + 1000] for first in range(0, len(images), 1000)]
    return np.concatenate([np.asarray(scale(part)) for part in parts])


def _image_data(name: str, class_names: tuple[str, ...], train: Split, validation: Split, test: Split) -> ImageData:
    """The set with the statistics of its training split, in float64 from an exact count of each channel's values."""
    counts = np.zeros((train.images.shape[-1], 256))
    # Some 1,000 images at a time, since `bincount` makes 8 bytes of each.
    for images in np.array_split(train.images, len(train.images) // 1000 + 1):
        counts += [np.bincount(channel, minlength=256) for channel in images.reshape(-1, len(counts)).T]
    pixels = train.images.size // len(counts)
    if np.any(counts == pixels):  # a file filled with zeros ends here, not in NaN
        raise ValueError(f"{name}: expected training pixels that vary in every channel, got a channel of one value")
    scaled = np.arange(256) / 255
    mean = counts @ scaled / pixels
    std = np.sqrt(np.sum(counts * (scaled - mean[:, None]) ** 2, axis=1) / pixels)
    return ImageData(name, class_names, train, validation, test, mean.astype(np.float32), std.astype(np.float32))


def _cifar10_from_tfds() -> tuple[Split, Split]:
    """The published training and test images, in the order of tensorflow-datasets."""
    # Whatever goes wrong in here (no package, no network, no space, a moved file), a reader can do the same two things.
    try:
        import tensorflow_datasets as tfds

        train, test = tfds.as_numpy(tfds.load("cifar10", split=["train", "test"], batch_size=-1))
        pairs = [(train["image"], train["label"]), (test["image"], test["label"])]
    except Exception as error:
        raise RuntimeError(
            "no directory with CIFAR-10 was given and tensorflow-datasets could not provide it "
            f"({type(error).__name__}: {error}): pass --data-dir with the binary or the python version of the set, "
            "or pip install 'colnorm[tfds]'"
        ) from error
    splits = []
    for (images, labels), split in zip(pairs, ("train", "test"), strict=True):
        source = f"tensorflow-datasets cifar10 {split}"
        if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or len(images) == 0:
            raise ValueError(f"{source}: expected images (N, 32, 32, 3) uint8, got {images.shape} {images.dtype}")
        splits.append(Split(images, _labels(source, labels.tolist(), len(images))))
    return splits[0], splits[1]


def _cifar10_from_directory(root: Path) -> tuple[Split, Split]:
    """The published training images, in the order of their files, and the test images."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: expected a directory with CIFAR-10, got no directory of that name")
    for folder, suffix, read in _FORMS:
        names = [f"{batch}{suffix}" for batch in _BATCHES]
        for directory in (root / folder, root):
            missing = [name for name in names if not (directory / name).is_file()]
            if len(missing) == len(names):
                continue
            if missing:
                raise FileNotFoundError(f"{directory}: expected {', '.join(names)}; missing: {', '.join(missing)}")
            *train, test = [read(directory / name) for name in names]
            # A batch cut off between two records still reads well: only the other batches tell.
            sizes = [len(batch.labels) for batch in train]
            usual = Counter(sizes).most_common(1)[0][0]
            for name, size in zip(names, sizes, strict=False):
                if size != usual:
                    raise ValueError(f"{directory / name}: expected {usual} records as in the others, got {size}")
            images, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
            return Split(images, labels), test
    folders = " or ".join(folder for folder, _, _ in _FORMS)
    raise FileNotFoundError(f"{root}: expected {folders}, or the files {', '.join(_BATCHES)} (.bin) in it, got neither")


def _split(path: Path, planes: np.ndarray, labels: list[Any]) -> Split:
    """`planes` (N, 3072) hold the red, the green and the blue plane of an image, each row by row."""
    images = np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Split(images, _labels(path, labels, len(images)))


def _labels(source: object, labels: list[Any], count: int) -> np.ndarray:
    if len(labels) != count:
        raise ValueError(f"{source}: expected a label for each of {count} images, got {len(labels)}")
    for index, label in enumerate(labels):
        if type(label) is not int or not 0 <= label <= 9:
            raise ValueError(f"{source}: expected integer labels from 0 to 9, got {reprlib.repr(label)} at record {index}")
    return np.array(labels, np.int32)


def _read_binary(path: Path) -> Split:
    raw = np.fromfile(path, np.uint8)
    if raw.size == 0 or raw.size % _RECORD != 0:
        raise ValueError(f"{path}: expected one or more records of {_RECORD} bytes, got {raw.size} bytes")
    records = raw.reshape(-1, _RECORD)
    return _split(path, records[:, 1:], records[:, 0].tolist())


def _read_pickle(path: Path) -> Split:
    with path.open("rb") as file:
        try:
            content = pickles.load(file)
        except pickle.UnpicklingError as error:
            raise ValueError(f"{path}: expected a pickle of arrays and plain containers, got {error}") from error
    if type(content) is not dict:
        raise ValueError(f"{path}: expected a dict with data and labels, got {type(content).__name__}")
    data, labels = (content.get(key.encode(), content.get(key)) for key in ("data", "labels"))
    planes = data.value if type(data) is pickles.StoredArray else None
    if planes is None or planes.dtype != np.uint8 or planes.ndim != 2 or planes.shape[1] != _PIXELS or not len(planes):
        got = type(data).__name__ if planes is None else f"{planes.dtype} {planes.shape}"
        raise ValueError(f"{path}: expected data to be an array uint8 (N, {_PIXELS}), got {got}")
    if type(labels) is pickles.StoredArray:
        if labels.value.shape != planes.shape[:1]:  # before each number becomes an object
            raise ValueError(f"{path}: expected a label for each of {len(planes)} images, got an array {labels.value.shape}")
        labels = labels.value.tolist()
    if type(labels) is not list:
        raise ValueError(f"{path}: expected labels to be a list of integers, got {type(labels).__name__}")
    return _split(path, planes, labels)


_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
_FORMS = (("cifar-10-batches-bin", ".bin", _read_binary), ("cifar-10-batches-py", "", _read_pickle))  # preferred first
