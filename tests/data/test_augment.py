"""Augmented images are mirrored or shifted copies, the same at the same step."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_array_equal

from research.data.augment import augment_images

SHAPE = (6, 5, 2)
GENERATOR = np.random.default_rng(0)
ROWS = GENERATOR.uniform(1, 2, (200, 60)).astype(np.float32)
IMAGES = ROWS.reshape(-1, *SHAPE)


def augment(step, crop=0, flip=False, seed=0):
    rows = augment_images(
        jnp.asarray(ROWS),
        SHAPE,
        crop,
        flip,
        key=jax.random.key(seed),
        step=jnp.int32(step),
    )
    return np.asarray(rows).reshape(-1, *SHAPE)


def matching_corners(padded, image):
    """The corners at which an image is found in a padded one."""
    height, width, _ = SHAPE
    corners = []
    for row in range(3):
        for column in range(3):
            part = padded[row : row + height, column : column + width]
            if np.array_equal(part, image):
                corners.append((row, column))
    return corners


def test_each_image_is_mirrored_or_not_and_about_half_are():
    augmented = augment(0, flip=True)
    is_same = (augmented == IMAGES).all((1, 2, 3))
    mirrored = IMAGES[:, :, ::-1]
    assert_array_equal(augmented[~is_same], mirrored[~is_same])
    assert 70 < is_same.sum() < 130


def test_each_image_is_shifted_by_no_more_than_the_crop_and_zeros_come_in():
    corners = set()
    for image, shifted in zip(IMAGES, augment(0, crop=1), strict=True):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        matches = matching_corners(padded, shifted)
        assert len(matches) == 1
        corners.update(matches)
    assert len(corners) == 9


def test_augmentation_is_a_pure_function_of_key_and_step():
    augmented = augment(3, crop=1, flip=True)
    again = augment(3, crop=1, flip=True)
    other_step = augment(4, crop=1, flip=True)
    other_key = augment(3, crop=1, flip=True, seed=1)
    assert_array_equal(augmented, again)
    assert not np.array_equal(augmented, other_step)
    assert not np.array_equal(augmented, other_key)


def test_without_augmentation_the_rows_are_returned_unchanged():
    rows = jnp.asarray(ROWS)
    augmented = augment_images(
        rows,
        SHAPE,
        crop=0,
        flip=False,
        key=jax.random.key(0),
        step=jnp.int32(0),
    )
    assert augmented is rows
