"""The docstrings as Markdown, for the API pages: sections, roles, literal blocks, examples, signatures of Flax modules."""

import inspect
import re
import textwrap
from typing import Any

import griffe

import colnorm
from colnorm import crf

SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Example")
LISTS = ("Args", "Attributes", "Raises")
TITLES = {"Args": "Arguments"}
ROLE = re.compile(r":(?:class|func|meth|mod|data):`~?([\w.]+)`")
# What an API page has by its short name: roles that name it become links.
LINKS = {name: f"colnorm.crf.segments.{name}" for name in crf.segments.__all__}
LINKS |= {name: f"colnorm.crf.{name}" for name in crf.__all__} | {name: f"colnorm.{name}" for name in colnorm.__all__}


class Markdown(griffe.Extension):
    """Rewrites every docstring that griffe collects."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        text = to_markdown(obj.docstring.value)
        if obj.is_class and (call := module_signature(obj)):
            text = f"```python\n{call}\n```\n\n{text}"
        obj.docstring.value = text


def to_markdown(text: str) -> str:
    """A docstring, its indentation taken off, as Markdown."""
    parts: list[str] = []
    for block in re.split(rf"\n(?=(?:{'|'.join(SECTIONS)}):\n)", text):
        title, _, body = block.partition(":\n")
        if title not in SECTIONS:
            parts.append(literals(block))
            continue
        body = textwrap.dedent(body).strip("\n")
        body, after = until_unindented(title, body, block)
        shown = f"```pycon\n{body}\n```" if title == "Example" else items(body) if title in LISTS else literals(body)
        parts += [f"**{TITLES.get(title, title)}**", shown, *([literals(after)] if after else [])]
    return "\n\n".join(parts)


def until_unindented(title: str, body: str, block: str) -> tuple[str, str]:
    """A section's indented lines, and the paragraphs after it that are part of none."""
    lines = block.split("\n")[1:]
    end = next((number for number, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
    return textwrap.dedent("\n".join(lines[:end])).strip("\n"), "\n".join(lines[end:])


def items(body: str) -> str:
    """``name: text`` with its further lines indented, as a list."""
    entries = re.split(r"\n(?=\S)", body)
    shown = []
    for entry in entries:
        name, colon, text = entry.partition(":")
        flat = " ".join(line.strip() for line in text.strip().split("\n"))
        shown.append(f"- `{name}`: {roles(flat)}" if colon else f"- {roles(entry)}")
    return "\n".join(shown)


def literals(text: str) -> str:
    """Paragraphs; what stands indented after ``::`` becomes a block of code."""
    blocks = re.split(r"\n\n+", roles(text).strip("\n"))
    shown: list[str] = []
    for block in blocks:
        if block.startswith(" ") and shown and shown[-1].endswith("::"):
            shown[-1] = shown[-1].removesuffix(":").rstrip()
            shown.append(f"```text\n{textwrap.dedent(block)}\n```")
        else:
            shown.append(block)
    return "\n\n".join(shown)


def roles(text: str) -> str:
    """Sphinx's roles as links where an API page has the name, else as code."""

    def shown(role: re.Match[str]) -> str:
        name = role[1].rpartition(".")[2]
        return f"[`{name}`][{LINKS[name]}]" if name in LINKS else f"`{role[1]}`"

    return ROLE.sub(shown, text)


def module_signature(cls: griffe.Class) -> str | None:
    """How a Flax module is made, out of its fields: griffe sees no ``__init__`` that Flax writes."""
    found = getattr(colnorm, cls.name, None)
    if found is None or not hasattr(found, "init_with_output"):
        return None
    parameters = inspect.signature(found).parameters.values()
    shown, keyword = [], False
    for parameter in parameters:
        if parameter.name in ("parent", "name"):  # every Flax module's
            continue
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keyword:
            shown.append("*")
            keyword = True
        default = parameter.default
        value = getattr(default, "__name__", None) or repr(default)
        shown.append(parameter.name if default is inspect.Parameter.empty else f"{parameter.name}={value}")
    return f"{cls.name}({', '.join(shown)})" if len(shown) < 4 else f"{cls.name}(\n    " + ",\n    ".join(shown) + ",\n)"
