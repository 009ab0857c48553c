"""Thresholds of the predictions; ``declared.py`` has those of probabilities."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from research.diagnosis.coefficients import WITH_TRIAL, WITHOUT_TRIAL
from research.diagnosis.preflight import Preflight, predict_training
from research.records.runs import Run
from research.reproduce.claims import Claim, claim
from research.reproduce.experiments import load_module

KEY = "predict"
SOURCE = "research.diagnosis.coefficients"
declared = load_module(KEY, "declared")
fitting = load_module(KEY, "fit")


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Of the small sample, which is trained here, and of all that are held out, from the table."""
    outcomes = [has_trained(run) for run in runs]
    sample = fitting.judge([each.probability for each in predictions(runs)], outcomes)
    rows = fitting.read_rows("held_out")
    trained = [row.has_trained for row in rows]
    without = fitting.judge(fitting.probabilities(rows, WITHOUT_TRIAL), trained)
    tried = fitting.judge(fitting.probabilities(rows, WITH_TRIAL), trained)
    judgements = {
        f"{sample.count} held-out runs, trained here": sample,
        f"all {without.count} held-out runs": without,
        f"all {tried.count} held-out runs, with 20 steps on one batch": tried,
    }
    found = []
    for name, judgement in judgements.items():
        found.append(_claim_right(name, judgement.right))
        found.append(_claim_decided(name, judgement.decided))
    return found


def _claim_right(name: str, share: float) -> Claim:
    return claim(
        f"{name}: share that is right of those with P ≥ {declared.TRAINS} or ≤ {declared.FAILS}",
        source=SOURCE,
        expected=f"≥ {declared.LEAST_RIGHT}",
        values=[share],
        holds=share >= declared.LEAST_RIGHT,
    )


def _claim_decided(name: str, share: float) -> Claim:
    return claim(
        f"{name}: share with such a P",
        source=SOURCE,
        expected=f"≥ {declared.LEAST_DECIDED}",
        values=[share],
        holds=share >= declared.LEAST_DECIDED,
    )


def has_trained(run: Run) -> bool:
    """Whether a run's loss ended below chance by the declared margin."""
    if run.status != "done":
        return False
    losses = np.asarray(run.metrics["train_loss"], float)
    return declared.has_trained(declared.final_loss(losses))


def predictions(runs: Sequence[Run]) -> list[Preflight]:
    """What is expected of runs, measured as ``fathom predict`` does."""
    return _predict(tuple(run.directory for run in runs))


@functools.cache
def _predict(directories: Sequence[Path]) -> list[Preflight]:
    from research.runner.kept import read_config
    from research.runner.preflight import measure_configs
    from research.runner.session import prepare_jax

    prepare_jax()
    configs = [read_config(directory) for directory in directories]
    return [predict_training(measured) for measured in measure_configs(configs)]
