"""Damaged files for every reader of foreign input, made by a seed, and what reading them took.

    python tests/fuzz_readers.py --count 10000

A reader may read a damaged file or refuse it with a ValueError that names it; anything else is a failure. The process may
take no more memory than it has after its imports and `_MEMORY` more, and dies where one file takes longer than `_SECONDS`.
"""

import argparse
import faulthandler
import itertools
import json
import pickle
import random
import re
import resource
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from test_images import make_batches, planes, python2_pickle, write_binary, write_python

from colnorm.data.conll import read_columns, read_gmb
from colnorm.data.encoding import Encoder
from colnorm.data.glove import read_vectors, read_words
from colnorm.data.images import load_cifar10
from colnorm.data.text import sentences, tokenize
from colnorm.data.vocabulary import Vocabulary

_MEMORY = 2**30
_SECONDS = 120
_LARGEST = 100_000  # bytes of a damaged file
_ENDS = 300  # the bytes at either end that half of all damage is done to: the middle of an image is but pixels


class Reader(NamedTuple):
    """`read` takes the file called `file`, in a directory that `prepare` makes ready; undamaged it holds one of `whole`."""

    whole: list[bytes]
    file: str
    read: Callable[[Path], Any]
    prepare: Callable[[Path], Any] = lambda directory: None
    names_file: bool = True


class Report(NamedTuple):
    """Of one reader: how many files were `tried`, and of these `read` and `refused`; of the slowest one the seconds of
    processor time (memory being traced), the size and the number; of all the most bytes allocated while one was read.

    `failures` has the number of a file and the error that is not one of those documented.
    """

    tried: int
    read: int
    refused: int
    seconds: float
    slowest: int
    slowest_bytes: int
    peak: int
    failures: list[str]


# ------------------------------------------------------------------------------------------------------------ the readers

_COLUMNS = [
    b"-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\nGerman JJ I-NP I-MISC\n\nPeter NNP I-NP B-PER\n",
    "\ufeff# text = one\r\nAnna\tB-per\r\n10 000\tO\t\r\n\r\n# NN\r\n#oslo\tS-geo\r\nZürich\tE-geo\r\n".encode(),
    b"a O\nb B-x\nc L-x\n\nd U-y-z\n",
]
_GMB = [
    b"Sentence #,Word,POS,Tag\r\nSentence: 1,Thousands,NNS,O\r\n,London,NNP,B-geo\r\n,\x93,``,O\r\nSentence: 2,a,DT,O\r\n",
    b'\xef\xbb\xbfTag,Word,Sentence #\nO,"a,""b""",Sentence: 1\n\nI-x,b,\nB-x,\xc3\xa9,Sentence: 20\n',
]
_VECTORS = [
    b"the 1 2 -3e-1\nlondon 4 5 6\nother 0 0 0\nOslo 7 8 9.5\n. . . 1 2 3\n<unk> 1e-3 .5 0\n",
    b"3 2\r\nthe 0.418 0.24968 \r\nOslo -0.41242 0.1217 \r\n\xc3\xa9 1 1 \r\n",
]
_TEXTS = [
    b"Mr. Smith didn't go to the U.S. in 2004. \"It can't be won!\" He said: www.x.org/a_b. Why?\n\nMail a.b-c@d.e.org ...\n",
    "Zürich\u2019s 16-year-old O'Brien, AT&T \u2014 don\u2019t! 1,000.50 -- 5%\n \n``quoted'' \u5317\u4eac\u3002".encode(),
]
_ENCODER = Encoder.build([("The", "the", "cat"), ("1999", "\u00e9")], ("O", "B-x", "I-x"), shapes=True)


def _pickles() -> list[bytes]:
    images, labels = make_batches(per_batch=2)["data_batch_3"]
    stored = planes(images)
    contents = [python2_pickle(images, labels)]
    for protocol in (0, 2, 4, 5):
        contents.append(pickle.dumps({b"data": stored, "labels": labels, "names": [("a", 1)] * 3}, protocol))
        contents.append(pickle.dumps({"data": np.asarray(stored, order="F"), b"labels": np.array(labels, ">i4")}, protocol))
    return contents


def _binary() -> list[bytes]:
    images, labels = make_batches(per_batch=2)["data_batch_3"]
    return [b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, planes(images), strict=True))]


def _read_cifar(path: Path) -> None:
    data = load_cifar10(path.parent)
    assert all(split.images.shape[1:] == (32, 32, 3) for split in data.splits.values())


def _read_vectors(path: Path) -> None:
    vocabulary = Vocabulary(["the", "Oslo", "London", ". . ."], [4, 3, 2, 1])
    try:
        read_words(path)
    finally:
        vectors = read_vectors(path, vocabulary)
        assert np.all(np.isfinite(vectors.matrix)) and len(vectors.matrix) == len(vocabulary)


def _read_encoder(path: Path) -> None:
    try:
        stored = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    encoder = Encoder.from_json(stored)
    assert Encoder.from_json(encoder.to_json()) == encoder
    encoder.encode([["the", "Oslo"]], 2)


def _read_text(path: Path) -> None:
    text = path.read_bytes().decode(errors="surrogateescape")
    tokens = tokenize(text)
    assert "".join(token.word for token in tokens) == "".join(text.split())
    assert [token for sentence in sentences(text) for token in sentence] == tokens


def readers() -> dict[str, Reader]:
    batches = make_batches(per_batch=2)
    return {
        "cifar binary": Reader(
            _binary(), "x/data_batch_3.bin", _read_cifar, lambda directory: write_binary(directory / "x", batches)
        ),
        "cifar python": Reader(
            _pickles(), "x/data_batch_3", _read_cifar, lambda directory: write_python(directory / "x", batches)
        ),
        "columns": Reader(_COLUMNS, "train", read_columns),
        "gmb": Reader(_GMB, "gmb.csv", read_gmb),
        "vectors": Reader(_VECTORS, "vectors.txt", _read_vectors),
        "encoder": Reader([json.dumps(_ENCODER.to_json()).encode()], "encoder.json", _read_encoder, names_file=False),
        "text": Reader(_TEXTS, "text.txt", _read_text, names_file=False),
    }


# ------------------------------------------------------------------------------------------------------------- the damage

_BYTES = [b"\0", b"\n", b"\r", b"\t", b" ", b'"', b",", b"\\", b"_", b"@", b"'", b".", b"-", b"#", b"\x85", b"\xa0", b"\xff"]
_BYTES += [b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\xf4\x8f\xbf\xbf", b"\n\n", b"n't", b"www.", b"[" * 50]
_BYTES += [
    b"(",
    b"2",
    b"\x85",
    b"\x86",
    b"q\0h\0",
    b"\x94",
    b"e",
    b"u",
    b"}",
    b"]",
    b"R",
    b"b",
    b"\x93",
    b"\x95",
    b"\x8e",
    b"\x8b",
]
_TOKENS = [b"-1", b"0", b"1e400", b"NaN", b"Infinity", b"9" * 30, b"9" * 5000, b"0.5", b"null", b"true", b'"x"', b"[]", b"{}"]
_TOKENS += [b"4294967295", b"9223372036854775808", b"B-", b"Q-x", b"O", b'""', b"\xc3\xa9"]
_COUNTS = [
    b"\xff",
    b"\x7f",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\0",
    b"\0\0\0\x80",
    b"\xff" * 8,
    b"\xff" * 7 + b"\0",
]
_WORD = re.compile(rb'"[^"]*"|[\w.+-]+')


def damage(whole: list[bytes], rng: random.Random) -> bytes:
    """One of `whole`, changed in one to four places."""
    content = rng.choice(whole)
    for _ in range(rng.choice([1, 1, 2, 4])):
        change = rng.choice([_flip, _set, _delete, _double, _repeat, _splice, _cut, _insert, _replace, _count])
        content = change(content, rng, whole)[:_LARGEST]
    return content


def _place(content: bytes, rng: random.Random) -> int:
    place = rng.randrange(len(content) + 1)
    if rng.random() < 0.5:
        place = rng.randrange(min(_ENDS, len(content)) + 1)
        place = rng.choice([place, len(content) - place])
    return place


def _part(content: bytes, rng: random.Random, longest: int = 40) -> tuple[int, int]:
    first = _place(content, rng)
    return first, min(len(content), first + rng.randint(1, longest))


def _flip(content: bytes, rng: random.Random, whole: list[bytes]) -> bytes:
    first, last = _part(content, rng, 1)
    return content[:first] + bytes(byte ^ 1 << rng.randrange(8) for byte in content[first:last]) + content[last:]


def _set(content: bytes, rng: random.Random, whole: list[bytes]) -> bytes:
    first, last = _part(content, rng, 1)
    return content[:first] + bytes([rng.randrange(256)]) + content[last:]


def _delete(content: bytes, rng: random.Random, whole: list[bytes]) -> bytes:
    first, last = _part(content, rng)
    return content[:first] + content[last:]


def _double(content: bytes, rng: random.Random, whole: list[bytes]) -> bytes:
    first, last = _part(content, rng)
    at = rng.choice([last, _place(content, rng)])
    return content[:at] + content[first:last] + content[at:]


def _repeat(content: bytes, rng: random.Random, whole: list[bytes]) -> bytes:
    first, last = _part(content, rng, rng.choice([1, 3, 12, 40]))
    return content[:first] + content[first:last] * rng.choice([2, 10, 200, 2000]) + content[last:]


def _splice(content: bytes, rng: random.Random, whole: list[bytes]) -> bytes:
    other = rng.choice(whole)
    return content[: _place(content, rng)] + other[_place(other, rng) :]


def _cut(content: bytes, rng: random.Random, whole: list[bytes]) -> bytes:
    return content[: _place(content, rng)]


def _insert(content: bytes, rng: random.Random, whole: list[bytes]) -> bytes:
    at = _place(content, rng)
    return content[:at] + rng.choice(_BYTES) * rng.choice([1, 1, 1, 2, 100]) + content[at:]


def _replace(content: bytes, rng: random.Random, whole: list[bytes]) -> bytes:
    found = _WORD.search(content, _place(content, rng))
    return content if found is None else content[: found.start()] + rng.choice(_TOKENS) + content[found.end() :]


def _count(content: bytes, rng: random.Random, whole: list[bytes]) -> bytes:
    at, count = _place(content, rng), rng.choice(_COUNTS)
    return content[:at] + count + content[at + len(count) :]


# --------------------------------------------------------------------------------------------------------------- the runs


def inputs(reader: Reader, count: int, seed: int) -> Iterator[bytes]:
    """`count` damaged files; number n depends on n and the seed alone, so that a failure can be made again."""
    for number in range(count):
        yield damage(reader.whole, random.Random(f"{seed} {number}"))


def run(reader: Reader, contents: Iterable[bytes]) -> Report:
    """Reads each of `contents`."""
    tried = read = refused = slowest = slowest_bytes = peak = 0
    seconds = 0.0
    failures = []
    with tempfile.TemporaryDirectory() as directory:
        reader.prepare(Path(directory))
        path = Path(directory) / reader.file
        for content in reader.whole:
            path.write_bytes(content)
            reader.read(path)
        tracemalloc.start()
        for number, content in enumerate(contents):
            path.write_bytes(content)
            faulthandler.dump_traceback_later(_SECONDS, exit=True)
            tracemalloc.reset_peak()
            before, started = tracemalloc.get_traced_memory()[0], time.process_time()
            try:
                reader.read(path)
                read += 1
            except Exception as error:
                refused += 1
                if not isinstance(error, ValueError) or isinstance(error, UnicodeError):
                    failures.append(f"{number}: {type(error).__name__}: {error}")
                elif reader.names_file and not str(error).startswith(directory):
                    failures.append(f"{number}: an error that does not name the file: {error}")
            took = time.process_time() - started
            peak = max(peak, tracemalloc.get_traced_memory()[1] - before)
            if took > seconds:
                seconds, slowest, slowest_bytes = took, number, len(content)
            tried += 1
        faulthandler.cancel_dump_traceback_later()
        tracemalloc.stop()
    return Report(tried, read, refused, seconds, slowest, slowest_bytes, peak, failures[:10])


def units(alphabet: str, longest: int) -> list[str]:
    """All texts of 1 to `longest` characters of `alphabet`."""
    return ["".join(unit) for length in range(1, longest + 1) for unit in itertools.product(alphabet, repeat=length)]


def seconds_of(text: str) -> float:
    """The processor time that the sentences of `text` take."""
    started = time.process_time()
    sentences(text)
    return time.process_time() - started


def table(reports: dict[str, Report]) -> str:
    lines = [
        f"{'reader':14}{'tried':>8}{'read':>8}{'refused':>9}{'slowest':>11}{'of bytes':>10}{'number':>8}{'peak memory':>13}"
    ]
    for name, report in reports.items():
        took, most = f"{report.seconds * 1000:.0f} ms", f"{report.peak / 1e6:.1f} MB"
        counts = f"{name:14}{report.tried:8}{report.read:8}{report.refused:9}"
        lines.append(f"{counts}{took:>11}{report.slowest_bytes:10}{report.slowest:8}{most:>13}")
        lines += [f"    failure {failure[:300]}" for failure in report.failures]
    return "\n".join(lines)


def _limit_memory() -> None:
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere the traced peak has to do
        limit = int(statm.read_text().split()[0]) * resource.getpagesize() + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the reports as JSON instead of a table")
    arguments = parser.parse_args()
    everything = readers()
    _limit_memory()
    reports = {name: run(reader, inputs(reader, arguments.count, arguments.seed)) for name, reader in everything.items()}
    print(json.dumps({name: report._asdict() for name, report in reports.items()}) if arguments.json else table(reports))
    sys.exit(any(report.failures for report in reports.values()))


if __name__ == "__main__":
    main()
