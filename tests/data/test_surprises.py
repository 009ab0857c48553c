"""Lines about examples that a user may not expect."""

import re

import numpy as np
import pytest

from research.config.data_options import ArrayData, Scaling
from research.data.sources import load
from research.data.standardize import sample_rows
from research.data.surprises import count_shared_examples

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
CLASSES = np.arange(60) % 3
X_TEST = RNG.normal(size=(20, 4))
UNITS = np.array([1e5, 1, 1, 1])
FAR = np.where(np.arange(60) == 7, 1e6, 0)[:, None]
ONE_DEAD = np.array([0, 1, 1, 1])
TARGET_UNITS = np.array([1, 1e4, 1e-4, 1])


@pytest.fixture
def read(tmp_path, capsys):
    """Reads arrays from a file, and returns the lines about them."""

    def read_arrays(x=X, y=CLASSES, x_test=X_TEST, y_test=CLASSES[:20], **settings):
        file = tmp_path / "mine.npz"
        np.savez(file, x=x, y=y, x_test=x_test, y_test=y_test)
        load(ArrayData(path=str(file), **settings))
        return capsys.readouterr().err

    return read_arrays


def test_nothing_is_said_of_usual_examples(read):
    assert read() == ""
    assert read(y=X[:, 0], y_test=X_TEST[:, 0]) == ""
    assert read(scaling=Scaling.per_feature) == ""
    assert read(x=np.round(X).astype(int), x_test=np.round(X_TEST).astype(int)).count("units") == 0


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"x_test": X[:20]}, "the inputs of 20 of the 20 evaluation examples are those of train"),
        ({"eval_split": "train[:10]"}, "the inputs of 10 of the 10 evaluation examples are"),
        (
            {"x_test": X_TEST / 255},
            r"standard deviation 0\.00\d+ where .*: are both in the same units\?",
        ),
        (
            {"x_test": X_TEST + 30},
            r"have mean \d\d\.\d and .* where those of the training inputs are",
        ),
        ({"x": X * UNITS, "x_test": X_TEST * UNITS}, "3 of 4 features, such as feature 1, vary by"),
        (
            {"x": X * [1e5, 1, 1e5, 1e5], "x_test": X_TEST * [1e5, 1, 1e5, 1e5]},
            "1 of 4 features, feature 1, varies by less",
        ),
        ({"x": X + FAR}, "4 of 4 features, such as feature 0, vary by less than a thousandth"),
        ({"x": X + FAR, "scaling": Scaling.per_feature}, "a few examples are far from the others"),
        (
            {"x": X * ONE_DEAD, "scaling": Scaling.per_feature},
            "1 of 4 features, feature 0, has one value in all training .*: it is not scaled",
        ),
        ({"y": X[:, 0] * 1e6, "y_test": X_TEST[:, 0]}, r"a standard deviation of 9\.12e\+05"),
        ({"y": X[:, 0] * 1e-4, "y_test": X_TEST[:, 0]}, "targets are not standardized, and theirs"),
        (
            {"y": X * TARGET_UNITS, "y_test": X_TEST},
            "and those in columns 1, 2 have a mean of up to",
        ),
        (
            {"y": X * [1, 1e-4, 1, 1], "y_test": X_TEST},
            "and those in column 1 have a mean of up to",
        ),
        ({"y": X * TARGET_UNITS, "y_test": X_TEST}, r"deviations from 0\.000104 to 9\.04e\+03"),
    ],
)
def test_what_may_be_a_mistake_is_said(read, changes, line):
    text = read(**changes)
    assert re.search(line, text), text
    assert text.startswith("fathom: data=arrays: ")


def test_features_count_as_faint_also_where_nothing_is_left_of_them(read):
    units = [1e20, 1, 1e9, 1e9]
    assert "3 of 4 features, such as feature 1, vary by" in read(x=X * units, x_test=X_TEST * units)


def test_few_numbers_are_not_compared(read):
    assert read(x=X, y=X[:, 0], x_test=X_TEST + 50, y_test=X_TEST[:, 0]) != ""
    assert read(x=X[:7], y=X[:7, 0], x_test=X_TEST + 50, y_test=X_TEST[:, 0]) == ""


def test_shared_examples_are_counted_with_their_repetitions():
    x = np.array([[1, 2], [3, 4]])
    eval_x = np.array([[3, 4], [5, 6], [3, 4]])
    assert count_shared_examples(x, eval_x) == 2


@pytest.mark.parametrize(("columns", "count"), [(1, 2000), (2**12, 1000), (2**17, 64)])
def test_fewer_rows_of_large_images_are_sampled(columns, count):
    rows = np.broadcast_to(np.uint8(0), (4000, columns))
    assert len(sample_rows(rows)) == count
