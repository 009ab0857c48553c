"""Images cropped and resized on the host."""

import numpy as np
import pytest

from research.data.images import center_crop_and_resize, random_resized_crop

SIZES = [(30, 20), (20, 30), (12, 12)]  # height and width


@pytest.mark.parametrize("size", SIZES)
def test_an_image_is_cropped_to_its_center_and_resized(size):
    """A ramp stays a ramp with the slope of its center."""
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    image += 4 * np.arange(width, dtype=np.uint8)[:, None]

    resized = center_crop_and_resize(image, (10, 10, 3))

    side = min(size)
    left = (width - side) / 2
    pixel_centers = (np.arange(10) + 0.5) * side / 10 - 0.5
    expected = 4 * (left + pixel_centers)
    row = resized[3, :, 0].astype(float)
    assert resized.shape == (10, 10, 3)
    assert row[1:-1] == pytest.approx(expected[1:-1], abs=1.01)


def test_an_image_of_the_right_shape_is_returned_unchanged():
    image = np.zeros((10, 10, 3), np.uint8)
    assert center_crop_and_resize(image, (10, 10, 3)) is image


def test_a_random_crop_is_a_part_of_the_image():
    generator = np.random.default_rng(0)
    pixels = generator.integers(100, 200, (40, 60, 1))
    image = pixels.astype(np.uint8)
    for seed in range(20):
        generator = np.random.default_rng(seed)
        crop = random_resized_crop(image, (16, 16, 1), generator)
        assert crop.shape == (16, 16, 1)
        assert image.min() <= crop.min()
        assert crop.max() <= image.max()
