"""What a run predicts for texts, for images, for the arrays of .npz files, and for the rows of tables."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlocal import codes
from jaxlocal.app.build import Built, arguments
from jaxlocal.app.settings import Config, ConfigError, shown
from jaxlocal.data import floats
from jaxlocal.data.augmentation import Augmentation
from jaxlocal.data.decode import Image, pixels, readable
from jaxlocal.data.frames import is_frame, read_inputs
from jaxlocal.data.sources import checked_inputs
from jaxlocal.files import of_user
from jaxlocal.network import cross_entropy
from jaxlocal.programs import compiled
from jaxlocal.rule import Params, Rule
from jaxlocal.rules.associated import completed

PIECE = 256  # examples that are predicted at a time
TOO_BRIGHT = 2.0  # for a pixel of 0 to 1; a little above 1 may come from resizing


def _shares(scores: jax.Array) -> jax.Array:
    return scores / jnp.maximum(scores.sum(-1, keepdims=True), jnp.finfo(scores.dtype).tiny)


class Prediction(NamedTuple):
    """The class of one example; with several seeds, by the mean of their probabilities."""

    label: str  # the name of the class, or its number if that is unknown
    probability: float
    probabilities: dict[str, float]  # of every class


class Numbers(NamedTuple):
    """What is predicted for one example where the targets are real numbers; with several seeds, the mean."""

    values: list[float]


NORMALISE = {"shares": _shares, "logits": jax.nn.softmax, "numbers": jnp.asarray}  # by the meaning of the scores


def predictions(config: Config, built: Built, params: Params, inputs: Iterable[str]) -> Iterator[Prediction | Numbers]:
    """The prediction for each text, or for each image file and each row of a .npz file or of a table of numbers.

    Raises:
      ConfigError: an input cannot be read.
    """
    names = class_names(built)
    for row in _outputs(config, built, params, inputs):
        values = row.tolist()
        if names is None:
            yield Numbers(values)
        else:
            best = int(row.argmax())
            yield Prediction(names[best], values[best], dict(zip(names, values, strict=True)))


def _outputs(config: Config, built: Built, params: Params, inputs: Iterable[str]) -> Iterator[np.ndarray]:
    """The probabilities of the classes for each example, or the numbers that are predicted."""
    normalise, encoding = NORMALISE[meaning(config, built)], built.encoding
    of_unit = not encoding and _are_from_0_to_1(built.data.train[0])
    predict = partial(_normalised, prepared(built.plain, built.augmentation), normalise, params)
    rest = iter(inputs)
    while some := list(islice(rest, PIECE)):
        try:
            x = encoding.ids(some) if encoding else _examples(some, built, config.label, of_unit)
        except (ValueError, OSError) as error:
            raise ConfigError(str(error)) from None
        for begin in range(0, len(x), PIECE):
            yield from np.asarray(predict(x[begin : begin + PIECE]))


def prepared(rule: Rule, augmentation: Augmentation | None) -> Rule:
    """The rule, whose `predict` first does to its inputs what the augmentation does in prediction."""
    if augmentation is None:
        return rule

    def predict(params: Params, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        return rule.predict(params, augmentation.test(x), key)

    return rule._replace(predict=predict)


def class_names(built: Built) -> list[str] | None:
    """The names of the classes, or their numbers where these are unknown; None for targets that are real numbers."""
    if not built.plain.net.loss.of_classes:
        return None
    return list(built.classes or map(str, range(built.data.train[1].shape[-1])))


def meaning(config: Config, built: Built) -> str:
    """What the scores are: "logits", whose softmax gives probabilities, "shares" of their sum, or real "numbers".

    With the paper's codes, for example, the lowest decoder of Associated Learning ends in a sigmoid: its scores are
    from 0 to 1. Of the coders that the command line knows only the linear one does not.
    """
    if not built.plain.net.loss.of_classes:
        return "numbers"
    if config.rule != "al":
        return "logits"
    given = arguments("--rule-args", config.rule_args)
    parts = {part: given[part] for part in ("decoder", "readout") if part in given}
    chosen = given.get("codes", codes.lean)._replace(**parts)
    lowest = completed(chosen, given.get("label_loss"), of_classes=True)
    return "logits" if lowest.label_loss == cross_entropy or lowest.readout is codes.linear else "shares"


def _examples(files: Sequence[str], built: Built, label: str, of_unit: bool) -> np.ndarray:
    """The examples in these files, prepared as those that the run was trained on, in float32.

    `of_unit` says whether the run was trained on images of 0 to 1.
    """
    found, like = [], built.data.train[0]
    for file in files:
        path = of_user(file)
        if not path.is_file():
            raise ValueError(
                f"{shown(file) or repr(file)}: there is no such file; name images, .npz files or tables, as the run "
                "takes no texts"
            )
        x = read_inputs(path, label, built.inputs) if is_frame(path) else _of_file(path, like)
        if x.shape[1:] != like.shape[1:]:
            raise ValueError(
                f"{path} has examples of shape {x.shape[1:]}, but the run was trained on {like.shape[1:]}; bring it "
                "into that shape"
            )
        if not len(x):
            raise ValueError(f"{path} holds no example; give it at least one")
        if x.dtype == np.uint8 and like.ndim == 4 and not of_unit:
            raise ValueError(
                f"{path} holds bytes, which stand for 0 to 1, but the run was trained on numbers from {like.min():g} "
                f"to {like.max():g}; save such numbers as floats, in a .npz file"
            )
        x = floats((x, x))[0]
        if x.max() > TOO_BRIGHT and of_unit:
            raise ValueError(
                f"{path} holds numbers up to {x.max():g}, but the run was trained on images of 0 to 1; save them as "
                "uint8, or divide them by 255"
            )
        found.append(x)
    return np.concatenate(found)


def _are_from_0_to_1(like: np.ndarray) -> bool:
    """Whether these are images in bytes, which stand for 0 to 1, or in floats of this range."""
    return like.ndim == 4 and (like.dtype == np.uint8 or (like.min() >= 0 and like.max() <= 1))


def _of_file(path: Path, like: np.ndarray) -> np.ndarray:
    return _of_npz(path) if path.suffix == ".npz" else _of_image(path, like)


def _of_npz(path: Path) -> np.ndarray:
    with readable(str(path)), np.load(path, allow_pickle=False) as file:
        if "x" not in file.files:
            raise ValueError(f"it holds {', '.join(file.files) or 'nothing'}, and no x")
        return checked_inputs(f"{path}: x", file["x"])


def _of_image(path: Path, like: np.ndarray) -> np.ndarray:
    """One image, grey or in colour as those of the run; if those are squares, it is resized and cut out to fit."""
    if like.ndim != 4:
        raise ValueError(f"{path}: the run was trained on rows of {like.shape[1:]} numbers; name .npz files or tables")
    _, height, width, channels = like.shape
    image = Image(str(path), path, label=0)
    return pixels(image, "L" if channels == 1 else "RGB", height if height == width else None)[None]


@compiled(static=2)
def _normalised(rule: Rule, normalise: Callable[[jax.Array], jax.Array], params: Params, x: jax.Array) -> jax.Array:
    """The probabilities of the classes, or the predicted numbers, (B, C)."""
    found = normalise(rule.predict(params, x).astype(jnp.float32))
    return found.mean(axis=0) if rule.placement.members else found
