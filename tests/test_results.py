"""The committed results are what their records say, and whole."""

import json
import re
from pathlib import Path

import pytest

from experiments import gather, job, page, reproduce, study

RESULTS = Path(__file__).parents[1] / "results" / "study"


def leaves(value, name=""):
    """The values of nested JSON by the path to them."""
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, each in pairs for path, leaf in leaves(each, f"{name}/{key}").items()}
    return {name: value}


def measured(results):
    """Without what rows are called and how they are started, which may be written otherwise since."""
    rows = [{name: row[name] for name in ("name", "scale", "seeds", "figures", "types")} for row in results["rows"]]
    return {"rows": rows, **{name: results[name] for name in ("order", "sameness", "claims")}}


@pytest.fixture(scope="module")
def results():
    return json.loads((RESULTS / "results.json").read_text(encoding="utf-8"))


def test_figures_are_those_of_the_records(results):
    scales, seeds = reproduce.read_study(RESULTS, going_on=True)
    jobs = [job.Job(study.ROWS[name], seed, scales[name], RESULTS) for seed in range(seeds) for name in scales]
    found, stored = leaves(measured(json.loads(json.dumps(gather.gather(jobs))))), leaves(measured(results))
    assert found.keys() == stored.keys()
    for path, value in found.items():
        # Libraries of another version may sum in another order.
        expected = pytest.approx(value, abs=1e-9) if isinstance(value, float) else value
        assert stored[path] == expected, path


def test_every_row_is_there_with_its_figures_and_pictures(results):
    assert [row["name"] for row in results["rows"]] == list(study.ROWS)
    assert all(row["seeds"] and not row["failures"] for row in results["rows"])
    text = (RESULTS / "RESULTS.md").read_text(encoding="utf-8")
    for row in results["rows"]:
        figure = "test micro F1" if row["task"] == "taggers" else "test accuracy"
        (line,) = re.findall(rf"^\| `{row['name']}` .*$", text, re.MULTILINE)
        assert page.FILTERS["percent"](row["figures"][figure]) in line
    pictures = re.findall(r"\]\(pictures/([^)]*)\)", text)
    assert len(pictures) >= 2 * len(study.ROWS) and all((RESULTS / "pictures" / name).exists() for name in pictures)


def test_nothing_of_the_machine_but_its_name():
    """No places of files; small, as they are kept with the code."""
    for path in RESULTS.glob("records/*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        assert not [name for name, value in leaves(record).items() if isinstance(value, str) and "/" in value], path
        assert path.stat().st_size < 200_000
