"""A trained tagger in one file, to be shipped and downloaded: safetensors, the vocabularies in its header.

A run directory is for going on with a training; this is what is left when it is done. The parameters are stored as float16,
half of their size, and computed with in float32. Reading it runs nothing that the file says.
"""

import hashlib
import importlib.resources
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from colnorm.files import write_bytes
from colnorm.predict import Predictor
from colnorm.tagger import build, check_parameters
from colnorm.tagger_file import tagger_of_json, tagger_to_json
from colnorm.temperature import HIGHEST, LOWEST

FORMAT = "colnorm tagger"
VERSION = 1
SUFFIX = ".safetensors"
DEFAULT = "gmb"
"""The packaged model that is used unless another is named."""
MODELS = "models"
"""The folder of the package that holds models."""


def save(path: str | os.PathLike[str], predictor: Predictor, about: Mapping[str, Any], *, half: bool = True) -> Path:
    """Writes a tagger to a file.

    Args:
      path: ends in ``.safetensors``.
      predictor: the tagger, as :func:`colnorm.predict.load` returns it.
      about: what JSON holds, for the reader of the file: data, licence, seed, metrics, limits.
      half: store float16; without it the numbers are stored as they are.

    Raises:
      ValueError: the path has another suffix, or a number is too large for float16.
      StorageError: the file could not be written.
    """
    from safetensors.numpy import save as to_bytes

    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"expected a path that ends in {SUFFIX}, got {path}")
    arrays = {
        jax.tree_util.keystr(place, simple=True, separator="/"): np.asarray(leaf)
        for place, leaf in jax.tree_util.tree_leaves_with_path(predictor.params)
    }
    if half:
        with np.errstate(over="ignore"):
            arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    if bad := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise ValueError(f"expected finite numbers in {path}, got others in {', '.join(bad)}")
    header = {
        "tagger": json.dumps(tagger_to_json(predictor.fields, predictor.encoder)),
        "temperature": json.dumps(predictor.temperature),
        "about": json.dumps(about),
    }
    digest = _digest(arrays, header)
    write_bytes(path, to_bytes(arrays, {"format": FORMAT, "version": str(VERSION), **header, "sha256": digest}))
    return path


def load(path: str | os.PathLike[str]) -> Predictor:
    """The tagger of a file.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged, of a later version, or holds something else; names the file.
    """
    return _read(Path(path))[0]


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What :func:`save` was told about the tagger of a file."""
    return _read(Path(path))[1]


def packaged() -> dict[str, Path]:
    """The models that come with colnorm, by name.

    Example:
      >>> from colnorm import model_file
      >>> sorted(model_file.packaged())
      ['gmb']
    """
    folder = Path(str(importlib.resources.files("colnorm"))) / MODELS
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def _read(path: Path) -> tuple[Predictor, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the file of a tagger, found nothing there")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: expected safetensors, but {error}") from None
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} holds no tagger of colnorm: its format is {str(header.get('format'))[:80]!r}")
    if header.get("version") != str(VERSION):
        raise ValueError(f"{path} is of another version of colnorm: format {header.get('version')!r}, known is {VERSION}")
    parts = {name: header.get(name, "") for name in ("tagger", "temperature", "about")}
    if header.get("sha256") != _digest(arrays, parts):
        raise ValueError(f"{path} is damaged: it is not what was written")
    try:
        fields, encoder = tagger_of_json(json.loads(parts["tagger"]))
        degree = float(json.loads(parts["temperature"]))
        if not LOWEST <= degree <= HIGHEST:
            raise ValueError(f"expected a temperature from {LOWEST:g} to {HIGHEST:g}, got {degree}")
        params = _nested({name: np.asarray(array, np.float32) for name, array in arrays.items()})
        check_parameters(build(fields), params)
        about: dict[str, Any] = json.loads(parts["about"])
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} doesn't hold a tagger: {error}") from None
    return Predictor(encoder, fields, params, degree), about


def _nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """By names as ``lstm/forward/bias``."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = array
    return tree


def _digest(arrays: Mapping[str, np.ndarray], header: Mapping[str, str]) -> str:
    """SHA-256 of names, shapes, dtypes and bytes of the arrays, and of the header's texts."""
    digest = hashlib.sha256(json.dumps(dict(sorted(header.items()))).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
