"""The heat map: the colour at each place is that of the logarithm of its number."""

import io

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from research.records.trackers.canvas import MAP, MISSING_COLOR
from research.records.trackers.heat_map import heat_map

LAYERS = 5
STEPS = np.arange(0, 40, 4)


def draw(steps, profile):
    """The heat map, read back from its file."""
    picture = heat_map(steps, profile, label="log₁₀ ‖∂L/∂h‖")
    return Image.open(io.BytesIO(picture.content)).convert("RGB")


def color_at(
    picture,
    step,
    layer,
    end=40,
):
    """The colour in the middle of one cell of the map."""
    x = MAP.left + (step + 2) / end * MAP.width
    y = MAP.bottom - (layer + 0.5) / LAYERS * MAP.height
    return picture.getpixel((int(x), int(y)))


def viridis(share):
    red, green, blue, _ = mpl.colormaps["viridis"](min(255, int(256 * share)), bytes=True)
    return red, green, blue


@pytest.fixture(name="profile")
def fixture_profile():
    """Ten to the power of the layer's number, at every step."""
    return np.tile(10.0 ** np.arange(LAYERS), (len(STEPS), 1))


@pytest.mark.parametrize("layer", range(LAYERS))
def test_colors_are_linear_in_the_logarithm(profile, layer):
    picture = draw(STEPS, profile)

    assert color_at(picture, 20, layer) == viridis(layer / (LAYERS - 1))


@pytest.mark.parametrize("missing", [0.0, np.nan, np.inf])
def test_what_has_no_logarithm_is_grey(profile, missing):
    profile[5, 2] = missing

    picture = draw(STEPS, profile)

    assert color_at(picture, 20, 2) == MISSING_COLOR
    assert color_at(picture, 16, 2) == color_at(picture, 24, 2) == viridis(0.5)


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_a_profile_of_one_number_has_a_map(value):
    picture = draw(np.array([7]), np.full((1, 2), value))

    assert picture.size == (675, 480)
