"""Data sets: the embedded digits, and sets from TFDS, from folders of images and from .npz files."""

from jaxlocal.data.sets import NAMES, PARTS, Pairs, Splits, digits, floats, images, load

__all__ = ["NAMES", "PARTS", "Pairs", "Splits", "digits", "floats", "images", "load"]
