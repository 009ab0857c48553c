"""Claims about the functions that networks fit; thresholds from theory, or from a pilot.

The last pilot used seeds 0 to 2; the learning rate and the biases were chosen on seeds 0 to 4.
"""

import math
from collections.abc import Sequence

import numpy as np

from research.config.data_options import Function, FunctionData
from research.data.function import FUNCTIONS, load_function
from research.records.queries import where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed

CYBENKO = "Cybenko 1989; Hornik 1991"
NARROW = 4
WIDE = 256
CONTINUOUS = ("sine", "polynomial", "surface")
GREATEST_RATIO = 0.1
KNOTS = (16, 32, 64, 128, 256)
ORDER_TOLERANCE = 0.1
FINE_POINTS = 20_001
LINE = 1e-5
HOMOGENEOUS = 1e-6
LEAST_STEP_ERROR = 0.25
GREATEST_MEAN_RATIO = 0.8  # of the step's mean error; pilot: 0.38 to 0.66


def claims(runs: Sequence[Run]) -> list[Claim]:
    """What training finds, what is possible, and what is not possible."""
    fits = [_fits(runs, function) for function in CONTINUOUS]
    return [
        *fits,
        _step_mean(runs),
        _step_jump(runs),
        _by_hand(),
        _line(runs),
        *_zero(runs),
        _homogeneity(runs),
    ]


def select_fits(
    runs: Sequence[Run],
    function: str,
    width: int,
) -> list[Run]:
    """The runs with one hidden layer of this width that learn a function."""
    settings = {"model.kind": "rnn", "data.function": function, "model.width": width}
    return where(runs, settings)


def select_linear(runs: Sequence[Run]) -> list[Run]:
    """The runs without a nonlinearity."""
    return where(runs, {"activation.kind": "linear"})


def select_without_biases(runs: Sequence[Run], activation: str) -> list[Run]:
    """The runs without biases."""
    return where(runs, {"model.bias": False, "activation.kind": activation})


def fitted(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """The inputs [K, inputs] and the outputs [K] of the fitted function at the last inspection."""
    inputs = run.inspections["fitted_input"][-1]
    outputs = run.inspections["fitted_output"][-1]
    return inputs, outputs[:, 0]


def true_values(run: Run, inputs: np.ndarray) -> np.ndarray:
    """The function that a run learns, at some inputs [K, inputs]."""
    function = FUNCTIONS[run["data.function"]]
    return function.evaluate(*inputs.T)


def errors_of(run: Run) -> np.ndarray:
    """The absolute error of the fitted function at each point of the grid."""
    inputs, outputs = fitted(run)
    return np.abs(outputs - true_values(run, inputs))


def greatest_errors(
    runs: Sequence[Run],
    function: str,
    width: int,
) -> list[float]:
    """The greatest error of each run."""
    return [float(np.max(errors_of(run))) for run in select_fits(runs, function, width)]


def _fits(runs: Sequence[Run], function: str) -> Claim:
    narrow = greatest_errors(runs, function, NARROW)
    wide = greatest_errors(runs, function, WIDE)
    ratios = [error / float(np.mean(narrow)) for error in wide]
    return claim_on_every_seed(
        f"{function}: greatest error with {WIDE} units over the mean of that with {NARROW}",
        source=CYBENKO,
        values=ratios,
        below=GREATEST_RATIO,
    )


def _step_mean(runs: Sequence[Run]) -> Claim:
    narrow = [float(np.mean(errors_of(run))) for run in select_fits(runs, "step", NARROW)]
    wide = [float(np.mean(errors_of(run))) for run in select_fits(runs, "step", WIDE)]
    ratios = [error / float(np.mean(narrow)) for error in wide]
    return claim_on_every_seed(
        f"step: mean error with {WIDE} units over that with {NARROW}",
        source=CYBENKO,
        values=ratios,
        below=GREATEST_MEAN_RATIO,
    )


def _step_jump(runs: Sequence[Run]) -> Claim:
    errors = greatest_errors(runs, "step", WIDE)
    return claim_on_every_seed(
        f"step: greatest error with {WIDE} units",
        source="a continuous function is at least ½ away from one side of the jump; less what it "
        "rises between two points of the grid",
        values=errors,
        at_least=LEAST_STEP_ERROR,
    )


def build_by_hand(num_units: int, x: np.ndarray) -> np.ndarray:
    """A rectifier network that joins points of the sine by straight lines, without training.

    Unit i begins to bend at knot i, and its output weight is the change of slope there:
    f(x) = f(−1) + Σ (sᵢ − sᵢ₋₁)·max(0, x − tᵢ).

    Args:
        num_units: the hidden units.
        x: where it is evaluated.
    """
    sine = FUNCTIONS["sine"].evaluate
    knots = np.linspace(-1, 1, num_units + 1)
    slopes = np.diff(sine(knots)) / np.diff(knots)
    output_weights = np.diff(slopes, prepend=0.0)
    hidden = np.maximum(0, x[:, None] - knots[None, :-1])
    return sine(knots[:1]) + hidden @ output_weights


def error_by_hand(num_units: int) -> float:
    """Its greatest error."""
    x = np.linspace(-1, 1, FINE_POINTS)
    return float(np.max(np.abs(build_by_hand(num_units, x) - FUNCTIONS["sine"].evaluate(x))))


def predict_error_by_hand(num_units: int) -> float:
    """max|f″|·h²/8 with h = 2/n: the error of interpolation by straight lines."""
    width = 2 / num_units
    return (2 * math.pi) ** 2 * width**2 / 8


def _by_hand() -> Claim:
    errors = [error_by_hand(num_units) for num_units in KNOTS]
    order = float(np.polyfit(np.log(KNOTS), np.log(errors), 1)[0])
    return claim(
        "sine, rectifiers set by hand: slope of ln error over ln units, 16 to 256 units",
        source="interpolation by straight lines: max|f″|·h²/8",
        expected=f"−2 ± {ORDER_TOLERANCE:g}",
        values=[order],
        holds=abs(order + 2) <= ORDER_TOLERANCE,
    )


def least_squares_line(run: Run, inputs: np.ndarray) -> np.ndarray:
    """The line through a run's training examples with the least squared error, at some inputs."""
    data = FunctionData(
        function=Function[run["data.function"]],
        grid=run["data.grid"],
        examples=run["data.examples"],
    )
    dataset = load_function(data)
    slope, offset = np.polyfit(dataset.x[:, 0], dataset.y[:, 0], 1)
    return slope * inputs[:, 0] + offset


def _line(runs: Sequence[Run]) -> Claim:
    errors = []
    for run in select_linear(runs):
        inputs, outputs = fitted(run)
        errors.append(float(np.max(np.abs(outputs - least_squares_line(run, inputs)))))
    return claim(
        "sine, no nonlinearity, 1, 4 and 16 layers: greatest distance from the least-squares line",
        source="a product of matrices is a matrix",
        expected=f"≤ {LINE:g} at every depth and seed",
        values=errors,
        holds=max(errors) <= LINE,
    )


def _zero(runs: Sequence[Run]) -> list[Claim]:
    made = []
    for activation in ("relu", "tanh"):
        values = []
        for run in select_without_biases(runs, activation):
            inputs, outputs = fitted(run)
            (origin,) = np.flatnonzero(inputs[:, 0] == 0)
            values.append(abs(float(outputs[origin])))
        made.append(
            claim(
                f"{activation}, no biases, trained: |f(0)|",
                source="φ(0) = 0",
                expected="exactly 0 on every seed",
                values=values,
                holds=max(values) == 0,
            )
        )
    return made


def _homogeneity(runs: Sequence[Run]) -> Claim:
    """Points of the grid in the inner half, and those twice as far from its middle."""
    errors = []
    for run in select_without_biases(runs, "relu"):
        inputs, outputs = fitted(run)
        middle = len(inputs) // 2
        distances = np.arange(-(middle // 2), middle // 2 + 1)
        near = outputs[middle + distances]
        far = outputs[middle + 2 * distances]
        errors.append(float(np.max(np.abs(far - 2 * near))))
    return claim_on_every_seed(
        "relu, no biases, trained: |f(2x) − 2f(x)|, greatest over the grid",
        source="max(0, 2z) = 2·max(0, z)",
        values=errors,
        at_most=HOMOGENEOUS,
    )
