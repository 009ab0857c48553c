"""Claims about one training step, checked with weights and gradients that the runs recorded."""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from research.config.data_options import Function, FunctionData
from research.data.function import load_function
from research.records.queries import where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed

RUMELHART = "Rumelhart, Hinton, Williams 1986"
SIZES = (2, 2, 2, 1)  # units: the inputs, two hidden layers, the output
CHAIN_RULE = 1e-12
DIFFERENCE = 1e-8
STEP = 1e-6  # of the difference quotient: ε^(1/3), where its error is least
CHECKED_STEPS = (0, 1, 10, 100)
REMAINING = 0.01
EPOCHS = 3


@dataclasses.dataclass(frozen=True)
class Connection:
    """The weights [inputs, outputs] into a layer and its biases [outputs]."""

    kernel: np.ndarray
    bias: np.ndarray


@dataclasses.dataclass(frozen=True)
class Forward:
    """A forward pass.

    Attributes:
        values: what each layer of units passes on, inputs first.
        slopes: the local derivative of each hidden layer's rectifier: 1 or 0.
        output: the prediction.
    """

    values: list[np.ndarray]
    slopes: list[np.ndarray]
    output: float


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Blame by the chain rule and by differences; correction; units that are off; the epoch."""
    examples = select_examples(runs)
    return [
        _chain_rule(examples),
        _differences(examples),
        _update(examples),
        _off_units(examples),
        _learns(examples),
        *_epochs(runs),
    ]


def select_examples(runs: Sequence[Run]) -> list[Run]:
    """The runs that learn one example."""
    return where(runs, {"data.name": "function"})


def read_example(run: Run) -> tuple[np.ndarray, float]:
    """The two inputs and the target that a run learns."""
    data = FunctionData(function=Function.surface, split=run["data.split"])
    dataset = load_function(data)
    return dataset.x[0], float(dataset.y[0, 0])


def unpack(values: np.ndarray) -> list[Connection]:
    """Recorded parameters, or their gradient, in forward order.

    They are recorded in the order of their paths: embed, head, stages; a bias before its kernel.
    """
    num_inputs, first, second, num_outputs = SIZES
    position = 0

    def take(inputs: int, outputs: int) -> Connection:
        nonlocal position
        bias = values[position : position + outputs]
        position += outputs
        kernel = values[position : position + inputs * outputs]
        position += inputs * outputs
        return Connection(kernel.reshape(inputs, outputs), bias)

    embed = take(num_inputs, first)
    head = take(second, num_outputs)
    layer = take(first, second)
    assert position == len(values)
    return [embed, layer, head]


def run_forward(connections: Sequence[Connection], x: np.ndarray) -> Forward:
    """Predicts: a rectifier follows each weighted sum but the last."""
    values = [x]
    slopes = []
    *hidden, head = connections
    for connection in hidden:
        z = values[-1] @ connection.kernel + connection.bias
        slopes.append((z > 0).astype(float))
        values.append(np.maximum(z, 0))
    (output,) = values[-1] @ head.kernel + head.bias
    return Forward(values, slopes, float(output))


def sum_over_paths(
    connections: Sequence[Connection],
    slopes: Sequence[np.ndarray],
    layer: int,
    unit: int,
) -> float:
    """The derivative of the output by a weighted sum: the sum over all paths to the output.

    A path is the product of the local derivatives on it, rectifiers' slopes and weights.

    Args:
        connections: the network.
        slopes: the slopes of the hidden units, by layer.
        layer: the hidden layer of the weighted sum; the number of hidden layers for the output.
        unit: its unit.
    """
    if layer == len(slopes):
        return 1.0
    total = 0.0
    for following, weight in enumerate(connections[layer + 1].kernel[unit]):
        rest = sum_over_paths(connections, slopes, layer + 1, following)
        total += slopes[layer][unit] * weight * rest
    return total


def blame(
    connections: Sequence[Connection],
    x: np.ndarray,
    target: float,
) -> list[Connection]:
    """The gradient of the loss ½(output − target)² by the chain rule, in forward order."""
    forward = run_forward(connections, x)
    error = forward.output - target
    gradients = []
    for layer, connection in enumerate(connections):
        at_sums = np.zeros(len(connection.bias))
        for unit in range(len(at_sums)):
            at_sums[unit] = error * sum_over_paths(connections, forward.slopes, layer, unit)
        gradients.append(Connection(np.outer(forward.values[layer], at_sums), at_sums))
    return gradients


def _flatten(connections: Sequence[Connection]) -> np.ndarray:
    """The values in the order in which they are recorded."""
    embed, layer, head = connections
    parts = []
    for connection in (embed, head, layer):
        parts += [connection.bias, connection.kernel.ravel()]
    return np.concatenate(parts)


def _loss(
    values: np.ndarray,
    x: np.ndarray,
    target: float,
) -> float:
    return 0.5 * (run_forward(unpack(values), x).output - target) ** 2


def _chain_rule(runs: Sequence[Run]) -> Claim:
    errors = []
    for run in runs:
        x, target = read_example(run)
        for step in CHECKED_STEPS:
            recorded = run.inspections["parameter_gradient"][step]
            by_paths = _flatten(blame(unpack(run.inspections["parameters"][step]), x, target))
            errors.append(float(np.max(np.abs(recorded - by_paths))))
    return claim(
        "blame: gradient of every weight against the sum over paths of products of local "
        "derivatives, steps 0, 1, 10, 100",
        source=f"{RUMELHART}, eq. 4 to 7",
        expected=f"difference ≤ {CHAIN_RULE:g}",
        values=errors,
        holds=max(errors) <= CHAIN_RULE,
    )


def _differences(runs: Sequence[Run]) -> Claim:
    errors = []
    for run in runs:
        x, target = read_example(run)
        for step in CHECKED_STEPS:
            recorded = run.inspections["parameter_gradient"][step]
            values = run.inspections["parameters"][step]
            errors.append(_difference_error(values, recorded, x, target))
    return claim(
        "blame: gradient of every weight against the central difference, steps 0, 1, 10, 100",
        source="the definition of a derivative",
        expected=f"difference ≤ {DIFFERENCE:g}",
        values=errors,
        holds=max(errors) <= DIFFERENCE,
    )


def _difference_error(
    values: np.ndarray,
    gradient: np.ndarray,
    x: np.ndarray,
    target: float,
) -> float:
    """The greatest difference between a gradient and central differences of the loss.

    A rectifier has no derivative at its kink. There, where a sum is 0 as of the units behind one
    that is off, the framework's derivative is 0; the quotient is that of the two sides, and the
    parameter is left out.
    """
    errors = []
    for number, derivative in enumerate(gradient):
        change = np.zeros(len(values))
        change[number] = STEP
        plus = _loss(values + change, x, target)
        minus = _loss(values - change, x, target)
        is_kink = not np.array_equal(
            _slopes(values + change, x),
            _slopes(values - change, x),
        )
        if not is_kink:
            errors.append(abs((plus - minus) / (2 * STEP) - derivative))
    return max(errors)


def _slopes(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.concatenate(run_forward(unpack(values), x).slopes)


def _update(runs: Sequence[Run]) -> Claim:
    """A processor may round after the product and after the sum, or once at the end."""
    counts = []
    for run in runs:
        before = run.inspections["parameters"][:-1].ravel()
        after = run.inspections["parameters"][1:].ravel()
        gradient = run.inspections["parameter_gradient"][:-1].ravel()
        rate = run["optimizer.learning_rate"]
        twice_rounded = before - rate * gradient
        num_wrong = 0
        for number in np.flatnonzero(after != twice_rounded):
            exact = Fraction(before[number]) - Fraction(rate) * Fraction(gradient[number])
            num_wrong += int(after[number] != float(exact))
        counts.append(num_wrong)
    return claim(
        "correct: new weights that are not the rounded number weight − η·gradient, "
        "of 15 weights at 299 steps",
        source="gradient descent (Cauchy 1847)",
        expected="0",
        values=counts,
        holds=max(counts) == 0,
    )


def _off_units(runs: Sequence[Run]) -> Claim:
    greatest = []
    for run in runs:
        x, _ = read_example(run)
        for step in CHECKED_STEPS:
            forward = run_forward(unpack(run.inspections["parameters"][step]), x)
            gradients = unpack(run.inspections["parameter_gradient"][step])
            for layer, slopes in enumerate(forward.slopes):
                is_off = slopes == 0
                if np.any(is_off):
                    incoming = np.abs(gradients[layer].kernel[:, is_off])
                    greatest.append(float(np.max(incoming)))
    return claim(
        "blame: greatest gradient of the weights into a unit that is off",
        source=RUMELHART,
        expected="exactly 0",
        values=greatest,
        holds=max(greatest) == 0,
    )


def _learns(runs: Sequence[Run]) -> Claim:
    ratios = []
    for run in runs:
        losses = run.metrics["train_loss"]
        ratios.append(float(losses[-1] / losses[0]))
    return claim_on_every_seed(
        "repeat: loss after 300 steps over the loss at the start",
        source="the output's bias alone multiplies the error by 1 − η a step",
        values=ratios,
        below=REMAINING,
    )


def _epochs(runs: Sequence[Run]) -> list[Claim]:
    made = []
    for run in where(runs, {"data.name": "digits"}):
        num_examples = run["data.limit"]
        batch_size = run["train.batch_size"]
        whole_batches = num_examples // batch_size
        steps = len(run.metrics["train_loss"])
        made.append(
            claim(
                f"{num_examples} examples in batches of {batch_size}: steps of {EPOCHS} epochs",
                source="an epoch is ⌊n/B⌋ steps: the examples that are left over wait",
                expected=f"{EPOCHS}·⌊n/B⌋ = {EPOCHS * whole_batches}",
                values=[steps],
                holds=steps == EPOCHS * whole_batches,
            )
        )
    return made
