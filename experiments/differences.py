"""Where the study's figures and the report's differ, and why, in words: once, for both forms of the page."""

from collections.abc import Collection

from experiments.study import Scale

_DIFFERENCES: tuple[tuple[Scale | None, str], ...] = (
    ("demo", "At this scale the data are others, so that no figure can be compared with the report's."),
    (
        "reduced",
        "At the reduced scale training ends after few epochs, before the learning rate drops where it was to, and before most "
        "rows have stopped improving: figures below the report's say little against it.",
    ),
    (
        None,
        "The report's micro F1 on test images lies 6 to 11 points above its accuracy. With one label an image, every false "
        "positive is a false negative of another class, so that the two are the same number; ours are.",
    ),
    (
        None,
        "Its group normalization stops at epoch 20, after which its learning rate was to drop: that drop was never seen.",
    ),
    (
        None,
        "At its learning rate of 1, bn, in and bin fall to the accuracy of chance within twenty steps here and come back "
        "later, bn in its fourth epoch in one run, after the fifth in another; what initialization the report's used "
        "isn't said.",
    ),
    (
        None,
        "Its entities are 144,919, those of the public release of GMB here 111,891 after repeated sentences are dropped, and "
        "who splits otherwise tests otherwise.",
    ),
    (
        None,
        "Its char (weighted F1 0.67) is below its glove (0.74), though it contains it; its CRF was stopped after 5 epochs and "
        "doesn't say what lies under it, here the tagger of 2.1.3; its layer_norm has 0.75 in one table and 0.76 in another.",
    ),
    (
        None,
        "Unstated there and ours: patience, LSTM and character sizes, dropout, what the loss is averaged over. "
        "experiments/configs.py marks every such choice.",
    ),
)


def differences(scales: Collection[str]) -> list[str]:
    """The sentences that hold for a page with rows of these scales."""
    return [text for scale, text in _DIFFERENCES if scale is None or scale in scales]
