"""The page of the study, from records of runs as the commands leave them; looked at in a browser where there is one."""

import base64
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import browser
import numpy as np
import pytest
from PIL import Image

from colnorm.run_directory import RunDirectory
from experiments import gather, job, mistakes, page, study, summary
from experiments.differences import differences
from experiments.presets import PRESETS

ROOT = Path(__file__).parents[1]
MACHINE = {"device": "cpu", "processor": "a <fast> one, 2 cores", "jax": "0.10.2"}
COVERAGE = {"entries": 200, "exact": 60, "lowercased": 20, "tokens": 1000, "exact_tokens": 700, "lowercased_tokens": 100}
TAGS = ["O", "B-geo", "I-geo", "B-per", "I-per"]


def finish(job, accuracy):
    """What training and evaluation leave of a run that came to this accuracy."""
    rng = np.random.default_rng(job.seed)
    tagging = job.row.task == "tagging"
    config = {**dataclasses.asdict(job.config), "data": "ner_dataset.csv" if tagging else "cifar10"}
    RunDirectory.create(job.run, job.row.task, config | {"seed": job.seed}).close()
    (job.run / "machine.json").write_text(json.dumps(MACHINE | {"devices": job.seed + 1}))
    if job.row.glove:
        (job.run / "vectors.json").write_text(json.dumps(COVERAGE))
    history = []
    for epoch in (1, 2, 3):
        entry = {"epoch": epoch, "seconds": 2.0 * epoch, "compile_seconds": 1.0, "peak_memory_mib": 1000.0 + epoch}
        for split in ("train", "validation"):
            entry |= {f"{split}_loss": 1 / epoch, f"{split}_accuracy": accuracy * epoch / 3}
        if tagging:
            entry |= {"validation_micro_f1": accuracy * epoch / 3, "validation_macro_f1": accuracy * epoch / 4}
        else:
            entry["feature_percentiles"] = sorted(rng.standard_normal(4).tolist())
        history.append(entry)
    (job.run / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))
    means = {"precision": accuracy, "recall": accuracy, "f1": accuracy, "support": 40}
    metrics = {"examples": 1000, "loss": 0.5, "accuracy": accuracy, **dict.fromkeys(("micro", "macro", "weighted"), means)}
    if tagging:
        bins = [{"low": 0.8, "high": 0.9, "count": 40, "probability": 0.85, "right": accuracy}]
        calibrated = {"error": abs(0.85 - accuracy), "bins": bins}
        metrics |= {"examples": 40, "classes": {"geo": means, "per": means}, "calibration": calibrated}
    else:
        confusion = np.diag([round(100 * accuracy)] * 3) + 1
        metrics |= {"classes": dict.fromkeys("abc", means), "confusion": confusion.tolist()}
        if job.config.flip:
            metrics["accuracy_mirrored"] = accuracy + 0.004
    evaluated = {"epoch": 3, "splits": dict.fromkeys(("train", "validation", "test"), metrics), "machine": MACHINE}
    if tagging:
        right = rng.random(40) < accuracy
        counts = [[int(hit), int(hit), 1] for hit in right]
        (job.run / "test_counts.json").write_text(json.dumps(counts))
        if job.row.name == "crf":
            moves = [[0.5, None, -0.25, 0.0, 1.0]] * 5
            evaluated["chain"] = {"tag_names": TAGS, "transitions": moves, "start": moves[0], "end": moves[0]}
    else:
        evaluated["class_names"] = ["cat", "dog", "<b>"]
    (job.run / "evaluation.json").write_text(json.dumps(evaluated))
    summary.write(job.run, job.scale, job.summary)


ACCURACIES = {
    "nn": 0.7,
    "bn": 0.82,
    "in": 0.85,
    "gn_batch8": 0.8,
    "gn": 0.81,
    "bn_he": 0.3,
    "modern_bn": 0.9,
    "modern_bn_crop4": 0.88,
    "random": 0.6,
    "glove": 0.7,
    "crf": 0.8,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A study of a few rows and two seeds, of which one row failed and one was not begun; its results and directory."""
    output = tmp_path_factory.mktemp("study")
    rows = study.choose((*ACCURACIES, "ln", "best"))
    jobs = [job.Job(row, seed, "full", output) for seed in (0, 1) for row in rows]
    for each in jobs:
        if each.row.name in ACCURACIES:
            finish(each, ACCURACIES[each.row.name] + 0.01 * each.seed)
    (output / "runs" / "ln-seed0.failed").write_text("loss is nan & void at epoch 1, step 5")
    cost = {"what": "a CRF's step", "tags": [8, 16], "milliseconds": [1.0, 3.0], "gigaflops": [1.5, 2.0], "growth": [1.58]}
    (output / "crf_cost.json").write_text(json.dumps({**cost, "machine": MACHINE}))
    results = gather.gather(jobs)
    path = page.write(results, {(each.row.name, each.seed): each.summary for each in jobs if each.is_finished}, output)
    assert path == output / "index.html"
    return json.loads(json.dumps(results)), output  # results are JSON


def text_of(html):
    """What a reader sees, roughly: tags gone, white space single."""
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(style|script).*?</\1>", "", html)).split())


def test_figures_are_means_over_seeds_beside_the_reports(written):
    results, output = written
    rows = {row["name"]: row for row in results["rows"]}
    assert rows["bn"]["metrics"]["test_accuracy"] == {"mean": pytest.approx(0.825), "spread": pytest.approx(0.01 / np.sqrt(2))}
    assert rows["ln"]["failures"] == {"0": "loss is nan & void at epoch 1, step 5"} and rows["ln"]["seeds"] == []
    seen = text_of((output / "index.html").read_text())
    assert "82.50 ± 0.71 % (81.39, +1.11), public 87.8" in seen
    assert "ln, seed 0, failed: loss is nan &amp; void at epoch 1, step 5" in seen
    assert "not trained yet" in seen and "a &lt;fast&gt; one, 2 cores" in seen
    texts = differences(results)
    assert any("80 of the 200 words, which are 80.0% of the training tokens" in text for text in texts)
    places = [(of["row"], of["placement"], of["learning_rate"], len(of["validation_accuracy"])) for of in results["placements"]]
    assert places == [("bn_he", "before the addition", 1.0, 3), ("bn", "after the addition", 1.0, 3)]
    assert "| bn | before the addition | 1.0 | 10.0 % | 20.0 % | 30.0 % |" in (output / "RESULTS.md").read_text()
    assert not any("training ends after few epochs" in text for text in texts)  # nothing of scales that aren't there
    for text in (*texts, *page.TEXTS.values()):
        assert text in seen and text in (output / "RESULTS.md").read_text()
    in_markdown = (output / "RESULTS.md").read_text()
    assert "82.50 ± 0.71 % (81.39, +1.11)" in in_markdown
    assert "| geo | 80.50 ± 0.71 % (75) | 80.50 ± 0.71 % (76) | 80.50 ± 0.71 % (76) | 40 |" in in_markdown
    assert "80.50 ± 0.71 % (75) 80.50 ± 0.71 % (76) 80.50 ± 0.71 % (76) 40" in seen
    assert "3, 3; 3, 3 (40)" in seen and "| 3, 3; 3, 3 (40) |" in in_markdown
    for page_text in (seen, in_markdown):
        assert "Word vectors: vectors for 80 of 200 words (40.0%; 20 of them in lower case), 80.0% of tokens." in page_text
        assert "public 87.8" in page_text and "machine 1, 2." in page_text


def test_every_row_its_command_and_its_pictures_are_there(written):
    results, output = written
    html, markdown = (output / "index.html").read_text(), (output / "RESULTS.md").read_text()
    for row in results["rows"]:
        assert f'id="row-{row["name"]}"' in html and f"<code>{row['command']}</code>" in html
        assert f"| `{row['name']}` " in markdown and row["command"] in markdown
    pictures = {path.stem for path in (output / "pictures").glob("*.svg")}
    assert {"curves-of-report", "curves-of-tagging", "features", "batch-sizes", "calibration"} <= pictures
    shown = re.findall(r"\]\(pictures/([^)]*)\)", markdown)
    assert len(shown) == len(set(shown)) == len(pictures)
    assert html.count("<img ") == 2  # batch sizes and calibration: the other charts are drawn of the data
    assert len(html) < 3_000_000
    for name in shown:
        assert (output / "pictures" / name).exists()


def test_markdown_tables_have_as_many_cells_in_every_line(written):
    for block in (written[1] / "RESULTS.md").read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1, block


def test_the_page_needs_no_other_file_and_no_network(written):
    html = (written[1] / "index.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert sources and all(source.startswith(("data:", "#", "records/")) for source in sources)
    anchors = set(re.findall(r'id="([^"]*)"', html))
    assert {source[1:] for source in sources if source.startswith("#")} <= anchors
    assert "http" not in text_of(html) and "url(" not in html and "@" not in text_of(html)


def test_claims_are_checked_by_seed_and_by_sentence(written):
    results, _ = written
    assert [(claim["better"], claim["worse"]) for claim in results["sameness"]] == [("gn_batch8", "gn")]
    order = {(claim["better"], claim["worse"]): claim for claim in results["order"]}
    assert order.keys() == {("gn", "bn")}  # of neighbours, the two that are both there
    assert (order["gn", "bn"]["held"], order["gn", "bn"]["seeds"]) == (0, 2)
    assert order["gn", "bn"]["high"] < 0
    (ablation,) = results["ablations"]
    assert (ablation["worse"], ablation["held"], ablation["seeds"]) == ("modern_bn_crop4", 2, 2)
    assert ablation["mean"] == pytest.approx(0.02)
    markdown = (written[1] / "RESULTS.md").read_text(encoding="utf-8")
    assert (
        "| moved by up to 4 pixels instead of 2 | 2 of 2 | +2.00 | +2.00 to +2.00 | t over 2 seeds | first better |" in markdown
    )
    assert re.search(r"^\| `modern_bn`  \| .*\| 90.90 ± 0.71 % \|", markdown, re.MULTILINE)  # both ways of each image
    claims = {claim["what"]: claim for claim in results["claims"]}
    assert claims.keys() == {"GloVe"}
    counts = [
        [
            np.array(summary.read(written[1] / "records" / f"{name}-seed{seed}.json")["test_counts"])
            for name in ("glove", "random")
        ]
        for seed in (0, 1)
    ]
    assert counts[0][0].shape == (40, 3) and counts[0][0].sum(0)[2] == 40
    scores = [[2 * c.sum(0)[0] / (c.sum(0)[1] + c.sum(0)[2]) for c in pair] for pair in counts]
    assert claims["GloVe"]["mean"] == pytest.approx(np.mean([a - b for a, b in scores]))


def test_a_verdict_is_no_surer_than_the_seeds():
    def verdict(over_sentences=True, **claim):
        return page.FILTERS["verdict"](claim, over_sentences)

    assert verdict(low=0.1, high=0.2, held=3, seeds=3) == "first better"
    assert verdict(low=-0.2, high=-0.1, held=0, seeds=3) == "second better"
    assert verdict(low=-0.2, high=-0.1, held=0, seeds=1) == "second better, in this seed"
    assert verdict(low=-0.1, high=0.2, held=3, seeds=3) == "not decided"
    assert verdict(low=0.1, high=0.2, held=2, seeds=3) == "not decided: seeds disagree"
    assert verdict(over_sentences=False, low=0.1, high=0.2, held=2, seeds=3) == "first better"  # an interval over seeds


def test_a_record_of_another_run_is_refused(tmp_path):
    of_row = job.Job(PRESETS["gn"], 0, "full", tmp_path)
    finish(of_row, 0.8)
    with pytest.raises(ValueError, match=r"gn-seed0.json is .* at scale full; the study has this row at scale reduced"):
        gather.gather([job.Job(PRESETS["gn"], 0, "reduced", tmp_path)])
    stored = summary.read(of_row.summary)
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", stored.pop("commit")) or not (ROOT / ".git").exists()
    # Options that came later or are gone, and places, make no other run.
    stored["config"] |= {"gone": 1, "data_dir": "there"}
    del stored["config"]["num_groups"]
    of_row.summary.write_text(json.dumps(stored))
    assert of_row.read_summary() == stored | {"commit": None}  # as one of before there were commits and digests
    stored["config"] |= {"seed": 2, "learning_rate": 0.2}
    of_row.summary.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"gn-seed0.json .*: learning_rate was 0.2, is 0.1, seed was 2, is 0; .*gn-seed0"):
        gather.gather([of_row])
    stored["config"] |= {"seed": 0, "learning_rate": 0.1}
    del stored["config"]["norm_placement"]  # of before there was a choice: He et al.'s
    of_row.summary.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"norm_placement was 'before_addition', is 'after_addition'; .*gn-seed0"):
        gather.gather([of_row])


@pytest.mark.slow
def test_rows_of_two_scales_say_so_and_are_not_compared(tmp_path):
    scales = {"gn": "full", "bn": "reduced", "glove": "reduced", "random": "full", "char": "reduced"}
    jobs = [job.Job(PRESETS[name], 0, scale, tmp_path) for name, scale in scales.items()]
    for each in jobs:
        finish(each, 0.8)
    results = gather.gather(jobs)
    assert results["order"] == results["sameness"] == [] and [claim["what"] for claim in results["claims"]] == ["characters"]
    about = " ".join(differences(results))
    assert "for the five of its CRF" in about and "group normalization is said to stop at epoch 20" in about
    of_one = " ".join(differences(gather.gather([each for each in jobs if each.row.name == "random"])))
    assert "144,919 entities, these 120;" in of_one and "group normalization" not in of_one
    assert results["scales"] == {scale: study.SCALES[scale] for scale in ("reduced", "full")}
    path = page.write(results, {(each.row.name, 0): each.summary for each in jobs}, tmp_path)
    seen = text_of(path.read_text())
    assert "Rows of two scales" in seen and "bn 1.2.1 reduced" in seen and "gn 1.2.1 full" in seen
    assert "| `gn` 1.2.1 full |" in (tmp_path / "RESULTS.md").read_text()


def test_batch_sizes_are_compared_at_the_epoch_that_all_reached():
    sizes = {"bn": 128, "bn_batch8": 8, "gn": 128}
    rows = {name: {"batch_size": size, "scale": "reduced"} for name, size in sizes.items()}
    records = [{"validation_accuracy": accuracy} for accuracy in (0.5, 0.75, 0.875)]
    histories = {"bn": [records, records[::-1]], "bn_batch8": [records[:2]], "gn": [records[:1]]}
    errors, epoch = page.batch_sizes(rows, histories)
    assert epoch == 2 and errors == {"bn": {8: (0.25, 0.0), 128: (0.25, 0.0)}}
    errors, epoch = page.batch_sizes(rows, histories | {"bn_batch8": [records[:1], records[1:]]})
    assert epoch == 1 and errors["bn"] == {
        8: (pytest.approx(0.375), pytest.approx(0.25 / np.sqrt(2))),
        128: (pytest.approx(0.3125), pytest.approx(0.375 / np.sqrt(2))),
    }
    assert page.batch_sizes({"bn": rows["bn"]}, histories) == ({}, 0)
    assert page.batch_sizes(rows | {"bn": rows["bn"] | {"scale": "full"}}, histories) == ({}, 0)


@pytest.mark.slow
def test_the_same_results_give_the_same_page(written, tmp_path):
    results, output = written
    records = {
        (row["name"], s["seed"]): output / "records" / f"{row['name']}-seed{s['seed']}.json"
        for row in results["rows"]
        for s in row["seeds"]
    }
    shutil.copy(output / "crf_cost.json", tmp_path)
    again = page.write(results, records, tmp_path)
    assert again.read_text() == (output / "index.html").read_text()


def test_a_row_seed_is_averaged_as_far_as_all_seeds_went():
    first = [{"epoch": 1, "loss": 1.0, "list": [1, 2], "note": "a"}, {"epoch": 2, "loss": 0.5, "list": [1, 2]}]
    assert page.mean_history([first, [{"epoch": 1, "loss": 2.0, "list": [3, 4], "note": "b"}]]) == [
        {"epoch": 1, "loss": 1.5, "list": [2.0, 3.0]}
    ]


@pytest.mark.slow
@pytest.mark.skipif(browser.PATH is None, reason="no Chromium")
def test_a_browser_shows_everything_on_a_phone_without_scrolling_sideways(written, tmp_path):
    path = written[1] / "index.html"
    with browser.opened(path.as_uri(), tmp_path, width=500, height=900) as page:
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        page.wait("[...document.images].filter(each => each.complete && each.naturalWidth > 50).length == 2")
        # every row with seeds has its own charts: four of an image row, six of a tagger
        expected = sum(6 if PRESETS[name].task == "tagging" else 4 for name in ACCURACIES)
        page.wait(f"document.querySelectorAll('[data-row] canvas').length == {expected}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("charts.every(each => each.width > 100 && each.width <= innerWidth)")
        shown = page.evaluate("document.documentElement.outerHTML")
    for name in PRESETS:
        assert (f'id="row-{name}"' in shown) == (name in {*ACCURACIES, "ln", "best"})


@pytest.mark.slow
@pytest.mark.skipif(browser.PATH is None, reason="no Chromium")
def test_charts_are_explored_with_the_mouse_and_with_the_keyboard(written, tmp_path):
    with browser.opened((written[1] / "index.html").as_uri(), tmp_path) as page:

        def values(group="report"):
            """The table under a chapter's charts: line -> its values."""
            return dict(
                page.evaluate(
                    f"[...document.querySelectorAll('[data-group={group}]:not([data-what]) .values tbody tr')]"
                    ".map(row => [row.cells[0].textContent, [...row.cells].slice(1).map(cell => cell.textContent)])"
                )
            )

        # the last epoch, before anything is done; accuracy * epoch / 3, the mean of two seeds
        assert values()["bn"] == ["0.3333", "0.3333", "82.50 %", "82.50 %"]
        # the mouse over the first epoch of one chart marks it in all, and tells all values there
        page.evaluate("charts[0].root.scrollIntoView({block: 'center'})")
        box = page.evaluate("(({left, top, height}) => ({left, top, height}))(charts[0].over.getBoundingClientRect())")
        page.send("Input.dispatchMouseEvent", type="mouseMoved", x=box["left"] + 60, y=box["top"] + box["height"] / 2)
        page.send("Input.dispatchMouseEvent", type="mouseMoved", x=box["left"] + 2, y=box["top"] + box["height"] / 2)
        page.wait("charts.slice(0, 4).every(each => each.cursor.idx == 0)")
        assert values()["bn"] == ["1", "1", "27.50 %", "27.50 %"]
        # the slider does the same without one
        page.evaluate("slider = document.querySelector('[data-group=report] input[type=range]'); slider.focus(); slider.value")
        for kind in ("keyDown", "keyUp"):
            page.send("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
        page.wait("slider.value == '2'")
        assert values()["bn"] == ["0.5", "0.5", "55.00 %", "55.00 %"]
        # a row that is switched off goes from all charts
        names = page.evaluate("charts[0].series.map(each => each.label)")
        place = names.index("gn")
        page.evaluate(
            "[...document.querySelectorAll('[data-group=report] .values label')].find(each => each.textContent == 'gn').click()"
        )
        assert page.evaluate(f"charts.slice(0, 4).every(each => each.series[{place}].show === false)")
        assert page.evaluate(f"charts.slice(0, 4).every(each => each.series[{names.index('bn')}].show)")
        # one zoom for all, and back
        page.evaluate("charts[1].setScale('x', {min: 2, max: 3})")
        page.wait("charts.slice(0, 4).every(each => each.scales.x.min == 2 && each.scales.x.max == 3)")
        assert page.evaluate("document.querySelector('[data-group=report] input[type=number]').value") == "2"
        page.evaluate("document.querySelector('[data-group=report] .controls button').click()")
        page.wait("charts.slice(0, 4).every(each => each.scales.x.min == 1 && each.scales.x.max == 3)")


@pytest.mark.slow
@pytest.mark.skipif(browser.PATH is None, reason="no Chromium")
def test_tables_are_sorted_and_figures_downloaded(written, tmp_path):
    with browser.opened((written[1] / "index.html").as_uri(), tmp_path) as page:

        def rows():
            return page.evaluate(
                "[...document.querySelector('table').tBodies[0].rows].map(row => row.querySelector('a').textContent)"
            )

        assert rows() == ["nn", "bn", "in", "gn", "ln"]
        by_accuracy = (
            "[...document.querySelectorAll('thead th button')].find(each => each.textContent == 'test accuracy').click()"
        )
        page.evaluate(by_accuracy)
        assert rows() == ["in", "bn", "gn", "nn", "ln"]  # what has no value is last, either way
        page.evaluate(by_accuracy)
        assert rows() == ["nn", "gn", "bn", "in", "ln"]
        assert page.evaluate("document.querySelector('[aria-sort]').textContent") == "test accuracy"
        lines = [line.split(",") for line in page.evaluate("csv()").splitlines()]
    assert lines[0] == ["row", "task", "scale", "seed", "commit", "epoch", "metric", "value"]
    assert {len(line) for line in lines} == {8}
    found = {(line[0], line[3], line[5], line[6]): line[7] for line in lines}
    assert float(found["bn", "1", "", "test_accuracy"]) == 0.83 and float(found["bn", "0", "2", "train_loss"]) == 0.5
    assert ("bn", "0", "3", "feature_percentiles_99") in found and float(found["bn", "", "", "test_accuracy"]) == 0.8139


@pytest.mark.slow
@pytest.mark.skipif(browser.PATH is None, reason="no Chromium")
def test_what_is_wrong_is_shown_and_filtered(tmp_path):
    """Of two rows whose run directories are there."""
    jobs = [job.Job(PRESETS[name], 0, "full", tmp_path) for name in ("bn", "crf")]
    for each in jobs:
        finish(each, 0.8)
    rng = np.random.default_rng(0)
    images, probabilities = rng.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8), rng.dirichlet(np.ones(3), 9)
    labels = probabilities.argmax(1)
    labels[:5] = (labels[:5] + 1) % 3
    (jobs[0].run / "test_mistakes.json").write_text(json.dumps(mistakes.of_images(images, labels, probabilities)))
    (jobs[1].run / "test_predictions.conll").write_text(
        "Paris B-geo B-org\n\nin O O\nNew B-geo B-geo\nYork I-geo O\n\nhe O O\n"
    )
    results = gather.gather(jobs)
    path = page.write(results, {(each.row.name, 0): each.summary for each in jobs}, tmp_path)
    with browser.opened(path.as_uri(), tmp_path / "profile") as opened:
        opened.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        opened.wait("document.querySelectorAll('.images img').length == 5")
        opened.wait("[...document.querySelectorAll('.images img')].every(each => each.naturalWidth == 8)")
        assert "Wrong on test: 5 of 9" in opened.evaluate("document.querySelector('#about-bn').textContent")
        label = int(labels[0])
        opened.evaluate(
            f"select = document.querySelector('.images').previousSibling.querySelector('select'); select.value = '{label}'"
        )
        opened.evaluate("select.dispatchEvent(new Event('change'))")
        assert opened.evaluate("document.querySelectorAll('.images img').length") == int(np.sum(labels[:5] == label))
        sentences = "[...document.querySelectorAll('.sentences li')].map(each => each.textContent)"
        assert opened.evaluate(sentences) == [" Parisgeo → org ", "in New Yorkgeo, found as “New” "]
        opened.evaluate("document.querySelector('.kind.type input').click()")
        assert opened.evaluate(sentences) == ["in New Yorkgeo, found as “New” "]
        assert opened.evaluate("document.querySelector('mark.boundary').title").startswith(
            "wrongly bounded: gold geo, found geo"
        )
        opened.evaluate("dispatchEvent(new Event('beforeprint'))")


def test_errors_of_entities_are_of_one_kind_each():
    def kinds(gold, found):
        return [entity["kind"] for entity in mistakes.judge(gold.split(), found.split())]

    assert kinds("B-a I-a O B-b", "B-a I-a O B-b") == ["correct", "correct"]
    assert kinds("B-a I-a O O", "O O O B-a") == ["missed", "spurious"]
    assert kinds("B-a I-a O", "B-b I-b O") == ["type"] and kinds("B-a I-a O", "B-a O O") == ["boundary"]
    assert kinds("B-a I-a O", "B-b O O") == ["both"]
    assert kinds("B-a I-a I-a", "B-a B-a I-a") == ["boundary", "spurious"]  # one of the two is the gold one's
    assert kinds("B-a B-b O", "B-a I-a I-a") == ["boundary", "missed"]
    assert kinds("O O", "O O") == []


def test_sentences_with_errors_are_chosen_evenly_for_each_kind():
    blocks = [f"w{number} B-a {'O' if number % 2 else 'B-a'}\n" for number in range(100)]
    found = mistakes.of_sentences("\n".join(blocks), limit=3)
    assert found["counts"] == {"correct": 50, "missed": 50, "spurious": 0, "boundary": 0, "type": 0, "both": 0}
    assert [example["index"] for example in found["examples"]] == [1, 49, 99] and found["sentences"] == 100
    assert found["examples"][0]["words"] == ["w1"]


def test_wrong_images_come_surest_first_and_as_they_are():
    images = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
    probabilities = np.array([[0.6, 0.4], [0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    found = mistakes.of_images(images, np.array([1, 1, 1, 0]), probabilities, limit=2)
    assert found["count"] == 3 and found["of"] == 4
    assert [(each["index"], each["label"], each["predicted"]) for each in found["examples"]] == [(2, 1, 0), (3, 0, 1)]
    shown = Image.open(io.BytesIO(base64.b64decode(found["examples"][0]["png"])))
    np.testing.assert_array_equal(np.asarray(shown), images[2])


def test_epochs_and_minutes_to_eighty_percent():
    line = {"seconds": 60.0, "validation_accuracy": 0.5}
    history = [{"epoch": 1, **line}, {"epoch": 2, **line, "validation_accuracy": 0.8}, {"epoch": 3, **line}]
    assert gather.reached(history, "validation_accuracy") == {"epoch": 2, "minutes": 2.0}
    assert gather.reached([each | {"seeds_at_once": 3} for each in history], "validation_accuracy")["minutes"] == 0.7
    assert gather.reached(history[:1], "validation_accuracy") is None
    seeds = [{"reached": {"epoch": 2, "minutes": 2.0}}, {"reached": None}, {"reached": {"epoch": 3, "minutes": 3.0}}]
    assert page.FILTERS["reached"](seeds) == "2.5 epochs, 2.5 min (2 of 3 seeds)"
    assert page.FILTERS["reached"](seeds[1:2]) == "not reached"
