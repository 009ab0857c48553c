"""The user's images: a folder with a sub-folder for each class."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from research.config.data_options import FolderData
from research.data.sources import describe, load

CAT_VALUES = list(range(0, 80, 4))
DOG_VALUES = list(range(100, 180, 4))


def settings(path, **changes):
    return FolderData(path=str(path), **changes)


def write_pets(folder, *, mode="RGB"):
    """20 images of 6×8 pixels for each of two classes; all pixels of an image have one value."""
    classes = {"cats": CAT_VALUES, "dogs": DOG_VALUES}
    for name, values in classes.items():
        (folder / name).mkdir(parents=True)
        for number, value in enumerate(values):
            pixels = np.full((6, 8, 3), value, np.uint8)
            image = Image.fromarray(pixels).convert(mode)
            image.save(folder / name / f"{number}.png")


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_images_have_the_class_of_their_folder(tmp_path, mode, channels):
    write_pets(tmp_path / "pets", mode=mode)
    dataset = load(settings(tmp_path / "pets"))
    assert dataset.shape == (6, 8, channels)
    assert dataset.classes == 2
    values = dataset.x[:, 0]
    eval_values = dataset.eval_x[:, 0]
    assert_array_equal(values >= 100, dataset.y == 1)
    assert_array_equal(eval_values >= 100, dataset.eval_y == 1)
    assert sorted([*values, *eval_values]) == CAT_VALUES + DOG_VALUES
    assert len(dataset.eval_x) == 4


@pytest.fixture
def split_folder(tmp_path):
    """A folder with splits, in which one image is larger than the others."""
    folder = tmp_path / "pets"
    write_pets(folder / "train")
    write_pets(folder / "test")
    large = Image.new("RGB", (30, 30))
    large.save(folder / "test" / "dogs" / "large.jpg")
    return folder


def test_folders_of_splits_are_the_splits_and_a_size_resizes_all_images(split_folder):
    dataset = load(settings(split_folder, size=5))
    assert len(dataset.x) == 40
    assert len(dataset.eval_x) == 41
    assert dataset.shape == (5, 5, 3)


def test_images_of_different_sizes_are_refused_by_name(split_folder):
    message = "large.jpg must be an image of 6×8 pixels like the first one, got 30×30"
    with pytest.raises(ValueError, match=message):
        load(settings(split_folder))


def test_a_folder_streams_the_same_images(tmp_path):
    write_pets(tmp_path / "pets")
    in_memory = load(settings(tmp_path / "pets"))
    streamed = load(settings(tmp_path / "pets", in_memory_limit=0.0))
    source = streamed.train_source
    assert source is not None
    assert len(source) == streamed.examples == len(in_memory.x) == 36
    for position in range(36):
        x, y = source.read(position, None)
        assert_array_equal(x, in_memory.x[position])
        assert y == in_memory.y[position]


def make_empty_folder(folder):
    folder.mkdir()


def make_empty_class(folder):
    (folder / "cats").mkdir(parents=True)


def make_broken_image(folder):
    write_pets(folder)
    (folder / "cats" / "7.png").write_bytes(b"no image")


def make_nothing(folder):
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_nothing, "which is not a folder"),
        (
            make_empty_folder,
            "must hold a sub-folder of images for each of at least two classes, got none",
        ),
        (make_empty_class, "cats must hold images"),
        (make_broken_image, "7.png is not an image, or it is damaged"),
    ],
)
def test_what_is_not_a_folder_of_images_is_refused_in_one_line(tmp_path, make, message):
    make(tmp_path / "pets")
    with pytest.raises(ValueError) as refused:
        load(settings(tmp_path / "pets"))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_needs_a_path():
    with pytest.raises(ValueError, match="^data.path must be .*, got none$"):
        describe(FolderData())
