"""The pages for users of PyTorch and spaCy: their blocks with these run too, and compare themselves."""

import pytest
from docs_blocks import blocks, run

pytest.importorskip("torch")
pytest.importorskip("torchcrf")
pytest.importorskip("spacy")


@pytest.mark.parametrize(("page", "count"), [("docs/guides/pytorch.md", 5), ("docs/guides/tagger.md", 1)])
def test_theirs_and_ours_agree(page, count):
    assert sum(block.peer for block in blocks(page)) >= count
    for line, printed, shown in run(page, peers=True):
        assert printed == shown, f"{page}:{line}"
