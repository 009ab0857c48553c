import numpy as np
import pytest

from research.data.splits import limit_positions, parse_split, part_positions

SIZES = {"train": 200, "test": 30}
SLICES = {
    "train": (0, 200),
    "train[:10%]": (0, 20),
    "train[10%:]": (20, 200),
    "train[-5:]": (195, 200),
    "train[:-50%]": (0, 100),
    "train[-200:200]": (0, 200),
    "train[-100%:100%]": (0, 200),
    "test[:]": (0, 30),
    "test[33%:67%]": (10, 20),
}
MALFORMED = [
    "trian",
    "train[",
    "train[5]",
    "train[a:]",
    "train[:10%",
    "",
    "train+test",
    "[:3]",
    f"train[:{10**30}]",
]
BEYOND = ["train[100:1000]", "train[:200%]", "train[-101%:]", "train[:-201]", f"train[:{10**15}]"]
EMPTY = ["test[50%:51%]", "train[9:9]", "train[200:]", "test[20:10]"]


@pytest.mark.parametrize("split", SLICES)
def test_a_slice_is_that_of_tfds(split):
    """Percentages are rounded to the nearest example."""
    name, part = parse_split(split, SIZES)
    assert name == split.partition("[")[0]
    assert (part.start, part.stop) == SLICES[split]


def test_adjacent_slices_cover_the_split():
    positions = []
    for tenth in range(0, 100, 10):
        _, part = parse_split(f"test[{tenth}%:{tenth + 10}%]", SIZES)
        positions += range(part.start, part.stop)
    assert positions == list(range(30))


@pytest.mark.parametrize("split", MALFORMED)
def test_what_is_not_a_split_is_refused_with_the_splits_there_are(split):
    with pytest.raises(ValueError, match="^data.split must be one of train, test") as refused:
        parse_split(split, SIZES)
    assert str(refused.value).endswith(f"got {split or 'an empty value'}")


@pytest.mark.parametrize("split", EMPTY)
def test_a_slice_without_examples_is_refused(split):
    with pytest.raises(ValueError, match="data.split must hold examples"):
        parse_split(split, SIZES)


@pytest.mark.parametrize("split", BEYOND)
def test_a_slice_that_ends_beyond_its_split_is_refused_as_by_tfds(split):
    with pytest.raises(ValueError, match="data.split must have bounds up to 200 or 100%, the exa"):
        parse_split(split, SIZES)


def positions(split, *, shuffle=True):
    name, part = parse_split(split, SIZES)
    size = SIZES[name]
    return np.arange(size)[part_positions(part, size, shuffle=shuffle)].tolist()


def test_a_whole_split_stays_in_its_order():
    assert positions("train") == positions("train[:]") == list(range(200))


def test_parts_of_a_shuffled_split_cover_it_once():
    parts = positions("train[:30%]") + positions("train[30%:35%]") + positions("train[35%:]")
    assert sorted(parts) == list(range(200))
    assert parts != sorted(parts)
    assert positions("train[:30%]") == positions("train[:60]")


def test_a_part_comes_from_everywhere_in_a_shuffled_split():
    """The mean of 20 of 200 positions has a standard deviation of 12."""
    assert np.mean(positions("train[:10%]")) == pytest.approx(99.5, abs=40)
    assert positions("train[:10%]", shuffle=False) == list(range(20))


def test_a_larger_limit_keeps_what_a_smaller_one_keeps():
    few = np.arange(200)[limit_positions(10, 200, shuffle=True)]
    many = np.arange(200)[limit_positions(50, 200, shuffle=True)]
    assert set(few) < set(many)
    assert many.mean() == pytest.approx(99.5, abs=40)
    assert limit_positions(None, 200, shuffle=True) == slice(0, 200)
    assert limit_positions(300, 200, shuffle=True) == slice(0, 200)


def test_a_dataset_with_a_single_split_says_how_to_cut_it_in_two():
    with pytest.raises(ValueError) as refused:
        parse_split("test", {"train": 100}, "data.eval_split")
    assert str(refused.value) == (
        "data.eval_split must be train or a slice of it, such as train[:90%] for data.split and "
        "train[90%:] for data.eval_split, got test"
    )
