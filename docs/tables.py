"""Writes the tables of README.md and docs/results.md out of results/: ``python docs/tables.py``. A test holds them to it.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
CRF = "(32, 64, 17)", "(128, 104, 17)", "(32, 128, 64)", "(8, 1024, 17)"
IMAGES = "nn", "bn", "in", "bin", "ln", "gn", "flax_bn"
TAGGERS = "random", "glove", "char", "layer_norm", "crf", "crf_layer_norm", "segments", "best"


def speed(name: str) -> dict[str, Any]:
    """The rows of a benchmark."""
    rows: dict[str, Any] = json.loads((ROOT / "results" / "speed" / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    return rows


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def ms(row: dict[str, Any], side: str) -> str:
    """A side's median, of which three digits mean something."""
    median = row[side]["median_ms"]
    return (f"{median:,.0f}" if median >= 1000 else f"{median:.3g}") + "\N{NO-BREAK SPACE}ms"


def times(row: dict[str, Any], side: str) -> str:
    """How many times our time another side takes."""
    return f"{row[side]['median_ms'] / row['colnorm']['median_ms']:.2g}"


def headline() -> str:
    crf, lstm, step = speed("crf"), speed("recurrent"), speed("training")["batch 128"]
    shape = "(128, 104, 17)"

    def line(what: str, row: dict[str, Any], theirs: str, ours: str = "colnorm") -> list[str]:
        return [what, ms(row, ours), ms(row, theirs), f"{row[theirs]['median_ms'] / row[ours]['median_ms']:.2g}"]

    return table(
        ["", "colnorm", "PyTorch", "PyTorch / colnorm"],
        [
            line("CRF, loss and gradient", crf[f"{shape} loss + gradient"], "pytorch-crf"),
            line("CRF, decoding", crf[f"{shape} decode"], "pytorch-crf"),
            line("BiLSTM", lstm["plain 128x104x150x128"], "torch.nn.LSTM"),
            line("batch norm", speed("normalization")["batch 128x32x32x16"], "torch, channels last"),
            ["tagging 1,000 tokens", *_tagging(speed("prediction"))],
            line("BiLSTM-CRF, a training step", speed("tagger"), "PyTorch"),
            line("ResNet-14, a training step", step, "torch, channels last", "colnorm, 2 devices"),
        ],
    )


def _tagging(rows: dict[str, Any]) -> list[str]:
    ours, theirs = (1e6 / rows[side]["tokens_per_second"] for side in ("colnorm", "PyTorch"))
    return [f"{ours:.3g}\N{NO-BREAK SPACE}ms", f"{theirs:.3g}\N{NO-BREAK SPACE}ms", f"{theirs / ours:.2g}"]


def prediction() -> str:
    lines = [
        [
            side,
            f"{row['first_answer_s']:.1f} s",
            f"{row['all_s']:.1f} s",
            f"{row['tokens_per_second']:,}" if "tokens_per_second" in row else "",
            f"{row['peak_mib']:,.0f} MiB",
            f"{row['model_mb']:.1f} MB",
        ]
        for side, row in speed("prediction").items()
    ]
    return table(["", "first answer", "4,000 sentences after it", "tokens a second, warm", "peak memory", "model"], lines)


def study() -> str:
    return table(["tagger", "here", "report"], [[line[0], line[2], line[3]] for line in map(tagger, TAGGERS[:5])])


def crf() -> str:
    rows = speed("crf")

    def line(shape: str) -> list[str]:
        loss, decode, posterior = (rows[f"{shape} {what}"] for what in ("loss + gradient", "decode", "functions"))
        relative = [
            f"{posterior[what]['median_ms'] / posterior['forward']['median_ms']:.1f}" for what in ("5 best", "marginals")
        ]
        cells = [cell for row in (loss, decode) for cell in (ms(row, "colnorm"), times(row, "pytorch-crf"))]
        return [shape.strip("()"), *cells, *relative]

    head = ["sequences, steps, tags", "loss + gradient", "pytorch-crf, times ours", "decoding", "pytorch-crf, times ours"]
    return table([*head, "5 best paths / forward pass", "marginals / forward pass"], map(line, CRF))


def functions() -> str:
    shapes = ("(32, 64, 17)", "(128, 104, 17)", "(32, 128, 64)")
    rows = [speed("crf")[f"{shape} functions"] for shape in shapes]
    lines = [
        [what, *(f"{row[what]['ratio']:.2f}" for row in rows), f"{rows[1][what]['first_call_s']:.1f} s"] for what in rows[0]
    ]
    return table(["time / that of the forward pass", *(shape.strip("()") for shape in shapes), "first call"], lines)


def ragged() -> str:
    whole, rows = speed("recurrent"), speed("recurrent_ragged")
    lines = []
    for size in ("32x64x100x100", "128x104x150x128", "128x104x150x256"):
        cells = [ms(measured[f"plain {size}"], side) for side in ("colnorm", "torch.nn.LSTM") for measured in (whole, rows)]
        lines.append([size.replace("x", ", "), *cells])
    head = ["sequences, steps, inputs, features", "colnorm", "ragged", "`torch.nn.LSTM`", "ragged, packed"]
    return table(head, lines)


def recurrent() -> str:
    plain, normalized = speed("recurrent"), speed("recurrent_layer_norm")

    def line(size: str) -> list[str]:
        cells = [ms(plain[f"plain {size}"], side) for side in ("colnorm", "torch.nn.LSTM")]
        for kind in ("gates", "output"):
            row = normalized[f"{kind} {size}"]
            cells += [ms(row, "colnorm"), " / ".join(ms(row, f"PyTorch, {side}") for side in ("a loop", "compiled"))]
        return [size.replace("x", ", "), *cells]

    head = ["sequences, steps, inputs, features", "LSTM", "`torch.nn.LSTM`"]
    head += [cell for kind in ("gates", "output") for cell in (f"normalized {kind}", "PyTorch, a loop / compiled")]
    return table(head, map(line, ("32x64x100x100", "128x104x150x128", "128x104x150x256")))


def normalization() -> str:
    rows = speed("normalization")
    names = {"batch": "BatchNorm", "instance": "InstanceNorm", "batch-instance": "BatchInstanceNorm"}
    names |= {"layer": "LayerNorm", "group": "GroupNorm(8)"}
    sides = ["colnorm", "flax", "torch, channels last", "torch, contiguous"]
    lines = [
        [f"`{name}`", size.replace("x", ", "), *(ms(rows[f"{kind} {size}"], side) for side in sides)]
        for kind, name in names.items()
        for size in ("128x32x32x16", "128x16x16x32", "128x8x8x64")
    ]
    return table(
        ["layer", "images, height, width, channels", "colnorm", "Flax", "PyTorch, channels last", "PyTorch, contiguous"], lines
    )


def steps() -> str:
    kept, plain = speed("training")["batch 128"], speed("training_plain")["batch 128"]
    ours, theirs = "colnorm, 2 devices", "torch, channels last"
    lines = [
        [what, *(f"{ms(row, side)}, {row[side]['peak_mib']:.0f} MiB" for side in (ours, theirs))]
        for what, row in (("ResNet-14, freed memory kept", kept), ("ResNet-14, the allocator as it comes", plain))
    ]
    for what, name in (("BiLSTM-CRF", "tagger"), ("BiLSTM-CRF with characters", "tagger_characters")):
        row = speed(name)
        lines.append([what, *(f"{row[side]['tokens_per_second']:,} tokens / s" for side in ("colnorm", "PyTorch"))])
    return table(["a training step", "colnorm", "PyTorch"], lines)


def devices() -> str:
    """Steps over virtual devices of one CPU."""
    lines = [
        [what.replace(",", ":", 1), side, ms(row, side), f"{row[side]['ratio']:.2f}"]
        for what, row in speed("scaling").items()
        for side in row
    ]
    return table(["a step of ResNet-14", "on", "time", "of one device's"], lines)


def paper() -> str:
    """Efficiency on paper."""
    stored = json.loads((ROOT / "results" / "speed" / "scaling.json").read_text(encoding="utf-8"))
    places = [stored["devices"].index(count) for count in (8, 64, 1024)]
    lines = [
        [
            line["normalization"],
            f"{line['step_ms']:.3g}\N{NO-BREAK SPACE}ms",
            line["link"],
            *(f"{line['weak'][place]:.0%}" for place in places),
            f"{line['pays_to']:,}",
        ]
        for line in stored["paper"]
    ]
    head = ["", "a step on one", "link", "8 devices", "64", "1,024", "one batch for all pays to"]
    return table(head, lines)


def study_rows() -> dict[str, Any]:
    """The rows of the study by name."""
    stored = json.loads((ROOT / "results" / "study" / "results.json").read_text(encoding="utf-8"))
    return {row["name"]: row for row in stored["rows"]}


def percent(value: dict[str, Any]) -> str:
    """A mean over seeds, ± the deviation over them where there is one."""
    spread = "" if value["spread"] is None else f" ± {100 * value['spread']:.2f}"
    return f"{100 * value['mean']:.2f}{spread} %"


def tagger(name: str) -> list[str]:
    """Name, title, and each F1 with the report's."""
    row = study_rows()[name]
    cells = [f"`{name}`", row["title"]]
    for figure in ("test_micro_f1", "test_macro_f1"):
        report = row["published"]["report"].get(figure)
        cells += [percent(row["metrics"][figure]), "" if report is None else f"{100 * report:.0f} %"]
    return cells


def images() -> str:
    """Test accuracy of each normalization, as the report trains and by today's recipe; what isn't trained stays empty."""
    rows = study_rows()

    def line(name: str) -> list[str]:
        figures = [rows[each]["metrics"].get("test_accuracy") for each in (name, f"modern_{name}")]
        ours, today = ("" if figure is None else percent(figure) for figure in figures)
        published = rows[name]["published"]
        report, peer = (published[source]["test_accuracy"] for source in ("report", "peers"))
        return [f"`{name}`", rows[name]["title"], ours, f"{100 * report:.2f} %", today, f"{100 * peer:.1f} %"]

    head = ["row", "what", "the report's settings", "report", "today's recipe, 20 epochs", "best public figure"]
    return table(head, map(line, IMAGES))


def taggers() -> str:
    return table(["tagger", "what", "micro F1", "report", "macro F1", "report"], map(tagger, TAGGERS))


ALL = headline, study, crf, functions, recurrent, ragged, normalization, steps, devices, paper, prediction, taggers, images
TABLES: dict[str, Callable[[], str]] = {each.__name__: each for each in ALL}


def filled(text: str) -> str:
    """A page with its tables as results/ has them."""
    return PLACE.sub(lambda place: f"{place[1]}\n{TABLES[place[2]]()}\n{place[3]}", text)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
