"""Claims about the cross entropy and its gradient; thresholds follow from the formulas."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from research.config.options import Loss, LossKind
from research.records.queries import where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim
from research.training.losses import loss_and_accuracy
from research.training.precision import precision_context

GOODFELLOW = "Goodfellow, Bengio, Courville 2016, §6.2.2"
SZEGEDY = "Szegedy et al. 2016, §7"
CLASSES = 10
EXACT = 1e-6
COSTS = {0.1: 2.302585, 0.51: 0.673345, 1.0: 0.0}  # nats, by the probability of the true class
LARGE_GAP = 1e4
FORMATS = ("float32", "bfloat16", "float16")
LEAST_RATIO = 100
SMOOTHING = (0.1, 0.3)
GREATEST_EXCESS = 0.01  # nats above the entropy; chosen without a pilot


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Costs, gradient, range of numbers, the first loss, the squared error, label smoothing."""
    costs = [_cost(probability, expected) for probability, expected in COSTS.items()]
    gaps = [_large_gap(name) for name in FORMATS]
    minima = [_minimum(smoothing) for smoothing in SMOOTHING]
    trained = [_trained(runs, smoothing) for smoothing in SMOOTHING]
    return [
        *costs,
        _gradient(),
        *gaps,
        _widest_gap(),
        _first_loss(runs),
        _squared_error(),
        *minima,
        *trained,
    ]


def cross_entropy(logits: Array, smoothing: float = 0.0) -> Array:
    """The package's loss of one example [C] whose true class is the first."""
    return _loss_of(LossKind.cross_entropy, logits, smoothing)


def squared_error(logits: Array) -> Array:
    """The package's squared error of the probabilities: ½‖softmax(z) − onehot‖²."""
    return _loss_of(LossKind.mse, jax.nn.softmax(logits), 0.0)


def _loss_of(
    kind: LossKind,
    outputs: Array,
    smoothing: float,
) -> Array:
    option = Loss(kind=kind, label_smoothing=smoothing)
    losses, _ = loss_and_accuracy(option, outputs[None], jnp.zeros(1, jnp.int32))
    return losses[0]


def logits_of(probability: float, classes: int = CLASSES) -> Array:
    """Logits [C] with which the first class has a probability, and the others share the rest."""
    if probability == 1:
        return jnp.zeros(classes).at[0].set(LARGE_GAP)
    odds = probability * (classes - 1) / (1 - probability)
    return jnp.zeros(classes).at[0].set(math.log(odds))


def entropy(smoothing: float, classes: int = CLASSES) -> float:
    """The entropy in nats of the label (1 − ε)·onehot + ε/C."""
    other = smoothing / classes
    true = 1 - smoothing + other
    if not smoothing:
        return 0.0
    return -true * math.log(true) - (classes - 1) * other * math.log(other)


def select_smoothed(runs: Sequence[Run], smoothing: float) -> list[Run]:
    """The runs that learn 100 digits with this label smoothing."""
    return where(runs, {"loss.label_smoothing": smoothing, "optimizer.kind": "adam"})


def _cost(probability: float, expected: float) -> Claim:
    with precision_context("float64"):
        value = float(cross_entropy(logits_of(probability, classes=2))) + 0.0  # no −0
    return claim(
        f"loss where the true class has probability {probability:g}, in nats",
        source=GOODFELLOW,
        expected=f"{expected:g} ± {EXACT:g}",
        values=[value],
        holds=abs(value - expected) <= EXACT,
    )


def _gradient() -> Claim:
    """Random logits of standard deviation 5, in float32."""
    generator = np.random.default_rng(0)
    errors = []
    for classes in (2, 10, 1000):
        logits = jnp.asarray(5 * generator.standard_normal(classes), jnp.float32)
        powers = np.exp(np.asarray(logits, np.float64))
        one_hot = np.arange(classes) == 0
        expected = powers / powers.sum() - one_hot
        difference = np.asarray(jax.grad(cross_entropy)(logits)) - expected
        errors.append(float(np.max(np.abs(difference))))
    return claim(
        "gradient with respect to the logits against softmax − one-hot, greatest difference, "
        "2, 10 and 1000 classes",
        source=GOODFELLOW,
        expected=f"≤ {EXACT:g}",
        values=errors,
        holds=max(errors) <= EXACT,
    )


def _losses_of_gap(
    top: float,
    bottom: float,
    name: str,
) -> tuple[float, bool]:
    """The loss where the true class has the lower of two logits, and whether all is as expected.

    The gradient must be −1 for the true class and 1 for the other one.
    """
    logits = jnp.asarray([bottom, top], name)
    loss, gradient = jax.value_and_grad(cross_entropy)(logits)
    gap = float(logits[1]) - float(logits[0])
    is_exact = float(loss) == gap
    return float(loss), is_exact and gradient.tolist() == [-1.0, 1.0]


def _large_gap(name: str) -> Claim:
    loss, holds = _losses_of_gap(LARGE_GAP, 0.0, name)
    rounded = float(jnp.asarray(LARGE_GAP, name))
    return claim(
        f"{name}: loss where the true logit lies 10⁴ below the other",
        source="log Σ exp with the greatest logit subtracted first",
        expected=f"{rounded:g}, 10⁴ in this format, and a gradient of −1 and 1",
        values=[loss],
        holds=holds,
    )


def _widest_gap() -> Claim:
    limit = float(jnp.finfo("float16").max)
    loss, holds = _losses_of_gap(limit, -limit, "float16")
    return claim(
        "float16: loss where the logits are the least and the greatest number of the format",
        source="log Σ exp with the greatest logit subtracted first, summed in float32",
        expected=f"{2 * limit:g}, and a gradient of −1 and 1",
        values=[loss],
        holds=holds,
    )


def _first_loss(runs: Sequence[Run]) -> Claim:
    losses = []
    for run in where(runs, {"skip.kind": "fixup"}):
        losses.append(float(run.metrics["train_loss"][0]))
    errors = [abs(loss - math.log(CLASSES)) for loss in losses]
    return claim(
        "digits, zero head: loss before the first step",
        source="every class has probability 1/10",
        expected=f"ln 10 = 2.302585 ± {EXACT:g} on every seed",
        values=losses,
        holds=max(errors) <= EXACT,
    )


def gradient_sizes(probability: float) -> tuple[float, float]:
    """‖∂L/∂z‖ of cross entropy and of squared error at a probability of the true class."""
    with precision_context("float64"):
        logits = logits_of(probability)
        of_cross_entropy = jnp.linalg.norm(jax.grad(cross_entropy)(logits))
        of_squared_error = jnp.linalg.norm(jax.grad(squared_error)(logits))
        return float(of_cross_entropy), float(of_squared_error)


def _squared_error() -> Claim:
    of_cross_entropy, of_squared_error = gradient_sizes(1e-3)
    ratio = of_cross_entropy / of_squared_error
    return claim(
        "confidently wrong, p = 0.001: ‖gradient‖ of cross entropy over that of squared error",
        source=GOODFELLOW,
        expected=f"≥ {LEAST_RATIO}",
        values=[ratio],
        holds=ratio >= LEAST_RATIO,
    )


def _minimum(smoothing: float) -> Claim:
    best = 1 - smoothing + smoothing / CLASSES
    with precision_context("float64"):
        logits = logits_of(best)
        loss = float(cross_entropy(logits, smoothing))
        gradient = jax.grad(cross_entropy)(logits, smoothing)
        slope = float(jnp.max(jnp.abs(gradient)))
    error = abs(loss - entropy(smoothing))
    return claim(
        f"label smoothing {smoothing:g}: loss at p = 1 − ε + ε/C = {best:g}, where the gradient is "
        f"0 within {EXACT:g}",
        source=SZEGEDY,
        expected=f"the entropy of the smoothed label, {entropy(smoothing):.6f} ± {EXACT:g}",
        values=[loss],
        holds=error <= EXACT and slope <= EXACT,
    )


def _trained(runs: Sequence[Run], smoothing: float) -> Claim:
    excesses = []
    for run in select_smoothed(runs, smoothing):
        least = float(np.min(run.metrics["train_loss"]))
        excesses.append(least - entropy(smoothing))
    return claim(
        f"100 digits, label smoothing {smoothing:g}: least training loss minus that entropy",
        source=SZEGEDY,
        expected=f"0 to {GREATEST_EXCESS:g} nats on every seed",
        values=excesses,
        holds=min(excesses) >= -EXACT and max(excesses) <= GREATEST_EXCESS,
    )
