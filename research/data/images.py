"""Images cropped and resized to one shape, on the host."""

import numpy as np

from research.data.dataset import Shape

# Bounds of a random part: its fraction of the area, and the logarithm of its aspect ratio.
MIN_AREA_FRACTION = 0.08
MIN_LOG_RATIO = np.log(3 / 4)
MAX_LOG_RATIO = np.log(4 / 3)

Box = tuple[float, float, float, float]  # left, top, right, bottom


def center_crop_and_resize(image: np.ndarray, shape: Shape) -> np.ndarray:
    """The largest centered part of an image [H, W, C] with the same aspect ratio, resized."""
    if image.shape[:2] == shape[:2]:
        return image
    height, width, _ = image.shape
    target_height, target_width, _ = shape
    scale = min(height / target_height, width / target_width)
    crop_height = scale * target_height
    crop_width = scale * target_width
    top = (height - crop_height) / 2
    left = (width - crop_width) / 2
    bottom = top + crop_height
    right = left + crop_width
    return resize_box(image, shape, (left, top, right, bottom))


def random_resized_crop(
    image: np.ndarray,
    shape: Shape,
    rng: np.random.Generator,
) -> np.ndarray:
    """A random part of an image, resized.

    The part has 8 % to 100 % of the image's area and an aspect ratio between 3:4 and 4:3.

    Args:
        image: The image [H, W, C].
        shape: Height, width and channels of the result.
        rng: Source of the random numbers.

    Returns:
        The resized part, of ``shape``. If ten attempts find no part that fits, the resized center.

    References:
        Szegedy et al., Going deeper with convolutions, 2015, §6.
    """
    height, width, _ = image.shape
    for _ in range(10):
        area = height * width * rng.uniform(MIN_AREA_FRACTION, 1)
        log_ratio = rng.uniform(MIN_LOG_RATIO, MAX_LOG_RATIO)
        aspect_ratio = np.exp(log_ratio)
        crop_width = np.sqrt(area * aspect_ratio)
        crop_height = np.sqrt(area / aspect_ratio)
        if crop_width <= width and crop_height <= height:
            left = rng.uniform(0, width - crop_width)
            top = rng.uniform(0, height - crop_height)
            right = left + crop_width
            bottom = top + crop_height
            return resize_box(image, shape, (left, top, right, bottom))
    return center_crop_and_resize(image, shape)


def resize_box(
    image: np.ndarray,
    shape: Shape,
    box: Box,
) -> np.ndarray:
    """Resize a part of an image.

    Args:
        image: The image [H, W, C] of any numbers that float32 holds.
        shape: Height, width and channels of the result.
        box: The part, in pixels.

    Returns:
        The part at the size of ``shape``. When it shrinks, every pixel contributes.
    """
    if image.dtype == np.uint8 and image.shape[-1] in (1, 3):
        pixels = image.squeeze(-1) if image.shape[-1] == 1 else image
        return _resize_pixels(pixels, shape, box).reshape(*shape)
    resized = []
    for channel in np.moveaxis(image, -1, 0):
        resized.append(_resize_pixels(channel.astype(np.float32), shape, box))
    numbers = np.stack(resized, axis=-1)
    if image.dtype.kind in "ui":
        numbers = np.rint(numbers)
    return numbers.astype(image.dtype)


def _resize_pixels(
    pixels: np.ndarray,
    shape: Shape,
    box: Box,
) -> np.ndarray:
    from PIL import Image

    height, width, _ = shape
    bilinear = Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize((width, height), bilinear, box=box))
