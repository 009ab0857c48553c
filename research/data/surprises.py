"""Lines on standard error about a dataset that was loaded, where a user may expect otherwise."""

import numpy as np

from research.data.dataset import Dataset
from research.data.notices import join_first, notify
from research.data.standardize import find_faint_features, sample_rows

LEAST_NUMBERS_TO_COMPARE = 32
MAX_RATIO_OF_DEVIATIONS = 10  # of evaluation inputs to those for training
LARGEST_USUAL_TARGET = 100  # a network's first outputs are about 1
LEAST_USUAL_DEVIATION = 0.01  # of targets


def report_surprises(dataset: Dataset, *, is_per_feature: bool) -> None:
    """Say what of the examples a user may not expect, in one line each.

    Args:
        dataset: The dataset, with inputs of mean 0 and standard deviation 1.
        is_per_feature: Whether each feature is standardized by itself.
    """
    _report_missing_classes(dataset)
    is_streamed = dataset.train_source is not None
    if not is_streamed:
        shared = count_shared_examples(dataset.x, dataset.eval_x)
        report_shared_examples(dataset.name, shared, len(dataset.eval_x))
    if dataset.is_regression:
        _report_target_scale(dataset)
    if not dataset.vocabulary and not dataset.standardization.is_constant:
        _report_input_scale(dataset)
        _report_faint_features(dataset, is_per_feature=is_per_feature)
        if is_per_feature:
            _report_unscaled_features(dataset)


def count_shared_examples(x: np.ndarray, eval_x: np.ndarray) -> int:
    """How many evaluation examples [m, features] are among the training examples [n, features]."""
    digests = {hash(row.tobytes()) for row in eval_x}
    common = digests.intersection(hash(row.tobytes()) for row in x)
    return sum(hash(row.tobytes()) in common for row in eval_x)


def report_shared_examples(
    name: str,
    num_shared: int,
    num_evaluated: int,
) -> None:
    """Say how many evaluation examples are training examples, too, if there are any.

    Args:
        name: Name of the dataset.
        num_shared: Number of these examples.
        num_evaluated: Number of all evaluation examples.
    """
    if num_shared:
        notify(
            f"data={name}: the inputs of {num_shared} of the {num_evaluated} evaluation examples "
            "are those of training examples, too"
        )


def _report_missing_classes(dataset: Dataset) -> None:
    """Say which classes have no training example."""
    missing = []
    for number, count in enumerate(dataset.class_counts or []):
        if count == 0:
            name = dataset.class_names[number] if dataset.class_names else str(number)
            missing.append(name)
    if missing:
        verb = "has" if len(missing) == 1 else "have"
        notify(
            f"data={dataset.name}: {len(missing)} of {dataset.classes} classes {verb} no example "
            f"among the {dataset.examples} training examples: {join_first(missing)}"
        )


def _report_target_scale(dataset: Dataset) -> None:
    """Say that targets are far from what a network's first outputs are."""
    mean = np.abs(dataset.y.mean(axis=0, dtype=np.float64)).max()
    deviations = dataset.y.std(axis=0, dtype=np.float64)
    is_large = max(mean, deviations.max()) > LARGEST_USUAL_TARGET
    if is_large or 0 < deviations.max() < LEAST_USUAL_DEVIATION:
        notify(
            f"data={dataset.name}: targets are not standardized, and theirs have a mean of up to "
            f"{mean:.3g} and a standard deviation of up to {deviations.max():.3g}, where the "
            "first outputs of a network are about 1"
        )


def _report_input_scale(dataset: Dataset) -> None:
    """Say that evaluation inputs are in other units than training inputs, as it seems."""
    if dataset.eval_x.size < LEAST_NUMBERS_TO_COMPARE:
        return
    train = dataset.standardization.apply(sample_rows(dataset.x))
    evaluation = dataset.standardization.apply(sample_rows(dataset.eval_x))
    deviation = train.std()
    distance = abs(evaluation.mean() - train.mean())
    least = deviation / MAX_RATIO_OF_DEVIATIONS
    most = deviation * MAX_RATIO_OF_DEVIATIONS
    if least <= evaluation.std() <= most and distance <= most:
        return
    notify(
        f"data={dataset.name}: the evaluation inputs have mean {evaluation.mean():.3g} and "
        f"standard deviation {evaluation.std():.3g} where those of the training inputs are "
        f"{train.mean():.3g} and {deviation:.3g}: are both in the same units?"
    )


def _report_faint_features(dataset: Dataset, *, is_per_feature: bool) -> None:
    """Say how many features hardly vary once they are standardized, because others are larger."""
    faint = find_faint_features(dataset.x, dataset.standardization)
    if not len(faint):
        return
    hint = "a few examples are far from the others"
    if not is_per_feature:
        hint = "data.scaling=per_feature gives each feature a standard deviation of 1"
    notify(
        f"data={dataset.name}: {len(faint)} of {dataset.x.shape[1]} features, such as feature "
        f"{faint[0]}, vary by less than a thousandth of the standard deviation of the inputs: "
        f"{hint}"
    )


def _report_unscaled_features(dataset: Dataset) -> None:
    """Say how many features vary among the evaluation examples alone, so they have no scale."""
    first = dataset.x[:1]
    is_constant = (dataset.x == first).all(axis=0)
    is_changed = (dataset.eval_x != first).any(axis=0)
    features = np.flatnonzero(is_constant & is_changed)
    if len(features):
        notify(
            f"data={dataset.name}: {len(features)} of {dataset.x.shape[1]} features, such as "
            f"feature {features[0]}, have one value in all training examples and others in the "
            "evaluation examples: they are not scaled"
        )
