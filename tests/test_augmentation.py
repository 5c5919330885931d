"""Augmentation: against plain loops, by its statistics, and inside compiled programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlocal import data
from jaxlocal.data import augmentation

X = np.random.default_rng(0).uniform(0.1, 1, (64, 6, 5, 3)).astype(np.float32)
KEY = jax.random.key(3)


def shifted(image, down, right):
    result = np.zeros_like(image)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            if 0 <= i + down < image.shape[0] and 0 <= j + right < image.shape[1]:
                result[i, j] = image[i + down, j + right]
    return result


@pytest.mark.parametrize(("make", "reach"), [(augmentation.jitter, 2), (lambda: augmentation.crop(1), 1)])
def test_jitter_is_each_shift_about_equally_often(make, reach):
    moves = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]
    x = np.repeat(X[:1], 2000, 0)
    moved = np.asarray(make().train(KEY, x))
    counts = [int((moved == shifted(X[0], *move)).all((1, 2, 3)).sum()) for move in moves]
    assert sum(counts) == 2000
    assert min(counts) > 0.5 * 2000 / len(moves)
    assert max(counts) < 1.5 * 2000 / len(moves)


def test_flip_is_of_half_the_images():
    flipped = np.asarray(augmentation.flip().train(KEY, np.repeat(X, 20, 0)))
    x = np.repeat(X, 20, 0)
    mirrored, same = (flipped == x[:, :, ::-1]).all((1, 2, 3)), (flipped == x).all((1, 2, 3))
    assert np.all(mirrored ^ same)
    assert 0.4 < mirrored.mean() < 0.6


def test_brightness_adds_one_number_an_image():
    change = np.asarray(augmentation.brightness(0.3).train(KEY, X)) - X
    np.testing.assert_allclose(change, np.broadcast_to(change[:, :1, :1, :1], X.shape), atol=1e-6)
    drawn = change[:, 0, 0, 0]
    assert -0.3 <= drawn.min() < -0.2
    assert 0.2 < drawn.max() <= 0.3
    assert len(np.unique(drawn)) > 60


def test_contrast_keeps_the_means_of_the_channels():
    changed = np.asarray(augmentation.contrast(0.5, 1.5).train(KEY, X))
    np.testing.assert_allclose(changed.mean((1, 2)), X.mean((1, 2)), atol=1e-5)
    factors = changed.std((1, 2)) / X.std((1, 2))
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1], factors.shape), rtol=1e-4)
    assert 0.5 <= factors.min() < 0.6
    assert 1.4 < factors.max() <= 1.5001


def test_standardise_is_of_each_image_alone():
    x = X.copy()
    x[0] = 0.5  # without contrast
    standard = augmentation.standardise()
    result = np.asarray(standard.test(x))
    for image, expected in zip(result, x, strict=True):
        deviation = max(expected.std(), 1 / np.sqrt(expected.size))
        np.testing.assert_allclose(image, (expected - expected.mean()) / deviation, atol=1e-5)
    np.testing.assert_array_equal(standard.train(KEY, x), result)


def test_mean_image_is_subtracted_in_training_and_in_prediction():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8)
    x, _ = data.floats((pixels, np.eye(50, dtype=np.uint8)))
    mean = augmentation.mean_image(pixels, piece=7)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, x.mean(0), atol=1e-6)
    np.testing.assert_allclose(augmentation.mean_image(x), mean, atol=1e-6)
    centred = augmentation.subtract(mean)
    np.testing.assert_allclose(centred.test(x), x - mean, atol=1e-6)
    np.testing.assert_array_equal(centred.train(KEY, x), centred.test(x))


def test_a_chain_gives_each_link_a_key_of_its_own():
    shift, bright = augmentation.jitter(), augmentation.brightness()
    chained = augmentation.chain(shift, bright, augmentation.standardise())
    keys = [jax.random.fold_in(KEY, i) for i in range(2)]
    expected = augmentation.standardise().test(bright.train(keys[1], shift.train(keys[0], X)))
    np.testing.assert_array_equal(chained.train(KEY, X), expected)
    np.testing.assert_array_equal(chained.test(X), augmentation.standardise().test(X))


@pytest.mark.parametrize("name", augmentation.ALL)
def test_every_one_compiles_once_in_a_scan_and_draws_from_the_key_alone(name):
    made = augmentation.ALL[name]()
    traced = []

    @jax.jit
    def run(key, x):
        traced.append(1)
        return jax.lax.scan(lambda _, key: (None, made.train(key, x)), None, jax.random.split(key, 3))[1]

    first, again, other = (np.asarray(run(key, X)) for key in (KEY, KEY, jax.random.key(4)))
    assert len(traced) == 1
    assert first.dtype == np.float32
    assert first.shape == (3, *X.shape)
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) == (name == "standardise")
    assert np.array_equal(first[0], first[1]) == (name == "standardise")
    assert made.test(jnp.asarray(X)).dtype == jnp.float32
    by_image = jax.vmap(lambda key, x: made.train(key, x[None])[0])(jax.random.split(KEY, len(X)), jnp.asarray(X))
    assert by_image.shape == X.shape


@pytest.mark.parametrize("name", augmentation.ALL)
def test_what_is_no_image_is_refused_in_one_sentence(name):
    for x, what in ((X.reshape(64, -1), r"\(64, 90\)"), ((X * 255).astype(np.uint8), "uint8")):
        with pytest.raises(ValueError, match=rf"x is .*{what}.*jl\.data\.floats and x\.reshape"):
            augmentation.ALL[name]().train(KEY, x)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="pixels=0: must be at least 1"):
        augmentation.jitter(0)
    with pytest.raises(TypeError, match=r"padding=0\.5: must be a whole number"):
        augmentation.crop(0.5)
    with pytest.raises(ValueError, match="change=-1: must be zero or more"):
        augmentation.brightness(-1)
    with pytest.raises(ValueError, match=r"high=0\.5: must be at least low=0\.6"):
        augmentation.contrast(0.6, 0.5)
    with pytest.raises(TypeError, match=r"augmentations\[1\]=.*must be an Augmentation, such as flip\(\)"):
        augmentation.chain(augmentation.flip(), augmentation.flip)
    with pytest.raises(ValueError, match=r"x has shape \(64, 6, 5, 3\), but the image to subtract \(6, 5, 1\)"):
        augmentation.subtract(X[0, :, :, :1]).test(X)
    with pytest.raises(ValueError, match="holds no examples; pass at least one"):
        augmentation.mean_image(X[:0])
