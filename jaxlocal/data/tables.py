"""Tables in .csv and .tsv files, which gzip may have compressed; those of labelled texts are read row by row."""

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from jaxlocal.hints import nearest

SUFFIXES = ".csv", ".tsv", ".csv.gz", ".tsv.gz"
SPLIT_OF = {
    "train": "train",
    "all": "train",  # there are no splits, so that they are cut from the training set
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}
WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
FEWEST = 3  # one row for each split


class Row(NamedTuple):
    """One labelled text, and the line of the file where it begins or, if it is in no file, its number."""

    line: int
    text: str
    label: str


Rows = dict[str, list[Row]]  # the rows of each split that a file has


class Corpus(NamedTuple):
    """Labelled texts that have not been read yet."""

    where: str  # how an error begins
    name: str  # in the cache
    root: Path  # the folder that all of its files lie in
    files: Sequence[Path]  # none for texts that come with the library
    read: Callable[[], Rows]
    unit: str = "line"  # what the number of a row counts


def is_table(path: Path) -> bool:
    """Whether the name is that of a .csv or .tsv file."""
    return path.name.lower().endswith(SUFFIXES)


def holds_numbers(path: Path) -> bool:
    """Whether the header of a .csv or .tsv file names no column text. A file that cannot be read is one of texts."""
    try:
        with _readable(str(path)), _opened(path) as file:
            _, header = next(_lines(str(path), file, _delimiter(path)))
    except ValueError:
        return False
    return "text" not in [column.lower() for column in header]


def check_file(path: Path) -> None:
    """There is such a file, and its cells are not separated by semicolons."""
    if path.is_dir():
        raise ValueError(f"name={str(path)!r}: is a folder; name a file of texts, such as reviews.csv")
    if not path.is_file():
        raise FileNotFoundError(f"name={str(path)!r}: there is no such file; check the path")
    if is_table(path) and ";" in (line := _first_line(path)) and _delimiter(path) not in line:
        raise ValueError(
            f"name={str(path)!r}: its cells are separated by semicolons; save it with commas as .csv, or with tabs as "
            ".tsv"
        )


def _first_line(path: Path) -> str:
    """The first line of a file; nothing if it cannot be read, of which its reader tells."""
    try:
        with _readable(str(path)), _opened(path) as file:
            return file.readline()
    except ValueError:
        return ""


def read_table(path: Path) -> Rows:
    """The rows of a file in UTF-8, whose header names the columns text, label and optionally split.

    Whole numbers that are labels are written alike: 01 becomes 1.

    Raises:
      ValueError: the file is no such table; the message names the line.
    """
    name = f"name={str(path)!r}"
    with _readable(name), _opened(path) as file:
        return gathered(name, _rows(name, file, _delimiter(path)))


def gathered(name: str, rows: Iterable[tuple[str, Row]]) -> Rows:
    """The rows of each split.

    Raises:
      ValueError: they are too few.
    """
    table: Rows = {}
    for split, row in rows:
        table.setdefault(split, []).append(row)
    if not table:
        raise ValueError(f"{name}: has a header and no rows; add a row for each text")
    if (count := len(table.get("train", ()))) < FEWEST:
        raise ValueError(
            f"{name}: has {count} {'row' if count == 1 else 'rows'} of the training set; give at least {FEWEST}, or "
            "leave out the column split"
        )
    return table


def classes_of(corpus: Corpus, table: Rows) -> tuple[str, ...]:
    """The labels of the training set, sorted: as numbers if all of them are, and else as texts.

    Raises:
      ValueError: there is one class only, or another set has a class that the training set lacks.
    """
    found = {row.label for row in table["train"]}
    if len(found) < 2:
        raise ValueError(
            f"{corpus.where}: has one class, {min(found)!r}, so that there is nothing to learn; add texts of "
            "another class"
        )
    classes = tuple(sorted(found, key=int) if all(map(WHOLE.fullmatch, found)) else sorted(found))
    for split, rows in table.items():
        for row in rows:
            if row.label not in found:
                raise ValueError(
                    f"{corpus.where}: {corpus.unit} {row.line} of the {split} set has the label {row.label!r}, which "
                    f"the training set lacks; {nearest(row.label, classes)}, or add such texts"
                )
    return classes


def numbered(corpus: Corpus, rows: Sequence[Row], classes: Sequence[str]) -> list[int]:
    """The number of each row's class.

    Raises:
      ValueError: a label is none of the classes.
    """
    numbers = {label: number for number, label in enumerate(classes)}
    for row in rows:
        if row.label not in numbers:
            raise ValueError(
                f"{corpus.where}: {corpus.unit} {row.line} has the label {row.label!r}, which is none of the known "
                f"classes; {nearest(row.label, classes)}"
            )
    return [numbers[row.label] for row in rows]


def split_of(where: str, value: str) -> str:
    """The split that is meant by a cell of the column split.

    Raises:
      ValueError: none is.
    """
    if (split := value.strip().lower()) not in SPLIT_OF:
        raise ValueError(f"{where} has split={value!r}; use train, validation or test")
    return SPLIT_OF[split]


def unlabelled(label: str, columns: Iterable[str]) -> str:
    """What is said of a table without a column of labels of this name."""
    hint = nearest(label, columns)
    return f"has no column {label!r}; name the column of labels by --label, or label=… in Python; {hint}"


def read_cells(path: Path) -> tuple[list[str], list[list[str]]]:
    """The names of the columns of any table, and its rows.

    Raises:
      ValueError: the file is no table; the message names the line.
    """
    name = f"name={str(path)!r}"
    with _readable(name), _opened(path) as file:
        header, *rows = (cells for _, cells in _lines(name, file, _delimiter(path)))
    return header, rows


def _rows(name: str, file: TextIO, delimiter: str) -> Iterator[tuple[str, Row]]:
    lines = _lines(name, file, delimiter)
    columns = [column.lower() for column in next(lines)[1]]
    _check_columns(name, columns)
    for line, cells in lines:
        yield labelled(f"{name}: line {line}", line, dict(zip(columns, cells, strict=True)))


def _lines(name: str, file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The header, and each row that is not blank, with the line where it begins; all have equally many cells.

    The header is the first line that is not blank.
    """
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    line = 1
    try:
        header = next(filter(any, ([cell.strip() for cell in cells] for cells in reader)), None)
        if header is None:
            raise ValueError(f"{name}: is empty; write a line of column names, and a row for each example")
        yield line, header
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise ValueError(
                    f"{name}: line {line} has {len(cells)} columns, but the header has {len(header)}; put texts that "
                    "hold a separator between quotes"
                )
            if cells:  # the line is not blank
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{name}: line {line} begins a row that is not one of a table ({error}); put texts with quotes between "
            f'quotes, write each quote within as "", and shorten texts of more than {csv.field_size_limit()} characters'
        ) from None


def _check_columns(name: str, columns: Sequence[str]) -> None:
    if columns.count("split") > 1:
        raise ValueError(f"{name}: the header names {columns.count('split')} columns split; leave one")
    for column in ("text", "label"):
        if (count := columns.count(column)) != 1:
            held = ", ".join(columns)[:200]
            raise ValueError(
                f"{name}: the header must name one column {column}, but it names {count}, among {held}; write a first "
                "line such as text,label"
            )


def labelled(where: str, line: int, values: Mapping[str, str]) -> tuple[str, Row]:
    """The split and the row that are meant by the cells of the columns text, label and perhaps split.

    Raises:
      ValueError: the label is empty, or a cell holds what no text has.
    """
    if "\0" in values["text"] or "\0" in values["label"]:
        raise ValueError(f"{where} holds a NUL character, which no text has; remove it, or save the file as UTF-8")
    label = values["label"].strip()
    if not label:
        raise ValueError(f"{where} has no label; give it one, or remove the row")
    row = Row(line, values["text"], str(int(label)) if WHOLE.fullmatch(label) else label)
    return split_of(where, values.get("split", "all")), row


def _delimiter(path: Path) -> str:
    return "\t" if ".tsv" in path.name.lower()[-7:] else ","


def _opened(path: Path) -> TextIO:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Say in one sentence that the bytes of a file are not those of a text."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: is not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{name}: is no whole gzip file ({error}); compress it again") from None
    except OSError as error:
        raise ValueError(f"{name}: cannot be read ({error.strerror or error}); check the file") from None
