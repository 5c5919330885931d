"""Tables of numbers with a column of labels: .csv, .tsv and .parquet files, and data frames."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlocal import checks
from jaxlocal.data.cache import kept
from jaxlocal.data.decode import Decoded, readable
from jaxlocal.data.sources import Source, check_classes
from jaxlocal.data.splits import Pairs, Splits, complete, one_hot
from jaxlocal.data.tables import FEWEST, check_file, is_table, read_cells, split_of, unlabelled
from jaxlocal.files import of_user, write_whole
from jaxlocal.hints import nearest

LABEL = "label"  # the column of labels, by default
INDEX = "__index_level_"  # so begins the name of a column in which pandas keeps the numbers of the rows

Columns = Mapping[str, np.ndarray]  # the cells of each column, by its name


class Table(NamedTuple):
    """A table of numbers as a data set.

    Example:
      >>> import pyarrow
      >>> frame = pyarrow.table({"width": [1.0, 5.0, 2.0, 6.0] * 5, "kind": ["small", "large"] * 10})
      >>> table = jl.data.load_table(frame, label="kind")
      >>> table.inputs, table.classes, table.splits.train[0].shape
      (('width',), ('large', 'small'), (17, 1))
    """

    splits: Splits
    inputs: tuple[str, ...]  # the names of the columns of x
    classes: tuple[str, ...]  # the name of each class; empty for labels that are real numbers


def load_table(table: Any, *, label: str = LABEL, validation: int | None = None) -> Table:
    """A table of numbers with a column of labels, as arrays in memory.

    A column `split` may hold train, validation and test; missing sets are cut from the training set as in `load`, after
    it has been shuffled with a fixed seed. All other columns are the inputs: real numbers, whole numbers or true and
    false, which are not scaled. Labels are names or whole numbers, which are classes, or real numbers.

    Args:
      table: a .csv, .tsv or .parquet file, or a data frame of pandas, polars or pyarrow.
      label: the name of the column of labels.
      validation: the number of examples that are held out for validation, as in `load`.

    Returns:
      The splits, with x float32 (N, columns) and y one-hot uint8 (N, classes) or float32 (N, 1), and the names of the
      inputs and of the classes.
    """
    if validation is not None:
        checks.positive_int("validation", validation)
    found, names = _arranged(*_columns(table), str(label))
    return Table(complete(found, validation), *names)


def is_frame(path: Path) -> bool:
    """Whether the name is that of a file which may hold a table of numbers."""
    return is_table(path) or path.suffix.lower() == ".parquet"


def from_table(path: Path, label: str) -> Source:
    """A table of numbers in a file."""
    check_file(path)

    def decode() -> dict[str, Decoded]:
        found, _ = _of_file(path, path.stat().st_mtime_ns, label)
        return {split: Decoded(len(x), iter([(x, y)])) for split, (x, y) in found.items()}

    return Source(path.name, path.parent, [path], decode)


class Names(NamedTuple):
    """The names of a data set's columns of inputs, and of its classes, where it has such names."""

    inputs: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


def read_names(path: Path, label: str) -> Names:
    """The names in a table in a file, kept in the cache."""

    def fill(folder: Path) -> None:
        _, names = _of_file(path, path.stat().st_mtime_ns, label)
        write_whole(folder / "names.json", json.dumps(names))

    folder = kept(path.name, path.parent, [path], ("names", label), fill)
    return Names(*map(tuple, json.loads((folder / "names.json").read_text(encoding="utf-8"))))


def read_inputs(path: Path, label: str, wanted: Sequence[str]) -> np.ndarray:
    """The inputs alone of a table in a file, float32 (N, columns); the columns `wanted`, if they are known."""
    check_file(path)
    name, columns = _columns(path)
    found = inputs(columns, label)
    x = matrix(name, found)
    return x[:, places(name, list(found), wanted)] if wanted else x


def places(name: str, found: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where each of the columns that a run was trained on is among those of another table, called `name` in an error.

    Raises:
      ValueError: the columns are not the same.
    """
    for column in wanted:
        if column not in found:
            raise ValueError(
                f"{name}: has no column {column!r}, on which the run was trained; {nearest(column, found)}"
            )
    for column in found:
        if column not in wanted:
            raise ValueError(f"{name}: has the column {column!r}, on which the run was not trained; remove it")
    return [found.index(column) for column in wanted]


def inputs(columns: Columns, label: str) -> Columns:
    """The columns that are neither labels nor splits."""
    return {name: column for name, column in columns.items() if name not in (label, "split")}


def matrix(name: str, columns: Columns) -> np.ndarray:
    """The columns side by side, in float32; `name` is that of the table in an error."""
    if not columns:
        raise ValueError(f"{name}: has no column besides the labels; add columns of numbers")
    numbers = [_numbers(f"{name}: column {column!r}", cells) for column, cells in columns.items()]
    return np.stack(numbers, axis=1)


def labels(name: str, columns: Columns, label: str) -> np.ndarray:
    """The labels of all rows: float32 if they are real numbers, and else whole numbers or texts.

    Raises:
      ValueError: there is no such column, or a row has no label.
    """
    if label not in columns:
        others = [column for column in columns if column != "split"]
        if not any(_holds_numbers(columns[column]) for column in others):
            raise ValueError(
                f"{name}: has neither a column {label!r} nor numbers; if it holds texts, call their column text and "
                f"that of their labels label; it has {', '.join(others)}"
            )
        raise ValueError(f"{name}: {unlabelled(label, others)}")
    cells = columns[label]
    if cells.dtype.kind not in "biuf":
        if any(isinstance(cell, list | tuple | np.ndarray) for cell in cells):
            raise ValueError(
                f"{name}: column {label!r} holds lists, but each row has one label; for several labels of a row give "
                "jl.data.from_arrays rows of floats, and the network the loss jl.squared_error"
            )
        cells = _parsed(np.array([None if _is_missing(cell) else str(cell).strip() for cell in cells], object))
    lacking = cells == None if cells.dtype == object else ~np.isfinite(cells)  # noqa: E711 - in each place
    if lacking.any():
        raise ValueError(
            f"{name}: column {label!r} has no label in row {np.argmax(lacking) + 1}; give it one, or remove the row"
        )
    return cells.astype({"f": np.float32, "O": object}.get(cells.dtype.kind, np.int64))


def _holds_numbers(cells: np.ndarray) -> bool:
    return cells.dtype.kind in "biuf" or _parsed(cells).dtype != cells.dtype


def _parsed(texts: np.ndarray) -> np.ndarray:
    """The texts as numbers, if all of them are."""
    if any(map(_has_underscore, texts)):
        return texts
    for kind in (np.int64, np.float32):
        with suppress(ValueError, TypeError, OverflowError):
            return texts.astype(kind)
    return texts


def targets(name: str, found: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The labels of each split as one-hot rows, and the names of the classes; real numbers stay as they are.

    Raises:
      ValueError: there is one class only, too many, or one that the training set lacks.
    """
    train = found["train"]
    if train.dtype.kind == "f":
        return {split: y[:, None] for split, y in found.items()}, ()
    classes = np.unique(train)
    if len(classes) < 2:
        raise ValueError(f"{name}: has one class, {str(classes[0])!r}, so that there is nothing to learn; add another")
    for split, y in found.items():
        if (other := np.setdiff1d(y, classes)).size:
            raise ValueError(f"{name}: the {split} set has the label {str(other[0])!r}, which the training set lacks")
    check_classes(name, len(classes), sum(map(len, found.values())))
    rows = {split: one_hot(np.searchsorted(classes, y), len(classes)) for split, y in found.items()}
    return rows, tuple(map(str, classes))


@lru_cache(maxsize=1)
def _of_file(path: Path, changed: int, label: str) -> tuple[dict[str, Pairs], Names]:
    """The pairs and the names in a file that was changed last at this time. They are asked for one after the other."""
    return _arranged(*_columns(path), label)


def _arranged(name: str, columns: Columns, label: str) -> tuple[dict[str, Pairs], Names]:
    """The pairs of each split, and the names of the inputs and the classes."""
    y, x = labels(name, columns, label), matrix(name, inputs(columns, label))
    cells = enumerate(columns.get("split", ["all"] * len(x)), 1)
    of = np.array([split_of(f"{name}: row {row}", str(cell)) for row, cell in cells])
    rows = {split: np.flatnonzero(of == split) for split in sorted({"train", *of.tolist()})}
    rows["train"] = shuffled(name, rows["train"])
    ys, classes = targets(name, {split: y[numbers] for split, numbers in rows.items()})
    found = {split: (x[numbers], ys[split]) for split, numbers in rows.items()}
    return found, Names(tuple(inputs(columns, label)), classes)


def shuffled(name: str, rows: np.ndarray) -> np.ndarray:
    """The numbers of the rows of the training set in an order that is always the same."""
    if len(rows) < FEWEST:
        raise ValueError(f"{name}: has {len(rows)} rows of the training set; give at least {FEWEST}")
    return np.random.default_rng(0).permutation(rows)


def _columns(table: Any) -> tuple[str, Columns]:
    """How the table is called in an error, and its columns."""
    if isinstance(table, str | Path):
        path = of_user(table)
        check_file(path)
        name = f"name={str(path)!r}"
        if is_table(path):
            header, rows = read_cells(path)
            cells = np.array(rows, object).reshape(len(rows), len(header)).T
            return name, _named(name, header, cells)
        return name, of_frame(name, _read_parquet(path))
    return "table", of_frame("table", table)


def of_frame(name: str, frame: Any) -> Columns:
    """The columns of a data frame of pandas, polars or pyarrow."""
    try:
        names = list(frame.column_names if hasattr(frame, "column_names") else frame.columns)
        return _named(name, list(map(str, names)), [np.asarray(frame[column]) for column in names])
    except (AttributeError, TypeError, KeyError):
        raise TypeError(
            f"{name}={checks.show(frame)}: must be a file, or a data frame of pandas, polars or pyarrow"
        ) from None


def _named(name: str, header: Any, cells: Any) -> Columns:
    for column in header:
        if not column:
            raise ValueError(f"{name}: has a column without a name, perhaps the numbers of its rows; name or remove it")
        if header.count(column) > 1:
            raise ValueError(f"{name}: has {header.count(column)} columns {column!r}; give each a name of its own")
    return dict(zip(header, cells, strict=True))


def _read_parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ImportError("files of parquet need the library pyarrow; install it with pip install pyarrow") from None
    with readable(str(path)):
        table = pyarrow.parquet.read_table(path)
        return table.select([column for column in table.column_names if not column.startswith(INDEX)])


def _numbers(where: str, cells: np.ndarray) -> np.ndarray:
    """The cells in float32.

    Raises:
      ValueError: a cell is empty, or holds a text, a date, NaN or infinity.
    """
    if cells.dtype.kind in "mM":
        raise ValueError(
            f"{where} holds dates or durations, which are no numbers; turn them into numbers, such as days, or remove "
            "the column"
        )
    if cells.dtype.kind in "biuf":
        numbers = cells
    else:
        numbers = np.array([_number(f"{where}: row {row}", cell) for row, cell in enumerate(cells, 1)])
    if not (finite := np.abs(numbers) <= np.finfo(np.float32).max).all():
        row = int(np.argmin(finite))
        raise ValueError(
            f"{where}: row {row + 1} holds {numbers[row]}, which is no finite number; fill it, or remove the row"
        )
    return numbers.astype(np.float32)


def _number(where: str, cell: Any) -> float:
    if _is_missing(cell):
        raise ValueError(f"{where} is empty; fill it, or remove the row")
    if isinstance(cell, str) and cell.strip().lower() in ("true", "false"):
        return float(cell.strip().lower() == "true")
    with suppress(ValueError, TypeError):
        if not _has_underscore(cell):
            return float(cell)
    raise ValueError(
        f"{where} holds {checks.show(cell)}, which is no number; turn the column into numbers, or remove it, or, if it "
        "holds the texts to learn, call it text, in a .csv file"
    )


def _has_underscore(cell: Any) -> bool:
    """Whether a cell has an underscore: Python reads 1_000 as a number, but in a table it is none."""
    return "_" in str(cell)


def _is_missing(cell: Any) -> bool:
    """Whether a cell is empty, None or the NA of pandas."""
    return not cell.strip() if isinstance(cell, str) else str(cell) in ("None", "<NA>", "NaT", "nan")
