"""``fathom figure``: draws figures and tests claims from the records, without training."""

from collections.abc import Sequence

from research.cli.reproduce import experiment_directory
from research.reproduce import experiments, results


def main(words: Sequence[str], scale: str) -> int:
    """Draws figures and tests claims of experiments; returns 1 if a claim does not hold, else 0.

    Raises:
        ValueError: no experiment is named, one does not exist, or its records are incomplete.
    """
    overrides = [word for word in words if "=" in word]
    chosen = [experiments.find_experiment(word, scale) for word in words if "=" not in word]
    if not chosen:
        raise ValueError(
            f"a figure of what? one or several of {', '.join(experiments.experiment_names())}"
        )
    exit_code = 0
    for name in chosen:
        if not results.draw_and_test(name, experiment_directory(name, overrides)):
            exit_code = 1
    return exit_code
