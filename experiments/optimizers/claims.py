"""Claims about update rules, quadratics and digits; thresholds from theory, or from a pilot.

The pilot used seeds 0 to 2.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from research.config.options import Adam, Momentum, Optimizer, OptimizerKind
from research.records.queries import by_seed, final, setting_values, where, window_means
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed
from research.training.optimizers import make_optimizer
from research.training.precision import precision_context

KINGMA = "Kingma & Ba 2015, Algorithm 1"
POLYAK = "Polyak 1964; Sutskever et al. 2013"
CAUCHY = "Cauchy 1847"
BOTTOU = "Bottou, Curtis, Nocedal 2018, §4.2"
RULE_STEPS = 20
EXACT = 1e-12
INVARIANT = 1e-6
CONDITION_NUMBERS = (10, 100, 1000)
DIMENSIONS = 50  # of the quadratic
REDUCTION = 1e-6  # of the error, that is waited for
MAX_ITERATIONS = 8000
RATE = 0.1
MOMENTUM = 0.9
ADAM = Adam(learning_rate=RATE)
SLOPE_TOLERANCE = 0.1
NUM_EXAMPLES = 512
FIRST_EXAMPLES = 2048  # four epochs, after which one example at a time is compared
FIRST_STEPS = 64


@dataclass(frozen=True)
class Method:
    """A way to go downhill.

    Attributes:
        label: its name in the figure.
        kind: the optimizer.
        batch_size: examples of a step.
    """

    label: str
    kind: str
    batch_size: int


FULL_BATCH = Method("full batch", "gd", NUM_EXAMPLES)
ONE_EXAMPLE = Method("one example", "sgd", 1)
METHODS = (
    FULL_BATCH,
    ONE_EXAMPLE,
    Method("mini-batch of 32", "sgd", 32),
    Method("mini-batch, momentum", "momentum", 32),
    Method("mini-batch, Adam", "adam", 32),
)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """(a) update rules, (b) quadratics, (c) Adam, (d) digits."""
    descents = [_descent(condition_number) for condition_number in CONDITION_NUMBERS]
    heavy_balls = [_heavy_ball(condition_number) for condition_number in CONDITION_NUMBERS]
    return [
        *_rules(),
        *descents,
        *heavy_balls,
        *_edge(),
        _first_step(),
        _uncorrected_first_step(),
        _scale_invariance(),
        *_monotone(runs),
        _variance(runs),
        _by_examples(runs),
        _by_steps(runs),
    ]


def select_method(runs: Sequence[Run], method: Method) -> list[Run]:
    """The runs of a method, at every learning rate."""
    settings: dict[str, object] = {"optimizer.kind": method.kind, "measure.inspect": []}
    if method.kind == "gd":
        settings = {"optimizer.kind": "gd"}
    else:
        settings["train.batch_size"] = method.batch_size
    return where(runs, settings)


def select_best(runs: Sequence[Run], method: Method) -> list[Run]:
    """The runs of a method at the learning rate with the least final loss on the test digits."""
    path = "optimizer.learning_rate"
    candidates = []
    for rate in setting_values(select_method(runs, method), path):
        candidates.append(where(select_method(runs, method), {path: rate}))
    return min(candidates, key=_mean_eval_loss)


def _mean_eval_loss(runs: Sequence[Run]) -> float:
    return sum(final(run, "eval_loss") for run in runs) / len(runs)


def loss_curve(
    run: Run,
    method: Method,
    window: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """The loss over steps, in means of at least ``window`` examples.

    Args:
        run: a run.
        method: its method.
        window: examples of one mean.

    Returns:
        The steps [K] at the middle of each mean, and the losses [K].
    """
    steps = max(1, window // method.batch_size)
    losses = window_means(run.metrics["train_loss"], steps)
    return (np.arange(len(losses)) + 0.5) * steps, losses


def _directions(option: Optimizer, gradients: Array) -> Array:
    """What the package's optimizer multiplies by the learning rate, for given gradients [S, P]."""
    optimizer = make_optimizer(option)
    state = optimizer.init(gradients[0])
    directions = []
    for gradient in gradients:
        direction, state = optimizer.update(gradient, state, gradients[0])
        directions.append(direction)
    return jnp.stack(directions)


def _draw_gradients() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((RULE_STEPS, 7))


def _follow_descent(gradients: np.ndarray) -> np.ndarray:
    """θ ← θ − η·g, from θ = 0."""
    return -RATE * np.cumsum(gradients, axis=0)


def _follow_momentum(gradients: np.ndarray) -> np.ndarray:
    """V ← μ·v + g, θ ← θ − η·v."""
    velocity = np.zeros(gradients.shape[1])
    theta = np.zeros(gradients.shape[1])
    path = []
    for gradient in gradients:
        velocity = MOMENTUM * velocity + gradient
        theta = theta - RATE * velocity
        path.append(theta)
    return np.stack(path)


def _follow_adam(gradients: np.ndarray) -> np.ndarray:
    """M and v are averages of g and g², corrected for their start at 0; θ ← θ − η·m̂/(√v̂ + ε)."""
    m = np.zeros(gradients.shape[1])
    v = np.zeros(gradients.shape[1])
    theta = np.zeros(gradients.shape[1])
    path = []
    for step, gradient in enumerate(gradients, start=1):
        m = ADAM.beta1 * m + (1 - ADAM.beta1) * gradient
        v = ADAM.beta2 * v + (1 - ADAM.beta2) * gradient**2
        corrected_m = m / (1 - ADAM.beta1**step)
        corrected_v = v / (1 - ADAM.beta2**step)
        theta = theta - RATE * corrected_m / (np.sqrt(corrected_v) + ADAM.epsilon)
        path.append(theta)
    return np.stack(path)


def _rules() -> list[Claim]:
    descent = Optimizer(kind=OptimizerKind.sgd)
    momentum = Momentum(momentum=MOMENTUM)
    return [
        _rule("θ − η·g", CAUCHY, descent, _follow_descent),
        _rule("v ← μ·v + g, θ − η·v", POLYAK, momentum, _follow_momentum),
        _rule("Adam with bias correction", KINGMA, ADAM, _follow_adam),
    ]


def _rule(
    formula: str,
    source: str,
    option: Optimizer,
    follow: Callable[[np.ndarray], np.ndarray],
) -> Claim:
    gradients = _draw_gradients()
    with precision_context("float64"):
        directions = np.asarray(_directions(option, jnp.asarray(gradients)))
    path = -RATE * np.cumsum(directions, axis=0)
    error = float(np.max(np.abs(path - follow(gradients))))
    return claim(
        f"(a) {formula}: 20 steps in float64 against the formula, greatest difference",
        source=source,
        expected=f"≤ {EXACT:g}",
        values=[error],
        holds=error <= EXACT,
    )


def curvatures_of(condition_number: float) -> np.ndarray:
    """The curvatures of a quadratic, evenly spaced on a logarithmic scale from 1 to κ."""
    return np.geomspace(1, condition_number, DIMENSIONS)


def follow_quadratic(
    option: Optimizer,
    rate: float,
    curvatures: np.ndarray,
    start: np.ndarray,
    steps: int,
) -> np.ndarray:
    """The path [S + 1, P] of the package's optimizer on ½ Σ λᵢ θᵢ², in float64.

    Args:
        option: the optimizer.
        rate: the learning rate.
        curvatures: λ [P].
        start: where it begins [P].
        steps: S.
    """
    optimizer = make_optimizer(option)

    def step(carry: tuple[Array, optax.OptState], _: None) -> tuple:
        theta, state = carry
        direction, state = optimizer.update(jnp.asarray(curvatures) * theta, state, theta)
        assert isinstance(direction, Array)
        following = theta - rate * direction
        return (following, state), following

    with precision_context("float64"):
        theta = jnp.asarray(start)
        first = (theta, optimizer.init(theta))
        _, path = jax.jit(lambda first: lax.scan(step, first, length=steps))(first)
        return np.concatenate([start[None], np.asarray(path)])


def _count_iterations(
    option: Optimizer,
    rate: float,
    condition_number: float,
) -> int:
    """The steps after which the error stays below ``REDUCTION`` times its start."""
    start = np.ones(DIMENSIONS)
    curvatures = curvatures_of(condition_number)
    path = follow_quadratic(option, rate, curvatures, start, MAX_ITERATIONS)
    # The slowest directions decide: those of the least and of the greatest curvature.
    errors = np.max(np.abs(path), axis=1)
    return int(np.flatnonzero(errors > REDUCTION)[-1]) + 1


def predict_iterations(contraction: Any) -> Any:
    """The steps that reduce the error by ``REDUCTION`` if each multiplies it by ``contraction``."""
    return np.log(REDUCTION) / np.log(contraction)


@functools.cache
def count_descent(condition_number: float) -> int:
    """The steps of gradient descent at its best learning rate 2/(1 + κ)."""
    option = Optimizer(kind=OptimizerKind.sgd)
    return _count_iterations(option, 2 / (1 + condition_number), condition_number)


@functools.cache
def count_heavy_ball(condition_number: float) -> int:
    """The steps of the heavy ball at its best η = 4/(1 + √κ)² and μ = ((√κ − 1)/(√κ + 1))²."""
    root = math.sqrt(condition_number)
    option = Momentum(momentum=((root - 1) / (root + 1)) ** 2)
    return _count_iterations(option, 4 / (1 + root) ** 2, condition_number)


def _descent(condition_number: float) -> Claim:
    predicted = predict_iterations((condition_number - 1) / (condition_number + 1))
    counted = count_descent(condition_number)
    return claim(
        f"(b) κ = {condition_number}: steps of gradient descent to a millionth of the error",
        source=f"{POLYAK}: a factor (κ − 1)/(κ + 1) a step",
        expected=f"{predicted:.0f} ± 2 %",
        values=[counted],
        holds=abs(counted / predicted - 1) <= 0.02,
    )


def _heavy_ball(condition_number: float) -> Claim:
    root = math.sqrt(condition_number)
    predicted = predict_iterations((root - 1) / (root + 1))
    counted = count_heavy_ball(condition_number)
    return claim(
        f"(b) κ = {condition_number}: steps of the heavy ball",
        source=f"{POLYAK}: a factor (√κ − 1)/(√κ + 1) a step in the limit",
        expected=f"1 to 1.6 times {predicted:.0f}",
        values=[counted],
        holds=1 <= counted / predicted <= 1.6,
    )


def _edge() -> list[Claim]:
    made = []
    for share, verdict in ((0.98, "falls"), (1.02, "diverges")):
        rate = share * 2 / 100
        option = Optimizer(kind=OptimizerKind.sgd)
        path = follow_quadratic(option, rate, curvatures_of(100), np.ones(DIMENSIONS), 2000)
        growth = float(abs(path[-1, -1]))
        holds = growth < 1e-10 if share < 1 else growth > 1e10
        made.append(
            claim(
                f"(b) κ = 100, η = {share:g}·2/λ_max: error along the greatest curvature after "
                "2000 steps",
                source="a step multiplies it by 1 − ηλ",
                expected=f"{verdict}: |1 − ηλ|^2000 = {abs(1 - 100 * rate) ** 2000:.0e}",
                values=[growth],
                holds=holds,
            )
        )
    return made


def _first_step() -> Claim:
    gradients = np.array([[1e-3, -1.0, 30.0, -1e4]])
    with precision_context("float64"):
        option = Adam(learning_rate=RATE, epsilon=0.0)
        steps = RATE * np.asarray(_directions(option, jnp.asarray(gradients)))[0]
    errors = np.abs(steps - RATE * np.sign(gradients[0]))
    return claim(
        "(c) Adam's first step against η·sign(g), gradients from 0.001 to 10,000, ε = 0",
        source=KINGMA,
        expected=f"difference ≤ {INVARIANT:g}",
        values=errors.tolist(),
        holds=float(np.max(errors)) <= INVARIANT,
    )


def _uncorrected_first_step() -> Claim:
    """From the same formula without the two corrections: m = (1 − β₁)·g, v = (1 − β₂)·g²."""
    expected = (1 - ADAM.beta1) / math.sqrt(1 - ADAM.beta2)
    with precision_context("float64"):
        gradient = jnp.ones(1)
        moments = optax.scale_by_adam(ADAM.beta1, ADAM.beta2, 0.0)
        _, state = moments.update(gradient, moments.init(gradient))
        assert isinstance(state, optax.ScaleByAdamState)
        mean = float(jnp.squeeze(jnp.asarray(state.mu)))
        mean_square = float(jnp.squeeze(jnp.asarray(state.nu)))
        factor = mean / math.sqrt(mean_square)
    return claim(
        "(c) without bias correction: the first step over η",
        source="the textbook's shorter form",
        expected=f"(1 − β₁)/√(1 − β₂) = {expected:.4f} ± {INVARIANT:g}",
        values=[factor],
        holds=abs(factor - expected) <= INVARIANT,
    )


def _scale_invariance() -> Claim:
    gradients = jnp.asarray(_draw_gradients())
    with precision_context("float64"):
        option = Adam(learning_rate=RATE, epsilon=0.0)
        gradients = jnp.asarray(_draw_gradients())
        usual = np.asarray(_directions(option, gradients))
        scaled = np.asarray(_directions(option, 1e3 * gradients))
    error = float(np.max(np.abs(np.cumsum(RATE * (scaled - usual), axis=0))))
    return claim(
        "(c) Adam's path where the loss is multiplied by 1000 against the path without, 20 steps",
        source=KINGMA,
        expected=f"difference ≤ {INVARIANT:g}",
        values=[error],
        holds=error <= INVARIANT,
    )


def is_below_edge(run: Run) -> bool:
    """Whether 2/η was above the sharpness at every inspected step."""
    greatest = float(np.max(run.inspections["sharpness"]))
    return run["optimizer.learning_rate"] * greatest < 2


def _monotone(runs: Sequence[Run]) -> list[Claim]:
    below = []
    above = []
    for run in select_method(runs, FULL_BATCH):
        losses = run.metrics["train_loss"]
        rising = float(np.mean(np.diff(losses) > 0))
        group = below if is_below_edge(run) else above
        group.append(rising)
    return [
        claim(
            "(d) digits, full batch, η below 2/sharpness all the time: fraction of steps at which "
            "the loss rises",
            source=CAUCHY,
            expected="0",
            values=below,
            holds=max(below) == 0,
        ),
        claim_on_every_seed(
            "(d) digits, full batch, η above 2/sharpness at some time: the same",
            source="Cohen et al. 2021",
            values=above,
            above=0,
        ),
    ]


def select_variance(runs: Sequence[Run]) -> list[Run]:
    """The runs that measure the variance of the gradient."""
    return where(runs, {"measure.inspect": ["gradient_variance"]})


def _variance(runs: Sequence[Run]) -> Claim:
    slopes = []
    for run in select_variance(runs):
        sizes = run.inspections["variance_batch_size"][0].astype(float)
        variances = run.inspections["gradient_variance"][0]
        slopes.append(float(np.polyfit(np.log(sizes), np.log(variances), 1)[0]))
    return claim(
        "(d) digits: slope of ln variance of the gradient over ln batch size, B = 1 to 256",
        source=BOTTOU,
        expected=f"−1 ± {SLOPE_TOLERANCE:g} on every seed",
        values=slopes,
        holds=max(abs(slope + 1) for slope in slopes) <= SLOPE_TOLERANCE,
    )


def _loss_after(
    run: Run,
    method: Method,
    steps: int,
) -> float:
    """The mean loss of the last 512 examples, or of the last full batch, up to a step."""
    window = max(1, NUM_EXAMPLES // method.batch_size)
    first = max(0, steps - window)
    return float(np.mean(run.metrics["train_loss"][first:steps]))


def _compare(
    runs: Sequence[Run],
    steps_of_one: int,
    steps_of_all: int,
) -> list[float]:
    """The loss of one example at a time over that of the full batch, at best rates, by seed."""
    ratios = []
    full_batch = by_seed(select_best(runs, FULL_BATCH))
    for seed, run in by_seed(select_best(runs, ONE_EXAMPLE)).items():
        loss_of_one = _loss_after(run, ONE_EXAMPLE, steps_of_one)
        loss_of_all = _loss_after(full_batch[seed], FULL_BATCH, steps_of_all)
        ratios.append(loss_of_one / loss_of_all)
    return ratios


def _by_examples(runs: Sequence[Run]) -> Claim:
    ratios = _compare(runs, FIRST_EXAMPLES, FIRST_EXAMPLES // NUM_EXAMPLES)
    return claim_on_every_seed(
        f"(d) digits, after {FIRST_EXAMPLES} examples: loss of one example at a time over that of "
        "the full batch",
        source=BOTTOU,
        values=ratios,
        below=0.5,
    )


def _by_steps(runs: Sequence[Run]) -> Claim:
    ratios = _compare(runs, FIRST_STEPS, FIRST_STEPS)
    return claim_on_every_seed(
        f"(d) digits, after {FIRST_STEPS} steps: the same",
        source=BOTTOU,
        values=ratios,
        above=2,
    )
