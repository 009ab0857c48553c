"""The user's arrays: a .npz file with x and y."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from research.config.data_options import ArrayData
from research.data.sources import describe, load

X = np.arange(600, dtype=np.float32).reshape(100, 3, 2)
Y = np.arange(100) % 4


def settings(path):
    return ArrayData(path=str(path))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.npz"


def test_arrays_are_split_in_a_fixed_order_and_nothing_is_lost(file):
    np.savez(file, x=X, y=Y)
    dataset = load(settings(file))
    rows = np.vstack([dataset.x, dataset.eval_x])
    labels = np.concatenate([dataset.y, dataset.eval_y])
    order = np.argsort(rows[:, 0])
    expected_rows = X.reshape(100, 6)
    assert_array_equal(rows[order], expected_rows)
    assert_array_equal(labels[order], Y)
    assert len(dataset.eval_x) == 10
    assert dataset.y.dtype == np.int32


def test_whole_numbers_are_classes_and_inputs_are_standardized(file):
    np.savez(file, x=X, y=Y)
    dataset = load(settings(file))
    assert dataset.shape == (3, 2)
    assert dataset.classes == 4
    assert not dataset.is_regression
    assert dataset.class_counts == np.bincount(dataset.y).tolist()
    assert dataset.mean_square == pytest.approx(1)


def test_a_test_split_in_the_file_is_used(file):
    x_test = X[:7] + 1
    y_test = Y[:7]
    np.savez(file, x=X, y=Y, x_test=x_test, y_test=y_test)
    dataset = load(settings(file))
    assert len(dataset.x) == 100
    assert_array_equal(dataset.eval_x, x_test.reshape(7, 6))


FLOAT_TARGETS = [
    np.linspace(-1, 1, 100),
    np.ones((100, 2)),
]


@pytest.mark.parametrize("targets", FLOAT_TARGETS)
def test_targets_that_are_not_integers_are_regression_targets(file, targets):
    np.savez(file, x=X, y=targets)
    dataset = load(settings(file))
    outputs = targets.size // 100
    assert dataset.is_regression
    assert dataset.classes == outputs
    assert dataset.y.shape == (90, outputs)
    assert dataset.class_counts is None


PICKLED = np.array([{}, {}], object)
WRONG_CONTENT = {
    "pickled objects": {"x": PICKLED, "y": [0, 1]},
    "no x": {"a": [0]},
    "lengths": {"x": X, "y": Y[:9]},
    "words": {"x": ["a", "b"], "y": [0, 1]},
    "not finite": {"x": [np.nan, 1], "y": [0, 1]},
    "negative classes": {"x": X, "y": Y - 1},
    "shapes": {"x": X, "y": Y, "x_test": X[:, 0], "y_test": Y},
}
MESSAGES = {
    "pickled objects": "holds pickled objects, which are never read",
    "no x": "must hold x and y, got a",
    "lengths": "must hold the same number of examples, at least two, got 100 and 9",
    "words": "x and y must be numbers, got <U1 and int64",
    "not finite": "x must be finite",
    "negative classes": "y must be [n] with classes from 0 on, got [100] with classes from -1 on",
    "shapes": "x_test must be [n, 3, 2] like x, got [n, 2]",
}


@pytest.mark.parametrize("case", WRONG_CONTENT)
def test_a_file_that_holds_something_else_is_refused_in_one_line(file, case):
    np.savez(file, **WRONG_CONTENT[case])
    with pytest.raises(ValueError) as refused:
        describe(settings(file))
    message = str(refused.value)
    assert MESSAGES[case] in message
    assert str(file) in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"hello"])
def test_a_damaged_file_is_refused_by_name(file, content):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} is not a .npz file, or it is damaged"):
        describe(settings(file))


def test_arrays_need_a_path():
    with pytest.raises(ValueError, match="^data.path must be .*, got none$"):
        describe(ArrayData())
