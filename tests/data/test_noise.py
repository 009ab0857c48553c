from numpy.testing import assert_array_equal

from research.config.data_options import NoiseData
from research.data.noise import load_noise

from .rows import have_common_rows


def load(limit=None):
    settings = NoiseData(
        shape=(2, 3),
        classes=4,
        examples=100,
        limit=limit,
    )
    return load_noise(settings)


def test_noise_is_the_same_for_every_run_with_its_sizes():
    first = load()
    second = load()
    assert first.fingerprint() == second.fingerprint()


def test_noise_has_the_requested_sizes_and_two_different_splits():
    dataset = load()
    assert dataset.x.shape == (100, 6)
    assert dataset.eval_x.shape == (100, 6)
    assert dataset.shape == (2, 3)
    assert set(dataset.y) == set(range(4))
    assert set(dataset.eval_y) == set(range(4))
    assert not have_common_rows(dataset.x, dataset.eval_x)


def test_a_limit_keeps_the_first_training_examples_and_the_whole_evaluation_split():
    whole = load()
    few = load(limit=10)
    assert_array_equal(few.x, whole.x[:10])
    assert_array_equal(few.eval_x, whole.eval_x)


def test_a_limit_above_the_number_of_examples_keeps_all():
    whole = load()
    limited = load(limit=1000)
    assert_array_equal(limited.x, whole.x)
