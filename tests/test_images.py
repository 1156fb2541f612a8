"""Oracles: CIFAR files written record by record, `np.pad` for the crops, float64 NumPy for the statistics."""

import collections
import os
import pickle
import struct
import sys
import tracemalloc
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colnorm.data import pickles
from colnorm.data.images import (
    augment,
    cut_out,
    load,
    load_cifar10,
    load_digits,
    mirrored_halves,
    random_crop,
    random_flip,
    scaled_down,
    standardize,
)

BATCHES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]


# ---------------------------------------------------------------------------------------------------------------- files


def make_batches(per_batch=6, test=4, seed=0):
    """{name: (images (n, 32, 32, 3), labels list)} of random pixels."""
    rng = np.random.default_rng(seed)
    sizes = [per_batch] * 5 + [test]
    return {
        name: (rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, size).tolist())
        for name, size in zip(BATCHES, sizes, strict=True)
    }


def write_binary(directory, batches):
    directory.mkdir(parents=True)
    for name, (images, labels) in batches.items():
        with open(directory / f"{name}.bin", "wb") as file:
            for image, label in zip(images, labels, strict=True):
                file.write(bytes([label]))
                for channel in range(3):
                    for row in range(32):
                        file.write(bytes(image[row, :, channel].tolist()))


def planes(images):
    return np.array([np.concatenate([image[:, :, c].ravel() for c in range(3)]) for image in images], np.uint8)


def write_python(directory, batches, protocol=2, key=str.encode):
    directory.mkdir(parents=True)
    for name, (images, labels) in batches.items():
        record = {key("data"): planes(images), key("labels"): labels, key("batch_label"): b"a batch"}
        (directory / name).write_bytes(pickle.dumps(record, protocol))
    (directory / "batches.meta").write_bytes(pickle.dumps({key("num_vis"): 3072}, protocol))


def python2_pickle(images, labels):
    """What Python 2 and the NumPy of 2009 wrote: opcodes by hand, as Python 3 has none that write `str` as bytes."""

    def string(text):
        return b"T" + struct.pack("<i", len(text)) + text

    def integer(value):
        return b"J" + struct.pack("<i", value)

    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + integer(0) + b"\x85" + string(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + string(b"u1") + integer(0) + integer(1) + b"\x87R"
    dtype += b"(" + integer(3) + string(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    shape = integer(len(images)) + integer(3072) + b"\x86"
    array = empty + b"(" + integer(1) + shape + dtype + b"\x89" + string(planes(images).tobytes()) + b"tb"
    label_list = b"](" + b"".join(integer(label) for label in labels) + b"e"
    return b"\x80\x02}(" + string(b"data") + array + string(b"labels") + label_list + b"u."


def expected_splits(batches, seed):
    images = np.concatenate([batches[name][0] for name in BATCHES[:5]])
    labels = np.concatenate([batches[name][1] for name in BATCHES[:5]])
    order = np.random.default_rng(seed).permutation(len(labels))
    kept = len(labels) * 4 // 5
    return {
        "train": (images[order[:kept]], labels[order[:kept]]),
        "validation": (images[order[kept:]], labels[order[kept:]]),
        "test": (batches["test_batch"][0], np.array(batches["test_batch"][1])),
    }


def assert_splits(data, expected):
    assert set(data.splits) == set(expected)
    for name, (images, labels) in expected.items():
        split = data.splits[name]
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)


WRITERS = {
    "binary": ("cifar-10-batches-bin", write_binary),
    "python": ("cifar-10-batches-py", write_python),
}


@pytest.mark.parametrize("given", ["own", "parent", "renamed", "text"])
@pytest.mark.parametrize("form", WRITERS)
def test_cifar_from_its_own_directory_or_the_one_above(tmp_path, form, given):
    folder, write = WRITERS[form]
    batches = make_batches()
    directory = tmp_path / ("other" if given == "renamed" else folder)
    write(directory, batches)
    data_dir = {"own": directory, "parent": tmp_path, "renamed": directory, "text": str(directory)}[given]
    data = load("cifar10", data_dir, seed=3)
    assert_splits(data, expected_splits(batches, seed=3))
    assert data.name == "cifar10"
    assert data.num_classes == 10 and data.class_names[0] == "airplane" and data.class_names[9] == "truck"
    assert [len(split.labels) for split in data.splits.values()] == [24, 6, 4]
    assert all(split.images.flags.c_contiguous and split.images.flags.writeable for split in data.splits.values())


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("key", [str, str.encode])
def test_every_pickle_protocol_and_either_kind_of_key(tmp_path, protocol, key):
    batches = make_batches(per_batch=2)
    write_python(tmp_path / "py", batches, protocol, key)
    assert_splits(load_cifar10(tmp_path / "py"), expected_splits(batches, seed=0))


def in_quotes(raw):
    """The string opcode of protocol 0."""
    return b"S" + repr(raw).removeprefix("b").encode() + b"\n"


@pytest.mark.parametrize("quoted", [False, True])
def test_pickles_of_python_2(tmp_path, quoted):
    batches = make_batches()
    for name, (images, labels) in batches.items():
        content = python2_pickle(images, labels)
        if quoted:
            raw = planes(images).tobytes()
            content = content.replace(b"T" + struct.pack("<i", len(raw)) + raw, in_quotes(raw))
            content = content.replace(b"T\x04\x00\x00\x00data", in_quotes(b"data"))
            assert b"S'data'" in content and len(content) > 2 * len(raw)
        (tmp_path / name).write_bytes(content)
    assert_splits(load_cifar10(tmp_path), expected_splits(batches, seed=0))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_in_either_order_and_labels_of_numpy(tmp_path, order, protocol):
    batches = make_batches()
    for index, (name, (images, labels)) in enumerate(batches.items()):
        kinds = [np.array(labels), np.array(labels, ">i4"), [np.int64(label) for label in labels]]
        record = {"data": np.asarray(planes(images), order=order), "labels": kinds[index % 3]}
        (tmp_path / name).write_bytes(pickle.dumps(record, protocol))
    assert_splits(load_cifar10(tmp_path), expected_splits(batches, seed=0))


def test_the_binary_form_is_preferred(tmp_path):
    binary, python = make_batches(seed=1), make_batches(seed=2)
    write_python(tmp_path / "cifar-10-batches-py", python)
    write_binary(tmp_path / "cifar-10-batches-bin", binary)
    assert_splits(load_cifar10(tmp_path), expected_splits(binary, seed=0))
    assert_splits(load_cifar10(tmp_path / "cifar-10-batches-py"), expected_splits(python, seed=0))


def test_splits_depend_on_the_seed_alone_and_share_nothing(tmp_path):
    batches = make_batches(per_batch=20)
    write_binary(tmp_path / "bin", batches)
    first, again, other = (
        load_cifar10(tmp_path / "bin", 5),
        load_cifar10(tmp_path / "bin", 5),
        load_cifar10(tmp_path / "bin", 6),
    )
    assert_splits(again, {name: tuple(split) for name, split in first.splits.items()})
    assert not np.array_equal(first.validation.images, other.validation.images)
    np.testing.assert_array_equal(first.test.images, other.test.images)
    train, validation = ({image.tobytes() for image in split.images} for split in (first.train, first.validation))
    assert not train & validation
    assert train | validation == {image.tobytes() for name in BATCHES[:5] for image in batches[name][0]}


def test_statistics_are_those_of_the_training_split(tmp_path):
    write_binary(tmp_path / "bin", make_batches())
    data = load_cifar10(tmp_path / "bin")
    scaled = data.train.images.astype(np.float64) / 255
    assert data.mean.dtype == data.std.dtype == np.float32
    np.testing.assert_allclose(data.mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-7)
    np.testing.assert_allclose(data.std, scaled.std(axis=(0, 1, 2)), rtol=1e-7)


# ------------------------------------------------------------------------------------------------------ malformed files


def test_no_such_directory_and_nothing_in_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_cifar10(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-bin.*data_batch_1.*test_batch"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("form", WRITERS)
def test_every_missing_file_is_named(tmp_path, form):
    folder, write = WRITERS[form]
    write(tmp_path / folder, make_batches())
    suffix = ".bin" if form == "binary" else ""
    for name in ("data_batch_2", "test_batch"):
        (tmp_path / folder / f"{name}{suffix}").unlink()
    with pytest.raises(FileNotFoundError, match=f"{folder}.*missing: data_batch_2{suffix}, test_batch{suffix}$"):
        load_cifar10(tmp_path)


BINARY_DAMAGE = [
    (lambda raw: raw[:-1], "expected .*3073.*got 18437"),
    (lambda raw: raw + b"\0", "expected .*3073.*got 18439"),
    (lambda raw: b"", "expected .*3073.*got 0"),
    (lambda raw: raw[: 5 * 3073], "expected 6 records.*got 5"),
    (lambda raw: raw[:3073] + b"\x0a" + raw[3074:], "expected integer labels from 0 to 9, got 10 at record 1"),
]


@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_3"])
@pytest.mark.parametrize(("change", "message"), BINARY_DAMAGE)
def test_malformed_binary_files(tmp_path, name, change, message):
    write_binary(tmp_path / "bin", make_batches())
    path = tmp_path / "bin" / f"{name}.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{name}.bin: {message}"):
        load_cifar10(tmp_path / "bin")


def damaged(**change):
    record = {"data": np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072), "labels": [3, 4]} | change
    return pickle.dumps({key: value for key, value in record.items() if value is not None}, 2)


SELF = []
SELF.append(SELF)
PYTHON_DAMAGE = [
    (b"", "one that ends at byte 0, 1 bytes being due"),
    (b"not a pickle", "the opcode b'n' at byte 0"),
    (damaged()[:-1], "one that ends at byte"),
    (damaged()[:3000], "one that ends at byte 3000"),
    (pickle.dumps([1, 2]), "expected a dict.*got list"),
    (damaged(data=None), "expected data.*got NoneType"),
    (damaged(labels=None), "expected labels.*got NoneType"),
    (damaged(data=b"12"), "expected data.*got bytes"),
    (damaged(data=[[0] * 3072] * 2), "expected data.*got list"),
    (damaged(data=np.zeros((2, 3072), np.int8)), r"expected data.*uint8.*got int8 \(2, 3072\)"),
    (damaged(data=np.zeros((2, 3071), np.uint8)), r"expected data.*got uint8 \(2, 3071\)"),
    (damaged(data=np.zeros((2, 3, 1024), np.uint8)), r"expected data.*got uint8 \(2, 3, 1024\)"),
    (damaged(data=np.zeros(3072, np.uint8)), r"expected data.*got uint8 \(3072,\)"),
    (damaged(labels=[1]), "expected a label for each of 2 images, got 1"),
    (damaged(labels=[1, 2, 3]), "expected a label for each of 2 images, got 3"),
    (damaged(labels=[1, 10]), "from 0 to 9, got 10 at record 1"),
    (damaged(labels=[-1, 1]), "from 0 to 9, got -1 at record 0"),
    (damaged(labels=[1, "2"]), "integer labels.*got '2' at record 1"),
    (damaged(labels=[1, [2]]), r"integer labels.*got \[2\] at record 1"),
    (damaged(labels=[1, 2.0]), "a value of type float"),
    (damaged(labels=[1, True]), "a value of type bool"),
    (damaged(labels=np.array([1.0, 2.0])), "integer labels.*got 1.0 at record 0"),
    (damaged(labels=np.array([False, True])), "integer labels.*got False at record 0"),
    (damaged(labels=np.zeros(3, np.uint8)), r"expected a label for each of 2 images, got an array \(3,\)"),
    (damaged(labels=np.zeros((2, 1), np.uint8)), r"expected a label for each of 2 images, got an array \(2, 1\)"),
    (damaged(labels=(1, 2)), "expected labels to be a list.*got tuple"),
    (damaged(labels=SELF), "expected a label for each of 2 images, got 1"),
    (damaged(), "expected 6 records as in the others, got 2"),
]


@pytest.mark.parametrize(("content", "message"), PYTHON_DAMAGE)
def test_malformed_pickles(tmp_path, content, message):
    write_python(tmp_path / "py", make_batches())
    (tmp_path / "py" / "data_batch_4").write_bytes(content)
    with pytest.raises(ValueError, match=f"data_batch_4: .*({message})"):
        load_cifar10(tmp_path / "py")


def test_a_set_of_zeros_is_refused(tmp_path):
    write_binary(tmp_path / "bin", make_batches())
    for path in (tmp_path / "bin").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ValueError, match="vary in every channel"):
        load_cifar10(tmp_path / "bin")


# ---------------------------------------------------------------------------------------------------- malicious pickles


class Call:
    """Pickles as a call of `function`, which an ordinary unpickler carries out."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


class Plain:
    pass


class SubArray(np.ndarray):
    pass


def code_that_creates(path):
    return f"open({str(path)!r}, 'w').close()"


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["whole", "data", "key", "object array"])
@pytest.mark.parametrize("function", ["system", "eval", "exec", "symlink"])
def test_calls_in_a_pickle_are_refused_and_not_carried_out(tmp_path, function, place, protocol):
    marker = tmp_path / "marker"
    call = {
        "system": Call(os.system, f"touch {marker}"),
        "eval": Call(eval, code_that_creates(marker)),
        "exec": Call(exec, code_that_creates(marker)),
        "symlink": Call(os.symlink, str(tmp_path), str(marker)),
    }[function]
    record = {
        "whole": call,
        "data": {"data": call, "labels": [1]},
        "key": {b"data": np.zeros((1, 3072), np.uint8), b"labels": [1], b"more": [({"x": call},)]},
        "object array": {"data": np.array([call], object), "labels": [1]},
    }[place]
    content = pickle.dumps(record, protocol)
    pickle.loads(content)
    assert marker.exists()  # so the pickle is a working one
    marker.unlink()

    write_python(tmp_path / "py", make_batches())
    (tmp_path / "py" / "test_batch").write_bytes(content)
    refused = rf"the global \w+\.{function}|dtype 'O8'"
    with pytest.raises(ValueError, match=rf"test_batch: .*({refused})"):
        load_cifar10(tmp_path / "py")
    assert not marker.exists()


GLOBALS = {
    "an instance": pickle.dumps({"data": [Plain()]}, 2),
    "a nested instance": pickle.dumps({"data": ({"x": [collections.OrderedDict(a=1)]},)}),
    "an array of a subclass": pickle.dumps({"data": np.zeros((2, 3072), np.uint8).view(SubArray)}),
    "an object array": pickle.dumps({"data": np.array([1, "a"], object)}),
    "a record array": pickle.dumps({"data": np.zeros(2, [("a", "u1")])}),
    "a void dtype": pickle.dumps(np.dtype("V8")),
    "a dtype alone": pickle.dumps(np.dtype("u1")),
    "a function": pickle.dumps(np.load),
    "a set": pickle.dumps({1, 2}),
    "a global alone": b"cnumpy\nndarray\n.",
    "an empty array": b"cnumpy\nndarray\n)R.",
    "an array of another type": pickle.dumps(np.zeros(3, np.uint8), 2).replace(b"cnumpy\nndarray", b"cnumpy\ndtype", 1),
    "an array without its state": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00Vb\ntR.",
    "another codec": b"c_codecs\nencode\n(Vabc\nVzlib_codec\ntR.",
    "a codec on bytes": b"c_codecs\nencode\n(C\x03abcVlatin1\ntR.",
    "attributes of a global": b"c_codecs\nencode\n(N}Vfunction\nNstb.",
    "a dictionary for a global": b"cnumpy\ndtype\n}V__call__\nNsb.",
    "a new instance of a global": b"\x80\x02cnumpy\ndtype\n)\x81.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
    "a look-alike module": b"cnumpy.core.multiarray.x\n_reconstruct\n.",
    "a persistent name": b"\x80\x02Vx\nQ.",
}


@pytest.mark.parametrize("content", GLOBALS.values(), ids=GLOBALS)
def test_pickles_of_anything_but_plain_arrays_are_refused(tmp_path, content):
    admitted = dict(pickles._ADMITTED)
    write_python(tmp_path / "py", make_batches())
    (tmp_path / "py" / "data_batch_5").write_bytes(content)
    with pytest.raises(ValueError, match="data_batch_5: expected a pickle of arrays and plain containers"):
        load_cifar10(tmp_path / "py")
    assert admitted == pickles._ADMITTED


def test_a_deep_pickle_and_one_that_shares_its_parts_end_soon(tmp_path):
    deep = b"]" * 100_000 + b"a" * 99_999 + b"."
    shared = []
    for _ in range(200):  # 2^200 leaves to a reader that does not notice
        shared = [shared, shared]
    write_python(tmp_path / "py", make_batches())
    for content in (deep, pickle.dumps(shared)):
        (tmp_path / "py" / "data_batch_1").write_bytes(content)
        with pytest.raises(ValueError, match=r"data_batch_1: .*got list"):
            load_cifar10(tmp_path / "py")


def halves(count, more):
    """`more`, then `count` tuples of which each holds the one before twice: 2^count parts in 6 bytes each."""
    return more + b"".join(b"q%ch%c\x86" % (place, place) for place in range(count))


GREEDY = {
    "a high number in the memo": (b"Nr\xff\xff\xff\xff.", "type NoneType"),
    "a higher one, in digits": (b"]p" + b"9" * 4000 + b"\n.", "got list"),
    "digits beyond what Python reads": (b"]p" + b"9" * 5000 + b"\n.", "ValueError"),
    "digits of an integer": (b"I" + b"9" * 4000 + b"\n.", "an integer of 13288 bits"),
    "bytes of an integer": (b"\x8b\x00\x10\x00\x00" + b"\xff\x7f" * 2048 + b".", "an integer of 32767 bits"),
    "a long integer that is not there": (b"\x8b\xff\xff\xff\x7f.", "one that ends at byte 6, 2147483647 bytes being due"),
    "an integer of fewer bytes than none": (b"\x8b\xff\xff\xff\xff.", "one that ends at byte 6"),
    "a frame": (b"\x80\x04\x95" + b"\xff" * 8 + b"N.", "one that ends at byte 13, in a frame of 18446744073709551615"),
    "bytes": (b"\x8e" + b"\xff" * 7 + b"\x00x.", "one that ends at byte 11"),
    "a bytearray": (b"\x96" + b"\xff" * 4 + bytes(4) + b"x.", "one that ends at byte 11"),
    "a text": (b"\x8d" + b"\xff" * 8 + b"x.", "one that ends at byte 11"),
    "a shape": (
        pickle.dumps(np.zeros(7, np.uint8), 2).replace(b"K\x07\x85", b"J\xff\xff\xff\x7f\x85"),
        "ValueError: cannot reshape",
    ),
    "tuples of tuples": (halves(100, b")") + b".", "expected a dict.*got tuple"),
    "a key of tuples of tuples": (b"}" + halves(100, b")") + b"Ns.", "a key of type tuple"),
    "a key of nested tuples": (b"})" + b"\x85" * 100_000 + b"Ns.", "a key of type tuple"),
    "a long key, compared again and again": (b"}X\x00\x00\x01\x00" + b"x" * 2**16 + b"q\x00Nsh\x00Ns.", "or a long one"),
    "a label of tuples of tuples": (
        damaged(labels=[1, 77]).replace(b"KM", halves(100, b")")),
        r"integer labels.*got \(\(.*\.\.\..*at record 1",
    ),
    "bytes encoded from one text again and again": (
        b"c_codecs\nencode\nq\x00X\x00\x00\x01\x00"
        + b"x" * 2**16
        + b"X\x06\x00\x00\x00latin1\x86q\x01R"
        + b"h\x00h\x01R" * 20_000,
        "more encoded bytes than",
    ),
}


@pytest.mark.parametrize(("content", "message"), GREEDY.values(), ids=GREEDY)
def test_what_a_pickle_claims_costs_no_more_than_its_bytes(tmp_path, content, message):
    write_python(tmp_path / "py", make_batches())
    (tmp_path / "py" / "data_batch_1").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"data_batch_1: .*({message})"):
        load_cifar10(tmp_path / "py")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e7 + 100 * len(content)  # the first part for what pytest and Python do at times of their own choice


# -------------------------------------------------------------------------------------------------- tensorflow-datasets


def fake_tfds(monkeypatch, **change):
    batches = make_batches()
    splits = {"train": "data_batch_1", "test": "test_batch"}
    raw = {
        split: {"image": batches[name][0], "label": np.array(batches[name][1], np.int64), "id": np.array([b"x"])} | change
        for split, name in splits.items()
    }
    fake = types.ModuleType("tensorflow_datasets")

    def fake_load(name, split, batch_size):
        assert (name, batch_size) == ("cifar10", -1)
        return [("tensors", part) for part in split]

    fake.load = fake_load
    fake.as_numpy = lambda tensors: [raw[part] for _, part in tensors]
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    return fake, raw


def test_tensorflow_datasets_where_no_directory_is_given(monkeypatch):
    _, raw = fake_tfds(monkeypatch)
    data = load("cifar10", seed=4)
    order = np.random.default_rng(4).permutation(6)
    train = raw["train"]
    expected = {
        "train": (train["image"][order[:5]], train["label"][order[:5]]),
        "validation": (train["image"][order[5:]], train["label"][order[5:]]),
        "test": (raw["test"]["image"], raw["test"]["label"]),
    }
    assert_splits(data, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((6, 3072), np.uint8)}, "images"),
        ({"image": np.zeros((6, 32, 32, 3), np.float32)}, "float32"),
        ({"label": np.full(6, 10)}, "0 to 9, got 10"),
        ({"label": np.zeros(5, np.int64)}, "6 images, got 5"),
    ],
)
def test_what_tensorflow_datasets_gives_is_checked(monkeypatch, change, message):
    fake_tfds(monkeypatch, **change)
    with pytest.raises(ValueError, match=f"cifar10 train: .*{message}"):
        load_cifar10()


def test_one_sentence_where_there_is_no_cifar(monkeypatch):
    sentence = r"--data-dir with the binary or the python version of the set, or pip install 'colnorm\[tfds\]'$"
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(RuntimeError, match=sentence) as caught:
        load_cifar10()
    assert isinstance(caught.value.__cause__, ImportError)

    fake, _ = fake_tfds(monkeypatch)
    failure = ConnectionError("no network")

    def fail(*arguments, **options):
        raise failure

    fake.load = fail
    with pytest.raises(RuntimeError, match=f"ConnectionError: no network.*{sentence}") as caught:
        load_cifar10()
    assert caught.value.__cause__ is failure


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"'mnist'.*'digits' or 'cifar10'"):
        load("mnist")


# --------------------------------------------------------------------------------------------------------------- digits


def test_digits_are_all_there_and_split_by_the_seed():
    data, again, other = load("digits", seed=1), load_digits(1), load_digits(2)
    assert [len(split.labels) for split in data.splits.values()] == [1079, 359, 359]
    assert data.class_names == tuple("0123456789") and data.num_classes == 10
    for name, (images, labels) in data.splits.items():
        assert images.shape == (len(labels), 32, 32, 3) and images.dtype == np.uint8 and labels.dtype == np.int32
        assert images.min() == 0 and images.max() == 255
        np.testing.assert_array_equal(images, again.splits[name].images)
        np.testing.assert_array_equal(labels, again.splits[name].labels)
        assert not np.array_equal(labels, other.splits[name].labels)
        assert np.all(np.abs(np.bincount(labels, minlength=10) / len(labels) - 0.1) < 0.05)
    every, others = (
        sorted(image.tobytes() for split in each.splits.values() for image in split.images) for each in (data, other)
    )
    assert every == others and len(every) == 1797
    np.testing.assert_allclose(data.std, (data.train.images / 255).std(axis=(0, 1, 2)), rtol=1e-6)


def test_digits_are_resized_as_jax_does():
    import sklearn.datasets

    source = sklearn.datasets.load_digits()
    data = load_digits(7)
    order = np.random.default_rng(7).permutation(1797)
    resized = jax.image.resize(jnp.asarray(source.images, jnp.float32), (1797, 32, 32), "bilinear")
    for split, part in zip(data.splits.values(), np.split(order, [1079, 1438]), strict=True):
        np.testing.assert_array_equal(split.labels, source.target[part])
        grey = np.asarray(resized)[part] * 255 / 16
        for channel in range(3):
            assert np.abs(split.images[..., channel] - grey).max() <= 0.5 + 1e-3


# ------------------------------------------------------------------------------------------------------- on the device


def test_standardize_gives_mean_0_and_std_1_on_the_training_split():
    data = load_digits()
    images = np.asarray(jax.jit(standardize)(data.train.images, data.mean, data.std))
    assert images.dtype == np.float32 and images.shape == data.train.images.shape
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2), dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(images.std(axis=(0, 1, 2), dtype=np.float64), 1, atol=1e-5)


def test_standardize_is_its_formula_for_every_value_and_each_channel():
    images = np.stack([np.arange(256, dtype=np.uint8)] * 3, axis=-1)[:, None, None, :]
    mean, std = np.array([0.1, 0.5, 0.9], np.float32), np.array([0.2, 0.25, 0.3], np.float32)
    expected = (images / 255 - mean.astype(np.float64)) / std.astype(np.float64)
    for given in (images, images[7], images[7, 0, 0]):
        oracle = {4: expected, 3: expected[7], 1: expected[7, 0, 0]}[given.ndim]
        np.testing.assert_allclose(standardize(given, mean, std), oracle, rtol=1e-5, atol=1e-6)
    half = standardize(images, mean, std, dtype=jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, standardize(images, mean, std).astype(jnp.bfloat16))


def test_standardize_refuses_other_kinds_and_shapes():
    mean = std = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="uint8, got float32"):
        standardize(np.zeros((2, 4, 4, 3), np.float32), mean, std)
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 1\)"):
        standardize(np.zeros((2, 4, 4, 1), np.uint8), mean, std)
    with pytest.raises(ValueError, match=r"\(3,\), \(1,\)"):
        standardize(np.zeros((2, 4, 4, 3), np.uint8), mean, std[:1])


jitted = jax.jit(augment, static_argnames=("crop_padding", "flip"))


def windows(image, padding):
    """{bytes: offset} of every window; the images here are random, so that no two windows are the same."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
    return {
        padded[top : top + height, left : left + width].tobytes(): (top, left)
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }


@pytest.mark.parametrize(
    ("height", "width", "padding", "dtype"),
    [(8, 8, 4, np.uint8), (6, 7, 4, np.float32), (6, 4, 1, np.uint8), (3, 3, 0, np.uint8)],
)
def test_crops_are_the_windows_of_the_mirrored_image_and_all_occur(height, width, padding, dtype):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(dtype)
    offsets = windows(image, padding)
    assert len(offsets) == (2 * padding + 1) ** 2
    draws = 20 * len(offsets)
    keys = jax.random.split(jax.random.key(0), draws)
    crops = np.asarray(jax.jit(jax.vmap(lambda key: random_crop(key, image, padding)))(keys))
    assert crops.shape == (draws, height, width, 3) and crops.dtype == dtype
    counts = collections.Counter(offsets[crop.tobytes()] for crop in crops)  # a KeyError is a crop that is no window
    assert set(counts) == set(offsets.values())
    # Chi-squared has mean k - 1 and variance 2 (k - 1) if all k windows are equally likely.
    degrees = len(offsets) - 1
    chi_squared = sum((count - 20) ** 2 / 20 for count in counts.values())
    assert chi_squared <= degrees + 5 * np.sqrt(2 * degrees)


def test_flips_mirror_left_to_right_half_of_the_time():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    draws = 4000
    flipped = np.asarray(jax.jit(jax.vmap(lambda key: random_flip(key, image)))(jax.random.split(jax.random.key(1), draws)))
    assert flipped.dtype == np.uint8
    mirrored = (flipped == image[:, ::-1]).all(axis=(1, 2, 3))
    as_it_was = (flipped == image).all(axis=(1, 2, 3))
    assert np.all(mirrored ^ as_it_was)
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(draws)


@pytest.mark.parametrize(("height", "width", "size"), [(5, 4, 1), (4, 6, 2), (6, 5, 3), (3, 3, 8)])
def test_what_is_cut_out_is_a_square_around_every_pixel_alike(height, width, size):
    image = np.random.default_rng(0).uniform(1, 2, (height, width, 3)).astype(np.float32)
    expected = {}
    for row in range(height):
        for column in range(width):
            cut = image.copy()
            top, left = row - size // 2, column - size // 2
            cut[max(top, 0) : top + size, max(left, 0) : left + size] = 0
            expected.setdefault(cut.tobytes(), []).append((row, column))  # where a square covers the edge, two are one
    draws = 40 * height * width
    keys = jax.random.split(jax.random.key(1), draws)
    cuts = np.asarray(jax.jit(jax.vmap(lambda key: cut_out(key, image, size)))(keys))
    assert cuts.dtype == image.dtype
    counts = collections.Counter(cut.tobytes() for cut in cuts)
    assert counts.keys() == expected.keys()
    chi_squared = sum((counts[cut] - 40 * len(places)) ** 2 / (40 * len(places)) for cut, places in expected.items())
    degrees = len(expected) - 1
    assert chi_squared <= degrees + 5 * np.sqrt(2 * degrees)


@pytest.mark.parametrize(("image", "size"), [(np.zeros((4, 4, 3), np.float32), 0), (np.zeros((4, 4), np.float32), 1)])
def test_what_can_not_be_cut_out_is_refused(image, size):
    with pytest.raises(ValueError, match=rf"\({', '.join(map(str, image.shape))}\) and {size}"):
        cut_out(jax.random.key(0), image, size)


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_in_two_epochs_every_image_is_seen_both_ways(count):
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    first, second = mirrored_halves(images, seed=3)
    mirrored = np.array([np.array_equal(one, image[:, ::-1]) for one, image in zip(first, images, strict=True)])
    assert mirrored.sum() == count // 2
    for index in range(count):
        pair = [images[index], images[index][:, ::-1]]
        np.testing.assert_array_equal(first[index], pair[int(mirrored[index])])
        np.testing.assert_array_equal(second[index], pair[int(not mirrored[index])])
    np.testing.assert_array_equal(mirrored_halves(images, seed=3)[0], first)
    assert count < 7 or not np.array_equal(mirrored_halves(images, seed=4)[0], first)


@pytest.mark.parametrize("size", [32, 24, 16, 7, 1])
def test_images_are_scaled_down_as_by_pillow(size):
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    expected = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)) for image in images]
    scaled = scaled_down(images, size)
    assert scaled.dtype == np.uint8 and scaled.shape == (3, size, size, 3)
    # Pillow rounds once an axis, and to integers in between.
    assert np.abs(scaled.astype(int) - np.stack(expected).astype(int)).max() <= 1


def test_images_are_not_scaled_up():
    with pytest.raises(ValueError, match=r"\(2, 8, 9, 3\) and 9"):
        scaled_down(np.zeros((2, 8, 9, 3), np.uint8), 9)


def test_augment_of_a_batch_is_that_of_each_example():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8))
    keys = jax.random.split(jax.random.key(2), 4)
    batch = jitted(keys, images)
    assert batch.shape == images.shape and batch.dtype == images.dtype
    for index in range(4):
        np.testing.assert_array_equal(batch[index], jitted(keys[index : index + 1], images[index : index + 1])[0])
    order = np.array([2, 0, 3, 1])
    np.testing.assert_array_equal(jitted(keys[order], images[order]), batch[order])
    assert not np.array_equal(batch, jitted(jax.random.split(jax.random.key(3), 4), images))


def test_augment_over_devices_is_that_on_one():
    devices = jax.local_device_count()
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2 * devices, 8, 8, 3), dtype=np.uint8))
    keys = jax.random.split(jax.random.key(2), 2 * devices)
    spread = jax.pmap(augment)(keys.reshape(devices, 2), images.reshape(devices, 2, 8, 8, 3))
    np.testing.assert_array_equal(spread.reshape(images.shape), jitted(keys, images))


def test_augment_crops_and_flips_and_can_leave_out_either():
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    images, keys = jnp.stack([image] * 500), jax.random.split(jax.random.key(0), 500)
    np.testing.assert_array_equal(augment(keys, images, crop_padding=0, flip=False), images)

    flipped = np.asarray(jitted(keys, images, crop_padding=0))
    assert {each.tobytes() for each in flipped} == {image.tobytes(), image[:, ::-1].tobytes()}
    cropped = np.asarray(jitted(keys, images, crop_padding=1, flip=False))
    assert {each.tobytes() for each in cropped} == set(windows(image, 1))
    both = np.asarray(jitted(keys, images, crop_padding=1))
    mirrored = {np.frombuffer(window, np.uint8).reshape(6, 6, 3)[:, ::-1].tobytes() for window in windows(image, 1)}
    assert {each.tobytes() for each in both} == set(windows(image, 1)) | mirrored


def test_augment_is_traced_once():
    traces = []

    @jax.jit
    def step(keys, images):
        traces.append(1)
        return augment(keys, images, crop_padding=0)

    for seed in range(2):
        step(jax.random.split(jax.random.key(seed), 2), jnp.full((2, 8, 8, 3), seed, jnp.uint8))
    assert len(traces) == 1


def test_wrong_shapes_are_refused():
    key, image = jax.random.key(0), jnp.zeros((4, 6, 3), jnp.uint8)
    for padding in (-1, 4):
        with pytest.raises(ValueError, match=f"got .* and {padding}"):
            random_crop(key, image, padding)
    with pytest.raises(ValueError, match=r"\(H, W, C\)"):
        random_crop(key, image[0], 1)
    with pytest.raises(ValueError, match=r"\(H, W, C\)"):
        random_flip(key, image[None])
    images = image[None]
    for keys in (key, jax.random.split(key, 2), jnp.zeros(1, jnp.uint32)):
        with pytest.raises(ValueError, match=r"keys \(N,\)"):
            augment(keys, images)
    with pytest.raises(ValueError, match=r"images \(N, H, W, C\)"):
        augment(jax.random.split(key, 4), image)
