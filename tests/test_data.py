"""Data: what the splits hold, the cache of decoded sets, and what is said when a set is not there or is damaged."""

import errno
import io
import os
import shutil
import subprocess
import sys
from functools import partial
from itertools import chain
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

import jaxlocal as jl
from jaxlocal.data import cache as data_cache
from jaxlocal.data import decode
from jaxlocal.data.checking import are_classes
from jaxlocal.data.sets import names_in

PREPARED = os.environ.get("TFDS_DATA_DIR") or str(ROOT.parent / "shared" / "tensorflow_datasets")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLOCAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


def check(splits, counts, shape):
    for (x, y), count in zip(splits, counts, strict=True):
        assert x.shape == (count, *shape)
        assert y.shape == (count, 10)
        assert x.dtype == y.dtype == np.float32
        assert x.min() == 0
        assert 0.9 < x.max() <= 1
        np.testing.assert_array_equal(y.sum(1), 1)
        assert np.all(y.mean(0) > 0.05)  # every class is there


def test_digits():
    splits = jl.data.digits()
    check(splits, (1097, 300, 400), (8, 8, 1))
    rows = np.concatenate([x.reshape(len(x), -1) for x, _ in splits])
    assert len(np.unique(rows, axis=0)) == len(rows)  # no example is in two splits
    again = jl.data.digits()
    np.testing.assert_array_equal(splits.test[0], again.test[0])


@pytest.mark.slow
def test_the_digits_are_those_of_scikit_learn():
    """In another order; they are read from its file, without its import."""
    from sklearn.datasets import load_digits

    x, y = (np.concatenate(sides) for sides in zip(*jl.data.digits(), strict=True))
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    np.testing.assert_array_equal(x.reshape(pixels.shape), pixels[order] / 16)
    np.testing.assert_array_equal(y.argmax(1), labels[order])


@pytest.mark.skipif(not os.path.isdir(f"{PREPARED}/mnist"), reason=f"no prepared MNIST in TFDS_DATA_DIR or {PREPARED}")
def test_mnist_of_tfds(monkeypatch):
    """A tenth of each split, to save time."""
    split, counts = decode.Decoder.split, []

    def tenth(decoder, count, read):
        counts.append(count)
        return split(decoder, count // 10, read)

    monkeypatch.setattr(decode.Decoder, "split", tenth)
    splits = jl.data.images("mnist", validation=5000, data_dir=PREPARED)
    assert counts == [60000, 10000]
    check(splits, (1000, 5000, 1000), (28, 28, 1))
    mapped = jl.data.load("mnist", data_dir=PREPARED, validation=5000)
    for pair, expected in zip(mapped, splits, strict=True):
        assert all(isinstance(side, np.memmap) and side.dtype == np.uint8 for side in pair)
        assert all(type(side) is np.ndarray for side in expected)
        np.testing.assert_array_equal(jl.data.floats(pair)[0], expected[0])
    assert len(jl.data.load("mnist", data_dir=PREPARED).validation[0]) == 600


@pytest.fixture
def pictures(tmp_path):
    """Writes images of one colour to files: the colour tells which is which."""

    def write(folder, colours, size=(6, 4), mode="RGB", suffix="png"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for colour in colours:
            fill = (colour,) * len(mode) if len(mode) > 1 else colour
            Image.new(mode, size, fill).save(tmp_path / folder / f"{colour}.{suffix}")

    return write


def colours(pair):
    """The colour and the label of each image, sorted."""
    return sorted(zip(pair[0][:, 0, 0, 0].tolist(), pair[1].argmax(1).tolist(), strict=True))


def test_a_folder_of_class_folders(pictures, tmp_path):
    pictures("set/b", range(20, 40))
    pictures("set/a", range(20))
    pictures("set/.hidden", [99])
    (tmp_path / "set/a/notes.txt").write_text("no image")
    splits = jl.data.load(tmp_path / "set")
    assert [x.shape for x, _ in splits] == [(33, 4, 6, 3), (3, 4, 6, 3), (4, 4, 6, 3)]
    assert all(side.dtype == np.uint8 and isinstance(side, np.memmap) for pair in splits for side in pair)
    everything = sorted(chain.from_iterable(map(colours, splits)))
    assert everything == [(colour, int(colour >= 20)) for colour in range(40)]
    assert colours(splits.train) != everything[:33]  # shuffled
    again = jl.data.load(str(tmp_path / "set"), validation=10)
    assert [len(x) for x, _ in again] == [26, 10, 4]
    np.testing.assert_array_equal(again.test[0], splits.test[0])  # apart from training, whatever is kept


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_a_folder_with_sets_of_its_own(pictures, tmp_path, validation):
    for label, name in enumerate("ab"):
        pictures(f"set/train/{name}", range(label * 10, label * 10 + 10))
        pictures(f"set/{validation}/{name}", [100 + label])
        pictures(f"set/test/{name}", [110 + label, 120 + label])
    splits = jl.data.load(tmp_path / "set")
    assert colours(splits.train) == [(colour, colour // 10) for colour in range(20)]
    assert colours(splits.validation) == [(100, 0), (101, 1)]
    assert colours(splits.test) == [(110, 0), (111, 1), (120, 0), (121, 1)]
    assert [len(x) for x, _ in jl.data.load(tmp_path / "set", validation=4)] == [16, 4, 4]
    pictures("set/dev/a", [100])
    with pytest.raises(ValueError, match="holds two validation sets, one in dev; remove one"):
        jl.data.load(tmp_path / "set")
    shutil.rmtree(tmp_path / "set/dev")
    shutil.rmtree(tmp_path / "set/test")
    splits = jl.data.load(tmp_path / "set")  # the validation set is the test set
    assert [len(x) for x, _ in splits] == [18, 2, 2]
    assert colours(splits.test) == [(100, 0), (101, 1)]


def test_tiny_imagenet(pictures, tmp_path):
    for label, name in enumerate(("n01", "n02")):
        pictures(f"set/train/{name}/images", range(label * 10, label * 10 + 10), suffix="bmp")
        (tmp_path / f"set/train/{name}/{name}_boxes.txt").write_text("0.bmp\t0\t0\t1\t1\n")
    pictures("set/val/images", [50, 60, 70], suffix="bmp")
    pictures("set/test/images", [80, 90], suffix="bmp")  # without labels
    annotations = tmp_path / "set/val/val_annotations.txt"
    annotations.write_text("50.bmp\tn02\t0\t0\t1\t1\n60.bmp\tn01\t0\t0\t1\t1\n70.bmp\tn02\t0\t0\t1\t1\n")
    splits = jl.data.load(tmp_path / "set")
    assert colours(splits.test) == [(50, 1), (60, 0), (70, 1)]
    assert [len(x) for x, _ in splits] == [18, 2, 3]
    annotations.write_text(annotations.read_text().replace("50.bmp\tn02", "50.bmp\tn01"))
    assert colours(jl.data.load(tmp_path / "set").test) == [(50, 0), (60, 0), (70, 1)]
    annotations.write_text("50.bmp\tn02\n60.bmp\n")
    with pytest.raises(
        ValueError, match=r"annotations\.txt cannot be read \(line 2 is '60\.bmp', not a file name, a tab"
    ):
        jl.data.load(tmp_path / "set")
    annotations.write_text("51.bmp\tn02\n")
    with pytest.raises(ValueError, match=r"images/51\.bmp is missing, "):
        jl.data.load(tmp_path / "set")


def test_grey_images_keep_one_channel_and_a_mixture_is_rgb(pictures, tmp_path):
    pictures("set/a", range(5), mode="L")
    pictures("set/b", range(5), mode="L")
    assert jl.data.load(tmp_path / "set").train[0].shape[1:] == (4, 6, 1)
    pictures("set/b", [7], mode="RGBA")
    assert jl.data.load(tmp_path / "set").train[0].shape[1:] == (4, 6, 3)


def test_images_of_different_sizes_are_resized_and_cut_at_the_centre(pictures, tmp_path):
    pictures("set/a", range(5))
    pictures("set/b", range(4), size=(9, 12))
    stripes = np.zeros((8, 16, 3), np.uint8)
    stripes[:, 4:12] = 200
    Image.fromarray(stripes).save(tmp_path / "set/b/stripes.png")
    with pytest.raises(
        ValueError,
        match=r"images differ in size, .*png has .* and .*png .*one size, such as --image-size 224, or size=224",
    ):
        jl.data.load(tmp_path / "set")
    x = np.concatenate([x for x, _ in jl.data.load(tmp_path / "set", size=8)])
    assert x.shape == (10, 8, 8, 3)
    assert sum((image == 200).all() for image in x) == 1
    assert jl.data.load(tmp_path / "set", size=3).train[0].shape[1:] == (3, 3, 3)


def test_npz_of_images(tmp_path):
    x, y = np.random.default_rng(0).integers(0, 256, (50, 4, 4), np.uint8), np.arange(50) % 5
    np.savez(tmp_path / "one.npz", x=x, y=y)
    splits = jl.data.load(tmp_path / "one.npz")
    assert [pair[0].shape for pair in splits] == [(41, 4, 4, 1), (4, 4, 4, 1), (5, 4, 4, 1)]
    where = {image.tobytes(): label for image, label in zip(x, y, strict=True)}
    for pixels, classes in splits:
        assert pixels.dtype == classes.dtype == np.uint8
        assert classes.shape[1:] == (5,)
        assert [where[image.tobytes()] for image in pixels] == classes.argmax(1).tolist()


def test_arrays_are_the_same_as_a_file_of_them(tmp_path):
    rng = np.random.default_rng(0)
    x, labels = rng.uniform(size=(50, 4, 4)), np.arange(50) % 5
    several, rows = rng.integers(0, 2, (50, 5)), np.eye(5)[labels]
    np.savez(tmp_path / "one.npz", x=x, y=labels)
    np.savez(tmp_path / "two.npz", x_train=x, y_train=labels, x_test=x[:9], y_test=labels[:9])
    for name, parts in (("one", {}), ("two", {"test": (x[:9], labels[:9])})):
        ours, theirs = jl.data.from_arrays((x, labels.tolist()), **parts), jl.data.load(tmp_path / f"{name}.npz")
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert [len(x) for x, _ in jl.data.from_arrays((x, labels), (x[:7], labels[:7]), (x[:9], labels[:9]))] == [50, 7, 9]
    assert [len(x) for x, _ in jl.data.from_arrays((x, labels), (x[:7], labels[:7]))] == [45, 7, 5]
    assert [len(x) for x, _ in jl.data.from_arrays((x, labels), test=(x[:9], labels[:9]))] == [45, 5, 9]
    for wrong, error, message in (
        ({"train": x}, TypeError, r"train=.*: must be a pair \(x, y\) of arrays; write from_arrays\(\(x, y\)\)$"),
        ({"train": (x, labels[:9])}, ValueError, r"^x_train has shape \(50, 4, 4\) and y_train \(9,\); make them"),
        (
            {"train": (x, labels), "test": (x[:, :3], labels)},
            ValueError,
            "^x_test and y_test differ from those of train",
        ),
        ({"train": (np.ma.masked_less(x, 0.1), labels)}, TypeError, r"^train: has masked values.*x.filled\(0\)"),
        ({"train": (x * 1e300, labels)}, ValueError, "^x_train holds NaN, infinity or a number too large for float32"),
        ({"train": (x[:2], labels[:2])}, ValueError, "^train: has too few examples to hold some out"),
        ({"train": (x, -labels)}, ValueError, "^y holds '-.', but must hold class labels 0, 1, … as whole numbers"),
        ({"train": (x, labels.astype(str))}, ValueError, r"^y holds '.', .* by np.unique\(y, return_inverse=True\)"),
        ({"train": (x, several)}, ValueError, "^y has rows of whole numbers that are not one-hot, .* make several lab"),
        ({"train": (x, several == 1)}, ValueError, "^y has rows of whole numbers that are not one-hot"),
        ({"train": (x, several * 0)}, ValueError, "^y has rows of whole numbers that are not one-hot"),
        ({"train": (x, rng.random((50, 4, 2)))}, ValueError, r"^y has shape \(50, 4, 2\).* token into jl.data.Splits"),
        ({"train": (x, labels * 0 + 1)}, ValueError, "^y_train has one class, 1, so that there is nothing to learn"),
        ({"train": (x, rows * 0 + rows[2])}, ValueError, "^y_train has one class, 2, so that there is nothing to"),
        ({"train": (x.astype(int), labels)}, ValueError, r"x.astype\(np.float32\), or put token ids into jl.data.Spl"),
    ):
        with pytest.raises(error, match=message):
            jl.data.from_arrays(**wrong)


def test_all_targets_are_read_to_find_out_whether_they_are_classes():
    y = np.tile(np.eye(3), (5000, 1))
    assert are_classes(y)
    y[-1] = 0.5
    assert not are_classes(y)


def test_class_rows_are_one_hot_and_other_targets_are_floats():
    x, labels = np.random.default_rng(0).random((50, 4)), np.arange(50) % 3
    expected = jl.data.from_arrays((x, labels))
    for kind in (int, bool):
        jax.tree.map(np.testing.assert_array_equal, jl.data.from_arrays((x, np.eye(3, dtype=kind)[labels])), expected)
    several = (x > 0.5).astype(float)  # several labels at once
    for y in (several, x / x.sum(1, keepdims=True), np.ones((50, 1)), np.zeros((50, 3))):
        train, *rest = jl.data.from_arrays((x, y))
        assert train[1].dtype == np.float32
        for some, targets in (train, *rest):
            rows = [np.flatnonzero((x.astype(np.float32) == row).all(1))[0] for row in some]
            np.testing.assert_array_equal(targets, y[rows].astype(np.float32))


def test_npz_of_floats(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"x_{part}": rng.normal(size=(n, 7)) for part, n in (("train", 30), ("validation", 5), ("test", 3))}
    arrays |= {f"y_{part}": arrays[f"x_{part}"].sum(1) for part in ("train", "validation", "test")}
    names = {name.replace("validation", "val"): array for name, array in arrays.items()}
    np.savez(tmp_path / "parts.npz", **names)
    splits = jl.data.load(tmp_path / "parts.npz")
    for (x, y), count in zip(splits, (30, 5, 3), strict=True):
        assert x.dtype == y.dtype == np.float32
        assert (x.shape, y.shape) == ((count, 7), (count, 1))
        np.testing.assert_allclose(x.sum(1), y[:, 0], atol=1e-5)
    np.testing.assert_array_equal(splits.test[0], arrays["x_test"].astype(np.float32))
    assert np.shares_memory(jl.data.floats(splits.train)[0], splits.train[0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": [0], "y": [0]}, "holds images, y; name its arrays x_train, y_train"),
        ({"x": [[1.0]], "y": [0], "x_tets": [[1.0]]}, "holds x_tets, which is not read; .*: did you mean x_test"),
        ({"x": [[1.0]], "x_train": [[1.0]], "y": [0]}, "holds x_train twice"),
        ({"x": [[1.0]], "y_train": [1], "x_test": [[1.0]]}, "name its arrays x_train, y_train"),
        ({"x": [[1]], "y": [0]}, "x_train is int64 of shape"),
        ({"x": [[1.0]], "y": [0, 1]}, r"x_train has shape \(1, 1\) and y_train \(2,\)"),
        ({"x": [[1.0]], "y": 0}, r"y_train \(\)"),
        ({"x": np.zeros((0, 3)), "y": []}, r"x_train has shape \(0, 3\)"),
        ({"x": [[1.0]], "y": [-1]}, "y holds '-1', but must hold class labels 0, 1"),
        ({"x": [[1.0]], "y": ["cat"]}, "y holds 'cat', but must hold class labels 0, 1"),
        ({"x": [[1.0]], "y": [[0, 2]]}, "not one-hot"),
        ({"x": [[1.0]], "y": [0], "x_test": [[1.0, 2.0]], "y_test": [0]}, "x_test and y_test differ from"),
        (
            {"x": [[1.0]], "y": [0], "x_test": np.zeros((1, 1), np.uint8), "y_test": [0]},
            "x_test is uint8 and x_train float32; make them of one type",
        ),
    ],
)
def test_a_bad_npz_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        jl.data.load(tmp_path / "bad.npz")


def fake_tfds(monkeypatch, tmp_path, splits, label=lambda part, i: i % 3):
    """A set of TFDS as the library meets it, with images of differing sizes."""
    import tensorflow_datasets as tfds

    class Source(list):
        def __getitems__(self, rows):
            return [self[i] for i in rows]

    def example(part, i):
        file = io.BytesIO()
        Image.new("RGB", (10 + i % 2, 12), (40, 40, 40)).save(file, "png")
        return {"photo": file.getvalue(), "kind": label(part, i)}

    photo = SimpleNamespace(shape=(None, None, 3), np_dtype=np.uint8)
    features = {"photo": photo, "kind": SimpleNamespace(num_classes=3, names=["cat", "dog", "eel"])}
    builder = SimpleNamespace(
        info=SimpleNamespace(splits=splits, supervised_keys=("photo", "kind"), features=features),
        data_path=tmp_path,
        as_data_source=lambda part, decoders: Source(example(part, i) for i in range(splits[part])),
    )
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)


def test_a_test_set_without_labels_gives_way_to_the_validation_set(monkeypatch, tmp_path):
    sizes = {"train": 40, "validation": 10, "test": 7}
    fake_tfds(monkeypatch, tmp_path, sizes, lambda part, i: -1 if part == "test" else i % 3)
    with pytest.raises(ValueError, match=r"name='imagenet2012': the images differ in size, example 0 .*size=224"):
        jl.data.load("imagenet2012")
    splits = jl.data.load("imagenet2012", size=8)
    assert [x.shape for x, _ in splits] == [(36, 8, 8, 3), (4, 8, 8, 3), (10, 8, 8, 3)]
    np.testing.assert_array_equal(splits.validation[1].argmax(1), np.arange(36, 40) % 3)  # the last of train
    np.testing.assert_array_equal(splits.test[1].argmax(1), np.arange(10) % 3)
    assert names_in("imagenet2012", "label").classes == ("cat", "dog", "eel")


def test_a_set_that_cannot_be_trained_on(monkeypatch, tmp_path):
    fake_tfds(monkeypatch, tmp_path, {"test": 5})
    with pytest.raises(ValueError, match="name='cifar10_1': has no training set of 8-bit images with class labels"):
        jl.data.load("cifar10_1")


@pytest.fixture
def small(pictures, tmp_path):
    for name in "ab":
        pictures(f"set/{name}", range(20))
    return tmp_path / "set"


def test_the_second_load_does_not_decode(small, cache, monkeypatch):
    first = jl.data.load(small)
    monkeypatch.setattr(data_cache, "_fill", None)
    again = jl.data.load(small, validation=5)
    np.testing.assert_array_equal(again.train[0], first.train[0][: len(again.train[0])])
    assert len(list(cache.iterdir())) == 1


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit": flip,
    "a missing file": lambda path: path.unlink(),
    "an empty file": lambda path: path.write_bytes(b""),
    "a cut file": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "no sums": lambda path: path.with_name(data_cache.SUMS).unlink(),
    "sums that are no JSON": lambda path: path.with_name(data_cache.SUMS).write_bytes(b"\xff"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_decoded_anew(small, cache, damage):
    before = [np.array(leaf) for leaf in jax.tree.leaves(tuple(jl.data.load(small)))]
    (folder,) = cache.iterdir()
    DAMAGE[damage](folder / "train_x.npy")
    with pytest.warns(UserWarning, match="is damaged; .* is decoded again"):
        after = jl.data.load(small)
    for one, other in zip(before, jax.tree.leaves(tuple(after)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert list(cache.iterdir()) == [folder]
    jl.data.load(small)  # without a warning


@pytest.mark.parametrize("hashed", [data_cache.HASHED, 0])
def test_another_content_or_size_is_decoded_anew(small, cache, monkeypatch, hashed):
    monkeypatch.setattr(data_cache, "HASHED", hashed)  # zero: by names, sizes and dates
    jl.data.load(small)
    Image.new("RGB", (6, 4), (77, 77, 77)).save(small / "a/3.png")
    assert 77 in np.concatenate([x for x, _ in jl.data.load(small)])
    assert len(list(cache.iterdir())) == 2
    jl.data.load(small, size=2)
    assert len(list(cache.iterdir())) == 3
    (small / "b/3.png").rename(small / "a/30.png")  # another label
    assert sum(y[:, 0].sum() for _, y in jl.data.load(small)) == 21


def test_a_crash_leaves_nothing(small, cache, monkeypatch):
    pixels, done = decode.pixels, []

    def crash(*args):
        done.append(args)
        if len(done) > 30:
            raise KeyboardInterrupt
        return pixels(*args)

    with monkeypatch.context() as patch:
        patch.setattr(decode, "pixels", crash)
        with pytest.raises(KeyboardInterrupt):
            jl.data.load(small)
    assert list(cache.iterdir()) == []
    assert len(jl.data.load(small).train[0]) == 33


def test_what_killed_processes_left_is_removed_in_time(small, cache):
    for name, age in (("old", data_cache.ABANDONED + 60), ("new", 0)):
        left = cache / f"set-0.{name}.part"
        left.mkdir(parents=True)
        (left / "train_x.npy").write_bytes(b"half")
        for path in (left / "train_x.npy", left):
            os.utime(path, (path.stat().st_mtime - age,) * 2)
    jl.data.load(small)
    assert [path.name for path in cache.glob("*.part")] == ["set-0.new.part"]


def test_another_process_may_be_first(small, cache, monkeypatch):
    write = data_cache._write

    def slow(*args):
        monkeypatch.setattr(data_cache, "_write", write)
        jl.data.load(small)
        write(*args)

    monkeypatch.setattr(data_cache, "_write", slow)
    assert len(jl.data.load(small).train[0]) == 33
    assert len(list(cache.iterdir())) == 1


def test_two_processes_at_once(small, cache):
    program = f"import jaxlocal as jl; print(jl.data.load({str(small)!r}).train[0].sum())"
    start = partial(subprocess.Popen, [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    both = [start(), start()]
    assert [process.communicate()[0].strip() for process in both] == [str(jl.data.load(small).train[0].sum())] * 2
    assert len(list(cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_named(small, cache, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=rf"{cache}: .*No space left on device\); set JAXLOCAL_CACHE"):
            jl.data.load(small)
    assert list(cache.iterdir()) == []
    cache.rmdir()
    cache.write_text("in the way")
    with pytest.raises(OSError, match=rf"{cache}: .*\); set JAXLOCAL_CACHE to a folder with enough space"):
        jl.data.load(small)


def test_a_damaged_image_is_named(small):
    whole = (small / "a/3.png").read_bytes()
    for content in (whole[: len(whole) // 2], b"no image"):
        (small / "a/3.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"a/3\.png cannot be read \(.*\); replace it or remove it"):
            jl.data.load(small)
    Image.fromarray(np.full((4, 6), 40000, np.uint16)).save(small / "a/3.png")
    with pytest.raises(ValueError, match=r"a/3\.png cannot be read \(its pixels have mode I;16, not 8 bits\)"):
        jl.data.load(small)


def test_a_pipe_and_a_link_to_nothing_are_no_images(small):
    (small / "a/album.png").mkdir()  # a folder of images may have any name
    before = jl.data.load(small)
    os.mkfifo(small / "a/pipe.png")
    with pytest.raises(ValueError, match=r"a/pipe\.png is a pipe or a device; remove it"):
        jl.data.load(small)
    (small / "a/pipe.png").unlink()
    (small / "a/link.png").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"a/link\.png is missing, or a link to nothing"):
        jl.data.load(small)
    (small / "a/link.png").unlink()
    np.testing.assert_array_equal(jl.data.load(small).train[0], before.train[0])


def test_a_folder_that_is_no_set(pictures, tmp_path):
    pictures("set/a", range(3))
    with pytest.raises(ValueError, match=r"two or more folders, one for each class, .* but it holds 1"):
        jl.data.load(tmp_path / "set")
    (tmp_path / "set/b").mkdir()
    with pytest.raises(ValueError, match="but b has none"):
        jl.data.load(tmp_path / "set")
    for folder in ("train/a", "train/b", "test/a", "test/c"):
        pictures(f"other/{folder}", range(3))
    with pytest.raises(ValueError, match="test has a class 'c' that the training set lacks"):
        jl.data.load(tmp_path / "other")


def test_floats_are_the_same_in_numpy_and_in_a_program():
    x, y = np.arange(256, dtype=np.uint8).reshape(4, 64), np.eye(4, dtype=np.uint8)
    expected = jl.data.floats((x, y))
    np.testing.assert_array_equal(expected[0], x.astype(np.float32) / 255)
    for side, compiled in zip(expected, jax.jit(jl.data.floats)((x, y)), strict=True):
        assert side.dtype == compiled.dtype == np.float32
        np.testing.assert_allclose(compiled, side, rtol=1e-6)
    assert all(a is b for a, b in zip(jl.data.floats(expected), expected, strict=True))


def test_digits_with_another_validation_set():
    kept, splits = jl.data.digits(), jl.data.load("digits", validation=97)
    assert [len(x) for x, _ in splits] == [1300, 97, 400]
    np.testing.assert_array_equal(splits.validation[0], kept.validation[0][-97:])
    np.testing.assert_array_equal(jl.data.load("digits").train[0], kept.train[0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": 123}, TypeError, "name=123: must be the name or the path of a data set"),
        ({"validation": 0}, ValueError, "validation=0: must be at least 1"),
        ({"validation": 1397}, ValueError, "validation=1397: the training set has 1397 examples"),
        ({"validation": 0.1}, TypeError, r"validation=0\.1: must be a whole number"),
        ({"size": 16}, ValueError, "size=16: digits is not resized; leave out --image-size, or size=… in Python; you"),
        ({"name": "cfar10"}, FileNotFoundError, r"name='cfar10': .*did you mean cifar10\?"),
        ({"name": "fashion-mnist"}, FileNotFoundError, r"did you mean fashion_mnist\?"),
        ({"name": "./nothing"}, FileNotFoundError, "there is no such folder; check the path"),
        ({"name": "nothing.npz"}, FileNotFoundError, "there is no such file; check the path"),
        ({"name": "imagenet2012", "data_dir": "/nowhere"}, FileNotFoundError, "tfds build imagenet2012 .*manual"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        jl.data.load(**{"name": "digits", **arguments})


@pytest.mark.parametrize(
    ("name", "remedies"),
    [("mnist", ["tfds build mnist", "set TFDS_DATA_DIR"]), ("no_such_set", ["choose from digits, sentences, mnist"])],
)
def test_a_set_that_is_not_there(name, remedies, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        jl.data.images(name, data_dir=str(tmp_path))
    for word in (f"name='{name}'", str(tmp_path), *remedies):
        assert word in str(error.value)
