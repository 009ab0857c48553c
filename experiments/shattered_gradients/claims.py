"""Thresholds of shattered gradients, set before the runs."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from research.records.queries import autocorrelation, initial_inspections, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim
from research.theory import profiles as theory

BALDUZZI = "Balduzzi et al. 2017"
LAG = 5  # points of the grid
PLAIN_DEPTHS = (2, 4, 8, 16)
RESIDUAL_DEPTHS = (2, 4, 8, 16, 32, 64)
NORMALISED_DEPTHS = (8, 16, 32, 64)

# The networks of one number, whose inputs lie on a line
SHALLOW = {"skip.kind": "rezero"}  # one hidden layer
PLAIN_50 = {"skip.kind": "none", "model.depth": 50}
RESIDUAL_50 = {"skip.kind": "scaled", "skip.branch_scale": 0.1}
# The networks on random inputs
PLAIN = {"activation.kind": "relu", "skip.kind": "none"}
ROOT = {"skip.kind": "inv_sqrt_depth"}
BATCH = {"norm.kind": "batch", "skip.kind": "identity"}


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The gradient along a line of inputs, then between random inputs."""
    line = where(runs, {"data.name": "function"})
    random = where(runs, {"data.name": "noise"})
    shallow = line_autocorrelations(line, SHALLOW)
    plain = line_autocorrelations(line, PLAIN_50)
    residual = line_autocorrelations(line, RESIDUAL_50)
    return [
        _claim_above("one hidden layer", shallow, 0.85),
        _claim_below("50 layers", plain, 0.5),
        _claim_above("50 layers with shortcuts, branches × 0.1", residual, 0.75),
        _claim_random_gates(random, "none", 1 / 2),
        _claim_random_gates(random, "identity", 3 / 4),
        _claim_plain(random),
        _claim_scaled(random),
        _claim_scaled_slope(random),
        _claim_normalised_slope(random),
    ]


def line_autocorrelations(runs: Sequence[Run], settings: Mapping[str, object]) -> list[float]:
    """The autocorrelation of ∂f/∂x along the grid of inputs at ``LAG``, for each run."""
    gradients = initial_inspections(where(runs, settings), "input_gradient")
    return [autocorrelation(gradient, LAG)[LAG] for gradient in gradients[:, :, 0]]


def _claim_above(
    name: str,
    values: Sequence[float],
    threshold: float,
) -> Claim:
    return claim(
        _describe_autocorrelation(name),
        source=f"{BALDUZZI}, Fig. 1 and 2",
        expected=f"≥ {threshold}",
        values=values,
        holds=float(np.mean(values)) >= threshold,
    )


def _claim_below(
    name: str,
    values: Sequence[float],
    threshold: float,
) -> Claim:
    return claim(
        _describe_autocorrelation(name),
        source=f"{BALDUZZI}, Fig. 1 and 2",
        expected=f"≤ {threshold}",
        values=values,
        holds=float(np.mean(values)) <= threshold,
    )


def _describe_autocorrelation(name: str) -> str:
    return f"{name}: autocorrelation of ∂f/∂x at lag {LAG} of a grid of 256, mean over seeds"


def cosines(runs: Sequence[Run]) -> np.ndarray:
    """The mean cosine of two inputs' gradients before each layer and after all, [runs, N+1]."""
    return initial_inspections(runs, "gradient_correlation")


def _claim_random_gates(
    runs: Sequence[Run],
    skip: str,
    law: float,
) -> Claim:
    group = where(runs, {"activation.kind": "linear", "skip.kind": skip})
    from_output = cosines(group)[:, ::-1]
    measured = np.mean(from_output, axis=0)
    predicted = law ** np.arange(len(measured))
    errors = measured - predicted
    return claim(
        f"gates drawn at random, skip={skip}: "
        f"cosine minus ({law:g})^l, l = 1 to 4, mean over seeds",
        source=f"{BALDUZZI}, Theorems 1 and 2",
        expected="within ±0.02",
        values=errors[1:].tolist(),
        holds=float(np.max(np.abs(errors))) <= 0.02,
    )


def mean_cosines(
    runs: Sequence[Run],
    settings: Mapping[str, object],
    depths: Sequence[int],
) -> list[float]:
    """The cosine of two inputs' gradients after ``depth`` layers, mean over seeds, by depth."""
    means = []
    for depth in depths:
        group = where(runs, {**settings, "model.depth": depth})
        means.append(float(np.mean(cosines(group)[:, 0])))
    return means


def expected_cosine(run: Run) -> float:
    """The cosine that theory predicts for the gradients of two inputs of this network."""
    depth = run["model.depth"]
    kind = run["skip.kind"]
    profile = theory.correlation_profile(
        sigma_w2=2.0,
        depth=depth,
        q0=2.0,  # of inputs of variance 1 and He's weights
        branch_scale=depth**-0.5 if kind == "inv_sqrt_depth" else 1.0,
        shortcut_scale=0.0 if kind == "none" else 1.0,
        norm=run["norm.kind"],
    )
    return float(profile[0])


def _errors(
    runs: Sequence[Run],
    settings: Mapping[str, object],
    depths: Sequence[int],
) -> list[float]:
    """The measured mean cosine minus the predicted one, by depth."""
    measured = mean_cosines(runs, settings, depths)
    errors = []
    for depth, cosine in zip(depths, measured, strict=True):
        group = where(runs, {**settings, "model.depth": depth})
        errors.append(cosine - expected_cosine(group[0]))
    return errors


def _claim_plain(runs: Sequence[Run]) -> Claim:
    errors = _errors(runs, PLAIN, PLAIN_DEPTHS)
    return claim(
        "ReLU, plain, L = 2 to 16: cosine minus Π κ₀(c), mean over seeds",
        source="Cho & Saul 2009; Schoenholz et al. 2017",
        expected="within ±0.03",
        values=errors,
        holds=max(map(abs, errors)) <= 0.03,
    )


def _claim_scaled(runs: Sequence[Run]) -> Claim:
    errors = _errors(runs, ROOT, RESIDUAL_DEPTHS)
    return claim(
        "ReLU, branches × 1/√L, L = 2 to 64: cosine minus theory, mean over seeds",
        source=f"{BALDUZZI}, §3; Hayou et al. 2021",
        expected="within ±0.03",
        values=errors,
        holds=max(map(abs, errors)) <= 0.03,
    )


def _slope(depths: Sequence[int], cosines: Sequence[float]) -> float:
    """The slope of ln cosine over ln depth."""
    line = np.polyfit(np.log(depths), np.log(cosines), 1)
    return float(line[0])


def _claim_scaled_slope(runs: Sequence[Run]) -> Claim:
    means = mean_cosines(runs, ROOT, RESIDUAL_DEPTHS)
    slope = _slope(RESIDUAL_DEPTHS, means)
    return claim(
        "the same: slope of ln cosine over ln L",
        source=f"{BALDUZZI}, §3; Hayou et al. 2021",
        expected="within ±0.03",
        values=[slope],
        holds=abs(slope) <= 0.03,
    )


def _claim_normalised_slope(runs: Sequence[Run]) -> Claim:
    means = mean_cosines(runs, BATCH, NORMALISED_DEPTHS)
    slope = _slope(NORMALISED_DEPTHS, means)
    asymptotic = -0.5 * math.pi / (math.pi - 1)
    return claim(
        "ReLU, batch norm and shortcuts, L = 8 to 64: slope of ln cosine over ln L",
        source=f"{BALDUZZI}, Theorem 3",
        expected=f"-0.9 to -0.5 (theory: {asymptotic:.3f} for L → ∞)",
        values=[slope],
        holds=-0.9 <= slope <= -0.5,
    )
