"""Data: the embedded digits, and sets from TFDS, from folders of images and from .npz files, decoded once to disk."""

import difflib
import io
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlocal import checks

Pairs = tuple[np.ndarray, np.ndarray]  # x (N, …) and y (N, C), float32; or uint8: x stands for x/255, y for itself
Part = tuple[int, Iterator[Pairs]]  # how many examples, and the pieces in which they are decoded
Image = tuple[str, Path | BinaryIO, int]  # what it is called, where it is read, and its label
Reader = Callable[[int, int], Sequence[Image]]  # the images from a first to before a last

NAMES = (  # sets known to fit; any other image set with class labels in TFDS has its name there
    "digits",
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
PARTS = ("train", "validation", "test")
ANNOTATIONS = "val_annotations.txt"  # TinyImageNet's validation labels: file name, class, box
FORMAT = 1  # of the cache: a new number makes old folders of the cache pass unseen
PIECE = 512  # images decoded at a time
HASHED = 2 * 2**30  # bytes up to which a set is known by its content
ABANDONED = 24 * 3600  # seconds after which an unfinished folder of the cache belongs to no living process
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class Splits(NamedTuple):
    """Three sets apart: learn from the first, choose on the second, report on the third."""

    train: Pairs
    validation: Pairs
    test: Pairs


def digits() -> Splits:
    """The 1,797 handwritten digits of 8×8 pixels that scikit-learn ships: 1,097 to train, 300 to validate, 400 to test.

    The split is fixed: a permutation of the examples by a fixed seed.

    Example:
      >>> jl.data.digits().train[0].shape
      (1097, 8, 8, 1)

    Reference:
      Alpaydin, Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998.
    """
    from sklearn.datasets import load_digits  # slow to import, and not needed by the library itself

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x = (pixels.reshape(-1, 8, 8, 1)[order] / 16).astype(np.float32)
    y = np.eye(10, dtype=np.float32)[labels[order]]
    return Splits((x[:1097], y[:1097]), (x[1097:1397], y[1097:1397]), (x[1397:], y[1397:]))


def images(name: str, validation: int = 5000, data_dir: str | None = None) -> Splits:
    """An image set as `load` finds it, in float32: pixels are divided by 255.

    Args:
      name: the data set's name in TFDS, such as "mnist".
      validation: how many examples at the end of the training set are kept for choosing.
      data_dir: where the prepared sets are; by default the environment variable TFDS_DATA_DIR.

    Returns:
      The three splits.
    """
    return Splits(*map(floats, load(name, validation=validation, data_dir=data_dir)))


def load(
    name: str | os.PathLike[str],
    *,
    validation: int | None = None,
    size: int | None = None,
    data_dir: str | None = None,
) -> Splits:
    """A set as memory-mapped arrays, which only the pages that are read take memory for.

    Images are uint8 (N, H, W, C) and classes one-hot uint8 (N, C): x stands for x/255 and y for itself, and `floats`
    makes them so. The digits and the floats of a .npz file stay float32.

    The first call decodes the set into a folder of $JAXLOCAL_CACHE (by default ~/.cache/jaxlocal/data) that is named
    after the content of the set's files; above 2 GB after their names, sizes and dates.

    The test set is the set's own; where that has no labels or is missing, it is the validation set; where that is
    missing too, a tenth of the examples, always the same. Folders and .npz files are shuffled by a fixed seed first.

    Args:
      name: "digits"; a name in TFDS, such as those in `NAMES`; a folder of class folders, or one with such folders
        train, val and test in it (as TinyImageNet too comes); or a .npz file of x_train, y_train, x_test, y_test and
        perhaps x_validation, y_validation, or of x and y. A folder called like one of `NAMES` is given as "./mnist".
      validation: how many examples at the end of the training set are kept for choosing; by default the set's own
        validation set, or else a tenth of the training set, 5,000 at most.
      size: the height and width to which images are brought: the shorter side is resized, then the centre is cut out.
      data_dir: where the prepared sets of TFDS are; by default the environment variable TFDS_DATA_DIR.

    Returns:
      The three splits.

    Example:
      >>> jl.data.load("digits", validation=97).train[0].shape
      (1300, 8, 8, 1)
    """
    name = os.fspath(name)
    for argument, value in (("validation", validation), ("size", size)):
        if value is not None:
            checks.positive_int(argument, value)
    path = Path(name).expanduser()
    if name == "digits" or path.suffix == ".npz":
        if size is not None:
            raise ValueError(f"size={size}: {name} is taken as it is; leave size out, or resize the arrays yourself")
        if name != "digits":
            return _split(_cached(_npz(path), size), validation)
        if validation is None:
            return digits()
        train, kept, test = digits()
        both = np.concatenate([train[0], kept[0]]), np.concatenate([train[1], kept[1]])
        return _split({"train": both, "test": test}, validation)
    if name and name not in NAMES and path.is_dir():
        return _split(_cached(_folder(path, size), size), validation)
    if name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"name={name!r}: there is no such folder; check the path")
    return _split(_cached(_tfds(name, size, data_dir), size), validation)


def floats(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """The pair (x, y) in float32, NumPy or JAX: uint8 x is divided by 255; what is float32 already is not copied.

    Inside a compiled program it keeps the sets on the device at a quarter of the size.

    Example:
      >>> x, y = jl.data.floats((np.array([[0, 255]], np.uint8), np.array([[0, 1]], np.uint8)))
      >>> x
      array([[0., 1.]], dtype=float32)
    """
    x, y = pair
    return _float32(x) / 255 if x.dtype == np.uint8 else _float32(x), _float32(y)


def _float32(a: Any) -> Any:
    return np.asarray(a, np.float32) if isinstance(a, np.ndarray) else a.astype(jnp.float32)


def _split(parts: dict[str, Pairs], validation: int | None) -> Splits:
    train, own, test = (parts.get(part) for part in PARTS)
    assert train is not None  # every source has it
    if test is None:
        own, test = None, own
    if test is None:
        train, test = _tail(train, max(1, len(train[0]) // 10))
    if validation is None and own is not None:
        return Splits(train, own, test)
    count = len(train[0])
    validation = max(1, min(5000, count // 10)) if validation is None else validation
    if validation >= count:
        raise ValueError(f"validation={validation}: the training set has {count} examples; keep fewer than that")
    return Splits(*_tail(train, validation), test)


def _tail(pair: Pairs, count: int) -> tuple[Pairs, Pairs]:
    x, y = pair
    return (x[:-count], y[:-count]), (x[-count:], y[-count:])


# Sources: each names its files, which the cache is known by, and decodes them when asked.


class _Source(NamedTuple):
    name: str
    root: Path
    files: Sequence[Path]
    parts: Callable[[], dict[str, Part]]


def _tfds(name: str, size: int | None, data_dir: str | None) -> _Source:
    import tensorflow_datasets as tfds  # slow to import, and not needed by the library itself

    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
    builder: Any = None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        features = dict(builder.info.features.items())
        image, label = builder.info.supervised_keys or ("image", "label")
        as_bytes = {image: tfds.decode.SkipDecoding()} if image in features else None
        splits = [part for part in PARTS if part in builder.info.splits] or ["train"]
        sources = {part: builder.as_data_source(part, decoders=as_bytes) for part in splits}
    except (AssertionError, FileNotFoundError, NotImplementedError, ValueError) as error:
        near = difflib.get_close_matches(name, NAMES, n=1)
        if builder is None and near:
            raise FileNotFoundError(f"name={name!r}: no such data set or folder; did you mean {near[0]}?") from error
        by_hand = getattr(builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None)
        archives = ", once its owners' archives are in downloads/manual there," if by_hand else ""
        raise FileNotFoundError(
            f"name={name!r}: neither a folder nor a prepared data set of this name in "
            f"{data_dir or '~/tensorflow_datasets'}; prepare it by 'tfds build {name} --file_format=array_record'"
            f"{archives} where there is a network, and set TFDS_DATA_DIR to its folder"
        ) from error
    pixels: Any = features.get(image)
    classes = getattr(features.get(label), "num_classes", None)
    mode = {1: "L", 3: "RGB"}.get(pixels.shape[-1]) if getattr(pixels, "np_dtype", None) == np.uint8 else None
    if "train" not in sources or mode is None or classes is None:
        raise ValueError(f"name={name!r}: not a set of 8-bit images with class labels to train on; take another")
    if "test" in sources and sources["test"][0][label] < 0:  # its labels are kept secret
        del sources["test"]

    def reader(part: str) -> Reader:
        def read(start: int, stop: int) -> list[Image]:
            examples = sources[part].__getitems__(range(start, stop))
            return [
                (f"example {i} of {name}'s {part} set", io.BytesIO(example[image]), int(example[label]))
                for i, example in enumerate(examples, start)
            ]

        return read

    def parts() -> dict[str, Part]:
        decoder = _Decoder(name, mode, size, classes)
        return {part: decoder.part(len(source), reader(part)) for part, source in sources.items()}

    root = Path(builder.data_path)
    return _Source(name, root, [path for path in root.iterdir() if path.is_file()], parts)


def _folder(root: Path, size: int | None) -> _Source:
    train = root / "train" if (root / "train").is_dir() else root
    labels = {folder.name: label for label, folder in enumerate(_folders(train))}
    found = {"train": _examples(train, labels)}
    for part, folder in (("validation", "validation"), ("validation", "val"), ("test", "test")):
        if train != root and _has_labels(root / folder, labels) and (examples := _examples(root / folder, labels)):
            found[part] = examples
    missing = set(labels.values()) - {label for _, _, label in found["train"]}
    if len(labels) < 2 or missing:
        raise ValueError(
            f"name={str(root)!r}: {train} must hold two or more folders, one a class, with images in each, but "
            f"{list(labels)[min(missing)] + ' has none' if missing else f'it holds {len(labels)}'}; sort the images so"
        )
    order = np.random.default_rng(0).permutation(len(found["train"]))
    found["train"] = [found["train"][i] for i in order]
    files = [path for examples in found.values() for _, path, _ in examples]

    def parts() -> dict[str, Part]:
        decoder = _Decoder(str(root), "L" if all(map(_is_grey, files)) else "RGB", size, len(labels))
        return {part: decoder.part(len(examples), reader(examples)) for part, examples in found.items()}

    def reader(examples: list[tuple[str, Path, int]]) -> Reader:
        return lambda start, stop: examples[start:stop]

    return _Source(root.resolve().name, root, [*files, *root.glob(f"*/{ANNOTATIONS}")], parts)


def _folders(folder: Path) -> list[Path]:
    inside = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in inside if path.is_dir() and not path.name.startswith("."))


def _has_labels(folder: Path, labels: dict[str, int]) -> bool:
    return (folder / ANNOTATIONS).is_file() or any(inside.name in labels for inside in _folders(folder))


def _examples(folder: Path, labels: dict[str, int]) -> list[tuple[str, Path, int]]:
    if (folder / ANNOTATIONS).is_file():
        rows = [line.split("\t") for line in (folder / ANNOTATIONS).read_text().splitlines()]
        pairs = [(folder / "images" / row[0], row[1]) for row in rows]
    else:
        pairs = [
            (path, inside.name)
            for inside in _folders(folder)
            for path in sorted(inside.rglob("*"))
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        ]
    if unknown := {name for _, name in pairs} - set(labels):
        raise ValueError(f"{folder} has a class {min(unknown)!r} that the training set lacks; rename or remove it")
    return [(str(path), path, labels[name]) for path, name in pairs]


def _npz(path: Path) -> _Source:
    if not path.is_file():
        raise FileNotFoundError(f"name={str(path)!r}: there is no such file; check the path")

    def parts() -> dict[str, Part]:
        with _readable(str(path)), np.load(path, allow_pickle=False) as file:
            arrays = {{"x": "x_train", "y": "y_train"}.get(name, name): file[name] for name in file.files}
        found = [part for part in PARTS if f"x_{part}" in arrays]
        if "train" not in found or not all(f"y_{part}" in arrays for part in found):
            raise ValueError(
                f"{path} holds {', '.join(arrays) or 'nothing'}; it must hold x_train, y_train, x_test and y_test, or "
                "x and y: name them so"
            )
        for part in found:
            x_shape, y_shape = arrays[f"x_{part}"].shape, arrays[f"y_{part}"].shape
            if 0 in x_shape or x_shape[:1] != y_shape[:1]:
                raise ValueError(f"{path}: x_{part} has shape {x_shape} and y_{part} {y_shape}; give each x its y")
        inputs = [_inputs(f"{path}: x_{part}", arrays[f"x_{part}"]) for part in found]
        targets = _targets(str(path), [arrays[f"y_{part}"] for part in found])
        for part, x, y in zip(found, inputs, targets, strict=True):
            if x.shape[1:] != inputs[0].shape[1:] or x.dtype != inputs[0].dtype or y.shape[1:] != targets[0].shape[1:]:
                raise ValueError(f"{path}: x_{part} and y_{part} differ from those of train in shape; make them alike")
        order = np.random.default_rng(0).permutation(len(inputs[0]))
        inputs[0], targets[0] = inputs[0][order], targets[0][order]
        return {part: (len(x), iter([(x, y)])) for part, x, y in zip(found, inputs, targets, strict=True)}

    return _Source(path.stem, path.parent, [path], parts)


def _inputs(what: str, x: np.ndarray) -> np.ndarray:
    if x.ndim < 2 or (x.dtype != np.uint8 and x.dtype.kind != "f"):
        raise ValueError(f"{what} is {x.dtype} of shape {x.shape}; make it (N, …) of uint8 pixels or of floats")
    x = x[..., None] if x.ndim == 3 else x  # grey images without their channel
    return x if x.dtype == np.uint8 else x.astype(np.float32)


def _targets(what: str, ys: list[np.ndarray]) -> list[np.ndarray]:
    ys = [y.reshape(len(y), -1) for y in ys]  # labels come as (N,) and as (N, 1)
    if any(y.dtype.kind == "f" for y in ys):
        return [y.astype(np.float32) for y in ys]
    if any(y.dtype.kind not in "iub" or y.min(initial=0) < 0 for y in ys):
        raise ValueError(f"{what}: y must hold class labels 0, 1, … as whole numbers, or targets as floats; make it so")
    if any(y.shape[1] > 1 for y in ys):
        if any(y.max() > 1 for y in ys):
            raise ValueError(f"{what}: y has rows of whole numbers that are not one-hot; store targets as floats")
        return [y.astype(np.uint8) for y in ys]
    return [_one_hot(y[:, 0], 1 + max(int(y.max()) for y in ys)) for y in ys]


def _one_hot(labels: Any, classes: int) -> np.ndarray:
    return (np.asarray(labels)[:, None] == np.arange(classes)).astype(np.uint8)


class _Decoder:
    """Decodes the images of a set piece by piece; all must come out in one shape."""

    def __init__(self, name: str, mode: str, size: int | None, classes: int):
        self.name, self.mode, self.size, self.classes = name, mode, size, classes
        self.first: tuple[str, tuple[int, ...]] | None = None  # the first image, and its shape

    def part(self, count: int, read: Reader) -> Part:
        return count, self._pieces(count, read)

    def _pieces(self, count: int, read: Reader) -> Iterator[Pairs]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets other threads run while it decodes
            for start in range(0, count, PIECE):
                piece = read(start, min(start + PIECE, count))
                groups = pool.map(self._decode, (piece[i : i + 32] for i in range(0, len(piece), 32)))
                x = self._alike([what for what, _, _ in piece], list(chain.from_iterable(groups)))
                yield np.stack(x), _one_hot([label for _, _, label in piece], self.classes)

    def _decode(self, images: Sequence[Image]) -> list[np.ndarray]:
        return [_pixels(what, file, self.mode, self.size) for what, file, _ in images]

    def _alike(self, names: Sequence[str], images: list[np.ndarray]) -> list[np.ndarray]:
        for name, x in zip(names, images, strict=True):
            first, shape = self.first = self.first or (name, x.shape)
            if x.shape != shape:
                raise ValueError(
                    f"name={self.name!r}: the images differ in size, {first} has height and width {shape[:2]} and "
                    f"{name} {x.shape[:2]}; give a size to bring them to, such as size=224"
                )
        return images


def _pixels(what: str, file: Path | BinaryIO, mode: str, size: int | None) -> np.ndarray:
    import PIL.Image

    with _readable(what), PIL.Image.open(file) as image:
        if image.mode[0] in "IF":
            raise ValueError(
                f"its pixels are of mode {image.mode}, not of 8 bits"
            )  # convert would clip them in silence
        pixels = image.convert(mode)
    if size is not None:
        sides = [max(size, round(side * size / min(pixels.size))) for side in pixels.size]
        left, top = ((side - size) // 2 for side in sides)
        pixels = pixels.resize((sides[0], sides[1]), PIL.Image.Resampling.BILINEAR)
        pixels = pixels.crop((left, top, left + size, top + size))
    return np.asarray(pixels).reshape(pixels.height, pixels.width, len(mode))


def _is_grey(path: Path) -> bool:
    import PIL.Image

    with _readable(str(path)), PIL.Image.open(path) as image:
        return image.mode in ("1", "L", "LA")


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file may fail in any way
        raise ValueError(f"{what} cannot be read ({error}); replace it or remove it") from error


# The cache: a folder of .npy files for each content, complete or not there at all.


def _cached(source: _Source, size: int | None) -> dict[str, Pairs]:
    cache = Path(os.environ.get("JAXLOCAL_CACHE") or "~/.cache/jaxlocal/data").expanduser()
    folder = cache / f"{re.sub(r'[^A-Za-z0-9]+', '_', source.name)}-{_digest(source, size)}"
    if not folder.is_dir():
        try:
            _decode(source, folder)
        except OSError as error:
            raise OSError(
                f"{cache}: the decoded {source.name} cannot be written there ({error.strerror or error}); set "
                "JAXLOCAL_CACHE to a folder with room"
            ) from error
    found = [part for part in PARTS if (folder / f"{part}_x.npy").exists()]
    x, y = ([np.load(folder / f"{part}_{side}.npy", mmap_mode="r") for part in found] for side in "xy")
    return dict(zip(found, zip(x, y, strict=True), strict=True))


def _digest(source: _Source, size: int | None) -> str:
    files = sorted(source.files)
    stats = [path.stat() for path in files]
    small = sum(stat.st_size for stat in stats) <= HASHED
    digest = blake2b(repr((FORMAT, source.name, size)).encode(), digest_size=8)
    for path, stat in zip(files, stats, strict=True):
        digest.update(repr((path.relative_to(source.root).as_posix(), stat.st_size)).encode())
        if small:
            with path.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        else:
            digest.update(repr(stat.st_mtime_ns).encode())
    return digest.hexdigest()


def _decode(source: _Source, folder: Path) -> None:
    """Writes to a folder of this process's own and renames it when complete, so that no other ever sees a part."""
    from tqdm import tqdm

    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob("*.part"):
        with suppress(FileNotFoundError):  # where another process has just finished
            if time.time() - max(path.stat().st_mtime for path in (left, *left.iterdir())) > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
    own = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.part")
    own.mkdir()
    try:
        parts = source.parts()
        total = sum(count for count, _ in parts.values())
        with tqdm(total=total, desc=f"decoding {source.name}", unit=" examples", disable=None) as bar:
            for part, (count, pieces) in parts.items():
                _write(own / f"{part}_x.npy", own / f"{part}_y.npy", count, pieces, bar.update)
        try:
            own.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, and its folder holds the same
                raise
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _write(x_path: Path, y_path: Path, count: int, pieces: Iterator[Pairs], tell: Callable[[int], Any]) -> None:
    """Plain writes, for on a full disk a write to mapped memory kills the process where these raise."""
    with x_path.open("wb") as x_file, y_path.open("wb") as y_file:
        for i, pair in enumerate(pieces):
            for file, a in zip((x_file, y_file), pair, strict=True):
                if i == 0:
                    header = np.lib.format.header_data_from_array_1_0(a[:0])
                    np.lib.format.write_array_header_1_0(file, {**header, "shape": (count, *a.shape[1:])})
                file.write(np.ascontiguousarray(a).data)
            tell(len(pair[0]))
        for file in (x_file, y_file):
            file.flush()
            os.fsync(file.fileno())
