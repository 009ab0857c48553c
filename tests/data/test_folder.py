"""The user's images: a folder with a sub-folder for each class."""

import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from research.config.data_options import FolderData
from research.data.compatibility import check_data
from research.data.image_files import ImageReader, PixelFormat
from research.data.sources import describe, load
from research.data.streaming import choose_sample_size

from ..builders import make_config
from .image_folders import HEIGHT, WIDTH, random_pixels, write_classes

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
    message = "large.jpg must be an image of height 6 and width 8 like the first one, got 30 and 30"
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


def test_images_of_different_sizes_are_refused_by_name_also_in_a_stream(split_folder):
    message = "large.jpg must be an image of height 6 and width 8 like the first one, got 30 and 30"
    for streamed in ({"in_memory_limit": 0.0}, {"resized_crop": True}):
        with pytest.raises(ValueError, match=message):
            load(settings(split_folder, **streamed))
    assert load(settings(split_folder, resized_crop=True, size=6)).shape == (6, 6, 3)


def test_images_that_are_larger_than_memory_are_refused_before_they_are_read(tmp_path):
    write_pets(tmp_path / "pets")
    data = {"data": "folder", "data.path": str(tmp_path / "pets"), "train.batch_size": 8}
    check_data(make_config(data))
    for limit in (0.0, 1e9):
        changes = {"data.size": 1_000_000, "data.in_memory_limit": limit}
        with pytest.raises(ValueError, match="images of 1000000×1000000×3 numbers .* data.size"):
            check_data(make_config(data | changes))


@pytest.mark.parametrize(
    ("shape", "size"), [((224, 224, 3), 2048), ((1000, 1000, 3), 357), ((10**6, 10**6, 3), 16)]
)
def test_a_sample_of_large_images_is_smaller(shape, size):
    assert choose_sample_size(math.prod(shape)) == size


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


SPLIT_FOLDERS = {
    "valid": (["train", "valid", "test"], ["train", "valid", "test"]),
    "upper case": (["TRAIN", "Val", "Test"], ["train", "val", "test"]),
    "longer names": (["Training", "Testing"], ["train", "test"]),
    "other names": (["train", "dev", "EVAL"], ["train", "dev", "eval"]),
    "train alone": (["Train"], ["train"]),
    "sets": (["training_set", "test_set"], ["train", "test"]),
    "more words": (["Train Data", "val-images"], ["train", "val"]),
}


@pytest.mark.parametrize("case", SPLIT_FOLDERS)
def test_folders_of_splits_are_recognized_in_any_case(tmp_path, case, capsys):
    folders, splits = SPLIT_FOLDERS[case]
    for name in folders:
        write_classes(tmp_path / name, "a", "b")
    info = describe(settings(tmp_path))
    assert info.splits == dict.fromkeys(splits, 6)
    assert capsys.readouterr().err == ""
    assert load(settings(tmp_path, eval_split=splits[-1])).classes == 2


def test_splits_next_to_other_folders_of_images_are_refused(tmp_path):
    for split in ("train", "Test"):
        write_classes(tmp_path / split, "a", "b")
    write_classes(tmp_path, "figures")
    message = "got the splits Test, train next to figures: move or rename some of them"
    with pytest.raises(ValueError, match=message):
        describe(settings(tmp_path))


def test_folders_without_images_next_to_splits_are_left_out(tmp_path, capsys):
    write_classes(tmp_path / "train", "a", "b")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.xml").touch()
    assert describe(settings(tmp_path)).splits == {"train": 6}
    load(settings(tmp_path, split="train[:3]", eval_split="train[3:]"))
    assert (
        capsys.readouterr().err
        == f"fathom: {tmp_path}: files left out: 1 with other endings (.xml)\n"
    )


def test_a_folder_that_is_refused_is_said_nothing_else_of(tmp_path, capsys):
    write_classes(tmp_path / "train", "a", "b")
    write_classes(tmp_path / "test", "a", "c")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="train/c must hold images"):
        describe(settings(tmp_path))
    (tmp_path / "test" / "c").rename(tmp_path / "test" / "b")
    describe(settings(tmp_path))
    assert capsys.readouterr().err == ""


def test_a_class_with_the_name_of_a_split_is_said(tmp_path, capsys):
    write_classes(tmp_path, "bus", "train")
    dataset = load(settings(tmp_path))
    assert dataset.classes == 2
    first_line = capsys.readouterr().err.splitlines()[0]
    assert first_line.startswith(f"fathom: {tmp_path}: train is read as a class and not as a split")


@pytest.mark.parametrize("names", [("Train", "train"), ("train", "training")])
def test_two_folders_of_one_split_are_refused(tmp_path, names):
    for name in names:
        write_classes(tmp_path / name, "a", "b")
    with pytest.raises(ValueError, match="must hold one folder for the split train"):
        describe(settings(tmp_path))


@pytest.mark.parametrize("names", [("train1", "train2"), ("train2017", "val2017")])
def test_numbered_splits_are_not_read_as_classes(tmp_path, names):
    for name in names:
        write_classes(tmp_path / name, "a", "b")
    with pytest.raises(ValueError, match="got train.*, which may be either: rename it to train"):
        describe(settings(tmp_path))


def test_numbered_classes_with_the_name_of_a_split_are_classes(tmp_path):
    write_classes(tmp_path, "train1", "train2", "trainer", "dataset")
    assert load(settings(tmp_path)).classes == 4


def test_an_empty_folder_with_the_name_of_a_split_is_refused_in_one_line(tmp_path, capsys):
    write_classes(tmp_path, "a", "b")
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="train must hold images"):
        describe(settings(tmp_path))
    assert capsys.readouterr().err == ""


def test_splits_without_a_training_split_are_refused(tmp_path):
    write_classes(tmp_path / "valid", "a", "b")
    with pytest.raises(ValueError, match="must hold a folder train next to valid"):
        describe(settings(tmp_path))


COLOR_PLACES = ["a/02.png", "b/00.png", "b/02.png"]


@pytest.mark.parametrize("place", COLOR_PLACES)
def test_images_have_three_channels_if_any_has_color(tmp_path, place):
    write_classes(tmp_path, "a", "b")
    colors = random_pixels(0, channels=3).astype(np.uint8)
    Image.fromarray(colors).save(tmp_path / place)
    dataset = load(settings(tmp_path))
    assert dataset.shape == (HEIGHT, WIDTH, 3)
    rows = [*dataset.x, *dataset.eval_x]
    assert any(row.tobytes() == colors.tobytes() for row in rows)


def test_the_shape_is_that_of_upright_images(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    write_classes(tmp_path, "a", "b")
    for path in tmp_path.glob("*/*.png"):
        with Image.open(path) as image:
            image.save(path, exif=exif)
    dataset = load(settings(tmp_path))
    assert dataset.shape == (WIDTH, HEIGHT, 1)
    reader = ImageReader(PixelFormat(channels=1))
    assert dataset.x[0].tobytes() == reader.read(tmp_path / "a" / "00.png").tobytes()


def test_what_is_left_out_is_counted_in_one_line(tmp_path, capsys):
    write_classes(tmp_path, "a", "b")
    write_classes(tmp_path / "a", ".ipynb_checkpoints", count=2)
    write_classes(tmp_path, "__MACOSX", count=1)
    (tmp_path / "a" / "._00.png").touch()
    (tmp_path / "b" / "notes.txt").touch()
    (tmp_path / "cover.png").touch()
    dataset = load(settings(tmp_path))
    assert len(dataset.x) + len(dataset.eval_x) == 6
    assert capsys.readouterr().err.splitlines()[0] == (
        f"fathom: {tmp_path}: files left out: 4 hidden, 1 with other endings (.txt), "
        "1 outside of the folders of classes"
    )


def test_images_in_deeper_folders_are_said_to_belong_to_the_class(tmp_path, capsys):
    write_classes(tmp_path, "a", "b")
    write_classes(tmp_path / "a", "deep", count=2)
    assert load(settings(tmp_path)).classes == 2
    assert capsys.readouterr().err.splitlines()[0] == (
        f"fathom: {tmp_path}: images in folders inside of the folders of classes, such as a/deep, "
        "belong to these classes (2)"
    )


def test_a_split_may_lack_a_class_and_it_is_said(tmp_path, capsys):
    write_classes(tmp_path / "train", "a", "b", "c")
    write_classes(tmp_path / "test", "a", "c")
    assert describe(settings(tmp_path)).splits == {"test": 6, "train": 9}
    load(settings(tmp_path))
    assert capsys.readouterr().err.splitlines()[0] == (
        "fathom: data=folder: 1 of 3 classes has no example among the 6 evaluation examples: b"
    )


def test_a_tenth_that_is_held_out_may_lack_a_class_and_it_is_said(tmp_path, capsys):
    write_classes(tmp_path, "a", "b", "c", count=4)
    dataset = load(settings(tmp_path))
    assert len(dataset.eval_y) == 1
    line = "data=folder: 2 of 3 classes have no example among the only evaluation example: "
    assert line in capsys.readouterr().err


def test_a_split_without_classes_can_be_left_out(tmp_path, capsys):
    write_classes(tmp_path / "train", "a", "b", count=10)
    write_classes(tmp_path, "test")
    message = (
        r"test has no image in a folder of a class, got test; use train\[:90%\] for data.split "
    )
    with pytest.raises(ValueError, match=message):
        load(settings(tmp_path))
    assert capsys.readouterr().err == ""
    load(settings(tmp_path, split="train[:80%]", eval_split="train[80%:]"))
    assert "files left out: 3 outside of the folders of classes\n" in capsys.readouterr().err


def test_a_folder_around_the_folder_is_suggested(tmp_path):
    write_classes(tmp_path / "archive", "a", "b")
    with pytest.raises(ValueError, match=f"got archive: data.path={tmp_path}/archive may be that"):
        describe(settings(tmp_path))


@pytest.mark.parametrize("in_memory_limit", [0.0, 1.0])
def test_what_is_left_out_of_images_is_counted(tmp_path, in_memory_limit, capsys):
    write_classes(tmp_path, "a", "b", channels=4)
    load(settings(tmp_path, in_memory_limit=in_memory_limit))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("left out of the 6 images that were read: transparency (6)")


@pytest.mark.parametrize("in_memory_limit", [0.0, 1.0])
def test_images_of_both_splits_are_counted_also_where_they_are_streamed(
    tmp_path, in_memory_limit, capsys
):
    write_classes(tmp_path / "train", "a", "b")
    write_classes(tmp_path / "test", "a", "b", count=2)
    load(settings(tmp_path, in_memory_limit=in_memory_limit))
    assert capsys.readouterr().err == (
        "fathom: data=folder: the inputs of 4 of the 4 evaluation examples are those of training "
        "examples, too\n"
    )


def test_streamed_images_are_compared_in_samples_and_that_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("research.data.streaming.SAMPLE_SIZE", 3)
    write_classes(tmp_path / "train", "a", "b", count=4)
    write_classes(tmp_path / "test", "a", "b", count=4)
    load(settings(tmp_path, in_memory_limit=0.0))
    assert capsys.readouterr().err == (
        "fathom: data=folder: the inputs of 3 of 3 evaluation examples are those of training "
        "examples, too, in a sample of 3 of the 8 training examples\n"
    )


@pytest.mark.parametrize("in_memory_limit", [0.0, 1.0])
def test_the_network_reads_images_of_16_bits_in_their_range(tmp_path, in_memory_limit):
    write_classes(tmp_path, "a", "b")
    pixels = {}
    for number, path in enumerate(sorted(tmp_path.glob("*/*.png"))):
        pixels[path] = random_pixels(number, high=4096)
        Image.fromarray(pixels[path].astype(np.uint16)).save(path)
    dataset = load(settings(tmp_path, in_memory_limit=in_memory_limit, size=HEIGHT))
    left = (WIDTH - HEIGHT) // 2
    cropped = [image[:, left : left + HEIGHT].ravel() for image in pixels.values()]
    assert {tuple(row) for row in dataset.x} <= {tuple(row) for row in cropped}
    inputs = dataset.standardization.apply(dataset.x)
    assert inputs.std() == pytest.approx(1)
    assert len(np.unique(inputs)) > 100


CUTS = [{"limit": 40}, {"split": "train[:20%]"}, {"split": "train[20%:40%]"}]


@pytest.mark.parametrize("changes", CUTS)
@pytest.mark.parametrize("in_memory_limit", [0.0, 1.0])
def test_a_part_of_a_folder_holds_every_class(tmp_path, changes, in_memory_limit):
    write_classes(tmp_path, "a", "b", "c", count=60)
    dataset = load(settings(tmp_path, in_memory_limit=in_memory_limit, **changes))
    counts = dataset.class_counts
    assert counts is not None
    assert sum(counts) == dataset.examples
    assert min(counts) > 5


def test_the_parts_of_a_folder_are_those_of_its_stream(tmp_path):
    write_classes(tmp_path, "a", "b", count=30)
    cut = {"split": "train[:50%]", "eval_split": "train[50%:]", "limit": 13, "label_noise": 0.5}
    in_memory = load(settings(tmp_path, **cut))
    streamed = load(settings(tmp_path, in_memory_limit=0.0, **cut))
    assert in_memory.x.shape == streamed.x.shape == (13, HEIGHT * WIDTH)
    assert_array_equal(in_memory.x, streamed.x)
    assert_array_equal(in_memory.y, streamed.y)
    assert_array_equal(in_memory.eval_x, streamed.eval_x)
    assert in_memory.class_counts == streamed.class_counts


def test_the_labels_that_noise_changes_stay_the_same_under_a_limit(tmp_path):
    write_classes(tmp_path, "a", "b", "c", count=30)
    whole = load(settings(tmp_path, label_noise=0.5))
    few = load(settings(tmp_path, label_noise=0.5, limit=20))
    labels = {}
    for row, label in zip(whole.x, whole.y, strict=True):
        labels[row.tobytes()] = label
    for row, label in zip(few.x, few.y, strict=True):
        assert labels[row.tobytes()] == label


@pytest.mark.parametrize("in_memory_limit", [0.0, 1.0])
def test_a_class_without_a_training_example_is_said_by_name(tmp_path, in_memory_limit, capsys):
    write_classes(tmp_path / "train", "a", "b", "c", count=1)
    load(
        settings(
            tmp_path,
            limit=1,
            eval_split="train",
            in_memory_limit=in_memory_limit,
        )
    )
    lines = sorted(capsys.readouterr().err.splitlines())
    assert len(lines) == 2
    assert lines[0].startswith("fathom: data=folder: 2 of 3 classes have no example among the only")
    assert "the inputs of 1 of the 3 evaluation examples are those of training" in lines[1]


@pytest.mark.parametrize("in_memory_limit", [0.0, 1.0])
@pytest.mark.parametrize("value", [0, 255])
def test_constant_images_are_refused(tmp_path, value, in_memory_limit):
    write_classes(tmp_path, "a", "b")
    for path in tmp_path.glob("*/*.png"):
        Image.new("L", (WIDTH, HEIGHT), value).save(path)
    message = f"training inputs of data=folder must vary, but all of them are {value}$"
    with pytest.raises(ValueError, match=message):
        load(settings(tmp_path, in_memory_limit=in_memory_limit))


def test_classes_whose_numbers_are_not_those_of_their_folders_are_said(tmp_path, capsys):
    load(settings(write_classes(tmp_path / "numbers", "1", "2", "10", "x")))
    load(settings(write_classes(tmp_path / "in_order", "01", "02", "10")))
    assert "numbered" not in capsys.readouterr().err
    load(settings(write_classes(tmp_path / "as_text", "1", "2", "10")))
    assert (
        "as_text: classes are numbered in the order of their names as text, so folder 10 is class 1"
    ) in capsys.readouterr().err


def test_images_that_become_equal_when_they_are_resized_are_told_from_equal_images(
    tmp_path,
    capsys,
):
    black = np.zeros((4, 4), np.uint8)
    white = np.full((4, 4), 255, np.uint8)
    smaller = np.zeros((2, 2), np.uint8)
    images = {"train": {"a": black, "b": white}, "test": {"a": smaller, "b": white}}
    for split, classes in images.items():
        for name, pixels in classes.items():
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / split / name / "0.png")
    load(settings(tmp_path, size=2))
    assert capsys.readouterr().err.endswith(
        "the inputs of 2 of the 2 evaluation examples are those of training examples, too: "
        "1 of them before images are resized, the others only then\n"
    )
