"""Data of the user's own: a .npz with x and y, a folder of class folders; and functions to be met."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from research.config.data_options import Data, Function
from research.config.schema import Config, DataKind
from research.config.validation import check
from research.data.dataset import chosen
from research.data.function import FUNCTIONS
from research.data.sources import describe, load


def arrays(path, **changes):
    return Data(name=DataKind["arrays"], path=str(path), **changes)


def folder(path, **changes):
    return Data(name=DataKind["folder"], path=str(path), **changes)


X = np.arange(600, dtype=np.float32).reshape(100, 3, 2)
Y = np.arange(100) % 4


def test_arrays_are_split_in_a_fixed_order_and_nothing_is_lost(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    read = load(arrays(tmp_path / "a.npz"))
    rows = np.vstack([read.x, read.eval_x])
    order = np.argsort(rows[:, 0])
    assert np.array_equal(rows[order], X.reshape(100, 6)) and len(read.eval_x) == 10
    assert (
        np.array_equal(np.concatenate([read.y, read.eval_y])[order], Y) and read.y.dtype == np.int32
    )
    assert (read.shape, read.classes, read.real) == ((3, 2), 4, False)
    assert read.class_counts == np.bincount(read.y).tolist() and read.mean_square == pytest.approx(
        1
    )


def test_a_test_split_of_ones_own_is_kept(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y, x_test=X[:7] + 1, y_test=Y[:7])
    read = load(arrays(tmp_path / "a.npz"))
    assert len(read.x) == 100 and np.array_equal(read.eval_x, (X[:7] + 1).reshape(7, 6))


@pytest.mark.parametrize("y", [np.linspace(-1, 1, 100), np.ones((100, 2))])
def test_targets_that_are_no_whole_numbers_are_numbers_to_be_met(tmp_path, y):
    np.savez(tmp_path / "a.npz", x=X, y=y)
    read = load(arrays(tmp_path / "a.npz"))
    assert (
        read.real
        and read.y.shape == (90, read.classes)
        and read.classes == (y.shape[1] if y.ndim > 1 else 1)
    )
    assert read.class_counts is None


WRONG = {  # what the file holds, and what is said
    "pickled objects": (
        {"x": np.array([{}, {}], object), "y": [0, 1]},
        "holds pickled objects, which are never read",
    ),
    "no x": ({"a": [0]}, "must hold x and y, got a"),
    "lengths": ({"x": X, "y": Y[:9]}, "must hold as many examples, two at least, got 100 and 9"),
    "words": ({"x": ["a", "b"], "y": [0, 1]}, "x and y must be numbers, got <U1 and int64"),
    "not finite": ({"x": [np.nan, 1], "y": [0, 1]}, "x must be finite"),
    "negative classes": (
        {"x": X, "y": Y - 1},
        "y must be [n], classes from 0 on, got [100] from -1 on",
    ),
    "shapes": (
        {"x": X, "y": Y, "x_test": X[:, 0], "y_test": Y},
        "x_test must be [n, 3, 2] as x is, got [n, 2]",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_holds_something_else_is_refused_in_one_line(tmp_path, case):
    content, said = WRONG[case]
    arrays_: Any = {name: np.asarray(value) for name, value in content.items()}
    np.savez(tmp_path / "a.npz", **arrays_)
    with pytest.raises(ValueError) as refused:
        describe(arrays(tmp_path / "a.npz"))
    assert said in str(refused.value) and str(tmp_path / "a.npz") in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"hello"])
def test_a_damaged_file_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / 'a.npz'} is no .npz file, or a damaged one"):
        describe(arrays(tmp_path / "a.npz"))


def test_examples_without_a_label_are_refused_by_their_split():
    read = {"train": (X, Y), "unsupervised": (X, np.full(100, -1))}
    with pytest.raises(
        ValueError, match="^data.split must have labels: those of unsupervised are missing$"
    ):
        chosen(
            Data(split="unsupervised", eval_split="train"),
            dict.fromkeys(read, 100),
            read.__getitem__,
            4,
        )


def pets(place, *, shape=(6, 8), splits=("",), mode="RGB"):
    """20 images of each of two classes; their first number tells which."""
    for part in splits:
        for number, name in enumerate(("cats", "dogs")):
            (place / part / name).mkdir(parents=True)
            for n in range(20):
                pixels = np.full((*shape, 3), n * 4 + 100 * number, np.uint8)
                Image.fromarray(pixels).convert(mode).save(place / part / name / f"{n}.png")
    return place


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_images_have_the_class_of_their_folder(tmp_path, mode, channels):
    read = load(folder(pets(tmp_path / "pets", mode=mode)))
    assert (read.shape, read.classes) == ((6, 8, channels), 2)
    for x, y in ((read.x, read.y), (read.eval_x, read.eval_y)):
        assert np.array_equal(x[:, 0] >= 100, y == 1)
    seen = sorted(np.concatenate([read.x[:, 0], read.eval_x[:, 0]]).tolist())
    assert len(read.eval_x) == 4 and seen == sorted(
        [n * 4 for n in range(20)] + [n * 4 + 100 for n in range(20)]
    )


def test_folders_of_splits_are_the_splits_and_a_size_fits_all(tmp_path):
    place = pets(tmp_path / "pets", splits=("train", "test"))
    Image.new("RGB", (30, 30)).save(place / "test" / "dogs" / "large.jpg")
    with pytest.raises(
        ValueError, match="large.jpg must be an image of 6×8 pixels as the first one is, got 30×30"
    ):
        load(folder(place))
    read = load(folder(place, size=5))
    assert len(read.x) == 40 and len(read.eval_x) == 41 and read.shape == (5, 5, 3)


def test_a_folder_streams_the_same_images(tmp_path):
    place = pets(tmp_path / "pets")
    whole = load(folder(place))
    streamed = load(folder(place, in_memory_limit=0.0))
    assert streamed.train is not None and len(streamed.train) == len(whole.x) == streamed.examples
    pairs = [streamed.train.read(n, None) for n in range(36)]
    assert all(np.array_equal(x, whole.x[n]) and y == whole.y[n] for n, (x, y) in enumerate(pairs))


def test_what_is_no_folder_of_images_is_refused_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare" / "cats").mkdir(parents=True)
    broken = pets(tmp_path / "broken")
    (broken / "cats" / "7.png").write_bytes(b"no image")
    cases = {
        "nowhere": "which is none",
        "empty": "must hold a sub-folder of images for each of two classes or more, got none",
        "bare": "cats must hold images",
        "broken": "7.png is no image, or a damaged one",
    }
    for name, said in cases.items():
        with pytest.raises(ValueError) as refused:
            load(folder(tmp_path / name))
        assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["arrays", "folder"])
def test_data_of_ones_own_need_a_path(name):
    with pytest.raises(ValueError, match="^data.path must be .*, got none$"):
        describe(Data(name=DataKind[name]))


@pytest.mark.parametrize("name", [function.name for function in Function])
def test_a_function_is_met_where_it_is_drawn(name):
    inputs, f = FUNCTIONS[name]
    data = Data(name=DataKind["function"], function=Function[name], examples=500)
    read = load(data)
    assert read.x.shape == (500, inputs) and read.y.shape == (500, 1) and read.real
    assert np.abs(read.x).max() <= 1 and abs(read.x.mean()) < 0.1
    assert read.y[:, 0] == pytest.approx(f(read.x.astype(float)), abs=1e-5)
    assert not {row.tobytes() for row in read.x} & {row.tobytes() for row in read.eval_x}
    data.noise = 0.5
    noisy = load(data)
    assert (noisy.y - read.y).std() == pytest.approx(0.5, rel=0.1) and np.array_equal(
        noisy.eval_y, read.eval_y
    )


@pytest.mark.parametrize("name, side", [("sine", 256), ("surface", 16)])
def test_a_grid_is_evenly_spaced_in_training_alone(name, side):
    drawn, grid = (
        load(Data(name=DataKind["function"], function=Function[name], examples=256, grid=g))
        for g in (False, True)
    )
    axis = np.linspace(-1, 1, side)
    expected = [[a] for a in axis] if name == "sine" else [[a, b] for a in axis for b in axis]
    np.testing.assert_allclose(grid.x, expected, atol=1e-7)
    assert grid.y[:, 0] == pytest.approx(FUNCTIONS[name][1](grid.x.astype(float)), abs=1e-5)
    assert np.array_equal(grid.eval_x, drawn.eval_x)


def test_a_grid_of_two_inputs_needs_a_square_of_examples():
    data = Data(name=DataKind["function"], function=Function["surface"], examples=1000, grid=True)
    with pytest.raises(
        ValueError,
        match=r"^data.examples must be n\^2 where data.grid is true: 961 or 1024, say, got",
    ):
        describe(data)


def test_numbers_to_be_met_need_a_loss_for_them():
    config = Config()
    config.data.name = DataKind["function"]
    with pytest.raises(ValueError, match="loss must be mse .*, got cross_entropy"):
        check(config)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_label_noise_changes_its_share_of_the_training_labels_alone(share):
    clean = load(Data())
    noisy = load(Data(label_noise=share))
    changed = (clean.y != noisy.y).mean()
    assert changed == pytest.approx(0.9 * share, abs=0.04) and np.array_equal(
        clean.eval_y, noisy.eval_y
    )
    assert np.array_equal(clean.x, noisy.x) and np.array_equal(
        noisy.y, load(Data(label_noise=share)).y
    )
    more = load(Data(label_noise=min(1.0, share + 0.2))).y
    kept = noisy.y != clean.y
    assert np.array_equal(more[kept], noisy.y[kept])
    assert np.array_equal(load(Data(label_noise=share, limit=50)).y, noisy.y[:50])
