"""Labelled texts as arrays: token ids of one length, and classes."""

import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlocal import checks
from jaxlocal.data import hub
from jaxlocal.data.cache import cached, kept
from jaxlocal.data.decode import Decoded
from jaxlocal.data.frames import LABEL
from jaxlocal.data.sentences import sentences
from jaxlocal.data.sources import Source, check_classes
from jaxlocal.data.splits import SPLITS, Pairs, Splits, complete, one_hot
from jaxlocal.data.tables import (
    Corpus,
    Row,
    Rows,
    check_file,
    classes_of,
    holds_numbers,
    is_table,
    numbered,
    read_table,
)
from jaxlocal.data.tokenizer import Tokenizer, check_kind
from jaxlocal.files import of_user, write_whole

SENTENCES = "sentences"  # the name of the texts that the library brings with it
LONGEST = 256  # tokens, by default
SHARE = 95  # per cent of the training texts that are not cut off, by default, if they are not longer than that
SAMPLE = 5000  # training texts that are measured for it
PIECE = 1000  # texts that are encoded before they are written to disk


OF_ENCODING = "tokenizer.json", "text.json"  # the files that keep one


class Encoding(NamedTuple):
    """How a text becomes token ids, and a label the number of a class: what a run keeps to read further texts."""

    tokenizer: Tokenizer
    length: int  # of every row of ids
    classes: tuple[str, ...]  # the labels, by number
    origin: str  # a hash of the file from which the others were made

    def ids(self, texts: Sequence[str]) -> np.ndarray:
        """The token ids of each text, int32 (N, length)."""
        return self.tokenizer.encode(texts, self.length)

    def digest(self) -> str:
        """A hash of all of it."""
        content = self.tokenizer.json, self.length, self.classes, self.origin
        return blake2b(repr(content).encode(), digest_size=8).hexdigest()

    def save(self, folder: Path | str) -> None:
        """Write tokenizer.json and text.json into a folder."""
        folder = checks.path("folder", folder)
        facts = {"length": self.length, "classes": self.classes, "origin": self.origin, "digest": self.digest()}
        tokenizer, text = map(folder.joinpath, OF_ENCODING)
        self.tokenizer.save(tokenizer)
        write_whole(text, json.dumps(facts, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path | str) -> "Encoding":
        """Read it from a folder that holds its files."""
        folder = checks.path("folder", folder)
        try:
            tokenizer, text = (folder.joinpath(name).read_text(encoding="utf-8") for name in OF_ENCODING)
            facts = json.loads(text)
            encoding = cls(Tokenizer(tokenizer), facts["length"], tuple(facts["classes"]), facts["origin"])
            sound = encoding.digest() == facts["digest"]
        except (OSError, ValueError, TypeError, KeyError):
            sound = False
        if not sound:
            raise ValueError(f"{folder}: text.json or tokenizer.json is damaged or missing; restore both")
        return encoding


class Texts(NamedTuple):
    """A data set of labelled texts, and how it was encoded.

    Example:
      >>> texts = jl.data.load_text("sentences")
      >>> x, y = texts.splits.train
      >>> x.shape, x.dtype, y.shape, texts.classes
      ((700, 14), dtype('int32'), (700, 2), ('negative', 'positive'))
    """

    splits: Splits
    encoding: Encoding

    @property
    def tokenizer(self) -> Tokenizer:
        """Its `size` is the `vocabulary` of a network for these texts."""
        return self.encoding.tokenizer

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels: the name of each class."""
        return self.encoding.classes

    @property
    def length(self) -> int:
        """The number of token ids of each text."""
        return self.encoding.length


def is_text(name: str) -> bool:
    """Whether `load_text` is what loads a data set of this name."""
    if name.startswith(hub.HUB):
        return hub.holds_texts(name)
    path = of_user(name)
    return name == SENTENCES or (is_table(path) and not holds_numbers(path))


def load_text(
    name: str | os.PathLike[str],
    *,
    label: str = LABEL,
    tokenizer: str | Tokenizer = "word",
    vocabulary: int = 20_000,
    length: int | None = None,
    validation: int | None = None,
) -> Texts:
    """Labelled texts as memory-mapped arrays: token ids int32 (N, length) and classes uint8 (N, C).

    A file is .csv or .tsv in UTF-8, also .csv.gz or .tsv.gz. Its header names the columns `text`, `label` and, if the
    file has a test set or a validation set, `split` with train, validation and test in it. A data set of `datasets` has
    a column `text`. Other columns do not matter. Labels are whole numbers or names. Missing sets are cut from the
    training set as in `load`.

    The tokenizer and the classes are made of the training set alone. They and the arrays are kept in the cache.

    Args:
      name: the file; "hf:NAME", a data set of `datasets`; or "sentences", 900 short sentences that the library brings
        with it.
      label: the column of labels in a data set of `datasets`.
      tokenizer: the kind of tokenizer that is trained: "word", "bpe" or "char"; or a `Tokenizer`.
      vocabulary: the largest number of tokens of a tokenizer that is trained.
      length: the number of tokens of each text: longer texts are cut off at the end. By default 95 % of the training
        texts fit, but it is at most 256.
      validation: the number of texts that are held out for validation, as in `load`.

    Returns:
      The three splits, the tokenizer, the names of the classes, and the length.
    """
    for argument, value in (("vocabulary", vocabulary), ("length", length), ("validation", validation)):
        if value is not None:
            checks.positive_int(argument, value)
    if not isinstance(tokenizer, Tokenizer):
        check_kind("tokenizer", tokenizer)
    corpus = _corpus(name, label)
    if label != LABEL and not os.fspath(name).startswith(hub.HUB):
        raise ValueError(
            f"label={checks.show(label)}: {name} holds texts, whose labels are in the column label; leave label out"
        )

    def make() -> Encoding:
        return _make(corpus, tokenizer, vocabulary, length, validation)

    if not corpus.files:
        encoding = make()
    else:
        of_tokenizer = (tokenizer, vocabulary) if isinstance(tokenizer, str) else tokenizer.json
        settings = of_tokenizer, length, validation, label
        folder = kept(corpus.name, corpus.root, corpus.files, settings, lambda folder: make().save(folder))
        encoding = Encoding.load(folder)
    return Texts(_encoded(corpus, encoding, validation, label), encoding)


def load_encoded(
    name: str | os.PathLike[str], encoding: Encoding, validation: int | None = None, label: str = LABEL
) -> Splits:
    """The texts of a file or a data set as `load_text` returns them, but encoded as those of another one were."""
    return _encoded(_corpus(name, label), encoding, validation, label)


def origin(name: str | os.PathLike[str], label: str = LABEL) -> str:
    """A hash of the files of a data set of texts."""
    return _hash(_corpus(name, label))


def _corpus(name: str | os.PathLike[str], label: str) -> Corpus:
    """The texts of this name, which are read once, and only if the cache does not hold what is made of them."""
    name = os.fspath(name)
    if name.startswith(hub.HUB):
        found = hub.texts(name, label)
        return found._replace(read=cache(found.read))
    if name == SENTENCES:
        return Corpus(f"name={name!r}", name, Path(), (), sentences)
    path = of_user(name)
    check_file(path)
    return Corpus(f"name={str(path)!r}", path.name, path.parent, [path], cache(lambda: read_table(path)))


def _hash(texts: Corpus) -> str:
    if not texts.files:
        return SENTENCES
    digest = blake2b(digest_size=8)
    for path in texts.files:
        with path.open("rb") as file:
            file_digest(file, lambda: digest)
    return digest.hexdigest()


def _splits(table: Rows, validation: int | None) -> list[list[Row]]:
    """The rows of all three sets; the training set is shuffled with a fixed seed before the others are cut from it."""
    rows = [row for some in table.values() for row in some]
    found: dict[str, Pairs] = {}
    begin = 0
    for split, some in table.items():
        order = np.random.default_rng(0).permutation(len(some)) if split == "train" else np.arange(len(some))
        found[split] = (begin + order, begin + order)
        begin += len(some)
    return [[rows[i] for i in numbers] for numbers, _ in complete(found, validation)]


def _make(
    corpus: Corpus, tokenizer: str | Tokenizer, vocabulary: int, length: int | None, validation: int | None
) -> Encoding:
    """The encoding that fits the training set."""
    table = corpus.read()
    classes = classes_of(corpus, table)
    check_classes(corpus.where, len(classes), sum(map(len, table.values())))
    texts = [row.text for row in _splits(table, validation)[0]]
    if isinstance(tokenizer, str):
        tokenizer = Tokenizer.train(texts, kind=tokenizer, vocabulary=vocabulary)
    return Encoding(tokenizer, length or _length(tokenizer, texts), classes, _hash(corpus))


def _length(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    """The number of tokens with which most of the texts are not cut off."""
    some = texts[:: -(-len(texts) // SAMPLE)]
    return int(np.clip(np.percentile(tokenizer.lengths(some), SHARE), 1, LONGEST))


def _encoded(corpus: Corpus, encoding: Encoding, validation: int | None, label: str) -> Splits:
    """The texts as token ids and their labels as classes; those of files are kept in the cache."""

    def arrays(rows: Sequence[Row]) -> Pairs:
        labels = numbered(corpus, rows, encoding.classes)
        return encoding.ids([row.text for row in rows]), one_hot(labels, len(encoding.classes))

    def decode() -> dict[str, Decoded]:
        splits = zip(SPLITS, _splits(corpus.read(), validation), strict=True)
        return {split: Decoded(len(rows), map(arrays, _pieces(rows))) for split, rows in splits}

    if not corpus.files:
        return Splits(*map(arrays, _splits(corpus.read(), validation)))
    source = Source(corpus.name, corpus.root, corpus.files, decode)
    found = cached(source, (encoding.digest(), validation, label))
    return Splits(*(found[split] for split in SPLITS))


def _pieces(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    return (rows[begin : begin + PIECE] for begin in range(0, len(rows), PIECE))
