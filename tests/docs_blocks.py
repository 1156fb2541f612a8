"""The blocks of a page of the documentation, and how they are run."""

import contextlib
import io
import re
from pathlib import Path
from typing import NamedTuple

import jax

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PEER = 'title="with '  # PyTorch, say


class Block(NamedTuple):
    """One block of code.

    Attributes:
      language: what stands after the fence.
      code: its lines.
      line: of the page, on which the code begins.
      peer: whether it needs what only the peers' tests install.
      printed: the text block directly after it, None where there is none.
    """

    language: str
    code: str
    line: int
    peer: bool
    printed: str | None


def blocks(page):
    """All blocks of a page in order; a text block belongs to the one before it."""
    text = PAGES[page].read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    result = []
    for place, fence in enumerate(found):
        after = found[place + 1] if place + 1 < len(found) else None
        follows = after is not None and after[1] == "text" and not text[fence.end() : after.start()].strip()
        line = text.count("\n", 0, fence.start(3)) + 1
        result.append(Block(fence[1], fence[3], line, PEER in fence[2], after[3] if follows else None))
    return result


def run(page, peers=False):
    """Runs a page's Python in one namespace, as its reader would: returns what each block printed and should have."""
    namespace = {"__name__": "__main__"}
    pairs = []
    # A reader's JAX promotes; tests elsewhere forbid it.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks(page):
            if block.language != "python" or (block.peer and not peers):
                continue
            printed = io.StringIO()
            code = compile("\n" * (block.line - 1) + block.code, page, "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)
            pairs.append((block.line, printed.getvalue(), block.printed or ""))
    return pairs
