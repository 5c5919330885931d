"""Data sets for training: the digits, TensorFlow Datasets, folders of images, .npz files, tables and texts."""

from jaxlocal.data.frames import Table, load_table
from jaxlocal.data.sets import NAMES, digits, from_arrays, images, load
from jaxlocal.data.splits import SPLITS, Pairs, Splits, floats
from jaxlocal.data.text import Encoding, Texts, load_encoded, load_text
from jaxlocal.data.tokenizer import Tokenizer

__all__ = [
    "NAMES",
    "SPLITS",
    "Encoding",
    "Pairs",
    "Splits",
    "Table",
    "Texts",
    "Tokenizer",
    "digits",
    "floats",
    "from_arrays",
    "images",
    "load",
    "load_encoded",
    "load_table",
    "load_text",
]
