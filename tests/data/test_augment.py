"""What chance does to training images: each is a mirrored or moved copy of itself, the same at the same step."""

import jax
import jax.numpy as jnp
import numpy as np

from research.data.augment import augmented

SHAPE = (6, 5, 2)
IMAGES = np.random.default_rng(0).uniform(1, 2, (200, 60)).astype(np.float32)


def at(step, crop=0, flip=False, key=0):
    out = augmented(jnp.asarray(IMAGES), SHAPE, crop, flip, jax.random.key(key), jnp.int32(step))
    return np.asarray(out).reshape(-1, *SHAPE)


def test_each_image_is_mirrored_or_not_and_about_half_are():
    images, out = IMAGES.reshape(-1, *SHAPE), at(0, flip=True)
    same = (out == images).all((1, 2, 3))
    assert np.array_equal(out[~same], images[~same][:, :, ::-1]) and 70 < same.sum() < 130


def test_each_image_is_moved_by_no_more_than_the_crop_and_zeros_come_in():
    images, out, seen = IMAGES.reshape(-1, *SHAPE), at(0, crop=1), set()
    wider = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for n, image in enumerate(out):
        fits = [
            (i, j)
            for i in range(3)
            for j in range(3)
            if np.array_equal(wider[n, i : i + 6, j : j + 5], image)
        ]
        assert len(fits) == 1
        seen |= set(fits)
    assert len(seen) == 9


def test_chance_is_a_pure_function_of_key_and_step():
    assert np.array_equal(at(3, 1, True), at(3, 1, True))
    assert not np.array_equal(at(3, 1, True), at(4, 1, True)) and not np.array_equal(
        at(3, 1, True), at(3, 1, True, key=1)
    )


def test_without_it_nothing_is_touched():
    rows = jnp.asarray(IMAGES)
    assert augmented(rows, SHAPE, 0, False, jax.random.key(0), jnp.int32(0)) is rows
