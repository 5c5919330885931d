"""Data sets of the library `datasets`, which it has saved or has in its cache; nothing is read from a network."""

import csv
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxlocal as jl
from jaxlocal.app import ConfigError, build

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    datasets.disable_progress_bars()
    return datasets


def numbers(datasets, label=lambda i: i % 2):
    """Twenty rows in the order of their first column; the second one is its square."""
    x = np.arange(20.0, dtype=np.float32)
    kinds = datasets.ClassLabel(names=["even", "odd"])
    columns = {"number": x, "square": x**2, "kind": [label(i) for i in range(20)]}
    return datasets.Dataset.from_dict(columns).cast_column("kind", kinds)


@pytest.mark.slow
def test_columns_of_numbers_that_are_saved(datasets):
    rows = numbers(datasets)
    secret = numbers(datasets, label=lambda i: -1)
    datasets.DatasetDict(train=rows, valid=rows.select(range(4)), test=secret, more=rows).save_to_disk("saved")
    splits = jl.data.load("hf:saved", label="kind")
    assert [len(x) for x, _ in splits] == [18, 2, 4]  # the labels of the test set are secret: the other takes its place
    for x, y in splits:
        np.testing.assert_array_equal(x[:, 0] ** 2, x[:, 1])
        np.testing.assert_array_equal(x[:, 0] % 2, y[:, 1])
        assert (x.dtype, y.dtype) == (np.float32, np.uint8)
    assert splits.train[0][:, 0].tolist() != sorted(splits.train[0][:, 0])
    data = build.load_data(build.Config(data="hf:saved", label="kind"))
    np.testing.assert_array_equal(data.splits.train[0], splits.train[0])
    with pytest.raises(ConfigError, match=r"--data=hf:saved: has no column 'knd'; name .*; did you mean kind\?"):
        build.load_data(build.Config(data="hf:saved", label="knd"))


@pytest.mark.slow
def test_a_test_set_that_begins_with_minus_one_is_no_secret(datasets):
    rows = datasets.Dataset.from_dict({"x": np.arange(20.0), "label": [-1.0, 1.0] * 10})
    datasets.DatasetDict(train=rows, test=rows.select(range(6))).save_to_disk("saved")
    splits = jl.data.load("hf:saved")
    assert splits.test[0][:, 0].tolist() == list(range(6))


@pytest.mark.slow
def test_two_sets_of_one_kind_are_refused(datasets):
    """Or the second one would take the place of the first, and "all" may hold the test set."""
    rows = numbers(datasets)
    datasets.DatasetDict(validation=rows, train=rows, dev=rows).save_to_disk("saved")
    with pytest.raises(ValueError, match="has two validation sets, one of them called 'dev'; save it with one"):
        jl.data.load("hf:saved", label="kind")


@pytest.mark.slow
def test_images_of_the_cache_are_found_by_name(datasets):
    """Without their folder, as after a download: in grey only if all of them are."""
    pictures = [Image.new("L", (4, 4 + i % 2), i) for i in range(30)]
    for name, coloured in (("greys", pictures), ("colours", [*pictures[:-1], pictures[-1].convert("RGB")])):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        rows = {"image": coloured, "label": ["dark" if i < 10 else "light" for i in range(30)]}
        rows = datasets.Dataset.from_dict(rows, features=features)
        Path(name).mkdir()
        rows.to_parquet(f"{name}/train.parquet")
        datasets.load_dataset(name)
        shutil.rmtree(name)
        splits = jl.data.load(f"hf:{name}", size=4)
        channels = 1 if name == "greys" else 3
        assert [x.shape for x, _ in splits] == [(25, 4, 4, channels), (2, 4, 4, channels), (3, 4, 4, channels)]
        for x, y in splits:
            np.testing.assert_array_equal(x.max((1, 2, 3)) >= 10, y[:, 1])


@pytest.mark.slow
def test_texts_and_a_run_of_them(datasets, run):
    """Equal to those of a file with the same rows; their classes have the names that the data set has."""
    texts = ["a good day", "a bad day , a bad film", "good , good"] * 12
    kinds = datasets.ClassLabel(names=["poor", "fine"])
    rows = datasets.Dataset.from_dict({"number": range(36), "text": texts, "kind": [1, 0, 1] * 12})
    rows = rows.cast_column("kind", kinds)
    datasets.DatasetDict(train=rows, test=rows.select(range(6))).save_to_disk("saved")
    with open("same.csv", "w", newline="") as file:
        cells = [(text, kinds.int2str(kind), "train") for text, kind in zip(texts, rows["kind"], strict=True)]
        csv.writer(file).writerows([("text", "label", "split"), *cells, *((*cell[:2], "test") for cell in cells[:6])])
    ours, theirs = jl.data.load_text("hf:saved", label="kind"), jl.data.load_text("same.csv")
    assert ours.classes == theirs.classes == ("fine", "poor") and ours.tokenizer == theirs.tokenizer
    jax.tree.map(np.testing.assert_array_equal, ours.splits, theirs.splits)
    jax.tree.map(np.testing.assert_array_equal, jl.data.load("hf:saved", label="kind"), theirs.splits)

    settings = "--rule bp --model lstm_classifier --lr 0.05 --batch-size 8 --epochs 3"
    sizes = "--model-args features=8 hidden=[8] bidirectional=false"
    assert run(f"train --data hf:saved --label kind {settings} {sizes} --out run")[0] == 0
    assert run("eval run --data same.csv")[0] == 0
    code, _, error = run("eval run --data digits")
    assert code == 2 and "--data=digits: holds no texts, but the run was trained on texts" in error
    code, _, error = run("eval run --data hf:none")
    assert code == 2 and "--data=hf:none: the library datasets does not find it" in error
    code, _, error = run(f"train --data hf:saved {settings}")
    assert code == 2 and "--data=hf:saved: has no column 'label'; name the column of labels by --label" in error
    shutil.rmtree("saved")
    code, out, _ = run("predict run 'a good day' 'a bad film'")
    assert code == 0 and [line.split("\t")[0] for line in out.splitlines()] == ["fine", "poor"]
    code, _, error = run("eval run")
    assert code == 2 and "data=hf:saved: the library datasets does not find it" in error


@pytest.mark.slow
def test_a_run_is_measured_where_the_labels_of_the_test_set_are_secret(datasets, run):
    """Its texts are the same as before, although the test set belongs to them by the column `label` alone."""
    rows = datasets.Dataset.from_dict({"text": ["a good day", "a bad day"] * 18, "kind": [1, 0] * 18})
    secret = datasets.Dataset.from_dict({"text": ["a day"] * 4, "kind": [-1] * 4})
    datasets.DatasetDict(train=rows, test=secret).save_to_disk("saved")
    settings = "--rule bp --model lstm_classifier --model-args features=8 hidden=[8] --batch-size 8 --epochs 1"
    assert run(f"train --data hf:saved --label kind {settings} --out run")[0] == 0
    assert run("eval run")[0] == 0


@pytest.mark.slow
def test_numbers_have_columns_and_classes_by_name(datasets, run):
    """So a run on them can be measured on data with fewer classes, and with columns and classes in another order."""
    x = np.random.default_rng(0).uniform(size=(2, 30)).astype(np.float32)
    small = datasets.Dataset.from_dict({"width": x[0], "height": x[1], "label": [0, 1, 2] * 10})
    small = small.cast_column("label", datasets.ClassLabel(names=["low", "middle", "high"]))
    small.save_to_disk("all")
    few = datasets.Dataset.from_dict({"height": x[1], "label": [0, 1] * 15, "width": x[0]})
    few.cast_column("label", datasets.ClassLabel(names=["high", "middle"])).save_to_disk("few")
    with open("few.csv", "w", newline="") as file:
        rows = zip(x[0], x[1], ["high", "middle"] * 15, strict=True)
        csv.writer(file).writerows([("width", "height", "label"), *rows])
    assert build.load_data(build.Config(data="hf:all")).classes == ("low", "middle", "high")

    assert run("train --data hf:all --model-args hidden=[4] --batch-size 8 --epochs 1 --out run")[0] == 0
    code, ours, _ = run("eval run --data hf:few")
    assert code == 0 and ours == run("eval run --data few.csv")[1]
    code, out, _ = run("predict run few.csv")
    assert code == 0 and {line.split("\t")[0] for line in out.splitlines()} <= {"low", "middle", "high"}


@pytest.mark.slow
def test_what_cannot_be_loaded_is_one_sentence(datasets, monkeypatch):
    rows = numbers(datasets)
    rows.save_to_disk("saved")
    datasets.DatasetDict(test=rows).save_to_disk("tests")
    rows.add_column("name", ["a"] * 20).save_to_disk("names")
    rows.add_column("text", ["a"] * 19 + [None]).save_to_disk("texts")
    datasets.DatasetDict(train=rows, test=rows.select([])).save_to_disk("empty")
    cells = [np.zeros((4, 4), np.uint8)] * 9 + [None]
    pictures = datasets.Dataset.from_dict(
        {"image": cells, "label": [0, 1] * 5},
        datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    )
    pictures.save_to_disk("pictures")
    unknown = numbers(datasets, label=lambda i: -1 if i == 7 else i % 2)
    unknown.save_to_disk("unknown")
    unknown.add_column("text", ["a"] * 20).save_to_disk("strange")
    for name, settings, error, message in (
        ("saved", {}, ValueError, "name='hf:saved': has no column 'label'; name the column of labels by --label"),
        ("saved", {"label": "kind", "size": 8}, ValueError, "size=8: hf:saved holds no images; leave out --image-"),
        ("tests", {"label": "kind"}, ValueError, "name='hf:tests': has the splits test, and no train"),
        ("names", {"label": "kind"}, ValueError, "column 'name': row 1 holds 'a', which is no number"),
        ("texts", {"label": "kind"}, ValueError, "name='hf:texts': row 20 of train has no text; remove it, or make"),
        ("texts", {"label": "kind", "size": 8}, ValueError, "size=8: hf:texts holds texts, which have no such size"),
        ("none", {}, FileNotFoundError, r"name='hf:none': the library datasets does not find it \(.*; check the name"),
        ("./none", {}, FileNotFoundError, "name='hf:./none': the library datasets does not find it"),
        ("", {}, ValueError, "name='hf:': names no data set; write hf:NAME"),
        ("empty", {}, FileNotFoundError, "name='hf:empty': the library datasets does not find it"),
        ("pictures", {}, ValueError, "name='hf:pictures': image 9 of train is missing; remove its row"),
        ("pictures", {"label": "kind"}, ValueError, "name='hf:pictures': has no column 'kind'; name the column of"),
        ("unknown", {"label": "kind"}, ValueError, "row 8 of train has the label -1, which means none; remove such"),
        ("strange", {"label": "kind"}, ValueError, "name='hf:strange': row 8 of train has no label; give it one, or"),
    ):
        with pytest.raises(error, match=message) as raised:
            jl.data.load(f"hf:{name}", **settings)
        assert "\n" not in str(raised.value)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"needs the library datasets; install it with pip install 'jaxlocal\[hf\]'"):
        jl.data.load("hf:saved")


def test_other_data_load_where_tensorflow_datasets_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert jl.data.load("digits").train[0].shape == (1097, 8, 8, 1)
    np.savez("a.npz", x=np.zeros((9, 2)), y=np.arange(9) % 2)
    assert jl.data.load("a.npz").train[0].shape == (7, 2)
    for kind in ("a", "b"):
        Path("set", kind).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (3, 3), i).save(f"set/{kind}/{i}.png")
    assert jl.data.load("./set").train[0].shape == (8, 3, 3, 1)
    with pytest.raises(ImportError, match=r"name='mnist': .*the import of tensorflow_datasets fails .*pip install"):
        jl.data.load("mnist")
    with pytest.raises(
        ConfigError, match="--data=mnist: there is no folder of this name, and data sets of TFDS cannot"
    ):
        build.load_data(build.Config(data="mnist"))
