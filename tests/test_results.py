"""The committed results are what their records say, and whole."""

import json
import re
from pathlib import Path

import pytest

from experiments import gather, job, page, reproduce
from experiments.presets import PRESETS

RESULTS = Path(__file__).parents[1] / "results"


def leaves(value, name=""):
    """The values of nested JSON by the path to them."""
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, each in pairs for path, leaf in leaves(each, f"{name}/{key}").items()}
    return {name: value}


def measured(results):
    """Without what rows are called and how they are started, which may be written otherwise since."""
    rows = [{name: row[name] for name in ("name", "scale", "seeds", "metrics", "classes")} for row in results["rows"]]
    return {"rows": rows, **{name: results[name] for name in ("order", "sameness", "claims")}}


@pytest.fixture(scope="module", params=sorted(path.parent.name for path in RESULTS.glob("*/study.json")))
def directory(request):
    return RESULTS / request.param


@pytest.fixture(scope="module")
def results(directory):
    return json.loads((directory / "results.json").read_text(encoding="utf-8"))


def test_figures_are_those_of_the_records(directory, results):
    scales, seeds = reproduce.read_study(directory, going_on=True)
    jobs = [job.Job(PRESETS[name], seed, scales[name], directory) for seed in range(seeds) for name in scales]
    found, stored = leaves(measured(json.loads(json.dumps(gather.gather(jobs))))), leaves(measured(results))
    assert found.keys() == stored.keys()
    for path, value in found.items():
        # Libraries of another version may sum in another order.
        expected = pytest.approx(value, abs=1e-9) if isinstance(value, float) else value
        assert stored[path] == expected, path


def test_every_row_is_there_with_its_figures_and_pictures(directory, results):
    rows = results["rows"]
    assert [row["name"] for row in rows] == list(reproduce.read_study(directory, going_on=True)[0])
    assert not any(row["failures"] for row in rows)
    text = (directory / "RESULTS.md").read_text(encoding="utf-8")
    for row in rows:
        metric = "test_micro_f1" if row["task"] == "tagging" else "test_accuracy"
        (line,) = re.findall(rf"^\| `{row['name']}` .*$", text, re.MULTILINE)
        shown = page.FILTERS["percent"](row["metrics"][metric]) if row["seeds"] else "not trained yet"
        assert shown in line
    pictures = re.findall(r"\]\(pictures/([^)]*)\)", text)
    assert len(pictures) >= 3 and all((directory / "pictures" / name).exists() for name in pictures)


def test_the_whole_study_is_there():
    assert list(reproduce.read_study(RESULTS / "study", going_on=True)[0]) == list(PRESETS)


def test_nothing_of_the_machine_but_its_name():
    """No places of files; small, as they are kept with the code."""
    records = sorted(RESULTS.glob("*/records/*.json"))
    assert len(records) >= 14 + 8  # taggers, images
    for path in records:
        record = json.loads(path.read_text(encoding="utf-8"))
        assert not [name for name, value in leaves(record).items() if isinstance(value, str) and "/" in value], path
        assert path.stat().st_size < 200_000


def test_the_readme_has_the_figures_of_images():
    rows = {row["name"]: row for row in json.loads((RESULTS / "study" / "results.json").read_text(encoding="utf-8"))["rows"]}
    names = ("bn", "modern_bn", "nn", "modern_nn")
    bn, modern_bn, nn, modern_nn = (f"{100 * rows[name]['metrics']['test_accuracy']['mean']:.2f}" for name in names)
    readme = " ".join((RESULTS.parent / "README.md").read_text(encoding="utf-8").split())
    assert f"ResNet-14 has {bn} % test accuracy with the report's settings and `bn`, {modern_bn} % after 20 epochs" in readme
    assert f"without a norm {nn} and {modern_nn} %" in readme


def test_todays_recipe_is_above_the_public_figures_as_the_docs_say():
    rows = {row["name"]: row for row in json.loads((RESULTS / "study" / "results.json").read_text(encoding="utf-8"))["rows"]}
    for name in ("nn", "bn", "in", "bin", "ln", "gn", "flax_bn"):
        here, public = rows[f"modern_{name}"]["metrics"]["test_accuracy"], rows[name]["published"]["peers"]["test_accuracy"]
        assert here["mean"] > public, name
