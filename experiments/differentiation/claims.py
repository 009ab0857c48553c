"""Claims about numerical, symbolic and automatic derivatives, set before the runs."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from research.config.data_options import Function, FunctionData
from research.data.function import load_function
from research.models.activation import ACTIVATIONS
from research.records.queries import setting_values, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed
from research.theory import symbolic
from research.theory.symbolic import Formula
from research.training.precision import precision_context

BAYDIN = "Baydin, Pearlmutter, Radul, Siskind 2018"
GRIEWANK = "Baur & Strassen 1983; Griewank & Walther 2008, §4.5"
WIDTH = 2
EXACT = 1e-12
LEAST_ERRORS = {"forward": 1e-7, "central": 1e-9}  # about √ε and ε^(2/3), times 10
FIT = 0.99  # least R² of a straight line
GREATEST_COST = 5.0
HIDDEN_UNITS = (1, 10, 100, 1000)  # 11 to 10,001 parameters
INPUTS = 8
BATCH = 256
REPEATS = 100  # of a function in one timed loop
TRIALS = 15  # pairs of loops, of whose ratios the median counts
GROWTH = (0.75, 1.25)  # of ln cost over ln parameters


@dataclass(frozen=True)
class Sizes:
    """How large the derivative by the first weight is.

    Attributes:
        written: parts of the formula, written out.
        shared: parts of the formula, equal ones written once.
        automatic: primitive operations of the automatic gradient, by all weights at once.
    """

    written: int
    shared: int
    automatic: int


@dataclass(frozen=True)
class Cost:
    """What all derivatives of a network cost, in costs of the function itself.

    Attributes:
        parameters: how many derivatives.
        reverse_operations: floating-point operations of reverse mode.
        reverse_time: time of reverse mode.
        forward_time: time of one pass in forward mode for each parameter.
        difference_time: time of two evaluations for each parameter.
    """

    parameters: int
    reverse_operations: float
    reverse_time: float
    forward_time: float
    difference_time: float


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Accuracy, then size, then cost."""
    return [
        _symbolic(runs),
        _least_error(runs, "forward", "√ε"),
        _least_error(runs, "central", "ε^(2/3)"),
        _best_step(runs, "forward", order=1),
        _best_step(runs, "central", order=2),
        *_growth(runs),
        *_costs(),
    ]


def depths_of(runs: Sequence[Run]) -> list[int]:
    """The depths of the networks, in ascending order."""
    return setting_values(runs, "model.depth")


def errors_of(runs: Sequence[Run], kind: str) -> np.ndarray:
    """The relative errors of difference quotients [runs, steps]; 0 counts as the rounding error."""
    errors = [run.inspections[f"{kind}_difference_error"][0] for run in runs]
    return np.maximum(np.stack(errors), np.finfo(float).eps)


def steps_of(runs: Sequence[Run]) -> np.ndarray:
    """The steps of the difference quotients."""
    return runs[0].inspections["difference_step"][0]


def _read_example(run: Run) -> tuple[np.ndarray, float]:
    data = FunctionData(function=Function.surface, split=run["data.split"])
    dataset = load_function(data)
    return dataset.x[0], float(dataset.y[0, 0])


def parameter_name(number: int) -> str:
    """The variable of a parameter, by its place in the record."""
    return f"p{number}"


def network_loss(
    parameters: Sequence[Any],
    x: Sequence[Any],
    target: Any,
    *,
    depth: int,
    arithmetic: Any,
) -> Any:
    """The loss ½(output − target)² of a network of width 2, as formulas or as numbers.

    Args:
        parameters: in the order of their paths: biases and weights of embed, head, layers.
        x: the two inputs.
        target: what the output should be.
        depth: the number of layers.
        arithmetic: an object with ``add``, ``multiply``, ``tanh`` and ``constant``.
    """
    inputs = len(x)
    head = WIDTH + inputs * WIDTH
    biases = head + 1 + WIDTH
    kernels = biases + depth * WIDTH

    def weighted_sum(
        signals: Sequence[Any],
        bias: Any,
        first_weight: int,
        stride: int,
    ) -> Any:
        total = bias
        for number, signal in enumerate(signals):
            weight = parameters[first_weight + number * stride]
            total = arithmetic.add(total, arithmetic.multiply(weight, signal))
        return total

    h = []
    for unit in range(WIDTH):
        h.append(weighted_sum(x, parameters[unit], WIDTH + unit, WIDTH))
    for layer in range(depth):
        active = [arithmetic.tanh(signal) for signal in h]
        first = kernels + layer * WIDTH * WIDTH
        h = []
        for unit in range(WIDTH):
            bias = parameters[biases + layer * WIDTH + unit]
            h.append(weighted_sum(active, bias, first + unit, WIDTH))
    active = [arithmetic.tanh(signal) for signal in h]
    output = weighted_sum(active, parameters[head], head + 1, 1)
    error = arithmetic.add(output, arithmetic.multiply(arithmetic.constant(-1.0), target))
    square = arithmetic.multiply(error, error)
    return arithmetic.multiply(arithmetic.constant(0.5), square)


class Numbers:
    """Arithmetic with arrays."""

    add = staticmethod(jnp.add)
    multiply = staticmethod(jnp.multiply)
    constant = staticmethod(jnp.asarray)

    @staticmethod
    def tanh(z: Array) -> Array:
        """The package's nonlinearity."""
        return ACTIVATIONS["tanh"](z)


def num_parameters(depth: int, inputs: int = 2) -> int:
    """The parameters of a network of width 2 with one output."""
    return (inputs + 1) * WIDTH + WIDTH + 1 + depth * (WIDTH + 1) * WIDTH


def loss_formula(depth: int) -> Formula:
    """The loss of a network of this depth, in the variables p0, p1, …, x0, x1 and target."""
    names = [parameter_name(number) for number in range(num_parameters(depth))]
    parameters = [symbolic.variable(name) for name in names]
    x = [symbolic.variable("x0"), symbolic.variable("x1")]
    target = symbolic.variable("target")
    return network_loss(parameters, x, target, depth=depth, arithmetic=symbolic)


def _symbolic(runs: Sequence[Run]) -> Claim:
    errors = []
    for depth in depths_of(runs):
        formula = loss_formula(depth)
        count = num_parameters(depth)
        names = [parameter_name(number) for number in range(count)]
        derivatives = [symbolic.differentiate(formula, name) for name in names]
        for run in where(runs, {"model.depth": depth}):
            values = _values_of(run)
            automatic = run.inspections["parameter_gradient"][0]
            exact = [symbolic.evaluate(derivative, values) for derivative in derivatives]
            errors.append(float(np.max(np.abs(automatic - exact))))
    return claim_on_every_seed(
        "automatic against symbolic derivative, all weights of networks of 1 to 8 layers, "
        "greatest difference",
        source=BAYDIN,
        values=errors,
        at_most=EXACT,
    )


def _values_of(run: Run) -> dict[str, float]:
    """The values of the variables of ``loss_formula`` in a run before its first step."""
    values = {}
    for number, value in enumerate(run.inspections["parameters"][0]):
        values[parameter_name(number)] = float(value)
    x, target = _read_example(run)
    return values | {"x0": float(x[0]), "x1": float(x[1]), "target": target}


def _least_error(
    runs: Sequence[Run],
    kind: str,
    theory: str,
) -> Claim:
    bound = LEAST_ERRORS[kind]
    errors = errors_of(runs, kind).min(axis=1)
    geometric_mean = float(np.exp(np.mean(np.log(errors))))
    return claim(
        f"{kind} difference: relative error at the best step, geometric mean over runs",
        source=f"{BAYDIN}: of the order {theory}",
        expected=f"< {bound:g}",
        values=errors.tolist(),
        holds=geometric_mean < bound,
    )


def _best_step(
    runs: Sequence[Run],
    kind: str,
    order: int,
) -> Claim:
    predicted = float(np.finfo(float).eps) ** (1 / (order + 1))
    best = np.argmin(errors_of(runs, kind), axis=1)
    ratios = steps_of(runs)[best] / predicted
    distance = abs(float(np.mean(np.log10(ratios))))
    return claim(
        f"{kind} difference: the best step over ε^(1/{order + 1}), geometric mean over runs",
        source=BAYDIN,
        expected="within a factor 10",
        values=ratios.tolist(),
        holds=distance <= 1,
    )


@functools.cache
def sizes_of(depth: int) -> Sizes:
    """How large the derivative by the first weight of a network of this depth is."""
    first_weight = parameter_name(WIDTH)
    derivative = symbolic.differentiate(loss_formula(depth), first_weight)
    x = [jnp.zeros(()), jnp.zeros(())]

    def loss(parameters: Sequence[Array]) -> Array:
        return network_loss(parameters, x, x[0], depth=depth, arithmetic=Numbers)

    # A traced index would be an operation of its own: the parameters are separate arguments.
    scalars = [jnp.float32(0.1)] * num_parameters(depth)
    traced = jax.make_jaxpr(jax.grad(loss))(scalars)
    return Sizes(
        written=symbolic.written_size(derivative),
        shared=symbolic.shared_size(derivative),
        automatic=len(traced.jaxpr.eqns),
    )


def _fit_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """The slope of the least-squares line, and R²."""
    slope, offset = np.polyfit(x, y, 1)
    rest = np.asarray(y) - (slope * np.asarray(x) + offset)
    return float(slope), float(1 - np.var(rest) / np.var(y))


def _growth(runs: Sequence[Run]) -> list[Claim]:
    depths = depths_of(runs)
    sizes = [sizes_of(depth) for depth in depths]
    factor, written_fit = _fit_line(depths, np.log([size.written for size in sizes]).tolist())
    _, shared_fit = _fit_line(depths, [size.shared for size in sizes])
    _, automatic_fit = _fit_line(depths, [size.automatic for size in sizes])
    return [
        claim(
            "written out, the symbolic derivative is multiplied by this factor a layer",
            source=f"{BAYDIN}, Table 1",
            expected=f"> 2, the width, and ln size linear in depth with R² > {FIT:g}",
            values=[float(np.exp(factor))],
            holds=written_fit > FIT and np.exp(factor) > WIDTH,
        ),
        claim(
            "with equal parts written once, the size is linear in depth: R²",
            source=BAYDIN,
            expected=f"> {FIT:g}",
            values=[shared_fit],
            holds=shared_fit > FIT,
        ),
        claim(
            "the number of operations of the automatic gradient is linear in depth: R²",
            source=BAYDIN,
            expected=f"> {FIT:g}",
            values=[automatic_fit],
            holds=automatic_fit > FIT,
        ),
    ]


@functools.cache
def measure_costs() -> tuple[Cost, ...]:
    """The costs of all derivatives of networks with one hidden layer, by number of parameters."""
    with precision_context("float32"):
        return tuple(_measure_cost(hidden) for hidden in HIDDEN_UNITS)


def _measure_cost(hidden: int) -> Cost:
    generator = np.random.default_rng(0)
    count = hidden * (INPUTS + 2) + 1
    at = jnp.asarray(0.1 * generator.standard_normal(count), jnp.float32)
    x = jnp.asarray(generator.standard_normal((BATCH, INPUTS)), jnp.float32)
    kernel_end = INPUTS * hidden
    bias_end = kernel_end + hidden

    def loss(parameters: Array) -> Array:
        kernel = parameters[:kernel_end].reshape(INPUTS, hidden)
        bias = parameters[kernel_end:bias_end]
        active = ACTIVATIONS["tanh"](x @ kernel + bias[None])
        output = active @ parameters[bias_end:-1] + parameters[-1:]
        return 0.5 * jnp.mean(output**2)

    def directional(parameters: Array) -> Array:
        return jax.jvp(loss, (parameters,), (parameters,))[1]

    gradient = jax.grad(loss)
    reverse_operations = _count_operations(gradient, at) / _count_operations(loss, at)
    return Cost(
        parameters=count,
        reverse_operations=reverse_operations,
        reverse_time=_time_ratio(gradient, loss, at),
        forward_time=count * _time_ratio(directional, loss, at),
        difference_time=2.0 * count,
    )


def _count_operations(function: Callable[[Array], Array], at: Array) -> float:
    """The floating-point operations of a compiled function; a tanh counts as one."""
    analysis = jax.jit(function).lower(at).compile().cost_analysis()
    assert analysis is not None
    return analysis["flops"] + analysis.get("transcendentals", 0.0)


def _time_ratio(
    function: Callable[[Array], Array],
    reference: Callable[[Array], Array],
    at: Array,
) -> float:
    """The time of a function over that of another one.

    Both are timed in turns, so that other work on the machine slows both down.

    Args:
        function: the function.
        reference: the other function.
        at: their argument.
    """
    loops = [_make_loop(function), _make_loop(reference)]
    for loop in loops:
        loop(at).block_until_ready()
    ratios = []
    for _ in range(TRIALS):
        seconds, reference_seconds = [_time(loop, at) for loop in loops]
        ratios.append(seconds / reference_seconds)
    return float(np.median(ratios))


def _make_loop(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Many evaluations in one compiled loop, so that calls from Python take no time."""

    @jax.jit
    def repeat(at: Array) -> Array:
        def evaluate(_: int, at: Array) -> Array:
            # Each evaluation depends on the one before, so that none is left out.
            return at + 1e-20 * function(at)

        return lax.fori_loop(0, REPEATS, evaluate, at)

    return repeat


def _time(loop: Callable[[Array], Array], at: Array) -> float:
    """Seconds of a loop."""
    start = time.perf_counter()
    loop(at).block_until_ready()
    return time.perf_counter() - start


def _costs() -> list[Claim]:
    costs = measure_costs()
    operations = [cost.reverse_operations for cost in costs]
    times = [cost.reverse_time for cost in costs]
    growth, _ = _fit_line(
        np.log([cost.parameters for cost in costs]).tolist(),
        np.log([cost.forward_time for cost in costs]).tolist(),
    )
    return [
        claim(
            "reverse mode: operations of all derivatives over those of the function, "
            "11 to 10,001 parameters",
            source=GRIEWANK,
            expected=f"≤ {GREATEST_COST:g} for every number of parameters",
            values=operations,
            holds=max(operations) <= GREATEST_COST,
        ),
        claim(
            "reverse mode: time of all derivatives over that of the function",
            source=GRIEWANK,
            expected=f"≤ {GREATEST_COST:g} for every number of parameters",
            values=times,
            holds=max(times) <= GREATEST_COST,
        ),
        claim(
            "forward mode: slope of ln time of all derivatives over ln number of parameters",
            source="one pass gives one derivative",
            expected=f"{GROWTH[0]:g} to {GROWTH[1]:g}: the cost grows with the parameters",
            values=[growth],
            holds=GROWTH[0] <= growth <= GROWTH[1],
        ),
    ]
