"""Thresholds of shattered gradients, set before the runs."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from research.records.queries import autocorrelation, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim
from research.theory import profiles as theory

BALDUZZI = "Balduzzi et al. 2017"
LAG = 5  # points of the grid
PLAIN_DEPTHS = (2, 4, 8, 16)
RESIDUAL_DEPTHS = (2, 4, 8, 16, 32, 64)
NORMALISED_DEPTHS = (8, 16, 32, 64)
BATCH = {"norm.kind": "batch", "skip.kind": "identity"}
ROOT = {"skip.kind": "inv_sqrt_depth"}
PLAIN = {"activation.kind": "relu", "skip.kind": "none"}
LINES = (  # name, settings, threshold, which side
    ("one hidden layer", {"skip.kind": "rezero"}, 0.85, "≥"),
    ("50 layers", {"skip.kind": "none", "model.depth": 50}, 0.5, "≤"),
    (
        "50 layers with shortcuts, branches × 0.1",
        {"skip.kind": "scaled", "skip.branch_scale": 0.1},
        0.75,
        "≥",
    ),
)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Along a line of inputs, then between random ones."""
    gates = [_gates(runs, skip, law) for skip, law in (("none", 1 / 2), ("identity", 3 / 4))]
    return [
        *(_line(runs, *case) for case in LINES),
        *gates,
        _plain(runs),
        *_scaled(runs),
        _normalised(runs),
    ]


def on_a_line(runs: Sequence[Run], settings: dict[str, Any]) -> list[Run]:
    """The networks of one number."""
    return where(runs, {"data.name": "function", **settings})


def between(runs: Sequence[Run], settings: dict[str, Any]) -> list[Run]:
    """The networks on random inputs."""
    return where(runs, {"data.name": "noise", **settings})


def gradient(run: Run) -> np.ndarray:
    """∂f/∂x at the points of the grid."""
    return run.inspections["input_gradient"][0][:, 0]


def cosines(run: Run) -> np.ndarray:
    """The mean cosine of two inputs' gradients in front of each layer and, last, behind all of them."""
    return run.inspections["gradient_correlation"][0]


def mean_cosine(runs: Sequence[Run], settings: dict[str, Any], depth: int) -> float:
    """The mean over seeds, of the gradient behind ``depth`` layers."""
    return float(
        np.mean([cosines(run)[0] for run in between(runs, {**settings, "model.depth": depth})])
    )


def expected(run: Run) -> np.ndarray:
    """What theory says of ``cosines``."""
    depth = run["model.depth"]
    kind = run["skip.kind"]
    return theory.correlation_profile(
        sigma_w2=2.0,
        depth=depth,
        q0=2.0,  # of inputs of variance 1 and He's weights
        branch_scale=depth**-0.5 if kind == "inv_sqrt_depth" else 1.0,
        shortcut_scale=0.0 if kind == "none" else 1.0,
        norm=run["norm.kind"],
    )


def _line(
    runs: Sequence[Run], name: str, settings: dict[str, Any], threshold: float, side: str
) -> Claim:
    values = [autocorrelation(gradient(run), LAG)[LAG] for run in on_a_line(runs, settings)]
    mean = float(np.mean(values))
    return claim(
        f"{name}: autocorrelation of ∂f/∂x at lag {LAG} of a grid of 256, mean over seeds",
        source=f"{BALDUZZI}, Fig. 1 and 2",
        expected=f"{side} {threshold}",
        values=values,
        holds=mean >= threshold if side == "≥" else mean <= threshold,
    )


def _gates(runs: Sequence[Run], skip: str, law: float) -> Claim:
    group = between(runs, {"activation.kind": "linear", "skip.kind": skip})
    measured = np.mean([cosines(run)[::-1] for run in group], axis=0)
    errors = measured - law ** np.arange(len(measured))
    return claim(
        f"gates drawn at random, skip={skip}: cosine minus ({law:g})^l, l = 1 to 4, mean over seeds",
        source=f"{BALDUZZI}, Theorems 1 and 2",
        expected="within ±0.02",
        values=errors[1:].tolist(),
        holds=float(np.max(np.abs(errors))) <= 0.02,
    )


def _errors(runs: Sequence[Run], settings: dict[str, Any], depths: Sequence[int]) -> list[float]:
    """Measured, in the mean over seeds, minus what theory says, by depth."""
    theories = [
        float(expected(between(runs, {**settings, "model.depth": depth})[0])[0]) for depth in depths
    ]
    return [
        mean_cosine(runs, settings, depth) - own
        for depth, own in zip(depths, theories, strict=True)
    ]


def _plain(runs: Sequence[Run]) -> Claim:
    errors = _errors(runs, PLAIN, PLAIN_DEPTHS)
    return claim(
        "ReLU, plain, L = 2 to 16: cosine minus Π κ₀(c), mean over seeds",
        source="Cho & Saul 2009; Schoenholz et al. 2017",
        expected="within ±0.03",
        values=errors,
        holds=max(map(abs, errors)) <= 0.03,
    )


def _slope(depths: Sequence[int], values: Sequence[float]) -> float:
    return float(np.polyfit(np.log(depths), np.log(values), 1)[0])


def _scaled(runs: Sequence[Run]) -> list[Claim]:
    errors = _errors(runs, ROOT, RESIDUAL_DEPTHS)
    slope = _slope(RESIDUAL_DEPTHS, [mean_cosine(runs, ROOT, depth) for depth in RESIDUAL_DEPTHS])
    return [
        claim(
            "ReLU, branches × 1/√L, L = 2 to 64: cosine minus theory, mean over seeds",
            source=f"{BALDUZZI}, §3; Hayou et al. 2021",
            expected="within ±0.03",
            values=errors,
            holds=max(map(abs, errors)) <= 0.03,
        ),
        claim(
            "the same: slope of ln cosine over ln L",
            source=f"{BALDUZZI}, §3; Hayou et al. 2021",
            expected="within ±0.03",
            values=[slope],
            holds=abs(slope) <= 0.03,
        ),
    ]


def _normalised(runs: Sequence[Run]) -> Claim:
    slope = _slope(
        NORMALISED_DEPTHS, [mean_cosine(runs, BATCH, depth) for depth in NORMALISED_DEPTHS]
    )
    return claim(
        "ReLU, batch norm and shortcuts, L = 8 to 64: slope of ln cosine over ln L",
        source=f"{BALDUZZI}, Theorem 3",
        expected=f"-0.9 to -0.5 (theory: {-0.5 * math.pi / (math.pi - 1):.3f} for L → ∞)",
        values=[slope],
        holds=-0.9 <= slope <= -0.5,
    )
