"""A few minutes on two cores: ResNet-8 under six normalizations on real handwritten digits, then a tagger on sentences.

make demo        or        python -m experiments.demo
"""

import dataclasses
import sys
import time
from pathlib import Path

from colnorm.cli import tag
from colnorm.tasks import console
from colnorm.tasks.train import train
from experiments import compare, evaluate
from experiments.presets import PRESETS
from experiments.task import TASKS

RUNS = Path("runs") / "demo"
VARIANTS = ("nn", "bn", "in", "bin", "ln", "gn")
TEXT = (
    "President Ingrid Halvez arrived in Dorvistan on Monday for talks with Senator Amal Jordan. "
    "Police in Washington said 12 Lumonian students were wounded near Tolmov Corp. in May. "
    "Hurricane Washington may still reach Port Halgrad!"
)


def main() -> int:
    """Trains and evaluates everything: tables, pictures, tagged sentences, and where it all is."""
    began = time.perf_counter()
    screen = console.make_console()
    images = train_images()
    tagger = train_tagger()
    runs = ", ".join(map(str, [*images, tagger]))
    screen.print(f"run directories, each with curves.png and evaluation.json: {runs}", soft_wrap=True)
    screen.print(
        f"done in {time.perf_counter() - began:.0f} s; next: python -m experiments.train --help, "
        f"colnorm tag --model {tagger} 'Your text.'",
        soft_wrap=True,
    )
    return 0


def train_images() -> list[Path]:
    """Six normalizations of a small ResNet, compared; returns the run directories."""
    runs = []
    for variant in VARIANTS:
        # The modern recipe without mirrored images: a mirrored 2 is no digit.
        config = dataclasses.replace(
            PRESETS[f"modern_{variant}"].config, data="digits", n=1, epochs=6, warmup_epochs=1, batch_size=32, flip=False
        )
        runs.append(train(TASKS["images"], config, RUNS / variant, overwrite=True))
        evaluate.evaluate(evaluate.Command(runs[-1]), quiet=True)
    title = "ResNet-8 on 1,797 handwritten digits, the best validation epoch of each"
    compare.compare(compare.Command(tuple(runs), RUNS, title))
    return runs


def train_tagger() -> Path:
    """A BiLSTM-CRF with characters on the sample grammar, evaluated and tried on three sentences; returns its directory."""
    config = dataclasses.replace(
        PRESETS["best"].config,
        hidden=64,
        layer_norm=None,
        buckets=2,
        epochs=5,
        batch_size=64,
        learning_rate=5e-3,
        average_decay=0.99,
    )
    run = train(TASKS["tagging"], config, RUNS / "tagger", overwrite=True)
    evaluate.evaluate(evaluate.Command(run))
    tag.run(tag.Command((TEXT,), model=str(run)))
    tag.run(tag.Command((TEXT,), model=str(run), format="html", output=run / "tagged.html"))
    return run


if __name__ == "__main__":
    sys.exit(main())
