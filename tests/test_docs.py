"""What README, docs and docstrings show runs and prints what they say; what they name exists; the API pages are whole."""

import dataclasses
import doctest
import importlib
import importlib.util
import inspect
import re
import runpy

import jax
import pytest
from docs_blocks import PAGES, ROOT, blocks, run

import colnorm
from colnorm import cli, crf, hosts

README = "README.md"
API = sorted(page for page in PAGES if page.startswith("docs/api/"))
DOCUMENTED = [name for page in API for name in re.findall(r"^::: ([\w.]+)$", PAGES[page].read_text(), re.MULTILINE)]

# Modules of which every public class and function is on an API page, and what of them is not for users.
WHOLE = {
    "colnorm.convert": (),
    "colnorm.normalization": (),
    "colnorm.optimizers": (),
    "colnorm.metrics": (),
    "colnorm.parallel": ("add_sums", "drive_steps", "scan_steps"),
    "colnorm.training": ("Engine", "Store"),
}
# What has no example of its own, and where it is shown instead.
SHOWN_ELSEWHERE = {
    "colnorm.predict.load": "docs/guides/tagger.md, as it needs a run",
    "colnorm.training.NonFiniteLossError": "check_finite",
}


def resolve(name):
    """The object that a dotted name means."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"there is no {name}")


GUIDES = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


@pytest.mark.parametrize("page", [page if page == README else pytest.param(page, marks=pytest.mark.slow) for page in GUIDES])
def test_python_blocks_run_and_print_what_they_show(page):
    for line, printed, shown in run(page):
        assert printed == shown, f"{page}:{line}"


def test_every_public_name_is_on_an_api_page():
    expected = {f"colnorm.{name}" for name in colnorm.__all__ if name != "crf"}
    expected |= {f"colnorm.crf.{name}" for name in crf.__all__}
    expected |= {f"colnorm.crf.segments.{name}" for name in crf.segments.__all__}
    for module, inner in WHOLE.items():
        for name, found in vars(importlib.import_module(module)).items():
            is_public = not name.startswith("_") and name not in inner and getattr(found, "__module__", None) == module
            if is_public and (inspect.isclass(found) or inspect.isroutine(found) or hasattr(found, "__wrapped__")):
                expected.add(f"{module}.{name}")
    # A name may be documented where it is exported from.
    known = {id(resolve(name)) for name in DOCUMENTED}
    assert [name for name in sorted(expected) if id(resolve(name)) not in known] == []
    assert len(set(DOCUMENTED)) == len(DOCUMENTED)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DOCUMENTED if name not in SHOWN_ELSEWHERE])
def test_docstrings_have_an_example_that_runs(name):
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(resolve(name)), {}, name, None, 0)
    assert example.examples, f"{name} has no example"
    failures = []
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        doctest.DocTestRunner(verbose=False).run(example, out=failures.append)
    assert not failures, "".join(failures)


def commands():
    """Each line of bash on any page that begins a command of this project: (page, its words)."""
    for page in PAGES:
        for block in blocks(page):
            for line in block.code.splitlines() if block.language == "bash" else ():
                words = line.partition("  #")[0].split()
                if words[:1] == ["colnorm"]:
                    assert words[1] in cli.COMMANDS, f"{page}: {line}"
                if words[:2] == ["python", "-m"] or words[:1] == ["make"]:
                    yield page, words


def test_commands_name_what_there_is():
    from experiments.presets import PRESETS

    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = list(commands())
    assert len(shown) > 20
    for page, words in shown:
        where = f"{page}: {' '.join(words)}"
        if words[0] == "make":
            assert set(words[1:]) <= targets, where
            continue
        assert importlib.util.find_spec(words[2]) is not None, where
        module, arguments = importlib.import_module(words[2]), words[3:]
        kinds = [module.Command] if hasattr(module, "Command") else []
        if words[2] == "experiments.train":
            assert arguments[0] in PRESETS, where
            kinds += [type(PRESETS[arguments[0]].config), hosts.Launch]
        known = {field.name for kind in kinds for field in dataclasses.fields(kind)}
        options = {word[2:].replace("-", "_") for word in arguments if word.startswith("--")}
        assert options <= known, f"{where}: there is no {options - known}"


def test_the_presets_of_the_guide_are_those_there_are():
    from experiments.presets import PRESETS

    text = PAGES["docs/guides/study.md"].read_text(encoding="utf-8")
    table = text[text.index("| preset |") : text.index("`glove`, `char`")]
    listed = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1] if row else "")}
    assert listed == PRESETS.keys()


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page):
    text, here = PAGES[page].read_text(encoding="utf-8"), PAGES[page].parent
    named = re.findall(r"`((?:colnorm|experiments|tests|results|docs)/[\w/.]*)`", text)
    assert [path for path in named if not (ROOT / path).exists()] == []
    links = [link for link in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text) if "study.md" not in link or "guides" in page]
    missing = [link for link in links if not (here / link).exists()]
    # The study's page is made when the site is built, out of results/study/RESULTS.md.
    assert [link for link in missing if not link.endswith("study.md")] == []


def test_the_tables_are_those_of_the_results():
    tables = runpy.run_path(str(ROOT / "docs" / "tables.py"))
    shown = 0
    for path in tables["PAGES"]:
        text = path.read_text(encoding="utf-8")
        shown += text.count("<!-- table: ")
        assert tables["filled"](text) == text, f"{path.name}: python docs/tables.py writes its tables anew"
    assert shown == len(tables["TABLES"])


def test_the_readme_is_short():
    raw = PAGES[README].read_bytes()
    assert len(raw) <= 6000
    assert raw.count(b"\n") <= 120


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.removeprefix("docs/") for page in PAGES if page != README]
    assert [page for page in pages if f": {page}\n" not in navigation] == []


def test_the_table_of_peers_names_what_is_there():
    text = PAGES["docs/crf-peers.md"].read_text(encoding="utf-8")
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[-1].startswith("`test_"):
            assert (ROOT / "tests" / cells[-1].strip("`")).exists(), cells[-1]
            for name in re.findall(r"`([a-z_]+)`", cells[1]):
                assert hasattr(crf, name) or name in ("allowed", "mask"), name
