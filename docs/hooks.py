"""What the site shows of results/: pictures, and the study's page as it is committed, so that no copy can grow old."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

STUDY = "study.md"
# A link from docs/ to a picture of results/ works in a checkout; here it is turned to where the picture is on the site.
OUTSIDE = re.compile(r"\]\((?:\.\./)+(results/[\w/.-]+\.(?:png|svg))\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pictures and the page of the study."""
    root = Path(config.config_file_path).parent
    for path in sorted([*root.glob("results/speed/*.png"), *root.glob("results/study/pictures/*.svg")]):
        files.append(File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path)))
    files.append(File.generated(config, STUDY, content=study((root / "results/study/RESULTS.md").read_text(encoding="utf-8"))))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links to pictures of results/ to where they are on the site."""
    here = posixpath.dirname(page.file.src_uri)
    return OUTSIDE.sub(lambda link: f"]({posixpath.relpath(link[1], here or '.')})", markdown)


def study(text: str) -> str:
    """The study's page with its pictures named from here, and Markdown inside of what unfolds."""
    text = text.replace("](pictures/", "](results/study/pictures/")
    return text.replace("<details>", '<details markdown="1">')
