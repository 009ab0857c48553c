"""Lines on standard error about a dataset that was loaded, where a user may expect otherwise."""

import numpy as np

from research.config.notices import join_first, notify_once
from research.data.dataset import Dataset
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
    _report_missing_eval_classes(dataset)
    if dataset.train_source is None:  # else ``streaming`` knows which examples are the same
        report_shared_examples(dataset)
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


def report_shared_examples(dataset: Dataset, num_shared: int | None = None) -> None:
    """Say how many evaluation examples are training examples, too, if there are any.

    Of streamed data, samples are compared.

    Args:
        dataset: The dataset.
        num_shared: Number of these examples, if it is known; None compares their inputs.
    """
    place = f"data={dataset.name}: the inputs of"
    num_evaluated = dataset.eval_examples
    is_whole = len(dataset.x) == dataset.examples and len(dataset.eval_x) == num_evaluated
    if num_shared is None:
        num_shared = count_shared_examples(dataset.x, dataset.eval_x)
    elif num_shared:
        is_whole = True
    if not num_shared:
        return
    if is_whole:
        notify_once(
            f"{place} {num_shared} of the {num_evaluated} evaluation examples are those of "
            f"training examples, too{_describe_shared_sources(dataset, num_shared)}"
        )
    else:
        notify_once(
            f"{place} {num_shared} of {len(dataset.eval_x)} evaluation examples are those of "
            f"training examples, too, in a sample of {len(dataset.x)} of the {dataset.examples} "
            "training examples"
        )


def _describe_shared_sources(dataset: Dataset, num_shared: int) -> str:
    """How many of the shared examples were equal before they were converted, if not all were."""
    hashes = dataset.source_hashes
    eval_hashes = dataset.eval_source_hashes
    if hashes is None or eval_hashes is None:
        return ""
    num_equal = int(np.isin(eval_hashes, hashes).sum())
    if num_equal == num_shared:
        return ""
    count = num_equal or "none"
    if dataset.vocabulary:
        return f": {count} of them as texts, the others only as tokens"
    return f": {count} of them before images are resized, the others only then"


def _report_missing_classes(dataset: Dataset) -> None:
    """Say which classes have no training example."""
    missing = _find_missing_classes(dataset.class_counts)
    _report_missing(dataset, missing, dataset.examples, "training example")


def _report_missing_eval_classes(dataset: Dataset) -> None:
    """Say which other classes have no evaluation example."""
    without_training = _find_missing_classes(dataset.class_counts)
    missing = []
    for number in _find_missing_classes(dataset.eval_class_counts):
        if number not in without_training:
            missing.append(number)
    _report_missing(dataset, missing, dataset.eval_examples, "evaluation example")


def _find_missing_classes(counts: list[int] | None) -> list[int]:
    """The numbers of the classes that no example has; none if examples are not counted."""
    return [number for number, count in enumerate(counts or []) if count == 0]


def _report_missing(
    dataset: Dataset,
    missing: list[int],
    num_examples: int,
    noun: str,
) -> None:
    """Say in one line which classes have no example, if there are any.

    Args:
        dataset: The dataset.
        missing: Numbers of these classes.
        num_examples: Number of examples of the split.
        noun: What one of them is called.
    """
    names = []
    for number in missing:
        names.append(dataset.class_names[number] if dataset.class_names else str(number))
    if not names:
        return
    verb = "has" if len(names) == 1 else "have"
    examples = f"the only {noun}" if num_examples == 1 else f"the {num_examples} {noun}s"
    notify_once(
        f"data={dataset.name}: {len(names)} of {dataset.classes} classes {verb} no example "
        f"among {examples}: {join_first(names)}"
    )


def _report_target_scale(dataset: Dataset) -> None:
    """Say which targets are far from what a network's first outputs are."""
    targets = dataset.y.reshape(len(dataset.y), -1)
    means = np.abs(targets.mean(axis=0, dtype=np.float64))
    deviations = targets.std(axis=0, dtype=np.float64)
    is_large = np.maximum(means, deviations) > LARGEST_USUAL_TARGET
    is_small = (deviations > 0) & (deviations < LEAST_USUAL_DEVIATION)
    unusual = np.flatnonzero(is_large | is_small)
    if not len(unusual):
        return
    whose = "theirs"
    if len(means) > 1:
        numbers = join_first([str(number) for number in unusual])
        whose = f"those in {'column' if len(unusual) == 1 else 'columns'} {numbers}"
    least = deviations[unusual].min()
    most = deviations[unusual].max()
    deviation = f"a standard deviation of {most:.3g}"
    if least < most:
        deviation = f"standard deviations from {least:.3g} to {most:.3g}"
    notify_once(
        f"data={dataset.name}: targets are not standardized, and {whose} have a mean of up to "
        f"{means[unusual].max():.3g} and {deviation}, where the first outputs of a network are "
        "about 1"
    )


def _report_input_scale(dataset: Dataset) -> None:
    """Say that evaluation inputs are in other units than training inputs, as it seems."""
    if min(dataset.x.size, dataset.eval_x.size) < LEAST_NUMBERS_TO_COMPARE:
        return
    train = dataset.standardization.apply(sample_rows(dataset.x))
    evaluation = dataset.standardization.apply(sample_rows(dataset.eval_x))
    deviation = train.std()
    distance = abs(evaluation.mean() - train.mean())
    least = deviation / MAX_RATIO_OF_DEVIATIONS
    most = deviation * MAX_RATIO_OF_DEVIATIONS
    if least <= evaluation.std() <= most and distance <= most:
        return
    notify_once(
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
    verb = "varies" if len(faint) == 1 else "vary"
    notify_once(
        f"data={dataset.name}: {_count_features(faint, dataset)} {verb} by less than a thousandth "
        f"of the standard deviation of the inputs: {hint}"
    )


def _report_unscaled_features(dataset: Dataset) -> None:
    """Say how many features vary among the evaluation examples alone, so they have no scale."""
    first = dataset.x[:1]
    is_constant = (dataset.x == first).all(axis=0)
    is_changed = (dataset.eval_x != first).any(axis=0)
    features = np.flatnonzero(is_constant & is_changed)
    if not len(features):
        return
    examples = "all training examples"
    if len(dataset.x) < dataset.examples:
        examples = f"a sample of {len(dataset.x)} of the {dataset.examples} training examples"
    is_single = len(features) == 1
    verb = "has" if is_single else "have"
    scaled = "it is not scaled" if is_single else "they are not scaled"
    notify_once(
        f"data={dataset.name}: {_count_features(features, dataset)} {verb} one value in {examples} "
        f"and others in evaluation examples: {scaled}"
    )


def _count_features(features: np.ndarray, dataset: Dataset) -> str:
    """The number of features among all, with the first of them."""
    first = f"feature {features[0]}"
    example = first if len(features) == 1 else f"such as {first}"
    return f"{len(features)} of {dataset.x.shape[1]} features, {example},"
