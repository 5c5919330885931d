"""Tables of numbers: files and data frames with a column of labels, in Python and on the command line."""

import csv
import gzip
import sys
from pathlib import Path

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import jaxlocal as jl
from jaxlocal import app
from jaxlocal.app import Config
from jaxlocal.data import sources

pytestmark = pytest.mark.usefixtures("elsewhere")
KINDS = ["thin", "wide", "odd"]


@pytest.fixture
def columns():
    """Thirty rows, whose first column tells the class; eight of them are a test set."""
    rng = np.random.default_rng(0)
    kind = rng.permutation(np.arange(30) % 3)
    return {
        "width": (kind + rng.uniform(0, 0.5, 30)).tolist(),
        "height": rng.integers(0, 9, 30).tolist(),
        "kind": [KINDS[i] for i in kind],
        "split": ["train"] * 20 + ["test"] * 8 + ["dev"] * 2,
    }


def write(path, columns):
    with (gzip.open if path.endswith(".gz") else open)(path, "wt", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t" if "tsv" in path else ",").writerows(
            [columns, *zip(*columns.values(), strict=True)]
        )


def frames(columns):
    """The same table in every form."""
    write("a.csv", columns)
    write("a.tsv.gz", columns)
    table = pyarrow.table(columns)
    index = table.append_column("__index_level_0__", pyarrow.array(range(30)))
    coded = index.set_column(2, "kind", index["kind"].dictionary_encode())
    pyarrow.parquet.write_table(coded, "a.parquet")
    return "a.csv", Path("a.tsv.gz"), "a.parquet", table


def test_a_table_is_the_same_from_each_file_and_frame(columns):
    for frame in frames(columns):
        table = jl.data.load_table(frame, label="kind")
        assert (table.inputs, table.classes) == (("width", "height"), ("odd", "thin", "wide"))
        rows = {width: (height, kind) for width, height, kind, _ in zip(*columns.values(), strict=True)}
        rows = {np.float32(width): rest for width, rest in rows.items()}
        for (x, y), count in zip(table.splits, (20, 2, 8), strict=True):
            assert (x.dtype, y.dtype, x.shape, y.shape) == (np.float32, np.uint8, (count, 2), (count, 3))
            assert [rows[width] for width, _ in x] == [
                (height, table.classes[one]) for (_, height), one in zip(x, y.argmax(1), strict=True)
            ]
        if isinstance(frame, str | Path):
            for ours, cached in zip(table.splits, jl.data.load(frame, label="kind"), strict=True):
                np.testing.assert_array_equal(ours[0], cached[0])
                np.testing.assert_array_equal(ours[1], cached[1])
    assert table.splits.train[0][:, 0].tolist() != np.float32(columns["width"][:20]).tolist()  # it is shuffled


@pytest.mark.slow
def test_a_frame_of_pandas_is_the_same_as_one_of_pyarrow(columns):
    import pandas

    ours, theirs = (jl.data.load_table(make(columns), label="kind") for make in (pandas.DataFrame, pyarrow.table))
    assert (ours.inputs, ours.classes) == (theirs.inputs, theirs.classes)
    jax.tree.map(np.testing.assert_array_equal, ours.splits, theirs.splits)


def test_labels_may_be_whole_numbers_or_real_ones(columns):
    del columns["split"], columns["kind"]
    write("whole.csv", {**columns, "label": [7, 3, 11] * 10})
    table = jl.data.load_table("whole.csv")
    assert table.classes == ("3", "7", "11") and [len(x) for x, _ in table.splits] == [25, 2, 3]
    write("real.csv", {**columns, "label": [0.5, "2", "1e3"] * 10})
    table = jl.data.load_table("real.csv", validation=4)
    assert table.classes == () and table.splits.validation[1].shape == (4, 1)
    assert {*table.splits.train[1][:, 0].tolist()} == {0.5, 2, 1000}


def test_a_label_with_an_underscore_is_a_text(columns):
    del columns["split"], columns["kind"]
    for names in (["10", "1_0", "11"], ["0.5", "0_1", "1_0.5"]):
        write("a.csv", {**columns, "label": names * 10})
        assert jl.data.load_table("a.csv").classes == tuple(sorted(names))


def test_true_and_false_are_numbers_in_a_file_too(columns):
    tall = [i % 3 == 0 for i in range(30)]
    write("one.csv", {**columns, "height": tall})
    write("two.csv", {**columns, "height": [str(one).lower() for one in tall]})
    write("numbers.csv", {**columns, "height": list(map(int, tall))})
    ours, theirs, numbers = (
        jl.data.load_table(f"{name}.csv", label="kind").splits for name in ("one", "two", "numbers")
    )
    for splits in (ours, theirs):
        np.testing.assert_array_equal(splits.train[0], numbers.train[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kind": None},
            "has no column 'kind'; name the column of labels by --label, or label=… in Python; choose from width",
        ),
        ({"width": None, "height": None}, "has no column besides the labels; add columns of numbers"),
        ({"height": [*range(29), "tall"]}, "column 'height': row 30 holds 'tall', which is no number; turn the col"),
        ({"height": ["1_000", *range(29)]}, "column 'height': row 1 holds '1_000', which is no number; turn the col"),
        ({"height": [*range(29), " "]}, "column 'height': row 30 is empty; fill it, or remove the row"),
        ({"width": ["nan", *range(29)]}, "column 'width': row 1 holds nan, which is no finite number; fill it"),
        ({"width": ["1e39", *range(29)]}, "column 'width': row 1 holds 1e[+]39, which is no finite number"),
        ({"kind": ["thin"] * 30}, "has one class, 'thin', so that there is nothing to learn; add another"),
        ({"kind": ["thin", "", "odd"] * 10}, "column 'kind' has no label in row 2; give it one, or remove the row"),
        ({"kind": ["a", "b"] * 10 + ["c"] * 10}, "the test set has the label 'c', which the training set lacks"),
        ({"split": ["test"] * 30}, "has 0 rows of the training set; give at least 3"),
        ({"split": ["later"] * 30}, "row 1 has split='later'; use train, validation or test"),
        ({"": range(30)}, "has a column without a name, perhaps the numbers of its rows; name or remove it"),
    ],
)
def test_a_bad_table_is_one_sentence(columns, changes, message):
    columns |= changes
    write("bad.csv", {name: cells for name, cells in columns.items() if cells is not None})
    with pytest.raises(ValueError, match=f"name='bad.csv': {message}"):
        jl.data.load("bad.csv", label="kind")


def test_other_mistakes_are_one_sentence(columns, monkeypatch):
    frame = pyarrow.table(columns)
    for call, error, message in (
        (lambda: jl.data.load_table({"a": [1]}), TypeError, "must be a file, or a data frame of pandas, polars or py"),
        (lambda: jl.data.load_table("none.parquet"), FileNotFoundError, "there is no such file; check the path"),
        (lambda: jl.data.load_table(frame, label="knd"), ValueError, r"no column 'knd'; name .*; did you mean kind\?"),
        (lambda: jl.data.load("digits", label="kind"), ValueError, "label='kind': digits is no table of numbers"),
        (lambda: jl.data.load("a.csv", size=3, label="kind"), ValueError, "size=3: a.csv is not resized"),
        (lambda: jl.data.load("none.csv", label="kind"), FileNotFoundError, "there is no such file; check the path"),
        (lambda: jl.data.load("excel.csv", label="kind"), ValueError, "its cells are separated by semicolons; save it"),
        (
            lambda: jl.data.load_table(pyarrow.table(columns | {"kind": [[0, 1]] * 30}), label="kind"),
            ValueError,
            "column 'kind' holds lists, but each row has one label",
        ),
        (
            lambda: jl.data.load_table(frame.append_column("day", [np.arange(30).astype("M8[D]")]), label="kind"),
            ValueError,
            "column 'day' holds dates or durations, which are no numbers",
        ),
    ):
        write("a.csv", columns)
        Path("excel.csv").write_text('"width";"kind"\n1,5;"thin"\n')
        with pytest.raises(error, match=message):
            call()
    Path("empty.csv").write_text("\n")
    with pytest.raises(ValueError, match=r"name='empty\.csv': is empty; write a line of column names, and a row for"):
        jl.data.load_table("empty.csv", label="kind")
    Path("a.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read"):
        jl.data.load("a.parquet")
    monkeypatch.setattr(sources, "LARGEST", 3 * len(frame) - 1)
    with pytest.raises(ValueError, match=r"^table: has 3 classes, whose one-hot rows .* few different values"):
        jl.data.load_table(frame, label="kind")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match="need the library pyarrow; install it with pip install pyarrow"):
        jl.data.load("a.parquet")


def test_a_run_of_a_table(columns, run):
    write("a.csv", columns)
    settings = {"epochs": 40, "batch_size": 4, "lr": 0.03, "model_args": ("hidden=[16]",)}
    app.train(Config(rule="bp", data="a.csv", label="kind", **settings), "run", say=lambda line: None)
    write("new.csv", {"width": [0.2, 2.3], "height": [3, 4]})
    code, out, _ = run("predict run new.csv")
    assert code == 0 and [line.split("\t")[0] for line in out.splitlines()] == ["thin", "odd"]
    write("two.csv", columns | {"kind": [*columns["kind"][:-1], "huge"], "split": ["train"] * 30})
    code, _, error = run("eval run --data two.csv")
    assert code == 2 and "has the classes huge, odd, thin, wide, but the run was trained on odd, thin, wide" in error
    code, _, error = run("train --data a.csv --label size")
    assert code == 2 and "--data=a.csv: has no column 'size'; name the column of labels by --label" in error
    write("reviews.csv", {"review": columns["kind"], "sentiment": columns["kind"], "split": columns["split"]})
    code, _, error = run("train --data reviews.csv")
    assert code == 2 and "has neither a column 'label' nor numbers; if it holds texts, call their column text" in error
    assert "and that of their labels label; it has review, sentiment" in error
    write("texts.csv", {"text": columns["kind"], "label": columns["kind"]})
    code, _, error = run("train --data texts.csv --label kind")
    assert code == 2 and "label='kind': texts.csv holds texts, whose labels are in the column label; leave" in error
    few = {name: [cells[i] for i in range(30) if columns["kind"][i] != "thin"] for name, cells in columns.items()}
    write("few.csv", few | {"split": [cell.replace("dev", "train") for cell in few["split"]]})
    measured = app.evaluate("run", data=Path("few.csv")).measured[0].parts["train"]["accuracy"]
    x, y = jl.data.load_table("few.csv", label="kind").splits.train
    rule, params, _ = jl.load("run")
    assert measured == pytest.approx(np.mean(np.asarray(rule.predict(params, x)).argmax(1) == 2 * y.argmax(1)))
    Path("a.csv").unlink()
    code, _, error = run("predict run new.csv")
    assert code == 2 and "data=a.csv: there is no such file; check the path" in error


def test_a_run_knows_the_columns_of_its_table_by_their_names(columns, run):
    write("a.csv", columns)
    config = Config(rule="bp", data="a.csv", label="kind", epochs=1, batch_size=4, model_args=("hidden=[16]",))
    app.train(config, "run", say=lambda line: None)
    x = {"height": columns["height"], "width": columns["width"]}  # in another order
    write("other.csv", {**x, "kind": columns["kind"], "split": columns["split"]})
    write("x.csv", x)
    write("y.csv", {name: x[name] for name in ("width", "height")})
    assert run("predict run x.csv --json")[:2] == run("predict run y.csv --json")[:2]
    assert app.evaluate("run", data="other.csv").measured[0].parts == app.evaluate("run").measured[0].parts
    write("named.csv", {"x1": x["width"], "x2": x["height"]})
    write("more.csv", x | {"depth": x["height"]})
    for file, complaint in (
        ("named.csv", "has no column 'width', on which the run was trained; choose from x1, x2"),
        ("more.csv", "has the column 'depth', on which the run was not trained; remove it"),
    ):
        code, out, error = run(f"predict run {file}")
        assert (code, out) == (2, "") and error == f"jaxlocal predict: name='{file}': {complaint}\n"
    write("more.csv", columns | {"depth": x["height"]})
    code, _, error = run("eval run --data more.csv")
    assert code == 2 and error.startswith("jaxlocal eval: --data=more.csv: has the column 'depth', on which the run")
    first = list(app.predict("run", ["y.csv"]))
    write("a.csv", {name: columns[name] for name in ("height", "width", "kind", "split")})  # the run's own file
    assert list(app.predict("run", ["y.csv"])) == first
    assert run("train --resume --out run --epochs 2")[0] == 0
    resumed = jl.load("run").data.train[0]
    np.testing.assert_array_equal(resumed, jl.data.load("a.csv", label="kind").train[0][:, ::-1])
    write("a.csv", columns)
    Path("run/table.json").write_text('{"inputs": ')
    code, _, error = run("predict run y.csv")
    assert code == 2 and "table.json is damaged; restore it, or train another run" in error
    Path("run/table.json").unlink()  # as in a run of an earlier version
    assert run("predict run named.csv")[0] == 0
