"""Thresholds of the exact identities of gradients and of numerical derivatives, set before the runs."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

BAYDIN = "Baydin, Pearlmutter, Radul, Siskind 2018"
ORDERS = {"forward": 1, "central": 2}  # of the truncation error
SLOPES = {"forward": 0.15, "central": 0.2}  # how far a fitted order may be from it
LEAST = {"forward": 1e-7, "central": 1e-9}  # the error at the best step, in float64
EXACT = 1e-10  # relative, in float64
DRIFT = 1e-4
PRECISIONS = ("float64", "float32")
LARGE = 1e5  # a gain at which the ε of a norm is nothing


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Of numerical derivatives the order, the best step and the error there; then the identities (a) to (d)."""
    kinds = [(kind, precision) for kind in ORDERS for precision in PRECISIONS]
    numerical = [part for case in kinds for part in (_slope(runs, *case), _best_step(runs, *case))]
    return [*numerical, *(_least(runs, kind) for kind in ORDERS), *_identities(runs), _drift(runs)]


def differences(runs: Sequence[Run], precision: str) -> list[Run]:
    """The runs whose numerical derivatives are taken in one number format."""
    return where(runs, {"precision.kind": precision, "measure.inspect": ["difference_errors"]})


def homogeneous(runs: Sequence[Run], activation: str, rate: float) -> list[Run]:
    """The networks without biases, at one learning rate."""
    settings = {"activation.kind": activation, "model.bias": False, "optimizer.learning_rate": rate}
    return where(runs, settings)


def normalised(runs: Sequence[Run], norm: str, gain: float) -> list[Run]:
    """The networks with a norm, their weights ``gain`` times as large."""
    return where(runs, {"norm.kind": norm, "init.gain": gain})


def roots(precision: str) -> dict[str, float]:
    """The steps at which truncation and cancellation are of one size: ε^(1/2) and ε^(1/3)."""
    return {
        kind: float(np.finfo(precision).eps) ** (1 / (order + 1)) for kind, order in ORDERS.items()
    }


def curve(run: Run, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and relative errors of one kind of difference quotient."""
    return run.inspections["difference_step"][0], run.inspections[f"{kind}_difference_error"][0]


def drift(run: Run) -> np.ndarray:
    """The greatest |change of ‖w_in‖² − ‖w_out‖²| of any unit, at every inspected step."""
    kept = run.inspections["balance"]
    return np.max(np.abs(kept - kept[0]), axis=(1, 2))


def _order(run: Run, kind: str, precision: str) -> float:
    """The slope of ln error over ln step where truncation decides: from three times the best step to a tenth."""
    steps, errors = curve(run, kind)
    above = (steps > 3 * roots(precision)[kind]) & (steps < 0.15)
    return float(np.polyfit(np.log(steps[above]), np.log(errors[above]), 1)[0])


def _slope(runs: Sequence[Run], kind: str, precision: str) -> Claim:
    orders = [_order(run, kind, precision) for run in differences(runs, precision)]
    return claim(
        f"{kind} difference, {precision}: order of the truncation error, the slope of ln error over ln step, mean",
        source=BAYDIN,
        expected=f"{ORDERS[kind]} ± {SLOPES[kind]}",
        values=orders,
        holds=abs(float(np.mean(orders)) - ORDERS[kind]) <= SLOPES[kind],
    )


def _best_step(runs: Sequence[Run], kind: str, precision: str) -> Claim:
    best = []
    for run in differences(runs, precision):
        steps, errors = curve(run, kind)
        best.append(float(steps[np.argmin(errors)]) / roots(precision)[kind])
    root = {"forward": "ε^(1/2)", "central": "ε^(1/3)"}[kind]
    return claim(
        f"{kind} difference, {precision}: the best step over {root}, geometric mean over seeds",
        source=BAYDIN,
        expected="within a factor 10",
        values=best,
        holds=abs(float(np.mean(np.log10(best)))) <= 1,
    )


def _least(runs: Sequence[Run], kind: str) -> Claim:
    errors = [float(np.min(curve(run, kind)[1])) for run in differences(runs, "float64")]
    return claim(
        f"{kind} difference, float64: relative error at the best step, geometric mean over seeds",
        source=BAYDIN,
        expected=f"< {LEAST[kind]:g}",
        values=errors,
        holds=float(np.exp(np.mean(np.log(errors)))) < LEAST[kind],
    )


def spread(run: Run) -> float:
    """The greatest relative distance of a layer's ⟨W, ∂L/∂W⟩ from ⟨f, ∂L/∂f⟩, at any inspected step."""
    output = run.inspections["output_scale_derivative"][:, None]
    return float(np.max(np.abs(run.inspections["scale_derivative"] / output - 1)))


def greatest(run: Run, name: str) -> float:
    """The greatest absolute value over layers of what was inspected at the first step."""
    return float(np.max(np.abs(run.inspections[name][0])))


def _identities(runs: Sequence[Run]) -> list[Claim]:
    batch, layer = (normalised(runs, norm, LARGE) for norm in ("batch", "layer"))
    rectifiers = homogeneous(runs, "relu", 0.001)
    cases = [
        ("(a) ReLU, no biases: every layer's ⟨W, ∂L/∂W⟩ against ⟨f, ∂L/∂f⟩", "Euler", [spread(r) for r in rectifiers]),
        ("(b) in front of batch norm, every unit: |cos(w, ∂L/∂w)|", "", [greatest(r, "unit_cosine") for r in batch]),
        ("(b) in front of layer norm, every layer: |cos(W, ∂L/∂W)|", "", [greatest(r, "layer_cosine") for r in layer]),
        ("(b) ‖2g(2W) − g(W)‖/‖g(W)‖, batch norm", "", [greatest(r, "rescaling_error") for r in batch]),
        ("(b) the same, layer norm", "", [greatest(r, "rescaling_error") for r in layer]),
        ("(c) derivative in forward against reverse mode", BAYDIN,
         [float(r.inspections["mode_error"][0]) for r in differences(runs, "float64")]),
    ]  # fmt: skip
    return [
        claim(
            statement,
            source=source or "van Laarhoven 2017",
            expected=f"0 within {EXACT:g} on every seed",
            values=values,
            holds=max(values) <= EXACT,
        )
        for statement, source, values in cases
    ]


def _drift(runs: Sequence[Run]) -> Claim:
    values = [float(drift(run)[-1]) for run in homogeneous(runs, "relu", 0.001)]
    return claim(
        "(d) ReLU, no biases, 200 steps of gradient descent, η = 0.001: greatest change of ‖w_in‖² − ‖w_out‖²",
        source="Du, Hu, Lee 2018, Theorem 2.1",
        expected=f"≤ {DRIFT:g} on every seed",
        values=values,
        holds=max(values) <= DRIFT,
    )
