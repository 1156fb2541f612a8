"""Where the study's figures and the report's differ, and why, in words: once, for both forms of the page."""

from collections.abc import Mapping
from typing import Any

FULL_COVERAGE = 0.95  # of training tokens; below it vectors are an excerpt, or of another language


def differences(results: Mapping[str, Any]) -> list[str]:
    """The sentences that hold for what :func:`experiments.gather.gather` returned: of the report, or computed from it."""
    scales = results["scales"]
    texts = []
    if "demo" in scales:
        texts.append("At this scale the data are others, so that no figure can be compared with the report's.")
    if "reduced" in scales:
        texts.append(
            "At the reduced scale training ends after few epochs, before the learning rate drops where it was to, and before "
            "most rows have stopped improving: figures below the report's say little against it."
        )
    coverages = [seed["vectors"] for row in results["rows"] for seed in row["seeds"] if seed["vectors"]]
    shares = [(of["exact_tokens"] + of["lowercased_tokens"]) / max(of["tokens"], 1) for of in coverages]
    if shares and min(shares) < FULL_COVERAGE and "demo" not in scales:
        of = coverages[shares.index(min(shares))]
        texts.append(
            f"The file of GloVe vectors used here has {of['exact'] + of['lowercased']:,} of the {of['entries']:,} words, which "
            f"are {min(shares):.1%} of the training tokens: an excerpt. Words without a vector begin as small random ones: "
            "with the whole file the rows with GloVe would be others, and likely better."
        )
    tasks = {row["task"] for row in results["rows"]}
    if "images" in tasks:
        texts += [
            "The report's micro F1 on test images lies 6 to 11 points above its accuracy. With one label an image, every false "
            "positive is a false negative of another class, so that the two are the same number; ours are.",
            "Its group normalization is said to stop at epoch 20, after which its learning rate was to drop.",
        ]
    if "tagging" in tasks:
        counted = {seed["supports"] for row in results["rows"] for seed in row["seeds"] if row["task"] == "tagging"}
        if counted and "demo" not in scales:
            here = " or ".join(f"{count:,}" for count in sorted(counted))
            texts.append(f"The report's data have 144,919 entities, these {here}; and who splits otherwise tests otherwise.")
        texts += [
            "Its char (weighted F1 0.67) is below its glove (0.74), though it contains it; its CRF was stopped after 5 epochs "
            "and doesn't say what lies under it, here the tagger of 2.1.3; its layer_norm has 0.75 in one table and 0.76 in "
            "another.",
        ]
    texts.append(
        "Unstated there and ours: patience, LSTM and character sizes, dropout, what the loss is averaged over. "
        "experiments/presets.py marks every such choice."
    )
    if "tagging" in tasks:
        texts.append("But for the five of its CRF it doesn't say how many epochs its taggers were trained.")
    return texts
