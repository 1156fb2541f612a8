"""The page for users of PyTorch: its blocks with PyTorch run too, and compare themselves."""

import pytest
from docs_blocks import blocks, run

pytest.importorskip("torch")
pytest.importorskip("torchcrf")
PAGE = "docs/guides/pytorch.md"


def test_theirs_and_ours_agree():
    assert sum(block.peer for block in blocks(PAGE)) >= 5
    for line, printed, shown in run(PAGE, peers=True):
        assert printed == shown, f"{PAGE}:{line}"
