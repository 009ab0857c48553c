"""``fathom figure``: draws figures and tests claims from the records, without training."""

from collections.abc import Sequence

from research.cli.reproduce import DIRECTORY_OVERRIDES, experiment_directory
from research.reporting.json_output import print_json
from research.reproduce import experiments, results
from research.reproduce.code import check_code


def main(
    words: Sequence[str],
    *,
    scale: str,
    json: bool,
) -> int:
    """Draws figures and tests claims of experiments; returns 1 if a claim does not hold, else 0.

    Args:
        words: the experiments, and the folder of the runs of one.
        scale: ``paper``, or empty.
        json: whether JSON is printed instead of tables.

    Raises:
        ValueError: no experiment is named, one does not exist, there is a mistake in its code, its
            records are incomplete, or an override is something else than their folder.
    """
    overrides = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word]
    chosen = experiments.find_experiments(names, scale)
    if not chosen:
        raise ValueError(
            f"a figure of what? one or several of {', '.join(experiments.experiment_names())}"
        )
    _check_overrides(overrides)
    if overrides and len(chosen) > 1:
        raise ValueError(f"{overrides[0]} is the folder of one experiment, got {len(chosen)}")
    for name in chosen:
        check_code(name)
    exit_code = 0
    tested = []
    for name in chosen:
        directory = experiment_directory(name, overrides)
        if not results.draw_and_test(name, directory, is_silent=json):
            exit_code = 1
        if json:
            tested.append(results.results_object(name, directory))
    if json:
        print_json(tested)
    return exit_code


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        path, _, value = override.partition("=")
        if f"{path}=" not in DIRECTORY_OVERRIDES:
            raise ValueError(
                f"{override} has no effect on a figure, which is drawn from the records: "
                "name=… or hydra.sweep.dir=… says where they are"
            )
        if not value:
            raise ValueError(f"{path} must be a folder, got an empty value")
