import numpy as np

from research.config.data_settings import Data
from research.data.noise import load_noise


def test_noise_is_the_same_for_every_run_with_its_sizes():
    settings = Data(shape=[2, 3], classes=4, examples=100)
    assert load_noise(settings).fingerprint() == load_noise(settings).fingerprint()


def test_noise_has_the_requested_sizes_and_two_different_splits():
    dataset = load_noise(Data(shape=[2, 3], classes=4, examples=100))
    assert dataset.x.shape == dataset.eval_x.shape == (100, 6)
    assert dataset.shape == (2, 3)
    assert set(dataset.y) == set(dataset.eval_y) == {0, 1, 2, 3}
    train_rows = {row.tobytes() for row in dataset.x}
    assert train_rows.isdisjoint(row.tobytes() for row in dataset.eval_x)


def test_a_limit_keeps_the_first_training_examples_and_the_whole_evaluation_split():
    whole = load_noise(Data(shape=[3], classes=2, examples=100))
    few = load_noise(Data(shape=[3], classes=2, examples=100, limit=10))
    assert np.array_equal(few.x, whole.x[:10])
    assert np.array_equal(few.eval_x, whole.eval_x)


def test_a_limit_above_the_number_of_examples_keeps_all():
    whole = load_noise(Data(shape=[3], classes=2, examples=100))
    limited = load_noise(Data(shape=[3], classes=2, examples=100, limit=1000))
    assert np.array_equal(limited.x, whole.x)
