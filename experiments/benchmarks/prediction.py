"""Times the tagging of sentences beside a PyTorch BiLSTM-CRF and spaCy: tokens a second, first answer, memory, size on disk.

    python -m experiments.benchmarks.prediction --data ner_dataset.csv --output prediction.json

Tokens a second are of all sides in one process, in turn, after :data:`PASSES` of ours: by then its programs are compiled. First
answers and memory are those of a process of each side alone, from its start on. All sides are given tokens and return tags.

``colnorm``   the packaged model, with the posterior of each entity; the first time, and with compiled programs kept on disk
``PyTorch``   the same sizes on ``nn.LSTM`` without layer normalization and on pytorch-crf, tags alone, 64 sentences of like
              length at once
``spaCy``     the component ``ner`` with its own defaults, a convolutional network of the size of spaCy's small pipelines, after
              a few updates: its pipelines themselves come from no package registry. Its accuracy says nothing here
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colnorm import model_file, process
from colnorm.data import conll
from colnorm.data.schemes import entities
from colnorm.files import write_json
from colnorm.tasks import console
from experiments.benchmarks import harness

Sentences = Sequence[Sequence[str]]
TagAll = Callable[[Sentences], Any]

FIRST = ["Mr.", "Annan", "flew", "to", "Geneva", "."]
BATCH = 64
PASSES = 16
"""Over all sentences; shapes that come often get programs of their own meanwhile."""
UPDATES = 30
"""Batches that spaCy's component is trained on, so that it finds as many entities as there are."""


@dataclasses.dataclass(frozen=True)
class Command:
    """What to time."""

    data: str = "sample"
    """sample, GMB's ner_dataset.csv, or a directory of CoNLL files; its test sentences are tagged."""
    sentences: int = 4000
    """How many of them at most."""
    repeats: int = 5
    """Visits to each side."""
    output: Path | None = None
    """Write the measurements here as JSON."""
    side: str | None = None
    """Be the process of one side; its peers are in the folder --files."""
    files: Path | None = None
    """Where the peers' models are."""


def colnorm_side(_: Path) -> TagAll:
    """The packaged model."""
    process.prepare()
    predictor = model_file.load(model_file.packaged()[model_file.DEFAULT])
    return predictor.tag_tokens


def torch_side(files: Path) -> TagAll:
    """The tagger that :func:`make_peers` has stored."""
    import torch

    from experiments.benchmarks.peers.tagger import TorchTagger

    torch.set_num_threads(process.available_cores())
    predictor = model_file.load(model_file.packaged()[model_file.DEFAULT])
    encoder, names = predictor.encoder, predictor.encoder.tags.names
    tagger: Any = TorchTagger(predictor.fields)
    tagger.load_state_dict(torch.load(files / "torch.pt", weights_only=True))

    def tag(sentences: Sentences) -> list[list[str]]:
        found: list[list[str]] = [[] for _ in sentences]
        order = sorted(range(len(sentences)), key=lambda place: -len(sentences[place]))
        for first in range(0, len(order), BATCH):
            places = order[first : first + BATCH]
            words = [sentences[place] for place in places]
            arrays = encoder.encode(words, len(words[0]))
            batch = {name: torch.from_numpy(values.astype(np.int64)) for name, values in arrays.items()}
            with torch.inference_mode():
                for place, tags in zip(places, tagger.decode(batch), strict=True):
                    found[place] = [names[number] for number in tags]
        return found

    return tag


def spacy_side(files: Path) -> TagAll:
    """The pipeline that :func:`make_peers` has stored."""
    import spacy
    from spacy.tokens import Doc

    nlp = spacy.load(files / "spacy")
    return lambda sentences: list(nlp.pipe(Doc(nlp.vocab, words=list(words)) for words in sentences))


SIDES: dict[str, Callable[[Path], TagAll]] = {"colnorm": colnorm_side, "PyTorch": torch_side, "spaCy": spacy_side}


def make_peers(data: conll.TaggingData, files: Path) -> dict[str, int]:
    """Stores the peers' models; returns the bytes of every side's."""
    import spacy
    import torch
    from spacy.tokens import Doc
    from spacy.training import Example, biluo_tags_to_spans, iob_to_biluo
    from spacy.util import minibatch

    from experiments.benchmarks.peers.tagger import TorchTagger

    ours = model_file.packaged()[model_file.DEFAULT]
    torch.manual_seed(0)
    torch.save(TorchTagger(model_file.load(ours).fields).state_dict(), files / "torch.pt")
    nlp = spacy.blank("en")
    nlp.add_pipe("ner")
    examples = []
    for words, tags in data.train[: UPDATES * BATCH]:
        doc = Doc(nlp.vocab, words=list(words))
        gold = doc.copy()
        gold.ents = biluo_tags_to_spans(gold, iob_to_biluo(list(tags)))
        examples.append(Example(doc, gold))
    nlp.initialize(lambda: examples[:BATCH])
    for batch in minibatch(examples, BATCH):
        nlp.update(batch)
    nlp.to_disk(files / "spacy")
    stored = [path.stat().st_size for path in (files / "spacy").rglob("*") if path.is_file()]
    return {"colnorm": ours.stat().st_size, "PyTorch": (files / "torch.pt").stat().st_size, "spaCy": sum(stored)}


def be(side: str, files: Path) -> None:
    """A side's process: says when it has tagged one sentence, then tags all and says how large it was."""
    tag = SIDES[side](files)
    tag([FIRST])
    print("answered", flush=True)
    sentences = json.loads((files / "sentences.json").read_text(encoding="utf-8"))
    began = time.perf_counter()
    tag(sentences)
    print(json.dumps({"all_s": time.perf_counter() - began, "peak_mib": harness.resident_kib("VmHWM") / 1024}), flush=True)


def alone(side: str, files: Path, cache: Path) -> dict[str, float]:
    """Seconds to the first answer and for all sentences after it, and MiB, of a process of one side."""
    command = [sys.executable, "-m", "experiments.benchmarks.prediction", "--side", side, "--files", str(files)]
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "XDG_CACHE_HOME": str(cache)}
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        first = time.perf_counter() - began
        rest = running.stdout.read()
    if running.returncode:
        raise RuntimeError(f"the process of {side} failed")
    return {"first_answer_s": round(first, 2), **{name: round(value, 2) for name, value in json.loads(rest).items()}}


def run(command: Command) -> None:
    """Measures, shows, writes."""
    if command.side is not None:
        be(command.side, command.files or Path())
        return
    harness.check_peers("torch", "torchcrf", "spacy")
    process.prepare()
    data = conll.load(command.data, 0)
    sentences = [list(sentence.words) for sentence in data.test[: command.sentences]]
    count = sum(map(len, sentences))
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        sizes = make_peers(data, files)
        (files / "sentences.json").write_text(json.dumps(sentences), encoding="utf-8")
        processes = {f"{side}, first time": alone(side, files, files / "cache") for side in ("colnorm",)}
        processes |= {side: alone(side, files, files / "cache") for side in SIDES}
        tags = {side: make(files) for side, make in SIDES.items()}
        for _ in range(PASSES):
            tags["colnorm"](sentences)
        calls = {side: lambda tag=tag: tag(sentences) for side, tag in tags.items()}
        timed = harness.measure(calls, repeats=command.repeats, visit_s=0.0, budget_s=60.0)
    rows = {}
    for name, figures in processes.items():
        side = name.partition(",")[0]
        rows[name] = {**figures, "model_mb": round(sizes[side] / 1e6, 2)}
        if name == side:
            rows[name]["tokens_per_second"] = round(count / timed[side]["median_ms"] * 1e3)
    entity_count = sum(len(entities(sentence.tags)) for sentence in data.test[: command.sentences])
    measured: dict[str, Any] = {
        "what": f"{len(sentences):,} sentences, {count:,} tokens, {entity_count:,} entities of {data.name}",
        "machine": harness.machine(),
        "rows": rows,
        "ratios": {side: row["ratio"] for side, row in timed.items()},
    }
    header = ["", "first answer", f"{len(sentences):,} sentences after it", "tokens a second, warm", "peak memory", "model"]
    lines = [
        (
            name,
            f"{row['first_answer_s']:.1f} s",
            f"{row['all_s']:.1f} s",
            f"{row['tokens_per_second']:,}" if "tokens_per_second" in row else "",
            f"{row['peak_mib']:,.0f} MiB",
            f"{row['model_mb']:.1f} MB",
        )
        for name, row in rows.items()
    ]
    console.make_console().print(console.plain_table(measured["what"], header, lines))
    if command.output is not None:
        write_json(command.output, measured)


main = process.command_line(Command, run, "python -m experiments.benchmarks.prediction", __doc__)

if __name__ == "__main__":
    sys.exit(main())
