"""What holds for any benchmark's rows, whatever the clock says."""

import pytest


def check_rows(rows):
    """Medians lie between their quartiles, and every ratio is to the first side's median."""
    assert rows
    for sides in rows.values():
        first, *_ = sides.values()
        for row in sides.values():
            low, high = row["quartiles_ms"]
            assert low <= row["median_ms"] <= high
            assert row["ratio"] == pytest.approx(row["median_ms"] / first["median_ms"], rel=2e-3)
