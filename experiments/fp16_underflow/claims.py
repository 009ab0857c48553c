"""Claims about underflow in float16; their thresholds were set before the runs.

They come from the rounding of one number, from theory, and from a factor 2 in training. What needs
no training is computed here: Gaussian numbers, a network's gradients in float64, and weights in
bfloat16.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erf

from research.records.queries import by_seed, final, final_by_seed, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim
from research.theory.formats import layerwise_underflow
from research.training.rounding import round_stochastically

MICIKEVICIUS = "Micikevicius et al. 2018, §3 and Fig. 2-3"
PREDICTION = "research/theory/formats.py"
ROUNDING = "Gupta et al. 2015; Zamirai et al. 2020"
SEEDS = 4

FLUSH = 2.0**-25  # half the least number of float16: what is smaller becomes 0
SHIFTS = {8: 6, 64: 12, 1024: 20}  # layers won, by loss scale: 2 for each factor of 2
SCALES = (1, *SHIFTS)
NUDGE = 1.001  # a change of the loss scale that matters only by chance
# Independent numbers in a layer's gradient, at the least: 128 units are on, and the examples point
# in 2.3 directions. The README derives both.
INDEPENDENT = 128 * 2.3
# Three standard deviations of the fraction of them that a layer loses which loses half.
CHANCE_OF_A_LAYER = round(3 * math.sqrt(1 / 4 / INDEPENDENT), 3)

LOW_SCALES = [2.0**k for k in range(16)]  # loss scales that do not overflow in training
OVERFLOWING_SCALE = 2.0**25

UNIT = 2.0**-7  # the distance from 1 to the next number in bfloat16

# Rounds float32 weights for the next step, with a random key.
RoundWeights = Callable[[jax.Array, jax.Array], jax.Array]


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Every statement of the experiment, tested on all of its seeds."""
    return [
        _gaussian(),
        _per_layer(),
        *_shifts(runs),
        *_predictions(runs),
        _chance(runs),
        *_trained(runs),
        *_single_weight(),
        *_least_squares(),
    ]


def _claim_within(
    bound: float,
    statement: str,
    values: Sequence[float],
    *,
    scope: str = "",
    source: str,
) -> Claim:
    """A claim that every value is 0 up to ``bound``.

    Args:
        bound: the greatest absolute value that is allowed.
        statement: what the values are.
        values: one number per run.
        scope: for which settings it is expected, added to the expectation.
        source: the paper, or the module that makes the prediction.
    """
    return claim(
        statement,
        source=source,
        expected=f"within ±{bound}{scope}",
        values=values,
        holds=bool(np.max(np.abs(values)) <= bound),
    )


# Gaussian numbers and the gradients of a network in float64: no run is needed.


def zero_in_float16(values: np.ndarray) -> float:
    """The fraction of values that float16 rounds to 0."""
    return np.mean(values.astype(np.float16) == 0)


def _gaussian() -> Claim:
    draw = np.random.default_rng(0).standard_normal
    differences = []
    for exponent in (-31, -28, -26, -25, -24, -21):
        rms = 2.0**exponent
        expected = erf(FLUSH / (rms * math.sqrt(2)))
        for _ in range(SEEDS):
            measured = float(zero_in_float16(rms * draw(100_000)))
            differences.append(measured - expected)
    return _claim_within(
        0.01,
        "Gaussian numbers of rms s in float16: fraction that is zero minus erf(2⁻²⁵/(s√2)), "
        "s from 2⁻³¹ to 2⁻²¹",
        differences,
        source=MICIKEVICIUS,
    )


def compute_gradients(
    seed: int,
    *,
    width: int = 256,
    depth: int = 60,
    batch: int = 64,
) -> list[np.ndarray]:
    """∂L/∂h [B, D] of each layer of a plain ReLU network with Var W = 1/D, in float64.

    The gradient at the output comes first. It is Gaussian of rms 1/(B√D), as after a mean over the
    batch.

    Args:
        seed: of the weights, the inputs and the gradient at the output.
        width: units in a layer, D.
        depth: number of layers.
        batch: number of examples, B.
    """
    draw = np.random.default_rng(seed).standard_normal
    weights = [draw((width, width)) / math.sqrt(width) for _ in range(depth)]
    h = draw((batch, width))
    masks = []
    for weight in weights:
        masks.append(h > 0)
        h = np.maximum(h, 0) @ weight
    gradients = [draw((batch, width)) / (batch * math.sqrt(width))]
    for weight, mask in zip(reversed(weights), reversed(masks), strict=True):
        gradients.append((gradients[-1] @ weight.T) * mask)
    return gradients


def _per_layer() -> Claim:
    """The measured fraction leaves out the elements that are zero before rounding."""
    worst = []
    for seed in range(SEEDS):
        gradients = compute_gradients(seed)
        for scale in SCALES:
            differences = []
            for gradient in gradients:
                measured = zero_in_float16(scale * gradient[gradient != 0])
                differences.append(measured - _predict_lost(scale * gradient))
            worst.append(float(max(differences, key=abs)))
    return _claim_within(
        0.02,
        "plain ReLU network of depth 60, gradient of each layer in float16: "
        "fraction lost minus erf, worst layer",
        worst,
        scope=", loss scales 1, 8, 64, 1024",
        source=MICIKEVICIUS,
    )


def _predict_lost(gradient: np.ndarray) -> float:
    """The mean over examples of erf, each with the rms of its own elements that are not zero."""
    num_nonzero = np.sum(gradient != 0, axis=1)
    rms = np.sqrt(np.sum(gradient**2, axis=1) / num_nonzero)
    lost = erf(FLUSH / (rms * math.sqrt(2)))
    return float(np.sum(num_nonzero * lost) / np.sum(num_nonzero))


# One step of deep networks.


def select_exact(runs: Sequence[Run], depth: int) -> list[Run]:
    """The networks of one depth in float32."""
    return where(runs, {"model.depth": depth, "precision.kind": "float32"})


def select_rounded(runs: Sequence[Run], scale: float) -> list[Run]:
    """The deep networks in float16 with one loss scale."""
    settings = {
        "model.depth": 60,
        "precision.kind": "mixed_float16",
        "precision.loss_scale": scale,
    }
    return where(runs, settings)


def lost_fractions(run: Run) -> np.ndarray:
    """By layer: the fraction of the backward signal that is zero in float16 alone."""
    return run.profiles["signal_lost"][0]


def half_lost_layer(run: Run) -> float:
    """The layer where half of the backward signal is zero in float16, interpolated linearly.

    The first one that the signal meets on its way from the output.
    """
    lost = lost_fractions(run)
    layer = int(np.flatnonzero(lost >= 0.5)[-1])
    return layer + (lost[layer] - 0.5) / (lost[layer] - lost[layer + 1])


def _shifts(runs: Sequence[Run]) -> list[Claim]:
    """The rms of the gradient falls by √½ a layer (σ_w² = 1: χ = ½)."""
    unscaled = by_seed(select_rounded(runs, 1))
    found = []
    for scale, expected in SHIFTS.items():
        shifts = []
        for run in select_rounded(runs, scale):
            shifts.append(half_lost_layer(unscaled[run["seed"]]) - half_lost_layer(run))
        found.append(
            claim(
                f"step in float16, loss scale {scale}: "
                "layers by which the half-lost layer moves towards the input",
                source=MICIKEVICIUS,
                expected=f"{expected} ± 2 = 2·log₂ {scale}",
                values=shifts,
                holds=all(abs(shift - expected) <= 2 for shift in shifts),
            )
        )
    return found


def prediction_errors(runs: Sequence[Run]) -> np.ndarray:
    """Measured lost fractions minus the predicted ones, [scales, seeds, layers].

    The prediction uses the exponents of a float32 run with the same seed.
    """
    exact = by_seed(select_exact(runs, 60))
    errors = []
    for scale in SCALES:
        errors_of_scale = []
        for run in select_rounded(runs, scale):
            exponents = exact[run["seed"]].profiles["signal_exponent"][0]
            predicted = layerwise_underflow(exponents, "float16", scale)
            errors_of_scale.append(lost_fractions(run) - predicted)
        errors.append(errors_of_scale)
    return np.array(errors)


def _predictions(runs: Sequence[Run]) -> list[Claim]:
    """Judged over the whole signal, for the mean network, and in single layers.

    Only the values of single layers contain what is chance: the float16 step differs from itself
    there. So the tolerance of a single layer is that chance, which the README derives.
    """
    errors = prediction_errors(runs)
    num_networks = errors.shape[1]
    num_layers = errors.shape[2]
    name = "fraction lost in a step in float16 minus what the exponents of a float32 run foretell"
    scales = ", loss scales 1, 8, 64, 1024"
    return [
        _claim_within(
            0.02,
            f"{name}, all layers together",
            errors.mean(-1).ravel().tolist(),
            scope=scales,
            source=PREDICTION,
        ),
        _claim_within(
            0.02,
            f"{name}, mean over {num_networks} networks, worst of 61 layers",
            _worst(errors.mean(1)).tolist(),
            scope=scales,
            source=PREDICTION,
        ),
        _claim_within(
            CHANCE_OF_A_LAYER,
            f"{name}, worst of 61 layers",
            _worst(errors.reshape(-1, num_layers)).tolist(),
            scope=" (3·√(¼/m), chance)" + scales,
            source=PREDICTION,
        ),
    ]


def _chance(runs: Sequence[Run]) -> Claim:
    """How much a layer changes by chance, when the loss scale hardly changes."""
    differences = []
    for scale in SCALES:
        reference = by_seed(select_rounded(runs, scale))
        for run in select_rounded(runs, NUDGE * scale):
            before = lost_fractions(reference[run["seed"]])
            differences.append(lost_fractions(run) - before)
    return claim(
        "the float16 step at a loss scale greater by 1/1000 minus itself, worst of 61 layers",
        source=PREDICTION,
        expected="beyond ±0.02 in some: chance, which nothing foretells",
        values=_worst(np.stack(differences)).tolist(),
        holds=np.max(np.abs(differences)) > 0.02,
    )


def _worst(rows: np.ndarray) -> np.ndarray:
    """In each row the value that is farthest from 0."""
    farthest = np.argmax(np.abs(rows), axis=1)
    return rows[np.arange(len(rows)), farthest]


# Training.


def _trained(runs: Sequence[Run]) -> list[Claim]:
    """Final losses over those of float32 with the same seed; at 2²⁵ there is no loss to compare."""
    float16 = where(runs, {"model.depth": 12, "precision.kind": "mixed_float16"})
    static = where(float16, {"precision.loss_scaling": "static"})
    dynamic = where(float16, {"precision.loss_scaling": "dynamic"})
    low = [run for run in static if run["precision.loss_scale"] in LOW_SCALES]
    overflowing = where(static, {"precision.loss_scale": OVERFLOWING_SCALE})

    float32_losses = final_by_seed(select_exact(runs, 12), "train_loss")
    low_ratios = _divide_losses(low, float32_losses)
    dynamic_ratios = _divide_losses(dynamic, float32_losses)
    finite_steps = [float(np.sum(1 - run.metrics["skipped"])) for run in overflowing]
    return [
        claim(
            "float16 with float32 weights, Adam, loss scales 1 to 2¹⁵: "
            "final training loss over that of float32",
            source=MICIKEVICIUS,
            expected="≤ 2",
            values=low_ratios,
            holds=max(low_ratios) <= 2,
        ),
        claim(
            "the same, loss scale 2²⁵: steps with a finite gradient",
            source=MICIKEVICIUS,
            expected="0: the run ends as diverged, its weights untouched",
            values=finite_steps,
            holds=max(finite_steps) == 0,
        ),
        claim(
            "the same, dynamic loss scaling from 2²⁵: final training loss over that of float32",
            source=MICIKEVICIUS,
            expected="≤ 2",
            values=dynamic_ratios,
            holds=max(dynamic_ratios) <= 2,
        ),
    ]


def _divide_losses(runs: Sequence[Run], reference: dict[int, float]) -> list[float]:
    """The final training loss of each run over the reference of its seed."""
    return [final(run, "train_loss") / reference[run["seed"]] for run in runs]


# Weights in bfloat16: no run is needed.


def round_to_nearest(x: jax.Array, _: jax.Array) -> jax.Array:
    """The nearest bfloat16 number."""
    return x.astype(jnp.bfloat16)


def keep_float32(x: jax.Array, _: jax.Array) -> jax.Array:
    """The number itself, for comparison."""
    return x


def _single_weight() -> list[Claim]:
    nearest = move_weight(round_to_nearest)
    exact_distance = 49 * UNIT
    stochastic = move_weight(round_stochastically) / exact_distance
    setting = "bfloat16 weight at 1, 100 updates of 0.49 units in the last place"
    return [
        claim(
            f"{setting}, rounded to nearest: distance moved",
            source=ROUNDING,
            expected="0 exactly",
            values=nearest.tolist(),
            holds=not np.any(nearest),
        ),
        claim(
            f"{setting}, rounded stochastically: mean distance over that of exact numbers",
            source=ROUNDING,
            expected="1 ± 0.02",
            values=stochastic.tolist(),
            holds=bool(np.all(np.abs(stochastic - 1) <= 0.02)),
        ),
    ]


def _least_squares() -> list[Claim]:
    exact = solve_least_squares(keep_float32)
    nearest = solve_least_squares(round_to_nearest) / exact
    stochastic = solve_least_squares(round_stochastically) / exact
    setting = "least squares with bfloat16 weights"
    return [
        claim(
            f"{setting}, rounded to nearest: final loss over that of float32",
            source=ROUNDING,
            expected="≥ 100",
            values=nearest.tolist(),
            holds=bool(nearest.min() >= 100),
        ),
        claim(
            f"{setting}, rounded stochastically: final loss over that of float32",
            source=ROUNDING,
            expected="≤ 20",
            values=stochastic.tolist(),
            holds=bool(stochastic.max() <= 20),
        ),
    ]


def move_weight(round_weights: RoundWeights) -> np.ndarray:
    """The mean distance of 4000 weights from 1 after 100 equal updates, for each seed."""

    def update(weights: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        updated = weights.astype(jnp.float32) + 0.49 * UNIT
        return round_weights(updated, key), None

    def mean_distance(key: jax.Array) -> jax.Array:
        start = jnp.ones(4000, jnp.bfloat16)
        end, _ = jax.lax.scan(update, start, jax.random.split(key, 100))
        return jnp.mean(end.astype(jnp.float32) - 1)

    keys = jax.random.split(jax.random.key(0), SEEDS)
    return np.asarray(jax.vmap(mean_distance)(keys), float)


def solve_least_squares(round_weights: RoundWeights) -> np.ndarray:
    """The final mean of ½(xᵀw − y)² over 256 examples of 32 numbers, for each seed.

    y has noise of 0.01. Gradient descent takes 2000 steps at the rate 0.01.
    """

    def final_loss(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 4)
        x = jax.random.normal(keys[0], (256, 32))
        solution = jax.random.normal(keys[1], (32,))
        y = x @ solution + 0.01 * jax.random.normal(keys[2], (256,))

        def update(weights: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            exact = weights.astype(jnp.float32)
            updated = exact - 0.01 * x.T @ (x @ exact - y) / 256
            return round_weights(updated, key), None

        start = round_weights(jnp.zeros(32), keys[3])
        end, _ = jax.lax.scan(update, start, jax.random.split(keys[3], 2000))
        errors = x @ end.astype(jnp.float32) - y
        return jnp.mean(errors**2) / 2

    keys = jax.random.split(jax.random.key(1), SEEDS)
    return np.asarray(jax.vmap(final_loss)(keys), float)
