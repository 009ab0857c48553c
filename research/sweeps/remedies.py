"""Trains what the findings of runs advise, next to the unchanged runs, and says what helped."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.config.naming import run_name
from research.config.schema import Config, to_dict
from research.config.validation import check_config
from research.data.compatibility import check_data
from research.diagnosis.prediction import config_from_settings, with_change
from research.records.queries import final_values
from research.records.runs import Run, describe_verdict
from research.records.tried import UNCHANGED, Tried, TriedChange
from research.runner.run_spec import RunSpec
from research.runner.session import Session, train_group
from research.sweeps.jobs import group_jobs

SEEDS = 3
MOST_STEPS = 300
STEPS_PAST_ONSET = 100
MOST_CHANGES = 6
STUDY = "remedies"  # the folder under outputs/, followed by the run's id
WITHOUT_TRACKERS = {"tracker.wandb": False, "checkpoint.keep": False, "checkpoint.every": None}


@dataclass(frozen=True)
class Trial:
    """A change of a run, to be trained with several seeds.

    Attributes:
        run: the run.
        change: overrides; ``unchanged`` for the run as it was.
        source: why it should help.
        specs: the run to train of each seed.
    """

    run: Run
    change: str
    source: str
    specs: Sequence[RunSpec]


def plan_trials(run: Run, root: Path) -> list[Trial]:
    """The unchanged run and each change that its findings advise.

    Changes that do not go with the run's other settings are left out.

    Args:
        run: a run that Fathom trained.
        root: the folder of all studies, ``outputs``.

    Raises:
        ValueError: no finding advises a change.
    """
    steps = choose_steps(run)
    trials = [_make_trial(run, UNCHANGED, "", steps, root)]
    for change, source in advised_changes(run):
        try:
            trials.append(_make_trial(run, change, source, steps, root))
        except ValueError:
            continue
    if len(trials) == 1:
        raise ValueError(f"nothing is advised for {run.directory}, {describe_verdict(run)}")
    return trials


def advised_changes(run: Run) -> list[tuple[str, str]]:
    """The changes that a run's findings advise, each with its source, the most severe first."""
    found = (run.info.get("verdict") or {}).get("findings") or []
    changes = {}
    for finding in found:
        for remedy in finding.get("remedies") or []:
            if "=" in remedy["change"]:
                changes.setdefault(remedy["change"], remedy["source"])
    return list(changes.items())[:MOST_CHANGES]


def choose_steps(run: Run) -> int:
    """How long a trial is: as long as the run, but at most some hundred steps past the onset."""
    recorded = run.info.get("steps") or MOST_STEPS
    wanted = run.config.get("train.steps") or max(recorded, MOST_STEPS)
    onset = (run.info.get("verdict") or {}).get("since_step") or 0
    return int(min(wanted, max(MOST_STEPS, onset + STEPS_PAST_ONSET)))


def _make_trial(
    run: Run,
    change: str,
    source: str,
    steps: int,
    root: Path,
) -> Trial:
    """A trial with the seed of the run and those that follow it.

    Raises:
        ValueError: the changed settings do not go together.
    """
    settings = dict(run.config)
    if change != UNCHANGED:
        settings = with_change(settings, change)
    settings |= WITHOUT_TRACKERS
    settings |= {"train.steps": steps, "train.eval_every": steps}
    study = root / f"{STUDY}-{run.info['id']}"
    specs = []
    for seed in range(run["seed"], run["seed"] + SEEDS):
        config = config_from_settings(settings | {"seed": seed, "name": study.name})
        check_config(config)
        check_data(config)
        words = [*change.split(), f"seed={seed}", f"train.steps={steps}"]
        specs.append(RunSpec(config, study / run_name(words), _hydra_files(config, words)))
    return Trial(run, change, source, specs)


def _hydra_files(config: Config, words: Sequence[str]) -> dict[str, str]:
    """The files from which the trial's settings are read back."""
    import yaml

    return {
        ".hydra/config.yaml": yaml.safe_dump(to_dict(config), allow_unicode=True),
        ".hydra/overrides.yaml": yaml.safe_dump(list(words)),
    }


def train_trials(trials: Sequence[Trial], session: Session) -> dict[Path, dict[str, Any]]:
    """Trains trials, as few programs as possible, and returns the result of each by directory.

    Args:
        trials: those of one run or of several.
        session: shows the progress.
    """
    specs: list[RunSpec] = []
    for trial in trials:
        specs.extend(trial.specs)
    session.progress.num_runs = len(specs)
    results = {}
    for numbers in group_jobs(dict(enumerate(spec.config for spec in specs))):
        group = [specs[number] for number in numbers]
        for spec, result in zip(group, train_group(group, session, devices=None), strict=True):
            results[spec.directory] = result
    return results


def summarize(trials: Sequence[Trial], results: Mapping[Path, dict[str, Any]]) -> Tried:
    """What came of the trials of one run.

    Args:
        trials: the unchanged run first.
        results: the result of each, by directory.

    Raises:
        ValueError: the unchanged run could not be trained again.
    """
    tried = []
    for trial in trials:
        directories = [spec.directory for spec in trial.specs]
        if all((directory / "run.json").exists() for directory in directories):
            tried.append(_read_trial(trial, [results[directory] for directory in directories]))
    if not tried or tried[0].change != UNCHANGED:
        raise ValueError(f"{trials[0].run.directory} could not be trained again")
    steps = trials[0].specs[0].config.train.steps
    assert steps is not None
    changes = sorted(tried[1:], key=_mean_loss)
    return Tried(steps, tried[0], changes)


def _mean_loss(tried: TriedChange) -> float:
    return tried.mean_loss


def _read_trial(trial: Trial, results: Sequence[Mapping[str, Any]]) -> TriedChange:
    runs = [Run(spec.directory) for spec in trial.specs]
    kinds = [(run.info.get("verdict") or {}).get("kind") or run.status for run in runs]
    has_accuracy = all(run.info["final"].get("eval_accuracy") is not None for run in runs)
    group_seconds = [
        result["seconds"]["train"] / max(1, result.get("group_size", 1)) for result in results
    ]
    return TriedChange(
        change=trial.change,
        source=trial.source,
        train_loss=final_values(runs, "train_loss"),
        eval_accuracy=final_values(runs, "eval_accuracy") if has_accuracy else [],
        finding=Counter(kinds).most_common(1)[0][0],
        seconds=sum(group_seconds),
    )
