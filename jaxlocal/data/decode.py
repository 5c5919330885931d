"""Decoding of image files into arrays, piece by piece and on all processor cores."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from jaxlocal.data.splits import Pairs, one_hot

PIECE = 512  # images that are decoded before they are written to disk
BATCH = 32  # images that one thread decodes at a time


class Decoded(NamedTuple):
    """One split of a data set: the number of its examples, and its arrays in pieces that are decoded on demand."""

    examples: int
    pieces: Iterator[Pairs]


class Image(NamedTuple):
    """One labelled image that has not been decoded yet."""

    name: str  # for error messages
    file: Path | BinaryIO
    label: int


Reader = Callable[[int, int], Sequence[Image]]  # reader(start, stop): the images with these numbers


class Decoder:
    """Decodes the images of one data set, in all its splits. All of its images must come out in the same shape.

    Args:
      name: the data set's name, for error messages.
      mode: Pillow's image mode, "L" for one channel and "RGB" for three.
      size: the height and width that images get, or None to leave them as they are.
      classes: the number of classes.
    """

    def __init__(self, name: str, mode: str, size: int | None, classes: int):
        self.name, self.mode, self.size, self.classes = name, mode, size, classes
        self.first: tuple[str, tuple[int, ...]] | None = None  # name and shape of the first image

    def split(self, count: int, read: Reader) -> Decoded:
        """The split with the images that `read` returns for the numbers below `count`."""
        return Decoded(count, self._pieces(count, read))

    def _pieces(self, count: int, read: Reader) -> Iterator[Pairs]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # threads help because Pillow decodes outside Python's lock
            for start in range(0, count, PIECE):
                images = read(start, min(start + PIECE, count))
                batches = pool.map(self._decode, (images[i : i + BATCH] for i in range(0, len(images), BATCH)))
                x = list(chain.from_iterable(batches))
                self._check_shapes(images, x)
                yield np.stack(x), one_hot([image.label for image in images], self.classes)

    def _decode(self, images: Sequence[Image]) -> list[np.ndarray]:
        return [pixels(image, self.mode, self.size) for image in images]

    def _check_shapes(self, images: Sequence[Image], x: Sequence[np.ndarray]) -> None:
        for image, array in zip(images, x, strict=True):
            first, shape = self.first = self.first or (image.name, array.shape)
            if array.shape != shape:
                raise ValueError(
                    f"name={self.name!r}: the images differ in size, {first} has height and width {shape[:2]} and "
                    f"{image.name} {array.shape[:2]}; give them one size, such as --image-size 224, or "
                    "size=224 in Python"
                )


def pixels(image: Image, mode: str, size: int | None) -> np.ndarray:
    """The image as an array (H, W, C) of uint8."""
    import PIL.Image

    with readable(image.name), PIL.Image.open(image.file) as opened:
        if opened.mode[0] in "IF":  # Pillow's conversion would clip such pixels silently
            raise ValueError(f"its pixels have mode {opened.mode}, not 8 bits")
        converted = opened.convert(mode)
    if size is not None:
        sides = [max(size, round(side * size / min(converted.size))) for side in converted.size]
        left, top = ((side - size) // 2 for side in sides)
        converted = converted.resize((sides[0], sides[1]), PIL.Image.Resampling.BILINEAR)
        converted = converted.crop((left, top, left + size, top + size))
    return np.asarray(converted).reshape(converted.height, converted.width, len(mode))


def is_grey(path: Path | BinaryIO) -> bool:
    """Whether the image file has a single channel of brightness."""
    import PIL.Image

    with readable(str(path)), PIL.Image.open(path) as image:
        return image.mode in ("1", "L", "LA")


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Names the file in any error that reading it raises; a damaged file may raise an error of any class."""
    try:
        yield
    except Exception as error:
        unsafe = "pickle" in str(error)  # NumPy's own advice is to load them all the same
        reason = "it holds Python objects, or is no file of its kind" if unsafe else error
        raise ValueError(f"{name} cannot be read ({reason}); replace it or remove it") from error
