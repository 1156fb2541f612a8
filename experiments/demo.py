"""A few minutes on two cores: ResNet-8 under six normalizations on real handwritten digits, with curves and evaluation.

make demo        or        python -m experiments.demo
"""

import dataclasses
import sys
import time
from pathlib import Path

from experiments.configs import CIFAR_PRESETS

RUNS = Path("runs") / "demo"
VARIANTS = ("nn", "bn", "in", "bin", "ln", "gn")


def main() -> int:
    """Trains, evaluates and draws; prints a table and where everything is."""
    from colnorm.checkpoint import RunDirectory
    from experiments import cifar, plotting, report
    from experiments.evaluate_cifar import Command, evaluate
    from experiments.train_cifar import train

    began = time.perf_counter()
    console = report.make_console()
    histories, rows = {}, []
    for variant in VARIANTS:
        # The modern recipe without mirrored images: a mirrored 2 is no digit.
        config = dataclasses.replace(
            CIFAR_PRESETS[f"modern_{variant}"][1], data="digits", n=1, epochs=6, warmup_epochs=1, batch_size=32, flip=False
        )
        run = train(config, RUNS / variant, overwrite=True)
        histories[variant] = RunDirectory.open(run).history()
        test = evaluate(Command(run), quiet=True)["splits"]["test"]
        seconds = sum(record["seconds"] for record in histories[variant])
        rows.append((variant, f"{test['accuracy']:.2%}", f"{test['macro_f1']:.2%}", f"{seconds:.1f} s", str(run)))
    pictures = [
        plotting.draw_comparison(histories, RUNS / "curves.png", "ResNet-8 on 1,797 handwritten digits"),
        plotting.draw_quantiles(histories, cifar.PERCENTILES, RUNS / "feature_percentiles.png"),
    ]
    header = ("normalization", "test accuracy", "test macro F1", "training", "run directory")
    console.print(report.plain_table("Digits: best validation epoch of each, evaluated on test", header, rows))
    console.print(f"pictures: {', '.join(map(str, pictures))}, and curves.png, confusion.png in each run", soft_wrap=True)
    console.print(
        f"done in {time.perf_counter() - began:.0f} s; next: python -m experiments.train_cifar --help", soft_wrap=True
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
