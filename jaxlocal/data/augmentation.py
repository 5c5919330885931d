"""Augmentation: random changes of images, computed inside the compiled program."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlocal.checks import non_negative, positive_int, show


class Augmentation(NamedTuple):
    """Two functions of a batch of images x, float32 (B, H, W, C): one for training, and one for prediction.

    `train(key, x)` draws different random changes for each image, from the key alone. `test(x)` is not random.

    Example:
      >>> augmentation = jl.augmentation.chain(jl.augmentation.jitter(), jl.augmentation.flip())
      >>> x, y = jl.data.digits().train
      >>> augmentation.train(jax.random.key(0), x[:32]).shape
      (32, 8, 8, 1)
    """

    train: Callable[[jax.Array, jax.Array], jax.Array]
    test: Callable[[jax.Array], jax.Array]


def jitter(pixels: int = 2) -> Augmentation:
    """Each image is shifted up or down and left or right by up to `pixels` pixels, with zeros at the edges.

    Reference:
      Sabour, Frosst, Hinton. Dynamic Routing Between Capsules. 2017, who shift by up to two pixels.
    """
    positive_int("pixels", pixels)

    def train(key: jax.Array, x: jax.Array) -> jax.Array:
        margin = (pixels, pixels)
        padded = jnp.pad(x, ((0, 0), margin, margin, (0, 0)))
        corners = jax.random.randint(key, (len(x), 2), 0, 2 * pixels + 1)
        return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (*at, 0), x.shape[1:]))(padded, corners)

    return _random(train)


def crop(padding: int = 4) -> Augmentation:
    """Each image is padded with zeros and cut out at random in its own size: `jitter` under its other name."""
    positive_int("padding", padding)
    return jitter(padding)


def flip() -> Augmentation:
    """Each image is mirrored, left to right, with probability one half."""

    def train(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(_each(jax.random.bernoulli(key, shape=(len(x),))), x[:, :, ::-1], x)

    return _random(train)


def brightness(change: float = 63 / 255) -> Augmentation:
    """A number, drawn uniformly from -change to change for each image, is added to all of its pixels."""
    non_negative("change", change)

    def train(key: jax.Array, x: jax.Array) -> jax.Array:
        return x + _each(jax.random.uniform(key, (len(x),), x.dtype, -change, change))

    return _random(train)


def contrast(low: float = 0.2, high: float = 1.8) -> Augmentation:
    """The deviations from each channel's mean are multiplied by a number, drawn for each image from low to high."""
    non_negative("low", low)
    if not low <= high < float("inf"):
        raise ValueError(f"high={high!r}: must be at least low={low!r}, and finite")

    def train(key: jax.Array, x: jax.Array) -> jax.Array:
        mean = x.mean(axis=(1, 2), keepdims=True)
        return (x - mean) * _each(jax.random.uniform(key, (len(x),), x.dtype, low, high)) + mean

    return _random(train)


def standardise() -> Augmentation:
    """Each image gets mean 0 and standard deviation 1, in training and in prediction.

    The divisor for an image of n numbers is at least 1/√n, so that an image of a single colour does not become noise.
    """

    def test(x: jax.Array) -> jax.Array:
        _check(x)
        axes, floor = (1, 2, 3), prod(x.shape[1:]) ** -0.5
        deviation = jnp.maximum(x.std(axis=axes, keepdims=True), floor)
        return (x - x.mean(axis=axes, keepdims=True)) / deviation

    return Augmentation(lambda key, x: test(x), test)


def subtract(image: np.ndarray | jax.Array) -> Augmentation:
    """This image, such as `mean_image` of the training set, is subtracted from each, in training and in prediction."""
    image = jnp.asarray(image)

    def test(x: jax.Array) -> jax.Array:
        if x.shape[1:] != image.shape:
            raise ValueError(f"x has shape {x.shape}, but the image to subtract {image.shape}; use one of x's shape")
        return x - image[None].astype(x.dtype)

    return Augmentation(lambda key, x: test(x), test)


def mean_image(x: np.ndarray, piece: int = 4096) -> np.ndarray:
    """The mean of the examples in float32, where uint8 is divided by 255. The examples are read piece by piece.

    Example:
      >>> jl.augmentation.mean_image(jl.data.digits().train[0]).shape
      (8, 8, 1)
    """
    if not len(x):
        raise ValueError(f"x={show(x)}: holds no examples; pass at least one")
    total = sum(np.asarray(x[i : i + piece]).sum(0, dtype=np.float64) for i in range(0, len(x), piece))
    return np.asarray(total / len(x) / (255 if x.dtype == np.uint8 else 1), np.float32)


def cifar() -> Augmentation:
    """The augmentation of the AL paper's code for 32×32 images: crop by 4, flip, brightness, contrast, standardise.

    The code draws the brightness from -63 to 63, which fits pixels up to 255, but its pixels go up to 1. Here it is
    drawn from -63/255 to 63/255. The result is the same, because standardising removes changes of brightness; it also
    removes the changes of contrast that all channels share.
    """
    return chain(crop(), flip(), brightness(), contrast(), standardise())


def chain(*augmentations: Augmentation) -> Augmentation:
    """The augmentations one after the other, each with its own key."""
    for i, augmentation in enumerate(augmentations):
        if not isinstance(augmentation, Augmentation):
            raise TypeError(f"augmentations[{i}]={show(augmentation)}: must be an Augmentation, such as flip()")

    def train(key: jax.Array, x: jax.Array) -> jax.Array:
        for i, augmentation in enumerate(augmentations):
            x = augmentation.train(jax.random.fold_in(key, i), x)
        return x

    def test(x: jax.Array) -> jax.Array:
        for augmentation in augmentations:
            x = augmentation.test(x)
        return x

    return Augmentation(train, test)


ALL: dict[str, Callable[[], Augmentation]] = {
    make.__name__: make for make in (jitter, crop, flip, brightness, contrast, standardise, cifar)
}


def _random(train: Callable[[jax.Array, jax.Array], jax.Array]) -> Augmentation:
    """An augmentation of images, in training only."""

    def checked(key: jax.Array, x: jax.Array) -> jax.Array:
        _check(x)
        return train(key, x)

    return Augmentation(checked, lambda x: x)


def _check(x: jax.Array) -> None:
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x is {x.dtype} of shape {x.shape}, but augmentation needs images (B, H, W, C) of floats: convert them "
            "with jl.data.floats and x.reshape, or leave the augmentation out"
        )


def _each(numbers: jax.Array) -> jax.Array:
    """One number for each image, in a shape that multiplies with images."""
    return numbers[:, None, None, None]
