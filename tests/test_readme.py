"""What the README shows runs, and what it names exists."""

import re
from pathlib import Path

import pytest

from experiments.presets import PRESETS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_python_blocks_run(block):
    exec(compile(block, "README.md", "exec"), {})


def test_files_and_presets_are_there():
    paths = re.findall(r"`((?:colnorm|experiments|tests|results)/[\w/.]*)`", TEXT) + re.findall(r"\]\((\w[\w/.]+)\)", TEXT)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
    presets = re.findall(r"experiments\.train (\w+)", TEXT)
    assert presets and set(presets) <= PRESETS.keys()
