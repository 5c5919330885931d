"""From texts to token ids, by the library `tokenizers` of Hugging Face."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlocal import checks
from jaxlocal.files import write_whole
from jaxlocal.hints import nearest

if TYPE_CHECKING:
    import tokenizers

PADDING, UNKNOWN = "[PAD]", "[UNK]"  # the tokens 0 and 1
NAMES_OF_PADDING = PADDING, "<pad>"  # in the tokenizers of other programs
WORD = r"\w+(?:['’]\w+)*|[^\w\s]"  # noqa: RUF001 - both apostrophes: don't is one word
BYTES = 256
TWICE = 2  # what occurs once in the training set is unknown, so that a network learns what unknown means
PIECE = 1000  # texts that are encoded at a time


@dataclass(frozen=True)
class Tokenizer:
    """Splits texts into tokens, and numbers them: 0 is padding and 1 an unknown word.

    Attributes:
      json: all of it, in the format of the library `tokenizers`.

    Example:
      >>> tokenizer = jl.data.Tokenizer.train(["A good film.", "A good day", "not a film."])
      >>> tokenizer.encode(["A GOOD book.", ""], length=5)
      array([[2, 5, 1, 3, 0],
             [1, 0, 0, 0, 0]], dtype=int32)
      >>> tokenizer.size  # a . film good, padding and unknown
      6
    """

    json: str = field(repr=False)

    @classmethod
    def train(cls, texts: Iterable[str], *, kind: str = "word", vocabulary: int = 20_000) -> "Tokenizer":
        """The tokenizer for these texts. The same texts give the same tokenizer.

        Args:
          texts: of the training set, and of no other.
          kind: "word", for lower-case words and punctuation marks, the most frequent ones of those that occur at least
            twice; "bpe", for byte-pair encoding, whose tokens are parts of words, and which knows every text; or
            "char", for the most frequent characters.
          vocabulary: the largest number of tokens, padding and unknown included.

        Returns:
          The tokenizer.
        """
        check_kind("kind", kind)
        _check_texts(texts)
        checks.positive_int("vocabulary", vocabulary)
        fewest, make = KINDS[kind]
        if vocabulary < fewest:
            raise ValueError(f"vocabulary={vocabulary}: must be at least {fewest} for kind={kind!r}")
        content = json.loads(make(_library(), map(_sound, texts), vocabulary).to_str())
        # Without the names of padding and unknown among the "added tokens", a text that holds them gets no such id.
        return cls(json.dumps({**content, "added_tokens": []}, ensure_ascii=False))

    @property
    def size(self) -> int:
        """The number of token ids: the `vocabulary` of a network for them."""
        return max(self._made.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """The token ids of each text, int32 (N, length): cut off at the end, or filled up with 0.

        A text without any token, such as an empty one, becomes one unknown token.
        """
        checks.positive_int("length", length)
        _check_texts(texts)
        ids = np.zeros((len(texts), length), np.int32)
        for row, tokens in zip(ids, self._tokens(texts), strict=True):
            row[: len(tokens)] = tokens[:length]
        ids[ids[:, 0] == 0, 0] = 1
        return ids

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """The number of tokens of each text."""
        _check_texts(texts)
        return np.array([len(tokens) for tokens in self._tokens(texts)], np.int32)

    def save(self, path: Path | str) -> None:
        """Write the tokenizer to a .json file, which the library `tokenizers` reads, too."""
        write_whole(checks.path("path", path), self.json)

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """The tokenizer of a file that `save` or the library `tokenizers` has written. Its token 0 must be padding."""
        library, path = _library(), checks.path("path", path)
        try:
            made = library.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises errors of no particular class
            raise ValueError(
                f"path={str(path)!r}: cannot be read as a tokenizer ({error}); name a file of Tokenizer.save"
            ) from None
        if (first := made.id_to_token(0)) not in NAMES_OF_PADDING:
            raise ValueError(
                f"path={str(path)!r}: the token 0 is {first!r}, but 0 is padding here; take a tokenizer whose token 0 "
                f"is {PADDING}"
            )
        return cls(made.to_str())

    @cached_property
    def _made(self) -> "tokenizers.Tokenizer":
        made = _library().Tokenizer.from_str(self.json)
        made.no_truncation()
        made.no_padding()
        return made

    def _tokens(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """The ids of each text, whole; of a few texts at a time, so that long texts take little memory."""
        rest = map(_sound, texts)
        while some := list(islice(rest, PIECE)):
            yield from (found.ids for found in self._made.encode_batch_fast(some, add_special_tokens=False))


def _check_texts(texts: object) -> None:
    if isinstance(texts, str):
        raise TypeError(f"texts={checks.show(texts)}: must be a list of texts, such as {checks.show([texts])}")


def _sound(text: str) -> str:
    """The text, with a question mark for each lone surrogate, which the library refuses."""
    if not isinstance(text, str):
        raise TypeError(f"texts: {checks.show(text)} is no text; give a list of texts")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _words(library: Any, texts: Iterator[str], vocabulary: int) -> Any:
    made = library.Tokenizer(library.models.WordLevel(unk_token=UNKNOWN))
    made.normalizer = library.normalizers.Sequence([library.normalizers.NFKC(), library.normalizers.Lowercase()])
    made.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(WORD), "removed", invert=True)
    trainer = library.trainers.WordLevelTrainer(
        vocab_size=vocabulary, min_frequency=TWICE, special_tokens=[PADDING, UNKNOWN], show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return made


def _byte_pairs(library: Any, texts: Iterator[str], vocabulary: int) -> Any:
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=TWICE,
        special_tokens=[PADDING, UNKNOWN],
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return made


def _characters(library: Any, texts: Iterator[str], vocabulary: int) -> Any:
    """Byte-pair encoding without a pair, which is far faster than words of one character."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    often = sorted((char for char, count in counts.items() if count >= TWICE), key=lambda char: (-counts[char], char))
    tokens = [PADDING, UNKNOWN, *often[: vocabulary - 2]]
    vocab = {token: number for number, token in enumerate(tokens)}
    return library.Tokenizer(library.models.BPE(vocab=vocab, merges=[], unk_token=UNKNOWN))


# What makes each kind of tokenizer, and its smallest vocabulary.
KINDS: dict[str, tuple[int, Callable[[Any, Iterator[str], int], Any]]] = {
    "word": (3, _words),
    "bpe": (BYTES + 2, _byte_pairs),
    "char": (3, _characters),
}


def check_kind(name: str, value: Any) -> None:
    """The value is the name of a kind of tokenizer."""
    if not isinstance(value, str) or value not in KINDS:
        raise ValueError(f"{name}={checks.show(value)}: unknown name; {nearest(str(value), KINDS)}")


def _library() -> Any:
    """The library, which is imported where it is needed."""
    try:
        import tokenizers
    except ImportError:
        raise ImportError("texts need the library tokenizers; install it with pip install 'jaxlocal[text]'") from None
    return tokenizers
