"""Augmented images are mirrored or shifted copies, the same at the same step."""

import jax
import jax.numpy as jnp
import numpy as np

from research.data.augment import augment_images

SHAPE = (6, 5, 2)
ROWS = np.random.default_rng(0).uniform(1, 2, (200, 60)).astype(np.float32)
IMAGES = ROWS.reshape(-1, *SHAPE)


def augment(step, crop=0, flip=False, seed=0):
    key = jax.random.key(seed)
    rows = augment_images(jnp.asarray(ROWS), SHAPE, crop, flip, key, jnp.int32(step))
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
    assert np.array_equal(augmented[~is_same], mirrored[~is_same])
    assert 70 < is_same.sum() < 130


def test_each_image_is_shifted_by_no_more_than_the_crop_and_zeros_come_in():
    padded = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = set()
    for number, image in enumerate(augment(0, crop=1)):
        matches = matching_corners(padded[number], image)
        assert len(matches) == 1
        corners.update(matches)
    assert len(corners) == 9


def test_augmentation_is_a_pure_function_of_key_and_step():
    augmented = augment(3, crop=1, flip=True)
    assert np.array_equal(augmented, augment(3, crop=1, flip=True))
    assert not np.array_equal(augmented, augment(4, crop=1, flip=True))
    assert not np.array_equal(augmented, augment(3, crop=1, flip=True, seed=1))


def test_without_augmentation_the_rows_are_returned_unchanged():
    rows = jnp.asarray(ROWS)
    assert augment_images(rows, SHAPE, 0, False, jax.random.key(0), jnp.int32(0)) is rows
