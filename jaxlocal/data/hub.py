"""Data sets of the library `datasets`: by their name on its hub, or in a folder that it has saved.

Images and columns of numbers are a `Source`, and texts are a `Corpus`.
"""

import io
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from jaxlocal.data.decode import PIECE, Decoded, Decoder, Image, Reader, is_grey
from jaxlocal.data.frames import Names, inputs, labels, matrix, of_frame, shuffled, targets
from jaxlocal.data.sources import Source
from jaxlocal.data.tables import SPLIT_OF, Corpus, Row, gathered, labelled, unlabelled

HUB = "hf:"  # so begin the names of these data sets
STATES = "dataset_dict.json", "state.json"  # one of them is in a folder that the library has saved
NO_CLASS = -1  # the label of an example whose class is secret or unknown


def from_hub(name: str, size: int | None, label: str) -> Source:
    """Labelled images, or columns of numbers, as the library has them in its cache.

    Args:
      name: "hf:NAME", "hf:NAME:CONFIGURATION" or "hf:FOLDER".
      size: the height and width that images get.
      label: the column of labels.

    Returns:
      The source.
    """
    found, where = _labelled(name, label), f"name={name!r}"
    pictures = _pictures(found["train"])
    if len(pictures) > 1:
        raise ValueError(f"{where}: has the images {', '.join(pictures)}; save it with one of them alone")
    if size is not None and not pictures:
        raise ValueError(f"size={size}: {name} holds no images; leave out --image-size, or size=… in Python")

    def decode() -> dict[str, Decoded]:
        if not pictures:
            return _of_numbers(where, found, label)
        return _of_images(where, found, pictures[0], size, label)

    return Source(name, *_files(found), decode)


def hub_names(name: str, label: str) -> Names:
    """The names of the columns of numbers, and of the classes; `name` and `label` are as in `from_hub`."""
    train = _labelled(name, label)["train"]
    cells = _labels(f"name={name!r}", "train", train, label)
    named = getattr(train.features[label], "int2str", str)
    classes = () if cells.dtype.kind == "f" else tuple(map(named, np.unique(cells).tolist()))
    return Names(() if _pictures(train) else tuple(inputs(train.features, label)), classes)


def _pictures(rows: Any) -> list[str]:
    """The columns of images."""
    return [column for column, feature in rows.features.items() if type(feature).__name__ == "Image"]


def holds_texts(name: str) -> bool:
    """Whether it has a column `text` of texts."""
    train = _found(name).get("train")
    features = train.features if train is not None else {}
    return getattr(features.get("text"), "dtype", None) in ("string", "large_string")


def texts(name: str, label: str) -> Corpus:
    """Labelled texts, as the library has them in its cache.

    Args:
      name: as in `from_hub`, of a data set with a column text.
      label: the column of labels.

    Returns:
      The texts. Their labels are the names of the classes, where the data set has such names.
    """
    found, where = _labelled(name, label), f"name={name!r}"
    return Corpus(where, name, *_files(found), lambda: gathered(where, _rows(where, found, label)), "row")


def _found(name: str) -> Mapping[str, Any]:
    """The splits of a data set, under our names."""
    try:
        import datasets
    except ImportError:
        raise ImportError(
            f"name={name!r}: needs the library datasets; install it with pip install 'jaxlocal[hf]'"
        ) from None
    place, _, configuration = name.removeprefix(HUB).partition(":")
    if not place:
        raise ValueError(f"name={name!r}: names no data set; write hf:NAME, such as hf:ylecun/mnist")
    try:
        if any((Path(place) / state).is_file() for state in STATES):
            found = datasets.load_from_disk(place)
        else:
            found = _of_cache_or_hub(place, configuration or None)
    except Exception as error:  # the library raises errors of any kind
        raise FileNotFoundError(
            f"name={name!r}: the library datasets does not find it ({' '.join(str(error).split())}); check the name, "
            f"or call datasets.load_dataset({place!r}) on a machine with internet access and bring its cache"
        ) from None
    found = found if isinstance(found, Mapping) else {"train": found}
    splits: dict[str, Any] = {}
    for split, rows in found.items():
        if split in SPLIT_OF and splits.setdefault(SPLIT_OF[split], rows) is not rows:
            raise ValueError(
                f"name={name!r}: has two {SPLIT_OF[split]} sets, one of them called {split!r}; save it with one of them"
            )
    return splits


@cache  # because the library asks the hub again each time, and waits for half a minute where it is not reached
def _of_cache_or_hub(place: str, configuration: str | None) -> Any:
    import datasets

    return datasets.load_dataset(place, configuration)


def _labelled(name: str, label: str) -> Mapping[str, Any]:
    """The splits, without a test set whose labels are kept secret."""
    found = _found(name)
    if "train" not in found:
        held = ", ".join(found) or "none"
        raise ValueError(f"name={name!r}: has the splits {held}, and no train; take another data set")
    test = found.get("test")
    secret = test is not None and label in test.features and len(test) and all(one == NO_CLASS for one in test[label])
    kept = {split: rows for split, rows in found.items() if split != "test" or not secret}
    for rows in kept.values():
        if label not in rows.features:
            raise ValueError(f"name={name!r}: {unlabelled(label, rows.features)}")
    return kept


def _files(found: Mapping[str, Any]) -> tuple[Path, list[Path]]:
    """The folder that all files of a data set lie in, and the files."""
    files = [Path(file["filename"]) for split in found.values() for file in split.cache_files]
    return Path(os.path.commonpath([file.parent for file in files])) if files else Path(), files


def _rows(where: str, found: Mapping[str, Any], label: str) -> Iterator[tuple[str, Row]]:
    """The split and the row of each text."""
    for split, rows in found.items():
        cells = rows.select_columns(["text", label]).with_format("arrow")[:].to_pylist()
        named = getattr(rows.features[label], "int2str", str)
        for number, cell in enumerate(cells, 1):
            place, (text, one) = f"{where}: row {number} of {split}", (cell["text"], cell[label])
            if text is None:
                raise ValueError(f"{place} has no text; remove it, or make it empty")
            has_none = one is None or (named is not str and one == NO_CLASS)
            yield labelled(place, number, {"text": text, "label": "" if has_none else named(one), "split": split})


def _of_numbers(where: str, found: Mapping[str, Any], label: str) -> dict[str, Decoded]:
    y = {split: _labels(where, split, rows, label) for split, rows in found.items()}
    columns = {split: of_frame(where, rows.with_format("arrow")[:]) for split, rows in found.items()}
    x = {split: matrix(where, inputs(cells, label)) for split, cells in columns.items()}
    order = shuffled(where, np.arange(len(x["train"])))
    x["train"], y["train"] = x["train"][order], y["train"][order]
    ys, _ = targets(where, y)
    return {split: Decoded(len(x[split]), iter([(x[split], ys[split])])) for split in found}


def _labels(where: str, split: str, rows: Any, label: str) -> np.ndarray:
    """The labels of a split, as `labels` returns them."""
    found = labels(where, of_frame(where, rows.select_columns(label).with_format("arrow")[:]), label)
    if hasattr(rows.features[label], "int2str") and (lacking := found == NO_CLASS).any():
        row = np.argmax(lacking) + 1
        raise ValueError(f"{where}: row {row} of {split} has the label {NO_CLASS}, which means none; remove such rows")
    return found


def _of_images(where: str, found: Mapping[str, Any], picture: str, size: int | None, label: str) -> dict[str, Decoded]:
    ys, classes = targets(where, {split: _labels(where, split, rows, label) for split, rows in found.items()})
    if not classes:
        raise ValueError(f"{where}: the labels of its images are real numbers; name a column of classes by label")

    def read(split: str, numbers: Any) -> list[Image]:
        """These images, which have not been decoded yet."""
        rows = found[split].select_columns(picture).with_format("arrow")[numbers]
        cells = rows[picture].to_pylist()
        if None in cells:
            raise ValueError(f"{where}: image {numbers[cells.index(None)]} of {split} is missing; remove its row")
        return [
            Image(
                f"{where}: image {number} of {split}",
                Path(cell["path"]) if cell["bytes"] is None else io.BytesIO(cell["bytes"]),
                int(ys[split][number].argmax()),
            )
            for number, cell in zip(numbers, cells, strict=True)
        ]

    order = {split: np.arange(len(rows)) for split, rows in found.items()}
    pieces = ((split, rows[i : i + PIECE]) for split, rows in order.items() for i in range(0, len(rows), PIECE))
    grey = all(is_grey(image.file) for split, rows in pieces for image in read(split, rows))
    order["train"] = shuffled(where, order["train"])

    def reader(split: str) -> Reader:
        return lambda start, stop: read(split, order[split][start:stop])

    decoder = Decoder(where, "L" if grey else "RGB", size, len(classes))
    return {split: decoder.split(len(rows), reader(split)) for split, rows in found.items()}
