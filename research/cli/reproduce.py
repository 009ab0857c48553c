"""``fathom reproduce``: trains experiments, then draws their figures and tests their claims."""

import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from research.cli import train
from research.config.errors import UsageError, explain
from research.config.wording import shell_command
from research.reporting.tables import console
from research.reproduce import experiments, results, tables
from research.reproduce.code import check_code
from research.runner.session import Session

# Settings that decide where an experiment is trained and recorded, and change no number.
ALLOWED_OVERRIDES = (
    "name=",
    "tracker",
    "checkpoint.",
    "mesh",
    "data.raw_dir=",
    "data.download=",
    "hydra.sweep.dir=",
    "hydra/launcher=",
    "hydra.launcher.",
)
DIRECTORY_OVERRIDES = ("name=", "hydra.sweep.dir=")


@dataclass(frozen=True)
class ReproductionResult:
    """How the reproduction of one experiment ended."""

    exit_code: int
    is_tested: bool = False
    interrupted: bool = False


def main(words: Sequence[str], scale: str) -> int:
    """Reproduces the named experiments one after the other; returns the greatest exit code.

    Raises:
        ValueError: no experiment is named, one does not exist, there is a mistake in the code of
            one, or an override would change it.
    """
    overrides = [word for word in words if "=" in word]
    chosen = _choose_experiments([word for word in words if "=" not in word], scale)
    _check_overrides(overrides, num_experiments=len(chosen))
    if not chosen:
        known = ", ".join(experiments.experiment_names(scale))
        raise ValueError(f"reproduce what? one or several of {known}, or lessons, or all")
    for name in chosen:
        check_code(name)
    if overrides:
        _check_composed(chosen[0], overrides)
    if len(chosen) > 1:
        _print_total_duration(chosen)
    exit_codes = []
    tested = {}
    for name in chosen:
        start = time.monotonic()
        print(f"{experiments.output_name(name)}: training{_expectation(name)}", flush=True)
        outcome = _reproduce_or_report(name, overrides)
        if outcome.is_tested:
            seconds = time.monotonic() - start
            print(f"{experiments.output_name(name)}: done after {seconds:.0f} s", flush=True)
        exit_codes.append(outcome.exit_code)
        tested[experiment_directory(name, overrides)] = outcome.is_tested
        if outcome.interrupted:
            break
    if len(chosen) > 1:
        console().print(tables.summary_table(tested))
    return max(exit_codes)


def _expectation(name: str) -> str:
    """How long the whole experiment takes, as the end of a line; empty if that is not known."""
    duration = experiments.read_duration(name)
    return f"; all its runs take {duration}" if duration else ""


def _print_total_duration(names: Sequence[str]) -> None:
    """Prints how long the experiments take, if that is known of all of them."""
    total = 0.0
    for name in names:
        duration = experiments.read_duration(name)
        if not duration:
            return
        total += duration.seconds
    print(f"{len(names)} experiments take {experiments.about(total)}", flush=True)


def experiment_directory(name: str, overrides: Sequence[str] = ()) -> Path:
    """The directory of an experiment's runs, which ``name=`` and ``hydra.sweep.dir=`` change."""
    settings = {}
    for override in overrides:
        path, _, value = override.partition("=")
        settings[path] = value
    if settings.get("hydra.sweep.dir"):
        return Path(settings["hydra.sweep.dir"])
    return Path("outputs") / settings.get("name", experiments.output_name(name))


def _choose_experiments(names: Sequence[str], scale: str) -> list[str]:
    if names == ["all"]:
        return experiments.experiment_names(scale)
    if names == ["lessons"] and not scale:
        return experiments.lesson_names()
    if len(names) > 1 and {"all", "lessons"} & set(names):
        raise ValueError(f"all and lessons stand alone, got {' '.join(names)}")
    return experiments.find_experiments(names, scale)


def _check_overrides(overrides: Sequence[str], num_experiments: int) -> None:
    for override in overrides:
        path, _, value = override.partition("=")
        if path == "experiment":
            raise ValueError(
                f"{override} is not how it is named: {shell_command('reproduce', value or 'NAME')}"
            )
        if not override.startswith(ALLOWED_OVERRIDES):
            raise ValueError(
                f"{override} would make it another experiment: "
                f"{shell_command('train', '-m', 'experiment=NAME', override)}"
            )
        if override.startswith(DIRECTORY_OVERRIDES) and num_experiments > 1:
            raise ValueError(
                f"{override} is the folder of one experiment, {num_experiments} are asked for"
            )


def _check_composed(key: str, overrides: Sequence[str]) -> None:
    """Checks the overrides before anything is announced, together with one of the experiments.

    Raises:
        ValueError: an override names no setting, or its value is not valid.
    """
    from research.cli.overrides import naming_files, prepare_arguments
    from research.sweeps.planning import check_first_run

    words = prepare_arguments(_training_words(key, overrides))
    with naming_files(words):
        check_first_run(words)


def _training_words(key: str, overrides: Sequence[str]) -> list[str]:
    """What follows ``fathom train`` to train an experiment."""
    words = [f"experiment={key}", *overrides]
    if not any(word.startswith("hydra/launcher=") for word in overrides):
        words.insert(1, "hydra/launcher=grouped")
    return words


def _reproduce_or_report(key: str, overrides: Sequence[str]) -> ReproductionResult:
    """Reproduces one experiment; a mistake is reported and does not stop the other experiments."""
    try:
        return _reproduce(key, overrides)
    except UsageError as error:  # its message has been printed
        return ReproductionResult(int(str(error.code)))
    except ValueError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exception(error)
        print(f"fathom: {explain(error)}", file=sys.stderr)
        return ReproductionResult(2)


def _reproduce(key: str, overrides: Sequence[str]) -> ReproductionResult:
    """Trains one experiment, draws its figure and tests its claims.

    A diverged run is a result that the claims test, for example in a grid of learning rates, so a
    failed sweep is tested too if every run finished or diverged.
    """
    session = Session()
    exit_code = train.main(_training_words(key, overrides), session)
    directory = experiment_directory(key, overrides)
    if exit_code != 0:
        try:
            # Raises ValueError if a run is missing or has not finished.
            experiments.finished_runs(key, directory)
        except ValueError as error:
            if not session.interrupted:
                print(f"fathom: {error}", file=sys.stderr)
            return ReproductionResult(exit_code, interrupted=session.interrupted)
    all_hold = results.draw_and_test(key, directory, keep_current=True)
    if "tracker=none" not in overrides:
        results.upload_results(directory)
    return ReproductionResult(
        exit_code=0 if all_hold else 1,
        is_tested=True,
        interrupted=session.interrupted,
    )
