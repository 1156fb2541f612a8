"""Figures that others published for the rows of this study, to stand beside ours: ``published.toml``."""

import functools
import tomllib
from pathlib import Path
from typing import Any


@functools.cache
def figures() -> dict[str, Any]:
    """The tables of ``published.toml``."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
