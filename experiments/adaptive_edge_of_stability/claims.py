"""Thresholds of Adam's edge of stability, set before the runs."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import setting_values, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim
from research.theory.update_rules import adam_edge

COHEN = "Cohen et al. 2022"
TOLERANCE = 0.1


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Where the curvature settles for each β₁ and η, in Adam's coordinates and in the weights'."""
    found = []
    for beta1 in setting_values(runs, "optimizer.beta1"):
        for rate in setting_values(runs, "optimizer.learning_rate"):
            found.append(_settles(select(runs, beta1, rate), beta1, rate))
    return [*found, _raw_differs_less(runs), _raw_is_elsewhere(runs), _learns(runs)]


def select(
    runs: Sequence[Run],
    beta1: float,
    rate: float,
) -> list[Run]:
    """The runs with one β₁ and one learning rate."""
    return where(runs, {"optimizer.beta1": beta1, "optimizer.learning_rate": rate})


def over_edge(run: Run, name: str) -> np.ndarray:
    """A sharpness over (2 + 2β₁)/((1 − β₁)η), at every inspected step."""
    edge = adam_edge(run["optimizer.learning_rate"], run["optimizer.beta1"])
    return run.inspections[name].astype(float) / edge


def last_part(values: np.ndarray, parts: int) -> np.ndarray:
    """The last one of equal parts of a series."""
    return values[-(len(values) // parts) :]


def _settles(
    runs: Sequence[Run],
    beta1: float,
    rate: float,
) -> Claim:
    means = []
    for run in runs:
        shares = over_edge(run, "preconditioned_sharpness")
        means.append(float(np.mean(last_part(shares, 5))))
    return claim(
        f"β₁ = {beta1:g}, η = {rate:g}: preconditioned sharpness over (2 + 2β₁)/((1 − β₁)η), "
        "mean of the last fifth of training",
        source=f"{COHEN}, Fig. 1",
        expected=f"1 ± {TOLERANCE:g} on every seed",
        values=means,
        holds=max(abs(mean - 1) for mean in means) <= TOLERANCE,
    )


def _raw_differs_less(runs: Sequence[Run]) -> Claim:
    ratios = []
    edges = []
    for seed in setting_values(runs, "seed"):
        group = where(runs, {"seed": seed})
        final = [float(run.inspections["sharpness"][-1]) for run in group]
        ratios.append(max(final) / min(final))
    for run in runs:
        edges.append(adam_edge(run["optimizer.learning_rate"], run["optimizer.beta1"]))
    return claim(
        f"edges that differ by a factor of {max(edges) / min(edges):.0f}: final sharpness of the "
        "Hessian itself, greatest over least of the same seed",
        source=f"{COHEN}, §3",
        expected="≤ 3 on every seed: it does not follow the edge",
        values=ratios,
        holds=max(ratios) <= 3,
    )


def _raw_is_elsewhere(runs: Sequence[Run]) -> Claim:
    values = []
    for run in runs:
        sharpness = float(np.max(run.inspections["sharpness"]))
        values.append(sharpness * run["optimizer.learning_rate"] / 2)
    return claim(
        "greatest sharpness of the Hessian itself over 2/η, the edge of gradient descent",
        source=f"{COHEN}, §3",
        expected="≤ 0.1 in every run",
        values=values,
        holds=max(values) <= 0.1,
    )


def _learns(runs: Sequence[Run]) -> Claim:
    ratios = []
    for run in runs:
        losses = run.metrics["train_loss"]
        ratios.append(float(losses[-1] / losses[0]))
    return claim(
        "final over initial training loss",
        source=f"{COHEN}, Fig. 1",
        expected="≤ 0.01 in every run",
        values=ratios,
        holds=max(ratios) <= 0.01,
    )
