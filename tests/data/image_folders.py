"""Folders of small images."""

import numpy as np
from PIL import Image

HEIGHT = 6
WIDTH = 8


def random_pixels(seed, *, high=256, channels=0):
    """Random whole numbers [H, W], or [H, W, C], below ``high``."""
    shape = (HEIGHT, WIDTH, channels) if channels else (HEIGHT, WIDTH)
    return np.random.default_rng(seed).integers(high, size=shape)


def write_classes(
    folder,
    *names,
    count=3,
    channels=0,
):
    """Random images, gray or in color, in a sub-folder for each class."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for position in range(count):
            pixels = random_pixels((number, position), channels=channels)
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(folder / name / f"{position:02d}.png")
    return folder
