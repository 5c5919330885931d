"""Sources of data sets: TensorFlow Datasets (TFDS), folders of images, and .npz files.

A source lists the files that determine a data set's content, and decodes them when it is asked to.
"""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlocal.checks import show
from jaxlocal.data.decode import Decoded, Decoder, Image, Reader, is_grey, readable
from jaxlocal.data.splits import SPLITS, Pairs, one_hot
from jaxlocal.data.tables import SPLIT_OF
from jaxlocal.hints import nearest
from jaxlocal.network import are_one_hot

ANNOTATIONS = "val_annotations.txt"  # TinyImageNet's validation labels, one a line: file name, class, bounding box
LARGEST = 2**31  # bytes of one-hot rows that are made of class labels
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class Source(NamedTuple):
    """A data set on disk that has not been decoded yet."""

    name: str
    root: Path  # the folder that all of its files lie in
    files: Sequence[Path]
    decode: Callable[[], dict[str, Decoded]]  # the splits by name


def from_tfds(name: str, known: Sequence[str], size: int | None, data_dir: str | None) -> Source:
    """An image set that TFDS has prepared as array_record files, which are read without TensorFlow.

    Args:
      name: its name in TFDS.
      known: names that an error message may suggest.
      size: the height and width that images get.
      data_dir: the folder of the prepared data sets; by default the environment variable TFDS_DATA_DIR.

    Returns:
      The source.
    """
    tfds = _tfds(name)
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
    builder: Any = None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        features = dict(builder.info.features.items())
        image, label = builder.info.supervised_keys or ("image", "label")
        as_bytes = {image: tfds.decode.SkipDecoding()} if image in features else None
        splits = [split for split in SPLITS if split in builder.info.splits] or ["train"]
        found = {split: builder.as_data_source(split, decoders=as_bytes) for split in splits}
    except (AssertionError, FileNotFoundError, NotImplementedError, ValueError) as error:
        raise FileNotFoundError(_not_found(name, known, builder, data_dir)) from error
    feature: Any = features.get(image)
    classes = getattr(features.get(label), "num_classes", None)
    mode = {1: "L", 3: "RGB"}.get(feature.shape[-1]) if getattr(feature, "np_dtype", None) == np.uint8 else None
    if "train" not in found or mode is None or classes is None:
        raise ValueError(f"name={name!r}: has no training set of 8-bit images with class labels; take another data set")
    if "test" in found and found["test"][0][label] < 0:  # TFDS writes -1 for labels that are kept secret
        del found["test"]

    def reader(split: str) -> Reader:
        def read(start: int, stop: int) -> list[Image]:
            examples = found[split].__getitems__(range(start, stop))
            return [
                Image(f"example {i} of {name}'s {split} set", io.BytesIO(example[image]), int(example[label]))
                for i, example in enumerate(examples, start)
            ]

        return read

    def decode() -> dict[str, Decoded]:
        decoder = Decoder(name, mode, size, classes)
        return {split: decoder.split(len(examples), reader(split)) for split, examples in found.items()}

    root = Path(builder.data_path)
    return Source(name, root, [path for path in root.iterdir() if path.is_file()], decode)


def tfds_classes(name: str) -> tuple[str, ...]:
    """The names of the classes of an image set that `from_tfds` reads."""
    info = _tfds(name).builder(name, data_dir=os.environ.get("TFDS_DATA_DIR")).info
    _, label = info.supervised_keys or ("image", "label")
    return tuple(info.features[label].names)


def _tfds(name: str) -> Any:
    """The library, which is slow to import and needed by these data sets only; it must not stop all others."""
    try:
        import tensorflow_datasets
    except Exception as error:
        raise ImportError(
            f"name={name!r}: there is no folder of this name, and data sets of TFDS cannot be read, because the import "
            f"of tensorflow_datasets fails ({error}); install it with pip install tensorflow-datasets"
        ) from None
    return tensorflow_datasets


def _not_found(name: str, known: Sequence[str], builder: Any, data_dir: str | None) -> str:
    """The error message for a data set that is not on disk. TFDS has no builder for a name that it does not know."""
    folder = data_dir or "~/tensorflow_datasets"
    if builder is None and name not in known:
        hint = nearest(name, known)
        return f"name={name!r}: there is no folder of this name, and no such data set in TFDS or in {folder}; {hint}"
    by_hand = getattr(builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None)
    archives = " after putting its owners' archives into downloads/manual there," if by_hand else ""
    return (
        f"name={name!r}: {folder} has no prepared data set of this name; prepare it with "
        f"'tfds build {name} --file_format=array_record'{archives} on a machine with internet access, and set "
        "TFDS_DATA_DIR to its folder"
    )


def classes_in(root: Path) -> tuple[str, ...]:
    """The names of the classes in a folder of images."""
    return tuple(folder.name for folder in _folders(_of_training(root)))


def _of_training(root: Path) -> Path:
    return root / "train" if (root / "train").is_dir() else root


def from_folder(root: Path, size: int | None) -> Source:
    """A folder with one folder of images for each class, or with such folders in train, val (validation) and test."""
    train = _of_training(root)
    labels = {name: label for label, name in enumerate(classes_in(root))}
    found = {"train": _images(train, labels)}
    others = {} if train == root else {folder: split for folder, split in SPLIT_OF.items() if split != "train"}
    for folder, split in others.items():
        if _has_labels(root / folder, labels) and (images := _images(root / folder, labels)):
            if split in found:
                raise ValueError(f"name={str(root)!r}: holds two validation sets, one in {folder}; remove one")
            found[split] = images
    missing = set(labels.values()) - {image.label for image in found["train"]}
    if len(labels) < 2 or missing:
        held = f"{list(labels)[min(missing)]} has none" if missing else f"it holds {len(labels)}"
        raise ValueError(
            f"name={str(root)!r}: {train} must hold two or more folders, one for each class, with images in each, but "
            f"{held}; sort the images into such folders"
        )
    order = np.random.default_rng(0).permutation(len(found["train"]))
    found["train"] = [found["train"][i] for i in order]
    files = [Path(image.name) for images in found.values() for image in images]

    def decode() -> dict[str, Decoded]:
        decoder = Decoder(str(root), "L" if all(map(is_grey, files)) else "RGB", size, len(labels))
        return {split: decoder.split(len(images), _reader(images)) for split, images in found.items()}

    return Source(root.resolve().name, root, [*files, *root.glob(f"*/{ANNOTATIONS}")], decode)


def _reader(images: Sequence[Image]) -> Reader:
    return lambda start, stop: images[start:stop]


def _folders(folder: Path) -> list[Path]:
    inside = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in inside if path.is_dir() and not path.name.startswith("."))


def _has_labels(folder: Path, labels: dict[str, int]) -> bool:
    return (folder / ANNOTATIONS).is_file() or any(inside.name in labels for inside in _folders(folder))


def _images(folder: Path, labels: dict[str, int]) -> list[Image]:
    """The images of one split, from its folders of classes or from TinyImageNet's annotations."""
    if (annotations := folder / ANNOTATIONS).is_file():
        with readable(str(annotations)):
            pairs = _annotated(annotations)
    else:
        pairs = [
            (path, inside.name)
            for inside in _folders(folder)
            for path in sorted(inside.rglob("*"))
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
        ]
    for path, _ in pairs:
        if not path.is_file():  # the end of a pipe would never come
            wrong = "a pipe or a device; remove it" if path.exists() else "missing, or a link to nothing; replace it"
            raise ValueError(f"{path} is {wrong}")
    if unknown := {name for _, name in pairs} - set(labels):
        raise ValueError(f"{folder} has a class {min(unknown)!r} that the training set lacks; rename or remove it")
    return [Image(str(path), path, labels[name]) for path, name in pairs]


def _annotated(annotations: Path) -> list[tuple[Path, str]]:
    """The file and the class of each image."""
    rows = [line.split("\t") for line in annotations.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            raise ValueError(f"line {number} is {show(row[0])}, not a file name, a tab and a class")
    return [(annotations.parent / "images" / row[0], row[1]) for row in rows]


def from_npz(path: Path) -> Source:
    """A .npz file with x_train, y_train, x_test, y_test and optionally a validation set, or with x and y alone."""
    if not path.is_file():
        raise FileNotFoundError(f"name={str(path)!r}: there is no such file; check the path")
    return Source(path.stem, path.parent, [path], lambda: _arrays(path))


def _arrays(path: Path) -> dict[str, Decoded]:
    arrays: dict[str, np.ndarray] = {}
    with readable(str(path)), np.load(path, allow_pickle=False) as file:
        for name in (names := file.files):
            if (full := _in_full(name)) in arrays:
                raise ValueError(f"{path} holds {full} twice, once as {name}; remove one")
            arrays[full] = file[name]
    found = [split for split in SPLITS if f"x_{split}" in arrays]
    if "train" not in found or not all(f"y_{split}" in arrays for split in found):
        raise ValueError(
            f"{path} holds {', '.join(names) or 'nothing'}; name its arrays x_train, y_train, x_test and y_test, or "
            "x and y"
        )
    if unread := arrays.keys() - {f"{part}_{split}" for part in "xy" for split in found}:
        hint = nearest(min(unread), [f"{part}_{split}" for part in "xy" for split in SPLITS])
        raise ValueError(f"{path} holds {min(unread)}, which is not read; remove or rename it: {hint}")
    pairs = of_pairs(f"{path}: ", {split: (arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in found})
    return {split: Decoded(len(x), iter([(x, y)])) for split, (x, y) in pairs.items()}


def _in_full(name: str) -> str:
    """The name of an array with that of its split: x is x_train, and x_val is x_validation."""
    part, _, split = name.partition("_")
    return f"{part}_{SPLIT_OF.get(split or 'train', split)}" if part in ("x", "y") else name


def of_pairs(where: str, pairs: dict[str, Pairs]) -> dict[str, Pairs]:
    """Inputs and labels of a training set and perhaps others; the training set is shuffled with a fixed seed.

    Args:
      where: how an error begins.
      pairs: (x, y) of each split.

    Returns:
      The same, with inputs of uint8 or float32, and classes as one-hot rows.
    """
    for split, (x, y) in pairs.items():
        if 0 in x.shape or x.shape[:1] != y.shape[:1]:
            raise ValueError(
                f"{where}x_{split} has shape {x.shape} and y_{split} {y.shape}; make them equally many examples, at "
                "least one"
            )
    inputs = [checked_inputs(f"{where}x_{split}", x) for split, (x, _) in pairs.items()]
    targets = _targets(where, [y for _, y in pairs.values()])
    for split, x, y in zip(pairs, inputs, targets, strict=True):
        if x.shape[1:] != inputs[0].shape[1:] or y.shape[1:] != targets[0].shape[1:]:
            raise ValueError(f"{where}x_{split} and y_{split} differ from those of train in shape; make them alike")
        if x.dtype != inputs[0].dtype:
            raise ValueError(f"{where}x_{split} is {x.dtype} and x_train {inputs[0].dtype}; make them of one type")
    if _is_one_class(targets[0]):
        raise ValueError(
            f"{where}y_train has one class, {targets[0][0].argmax()}, so that there is nothing to learn; add examples "
            "of another class"
        )
    order = np.random.default_rng(0).permutation(len(inputs[0]))
    inputs[0], targets[0] = inputs[0][order], targets[0][order]
    return dict(zip(pairs, zip(inputs, targets, strict=True), strict=True))


def checked_inputs(name: str, x: np.ndarray) -> np.ndarray:
    """The inputs of a .npz file: pixels of uint8, or finite numbers as float32. `name` is their name in an error."""
    if x.ndim < 2 or (x.dtype != np.uint8 and x.dtype.kind != "f"):
        raise ValueError(
            f"{name} is {x.dtype} of shape {x.shape}, but must be (N, …) of uint8 pixels or of floats; convert numbers "
            "with x.astype(np.float32), or put token ids into jl.data.Splits"
        )
    x = x[..., None] if x.ndim == 3 else x  # grey images without an axis for their channel
    return x if x.dtype == np.uint8 else _as_float32(name, x)


def _as_float32(name: str, array: np.ndarray) -> np.ndarray:
    """The array as float32, in which every number must be finite."""
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} holds NaN, infinity or a number too large for float32; clean the data, or replace them with "
            "np.nan_to_num"
        )
    return array


def _targets(where: str, ys: list[np.ndarray]) -> list[np.ndarray]:
    """The targets of all splits: floats as they are, and class labels as one-hot rows."""
    if deep := [y.shape for y in ys if y.ndim > 2]:
        raise ValueError(
            f"{where}y has shape {deep[0]}, but must be (N,) or (N, C); put targets for each token into "
            "jl.data.Splits, and make other targets rows with y.reshape(len(y), -1)"
        )
    ys = [y.reshape(len(y), -1) for y in ys]  # labels may have shape (N,) or (N, 1)
    if any(y.dtype.kind == "f" for y in ys):
        return [_as_float32(f"{where}y", y) for y in ys]
    for y in ys:
        if y.dtype.kind not in "iub" or y.min(initial=0) < 0:
            value = str(y.min() if y.dtype.kind in "iub" else y.flat[0])
            raise ValueError(
                f"{where}y holds {value!r}, but must hold class labels 0, 1, … as whole numbers, or real targets as "
                "floats; number the classes by np.unique(y, return_inverse=True)[1]"
            )
    if any(y.shape[1] > 1 for y in ys):
        if not all(are_one_hot(y).all() for y in ys):
            raise ValueError(
                f"{where}y has rows of whole numbers that are not one-hot, a single 1 and else 0; make several labels "
                "at once, or real targets, floats for a network with loss=jl.squared_error; put a class for each token "
                "into jl.data.Splits, as one-hot rows"
            )
        return [y.astype(np.uint8) for y in ys]
    classes, examples = 1 + max(int(y.max()) for y in ys), sum(map(len, ys))
    if (needed := classes * examples) > LARGEST:
        raise ValueError(
            f"{where}y has the class {classes - 1}, whose one-hot rows would take {needed / 2**30:.3g} GB; number the "
            "classes 0, 1, … without gaps"
        )
    return [one_hot(y[:, 0], classes) for y in ys]


def check_classes(where: str, classes: int, examples: int) -> None:
    """Refuse labels of so many values that they look like real numbers; `where` is how an error begins."""
    if (needed := classes * examples) > LARGEST:
        raise ValueError(
            f"{where}: has {classes} classes, whose one-hot rows would take {needed / 2**30:.3g} GB; give the labels "
            "few different values"
        )


def _is_one_class(y: np.ndarray) -> bool:
    """Whether all rows are the same class; a column of floats holds real targets, not classes."""
    classes = y.dtype == np.uint8 or y.shape[1] > 1
    return classes and bool(are_one_hot(y[:1]).all() and (y == y[0]).all())
