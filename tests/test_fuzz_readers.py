"""No damaged file takes a reader anywhere but to an error that names it; and no text takes more time than its length asks for.

By default a few hundred files a reader; `pytest -m long tests/test_fuzz_readers.py` tries 10,000 and prints the table.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import fuzz_readers
import pytest

from colnorm.data import text as raw_text

READERS = list(fuzz_readers.readers())
# Signs that begin a token of several characters or a scan that may be in vain, and what separates.
ALPHABET = "an1_+.@'-\n "


def run(count):
    """In a process of its own, which may be given limited memory and die."""
    root = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(root / "tests" / "fuzz_readers.py"), "--json", "--count", str(count)]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return {name: fuzz_readers.Report(**report) for name, report in json.loads(done.stdout).items()}


def check(reports, count):
    assert list(reports) == READERS
    for name, report in reports.items():
        assert not report.failures, name
        assert report.tried == report.read + report.refused == count
        assert report.read and (report.refused or name == "text")  # the damage is neither none nor all there is
        assert report.peak < 64e6  # of files of at most 100 kB


@pytest.mark.slow
def test_damaged_files_are_read_or_refused():
    check(run(200), 200)


@pytest.mark.long
def test_many_damaged_files_are_read_or_refused(capsys):
    reports = run(10_000)
    with capsys.disabled():
        print("\n" + fuzz_readers.table(reports))
    check(reports, 10_000)


def test_damage_is_the_same_for_the_same_seed():
    reader = fuzz_readers.readers()["columns"]
    first = list(fuzz_readers.inputs(reader, 20, 0))
    assert first == list(fuzz_readers.inputs(reader, 20, 0)) != list(fuzz_readers.inputs(reader, 20, 1))
    assert len(set(first)) > 15 and not set(first) <= set(reader.whole)


class Counted:
    """A pattern that adds up the characters that its matches cover, and one for each that it does not find."""

    work = 0

    def __init__(self, pattern):
        self.pattern = pattern

    def match(self, text, *span):
        found = self.pattern.match(text, *span)
        Counted.work += 1 + (len(found.group()) if found else 0)
        return found


@pytest.mark.parametrize(
    "unit", ["_", "+", "-+", "a_", "\n ", "a@", "a@b.", "_@", "(", "''", "n't", "_n't", ".", "1-", "www.", "@www"]
)
def test_every_character_is_scanned_a_few_times(monkeypatch, unit):
    """Where every place scans the rest of its run, these 20,000 characters are scanned 200 million times."""
    for name in ("_TOKEN", "_MAIL", "_WORD_RUN", "_NEGATION"):
        monkeypatch.setattr(raw_text, name, Counted(getattr(raw_text, name)))
    monkeypatch.setattr(Counted, "work", 0)
    text = "@" + (unit * 20_000)[:20_000]
    raw_text.sentences(text)
    assert Counted.work <= 6 * len(text)


@pytest.mark.long
def test_the_time_of_repeated_units_grows_with_their_number(capsys):
    """Each unit to 100 kB; the slowest to four times as much, for which a quadratic scan needs sixteen times as long."""
    took = sorted((fuzz_readers.seconds_of((unit * 100_000)[:100_000]), unit) for unit in fuzz_readers.units(ALPHABET, 3))
    slowest = [(unit, seconds, fuzz_readers.seconds_of((unit * 400_000)[:400_000])) for seconds, unit in took[-10:]]
    with capsys.disabled():
        print("".join(f"\n{unit!r:12} 100 kB {one:.2f} s, 400 kB {four:.2f} s" for unit, one, four in slowest))
    assert took[-1][0] < 5
    assert all(four < 10 * one for _, one, four in slowest)
