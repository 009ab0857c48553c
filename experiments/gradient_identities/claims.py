"""Claims about identities of gradients and numerical derivatives, set before the runs."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from research.records.queries import where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed

BAYDIN = "Baydin, Pearlmutter, Radul, Siskind 2018"
VAN_LAARHOVEN = "van Laarhoven 2017"
EXACT = 1e-10  # relative, in float64
DRIFT = 1e-4
LARGE_GAIN = 1e5  # makes the ε of a norm negligible


@dataclasses.dataclass(frozen=True)
class Quotient:
    """A difference quotient and what is expected of it.

    Attributes:
        kind: ``forward`` or ``central``.
        order: the order of its truncation error.
        order_tolerance: how far the fitted order may be from ``order``.
        least_error: the bound on its relative error at the best step, in float64.
        root: the best step by theory, in words.
    """

    kind: str
    order: int
    order_tolerance: float
    least_error: float
    root: str

    def predict_best_step(self, precision: str) -> float:
        """ε^(1/(order + 1)): the step at which truncation and cancellation are equally large."""
        return float(np.finfo(precision).eps) ** (1 / (self.order + 1))


FORWARD = Quotient("forward", 1, 0.15, 1e-7, "ε^(1/2)")
CENTRAL = Quotient("central", 2, 0.2, 1e-9, "ε^(1/3)")


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Order, best step and error of numerical derivatives; then the identities (a) to (d)."""
    numerical = []
    for quotient in (FORWARD, CENTRAL):
        for precision in ("float64", "float32"):
            numerical.append(_order(runs, quotient, precision))
            numerical.append(_best_step(runs, quotient, precision))
    return [
        *numerical,
        _least_error(runs, FORWARD),
        _least_error(runs, CENTRAL),
        _euler(runs),
        *_orthogonality(runs),
        *_rescaling(runs),
        _modes(runs),
        _drift(runs),
    ]


def select_differences(runs: Sequence[Run], precision: str) -> list[Run]:
    """The runs whose numerical derivatives are computed in one number format."""
    return where(runs, {"precision.kind": precision, "measure.inspect": ["difference_errors"]})


def select_rectifiers(runs: Sequence[Run]) -> list[Run]:
    """The ReLU networks without biases, at the smaller learning rate."""
    settings = {
        "activation.kind": "relu",
        "model.bias": False,
        "optimizer.learning_rate": 0.001,
    }
    return where(runs, settings)


def select_normalised(runs: Sequence[Run], norm: str) -> list[Run]:
    """The networks with a norm and so large weights that its ε is negligible."""
    return where(runs, {"norm.kind": norm, "init.gain": LARGE_GAIN})


def steps_of(run: Run) -> np.ndarray:
    """The steps of the difference quotients."""
    return run.inspections["difference_step"][0]


def errors_of(run: Run, quotient: Quotient) -> np.ndarray:
    """The relative error of a difference quotient at each of its steps."""
    return run.inspections[f"{quotient.kind}_difference_error"][0]


def fit_order(
    run: Run,
    quotient: Quotient,
    precision: str,
) -> float:
    """The slope of ln error over ln step where truncation dominates.

    That is from three times the best step to about a tenth.
    """
    steps = steps_of(run)
    errors = errors_of(run, quotient)
    is_truncated = (steps > 3 * quotient.predict_best_step(precision)) & (steps < 0.15)
    slope = np.polyfit(np.log(steps[is_truncated]), np.log(errors[is_truncated]), 1)[0]
    return float(slope)


def _order(
    runs: Sequence[Run],
    quotient: Quotient,
    precision: str,
) -> Claim:
    group = select_differences(runs, precision)
    orders = [fit_order(run, quotient, precision) for run in group]
    error = abs(float(np.mean(orders)) - quotient.order)
    return claim(
        f"{quotient.kind} difference, {precision}: order of the truncation error, "
        "the slope of ln error over ln step, mean",
        source=BAYDIN,
        expected=f"{quotient.order} ± {quotient.order_tolerance}",
        values=orders,
        holds=error <= quotient.order_tolerance,
    )


def _best_step(
    runs: Sequence[Run],
    quotient: Quotient,
    precision: str,
) -> Claim:
    predicted = quotient.predict_best_step(precision)
    ratios = []
    for run in select_differences(runs, precision):
        best = np.argmin(errors_of(run, quotient))
        ratios.append(float(steps_of(run)[best]) / predicted)
    return claim(
        f"{quotient.kind} difference, {precision}: the best step over {quotient.root}, "
        "geometric mean over seeds",
        source=BAYDIN,
        expected="within a factor 10",
        values=ratios,
        holds=abs(float(np.mean(np.log10(ratios)))) <= 1,
    )


def _least_error(runs: Sequence[Run], quotient: Quotient) -> Claim:
    group = select_differences(runs, "float64")
    errors = [float(np.min(errors_of(run, quotient))) for run in group]
    geometric_mean = float(np.exp(np.mean(np.log(errors))))
    return claim(
        f"{quotient.kind} difference, float64: relative error at the best step, "
        "geometric mean over seeds",
        source=BAYDIN,
        expected=f"< {quotient.least_error:g}",
        values=errors,
        holds=geometric_mean < quotient.least_error,
    )


def _exact(
    statement: str,
    source: str,
    values: Sequence[float],
) -> Claim:
    """A claim that values are 0 up to rounding in float64."""
    return claim(
        statement,
        source=source,
        expected=f"0 within {EXACT:g} on every seed",
        values=values,
        holds=max(values) <= EXACT,
    )


def _euler(runs: Sequence[Run]) -> Claim:
    """The claim judges the worst layer at the worst inspected step, relative to ⟨f, ∂L/∂f⟩."""
    values = []
    for run in select_rectifiers(runs):
        output = run.inspections["output_scale_derivative"][:, None]
        errors = run.inspections["scale_derivative"] / output - 1
        values.append(float(np.max(np.abs(errors))))
    statement = "(a) ReLU, no biases: every layer's ⟨W, ∂L/∂W⟩ against ⟨f, ∂L/∂f⟩"
    return _exact(statement, "Euler", values)


def _greatest(runs: Sequence[Run], name: str) -> list[float]:
    """The greatest absolute value over layers at the first inspected step, for each run."""
    return [float(np.max(np.abs(run.inspections[name][0]))) for run in runs]


def _orthogonality(runs: Sequence[Run]) -> list[Claim]:
    units = _greatest(select_normalised(runs, "batch"), "unit_cosine")
    layers = _greatest(select_normalised(runs, "layer"), "layer_cosine")
    return [
        _exact("(b) in front of batch norm, every unit: |cos(w, ∂L/∂w)|", VAN_LAARHOVEN, units),
        _exact("(b) in front of layer norm, every layer: |cos(W, ∂L/∂W)|", VAN_LAARHOVEN, layers),
    ]


def _rescaling(runs: Sequence[Run]) -> list[Claim]:
    batch = _greatest(select_normalised(runs, "batch"), "rescaling_error")
    layer = _greatest(select_normalised(runs, "layer"), "rescaling_error")
    return [
        _exact("(b) ‖2g(2W) − g(W)‖/‖g(W)‖, batch norm", VAN_LAARHOVEN, batch),
        _exact("(b) the same, layer norm", VAN_LAARHOVEN, layer),
    ]


def _modes(runs: Sequence[Run]) -> Claim:
    group = select_differences(runs, "float64")
    errors = [float(run.inspections["mode_error"][0]) for run in group]
    return _exact("(c) derivative in forward against reverse mode", BAYDIN, errors)


def _drift(runs: Sequence[Run]) -> Claim:
    """The claim judges the unit that changes most, at the last inspected step."""
    drifts = []
    for run in select_rectifiers(runs):
        balance = run.inspections["balance"]
        drifts.append(float(np.max(np.abs(balance[-1] - balance[0]))))
    return claim_on_every_seed(
        "(d) ReLU, no biases, 200 steps of gradient descent, η = 0.001: "
        "greatest change of ‖w_in‖² − ‖w_out‖²",
        source="Du, Hu, Lee 2018, Theorem 2.1",
        values=drifts,
        at_most=DRIFT,
    )
