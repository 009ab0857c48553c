"""Images brought to one size, on the host: for what cannot lie in one array as it is."""

import numpy as np

Box = tuple[float, float, float, float]  # left, top, right, bottom


def fitted(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The middle of an image [H, W, C], of the asked-for proportions and as large as possible, resized to ``shape``."""
    height, width = image.shape[:2]
    if image.shape[:2] == shape[:2]:
        return image
    scale = min(height / shape[0], width / shape[1])
    top = (height - scale * shape[0]) / 2
    left = (width - scale * shape[1]) / 2
    return resized(image, shape, (left, top, left + scale * shape[1], top + scale * shape[0]))


def random_part(image: np.ndarray, shape: tuple[int, ...], draw: np.random.Generator) -> np.ndarray:
    """A part of the image, resized: 8 % to all of its area, proportions 3:4 to 4:3 (Szegedy et al. 2015, §6)."""
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * draw.uniform(0.08, 1)
        proportion = np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3)))
        w = np.sqrt(area * proportion)
        h = np.sqrt(area / proportion)
        if w <= width and h <= height:
            left = draw.uniform(0, width - w)
            top = draw.uniform(0, height - h)
            return resized(image, shape, (left, top, left + w, top + h))
    return fitted(image, shape)


def resized(image: np.ndarray, shape: tuple[int, ...], box: Box) -> np.ndarray:
    """The box of an image [H, W, C] at the size of ``shape``; every pixel counts where it shrinks."""
    from PIL import Image

    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    size = (shape[1], shape[0])
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=box)).reshape(*shape)
