import pytest

from research.data.splits import cut

SIZES = {"train": 200, "test": 30}
SLICES = {
    "train": (0, 200),
    "train[:10%]": (0, 20),
    "train[10%:]": (20, 200),
    "test[50%:51%]": (15, 15),
    "train[-5:]": (195, 200),
    "train[:-50%]": (0, 100),
    "train[100:1000]": (100, 200),
    "test[:]": (0, 30),
    "test[33%:67%]": (10, 20),
}


@pytest.mark.parametrize("split", [split for split in SLICES if split != "test[50%:51%]"])
def test_a_slice_is_that_of_tfds(split):
    """Percentages to the nearest example."""
    name, part = cut(split, SIZES)
    assert (name, (part.start, part.stop)) == (split.partition("[")[0], SLICES[split])


def test_all_parts_together_are_the_whole():
    parts = [cut(f"test[{10 * n}%:{10 * n + 10}%]", SIZES)[1] for n in range(10)]
    assert [n for part in parts for n in range(part.start, part.stop)] == list(range(30))


@pytest.mark.parametrize(
    "split", ["trian", "train[", "train[5]", "train[a:]", "train[:10%", "", "train+test", "[:3]"]
)
def test_what_is_no_split_is_refused_with_those_there_are(split):
    with pytest.raises(ValueError, match="^data.split must be one of train, test") as refused:
        cut(split, SIZES)
    assert str(refused.value).endswith(f"got {split}")


@pytest.mark.parametrize("split", ["test[50%:51%]", "train[9:9]", "train[200:]", "test[20:10]"])
def test_a_slice_without_examples_is_refused(split):
    with pytest.raises(ValueError, match="data.split must hold examples"):
        cut(split, SIZES)
