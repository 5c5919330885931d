"""Loading of data sets by name, by folder, or by file."""

import os
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from jaxlocal import checks
from jaxlocal.data.cache import cached
from jaxlocal.data.frames import LABEL, Names, from_table, is_frame, read_names
from jaxlocal.data.hub import HUB, from_hub, hub_names
from jaxlocal.data.sources import classes_in, from_folder, from_npz, from_tfds, of_pairs, tfds_classes
from jaxlocal.data.splits import Pairs, Splits, complete, floats, hold_out_tenth
from jaxlocal.data.tables import check_file
from jaxlocal.data.text import is_text, load_text
from jaxlocal.files import of_user

# Data sets that are known to work. Any other set of labelled images in TFDS can be loaded by its name there. The
# sentences are texts, and all others are images.
NAMES = (
    "digits",
    "sentences",
    "mnist",
    "fashion_mnist",
    "kmnist",
    "cifar10",
    "cifar100",
    "svhn_cropped",
    "stl10",
    "imagenet_resized/32x32",
    "imagenet_resized/64x64",
    "imagenet2012",
)


def digits() -> Splits:
    """The 1,797 handwritten digits of 8×8 pixels that come with scikit-learn: 1,097 train, 300 validation, 400 test.

    A permutation with a fixed seed determines the splits, so they are the same in every call.

    Example:
      >>> jl.data.digits().train[0].shape
      (1097, 8, 8, 1)

    Reference:
      Alpaydin, Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998.
    """
    # Read from scikit-learn's own file, because its import takes more than a second.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), np.uint8, delimiter=",")
    table = table[np.random.default_rng(0).permutation(len(table))]
    x = table[:, :-1].reshape(-1, 8, 8, 1) / np.float32(16)
    y = np.eye(10, dtype=np.float32)[table[:, -1]]
    return Splits((x[:1097], y[:1097]), (x[1097:1397], y[1097:1397]), (x[1397:], y[1397:]))


def images(name: str, validation: int | None = None, data_dir: str | None = None) -> Splits:
    """An image set as `load` returns it, but in float32 with pixels between 0 and 1.

    Args:
      name: the data set's name in TFDS, such as "mnist".
      validation: the number of examples that are held out for validation, as in `load`.
      data_dir: the folder of the prepared data sets; by default the environment variable TFDS_DATA_DIR.

    Returns:
      The three splits.
    """
    return Splits(*map(floats, load(name, validation=validation, data_dir=data_dir)))


def load(
    name: str | os.PathLike[str],
    *,
    validation: int | None = None,
    size: int | None = None,
    label: str = LABEL,
    data_dir: str | None = None,
) -> Splits:
    """A data set as memory-mapped arrays, which take memory only for the pages that are read.

    Images are uint8 (N, H, W, C) and classes are one-hot uint8 (N, C). `floats` turns them into float32, with pixels
    between 0 and 1. The digits, tables of numbers and the floats of a .npz file are float32 already. Texts are token
    ids int32 (N, length) and stay so; `load_text` says more about them.

    The first call decodes the data set into the cache, `data` in $JAXLOCAL_CACHE (default ~/.cache/jaxlocal). Later
    calls reuse it as long as the data set's files have the same content; for sets above 2 GB, as long as the files have
    the same names, sizes and dates.

    The test split is the data set's own. If that does not exist, or if TFDS or `datasets` mark its labels as secret by
    -1, the validation set takes its place; if there is none either, a tenth of the examples, which are the same in
    every call. Folders and files are shuffled with a fixed seed first.

    Args:
      name: "digits" or "sentences"; a name in TFDS, such as those in `NAMES`; a folder with one folder of images for
        each class, or with such folders in train, val and test (TinyImageNet's own layout works, too); a .npz file with
        x_train, y_train, x_test, y_test and optionally x_validation, y_validation, or with x and y alone; a table of
        numbers for `load_table`, .csv, .tsv or .parquet; a table with a column of texts for `load_text`, such as
        reviews.csv; or "hf:NAME", a data set of the library `datasets`. Write "./mnist" for a folder whose name is in
        `NAMES`.
      validation: the number of examples that are held out from the end of the training set for validation; by default
        the data set's own validation set is used, or else a tenth of the training set, 5,000 examples at most.
      size: the height and width that images get: the shorter side is resized, then the centre is cut out.
      label: the name of the column of labels in a table of numbers or a data set of `datasets`.
      data_dir: the folder of the prepared TFDS data sets; by default the environment variable TFDS_DATA_DIR.

    Returns:
      The three splits.

    Example:
      >>> jl.data.load("digits", validation=97).train[0].shape
      (1300, 8, 8, 1)
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"name={checks.show(name)}: must be the name or the path of a data set, such as 'digits'")
    name = os.fspath(name)
    for argument, value in (("validation", validation), ("size", size)):
        if value is not None:
            checks.positive_int(argument, value)
    path = of_user(name)
    if is_frame(path) and not name.startswith(HUB):
        check_file(path)
    if (texts := is_text(name)) and size is not None:
        raise ValueError(
            f"size={size}: {name} holds texts, which have no such size; leave out --image-size, or size=… in Python"
        )
    if label != LABEL and not name.startswith(HUB) and (texts or not is_frame(path)):
        raise ValueError(f"label={checks.show(label)}: {name} is no table of numbers; leave label out")
    if size is not None and not is_resized(name):
        raise ValueError(
            f"size={size}: {name} is not resized; leave out --image-size, or size=… in Python; you can resize arrays "
            "yourself"
        )
    if texts:
        return load_text(name, label=label, validation=validation).splits
    if name.startswith(HUB):
        return complete(cached(from_hub(name, size, label), (size, label)), validation)
    if name == "digits":
        return _digits(validation)
    if is_frame(path):
        return complete(cached(from_table(path, label), label), validation)
    if path.suffix == ".npz":
        source = from_npz(path)
    elif is_folder(name):
        source = from_folder(path, size)
    elif name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"name={name!r}: there is no such folder; check the path")
    else:
        source = from_tfds(name, NAMES, size, data_dir)
    return complete(cached(source, size), validation)


def names_in(name: str, label: str) -> Names:
    """The names of the columns and classes of a data set that `load` can load, other than texts."""
    path = of_user(name)
    if name.startswith(HUB):
        return hub_names(name, label)
    if is_frame(path):
        return read_names(path, label)
    if is_folder(name):
        return Names(classes=classes_in(path))
    return Names() if name == "digits" or path.suffix == ".npz" else Names(classes=tfds_classes(name))


def has_columns(name: str) -> bool:
    """Whether a data set has columns by name, one of which holds the labels."""
    return is_frame(Path(name)) or name.startswith(HUB)


def is_folder(name: str) -> bool:
    """Whether a data set is a folder of images."""
    return name not in ("", "digits", *NAMES) and of_user(name).is_dir()


def is_resized(name: str) -> bool:
    """Whether a data set is one of image files, which can be given another size."""
    path = Path(name)
    return name != "digits" and path.suffix != ".npz" and not is_frame(path)


def from_arrays(train: Pairs, validation: Pairs | None = None, test: Pairs | None = None) -> Splits:
    """Arrays of your own as a data set.

    Missing sets are cut from the training set as in `load`, after it has been shuffled with a fixed seed.

    Args:
      train: (x, y). x holds 8-bit pixels or floats, (N, …). An x of three axes is taken for grey images, (N, H, W),
        and gets an axis for their channel; put series (N, T, C), token ids, and a target for each token into
        `jl.data.Splits`. y holds whole numbers, which are classes, (N,); one-hot rows, (N, C); or floats, (N,)
        or (N, C), which are real targets unless each row is one-hot or holds probabilities. Whole numbers in rows must
        be one-hot: several labels at once are floats.
      validation: the same for validation, if there are such examples.
      test: the same for the test.

    Returns:
      The three splits, with x as uint8 or float32 and classes as one-hot uint8. `floats` makes both float32, for loops
      of your own.

    Raises:
      ValueError: the arrays do not fit together, or the training set has one class only.

    Example:
      >>> x, labels = np.random.default_rng(0).uniform(size=(60, 8)), np.arange(60) % 3
      >>> data = jl.data.from_arrays((x, labels))
      >>> [y.shape for _, y in data]
      [(49, 3), (5, 3), (6, 3)]
    """
    given = {"train": train, "validation": validation, "test": test}
    pairs: dict[str, Pairs] = {}
    for split, pair in given.items():
        if pair is None:
            continue
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"{split}={checks.show(pair)}: must be a pair (x, y) of arrays; write from_arrays((x, y))")
        if any(np.ma.is_masked(array) for array in pair):
            raise TypeError(f"{split}: has masked values, which would count as others; put numbers there: x.filled(0)")
        pairs[split] = np.asarray(pair[0]), np.asarray(pair[1])
    found = of_pairs("", pairs)
    if "test" not in found:  # otherwise the validation set would take its place
        found["train"], found["test"] = hold_out_tenth(found["train"])
    return complete(found, None)


def _digits(validation: int | None) -> Splits:
    if validation is None:
        return digits()
    train, held_out, test = digits()
    x, y = (np.concatenate(sides) for sides in zip(train, held_out, strict=True))
    return complete({"train": (x, y), "test": test}, validation)
