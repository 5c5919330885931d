"""Data sets for training: the digits, TensorFlow Datasets, folders of images, and .npz files."""

from jaxlocal.data.sets import NAMES, digits, images, load
from jaxlocal.data.splits import SPLITS, Pairs, Splits, floats

__all__ = ["NAMES", "SPLITS", "Pairs", "Splits", "digits", "floats", "images", "load"]
