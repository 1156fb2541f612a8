"""Figures that others published for the rows of this study, to stand beside ours; fractions, on their test data."""

# F1 of entities (micro, macro) in the report's tables 2.1.1 to 2.2; None where its table can't be read.
REPORT_NER: dict[str, tuple[float | None, float | None]] = {
    "random": (0.66, 0.41),
    "glove": (None, None),
    "char": (0.68, 0.42),
    "layer_norm": (0.75, 0.48),
    "crf": (0.69, 0.44),
}

# The best of two other public implementations of the same study, trained with Adam: micro 0.850 and macro 0.685, both of the
# CRF (github.com/shobhit55/COL870_1).
PUBLIC_NER = (0.850, 0.685)
