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
    """Trains and evaluates each variant, then compares them: a table, pictures, and where everything is."""
    from experiments import compare_cifar, evaluate_cifar, report
    from experiments.train_cifar import train

    began = time.perf_counter()
    runs = []
    for variant in VARIANTS:
        # The modern recipe without mirrored images: a mirrored 2 is no digit.
        config = dataclasses.replace(
            CIFAR_PRESETS[f"modern_{variant}"][1], data="digits", n=1, epochs=6, warmup_epochs=1, batch_size=32, flip=False
        )
        runs.append(train(config, RUNS / variant, overwrite=True))
        evaluate_cifar.evaluate(evaluate_cifar.Command(runs[-1]), quiet=True)
    title = "ResNet-8 on 1,797 handwritten digits, the best validation epoch of each"
    compare_cifar.compare(compare_cifar.Command(tuple(runs), RUNS, title))
    console = report.make_console()
    console.print(f"run directories, each with curves.png and confusion.png: {', '.join(map(str, runs))}", soft_wrap=True)
    console.print(
        f"done in {time.perf_counter() - began:.0f} s; next: python -m experiments.train_cifar --help", soft_wrap=True
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
