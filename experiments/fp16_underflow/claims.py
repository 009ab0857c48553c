"""Thresholds were set before the runs: from the rounding of one number, from theory, and a factor 2 in training.

What needs no training is drawn here: Gaussian numbers, a network's gradients in float64, weights in bfloat16.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erf

from research.records.queries import by_seed, final, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim
from research.theory.formats import layerwise_underflow
from research.training.rounding import round_stochastically

MICIKEVICIUS = "Micikevicius et al. 2018, §3 and Fig. 2-3"
FORETOLD = "research/theory/formats.py"
ROUNDING = "Gupta et al. 2015; Zamirai et al. 2020"
FLUSH = 2.0**-25  # half the least number of float16: what is smaller becomes 0
SHIFTS = {8: 6, 64: 12, 1024: 20}  # by loss scale: 2 layers for each factor of 2
IN_SCALES = ", loss scales 1, 8, 64, 1024"
NUDGE = 1.001
LOW = [2.0**k for k in range(16)]
UNIT = 2.0**-7  # of bfloat16 at 1
SEEDS = 4


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Every statement of the experiment, tested on all of its seeds."""
    return [
        _gaussian(),
        _per_layer(),
        *_shifts(runs),
        *_foretold(runs),
        *_trained(runs),
        *_weights(),
    ]


def rounded(runs: Sequence[Run], scale: float) -> list[Run]:
    """The deep networks' steps in float16 under a loss scale."""
    return where(
        runs, {"model.depth": 60, "precision.kind": "mixed_float16", "precision.loss_scale": scale}
    )


def half_lost(run: Run) -> float:
    """Where, between layers, half of the backward signal is zero in float16; coming from the output."""
    share = _lost(run)
    layer = int(np.flatnonzero(share >= 0.5)[-1])
    return layer + (share[layer] - 0.5) / (share[layer] - share[layer + 1])


def _gaussian() -> Claim:
    draw = np.random.default_rng(0).standard_normal
    differences = []
    for octave in (-31, -28, -26, -25, -24, -21):
        zero = [
            np.mean((2.0**octave * draw(100_000)).astype(np.float16) == 0) for _ in range(SEEDS)
        ]
        differences += [float(value) - erf(FLUSH / (2.0**octave * math.sqrt(2))) for value in zero]
    statement = "Gaussian numbers of rms s in float16: fraction that is zero minus erf(2⁻²⁵/(s√2)), s from 2⁻³¹ to 2⁻²¹"
    return _within(0.01, statement, differences)


def _within(
    bound: float,
    statement: str,
    values: Sequence[float],
    *,
    what: str = "",
    source: str = MICIKEVICIUS,
) -> Claim:
    holds = bool(np.max(np.abs(values)) <= bound)
    return claim(
        statement, source=source, expected=f"within ±{bound}{what}", values=values, holds=holds
    )


def gradients(seed: int, *, width: int = 256, depth: int = 60, batch: int = 64) -> list[np.ndarray]:
    """∂L/∂h of each layer [B, n] of a plain ReLU network with Var W = 1/n, from the output, in float64.

    ∂L/∂h at the output is Gaussian of rms 1/(B√n), which is what a mean over the batch gives.
    """
    draw = np.random.default_rng(seed).standard_normal
    weights = [draw((width, width)) / math.sqrt(width) for _ in range(depth)]
    h = draw((batch, width))
    masks = []
    for weight in weights:
        masks.append(h > 0)
        h = np.maximum(h, 0) @ weight
    found = [draw((batch, width)) / (batch * math.sqrt(width))]
    for weight, mask in zip(reversed(weights), reversed(masks), strict=True):
        found.append((found[-1] @ weight.T) * mask)
    return found


def _per_layer() -> Claim:
    """Against the mean over examples of erf, each with its own rms over the elements that are not zero anyway."""
    worst = []
    for seed in range(SEEDS):
        layers = gradients(seed)
        for scale in (1, *SHIFTS):
            differences = [
                np.mean((scale * g[g != 0]).astype(np.float16) == 0) - _erf_of(scale * g)
                for g in layers
            ]
            worst.append(float(max(differences, key=abs)))
    statement = "plain ReLU network of depth 60, gradient of each layer in float16: fraction lost minus erf, worst layer"
    return _within(0.02, statement, worst, what=IN_SCALES)


def _erf_of(gradient: np.ndarray) -> float:
    alive = np.sum(gradient != 0, axis=1)
    rms = np.sqrt(np.sum(gradient**2, axis=1) / alive)
    return float(np.sum(alive * erf(FLUSH / (rms * math.sqrt(2)))) / np.sum(alive))


def _shifts(runs: Sequence[Run]) -> list[Claim]:
    """The rms falls by √½ a layer (σ_w² = 1: χ = ½)."""
    ones = by_seed(rounded(runs, 1))
    return [
        claim(
            f"step in float16, loss scale {scale}: layers by which the half-lost layer moves towards the input",
            source=MICIKEVICIUS,
            expected=f"{expected} ± 2 = 2·log₂ {scale}",
            values=values,
            holds=all(abs(value - expected) <= 2 for value in values),
        )
        for scale, expected in SHIFTS.items()
        for values in [
            [half_lost(ones[run["seed"]]) - half_lost(run) for run in rounded(runs, scale)]
        ]
    ]


def _foretold(runs: Sequence[Run]) -> list[Claim]:
    """Of the whole signal; of each layer's mean over networks; and of single layers, with what is chance in them."""
    exact = {
        seed: run.profiles["signal_exponent"][0] for seed, run in by_seed(_exact(runs, 60)).items()
    }
    missed = np.stack([
        [_lost(run) - layerwise_underflow(exact[run["seed"]], "float16", scale) for run in rounded(runs, scale)]
        for scale in (1, *SHIFTS)
    ])  # fmt: skip
    nudged = [
        _lost(run) - _lost(by_seed(rounded(runs, scale))[run["seed"]])
        for scale in (1, *SHIFTS)
        for run in rounded(runs, NUDGE * scale)
    ]
    name = "fraction lost in a step in float16 minus what the exponents of a float32 run foretell"
    kinds = {
        f"{name}, all layers together": missed.mean(-1).ravel(),
        f"{name}, mean over {missed.shape[1]} networks, worst of 61 layers": _worst(missed.mean(1)),
        f"{name}, worst of 61 layers": _worst(missed.reshape(-1, 61)),
    }
    told = {"what": IN_SCALES, "source": FORETOLD}
    chance = claim(
        "the float16 step at a loss scale greater by 1/1000 minus itself, worst of 61 layers",
        source=FORETOLD,
        expected="beyond ±0.02 in some: chance, which nothing foretells",
        values=_worst(np.stack(nudged)).tolist(),
        holds=np.max(np.abs(nudged)) > 0.02,
    )
    return [
        *(_within(0.02, statement, values.tolist(), **told) for statement, values in kinds.items()),
        chance,
    ]


def _exact(runs: Sequence[Run], depth: int) -> list[Run]:
    return where(runs, {"model.depth": depth, "precision.kind": "float32"})


def _lost(run: Run) -> np.ndarray:
    return run.profiles["signal_lost"][0]


def _worst(rows: np.ndarray) -> np.ndarray:
    """Of each row the value that is farthest from 0."""
    return np.take_along_axis(rows, np.argmax(np.abs(rows), axis=1)[:, None], axis=1)[:, 0]


def _trained(runs: Sequence[Run]) -> list[Claim]:
    """Final losses over those of float32 with the same seed; at 2²⁵ there is no loss to speak of."""
    exact = {seed: final(run, "train_loss") for seed, run in by_seed(_exact(runs, 12)).items()}
    how = {"model.depth": 12, "precision.kind": "mixed_float16", "precision.loss_scaling": "static"}
    static, dynamic = (
        where(runs, how | {"precision.loss_scaling": scaling}) for scaling in ("static", "dynamic")
    )
    low, high = (
        [run for run in static if run["precision.loss_scale"] in some] for some in (LOW, (2.0**25,))
    )
    (near, far) = (
        [final(run, "train_loss") / exact[run["seed"]] for run in some] for some in (low, dynamic)
    )
    steps = [float(np.sum(1 - run.metrics["skipped"])) for run in high]
    first = "float16 with float32 weights, Adam, loss scales 1 to 2¹⁵"
    behind = "final training loss over that of float32"
    return [
        claim(f"{first}: {behind}", source=MICIKEVICIUS, expected="≤ 2", values=near, holds=max(near) <= 2),
        claim("the same, loss scale 2²⁵: steps with a finite gradient", source=MICIKEVICIUS,
              expected="0: the run ends as diverged, its weights untouched", values=steps, holds=max(steps) == 0),
        claim(f"the same, dynamic loss scaling from 2²⁵: {behind}", source=MICIKEVICIUS, expected="≤ 2",
              values=far, holds=max(far) <= 2),
    ]  # fmt: skip


def to_nearest(x: jax.Array, _: jax.Array) -> jax.Array:
    """The nearest bfloat16 number."""
    return x.astype(jnp.bfloat16)


def in_float32(x: jax.Array, _: jax.Array) -> jax.Array:
    """The number itself."""
    return x


def _weights() -> list[Claim]:
    nearest, stochastic = (_moved(form) for form in (to_nearest, round_stochastically))
    exact = _least_squares(in_float32)
    ratios = [_least_squares(form) / exact for form in (to_nearest, round_stochastically)]
    bfloat16 = "bfloat16 weight at 1, 100 updates of 0.49 units in the last place"
    squares = "least squares with bfloat16 weights"
    return [
        claim(f"{bfloat16}, rounded to nearest: distance moved", source=ROUNDING, expected="0 exactly",
              values=nearest.tolist(), holds=not np.any(nearest)),
        claim(f"{bfloat16}, rounded stochastically: mean distance over that of exact numbers", source=ROUNDING,
              expected="1 ± 0.02", values=(stochastic / (49 * UNIT)).tolist(),
              holds=bool(np.all(np.abs(stochastic / (49 * UNIT) - 1) <= 0.02))),
        claim(f"{squares}, rounded to nearest: final loss over that of float32", source=ROUNDING, expected="≥ 100",
              values=ratios[0].tolist(), holds=bool(ratios[0].min() >= 100)),
        claim(f"{squares}, rounded stochastically: final loss over that of float32", source=ROUNDING, expected="≤ 20",
              values=ratios[1].tolist(), holds=bool(ratios[1].max() <= 20)),
    ]  # fmt: skip


Form = Callable[[jax.Array, jax.Array], jax.Array]


def _moved(form: Form) -> np.ndarray:
    """Mean distance of 4000 weights behind 100 equal updates, for each seed."""

    def update(weights: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        return form(weights.astype(jnp.float32) + 0.49 * UNIT, key), None

    def run(key: jax.Array) -> jax.Array:
        end = jax.lax.scan(update, jnp.ones(4000, jnp.bfloat16), jax.random.split(key, 100))[0]
        return jnp.mean(end.astype(jnp.float32) - 1)

    return np.asarray(jax.vmap(run)(jax.random.split(jax.random.key(0), SEEDS)), float)


def _least_squares(form: Form) -> np.ndarray:
    """Mean of ½(xᵀw − y)² over 256 examples of 32 numbers, noise 0.01, behind 2000 steps of descent at rate 0.01."""

    def run(key: jax.Array) -> jax.Array:
        ours = jax.random.split(key, 4)
        x = jax.random.normal(ours[0], (256, 32))
        true = jax.random.normal(ours[1], (32,))
        y = x @ true + 0.01 * jax.random.normal(ours[2], (256,))

        def update(weights: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            wide = weights.astype(jnp.float32)
            return form(wide - 0.01 * x.T @ (x @ wide - y) / 256, key), None

        start = form(jnp.zeros(32), ours[3])
        end = jax.lax.scan(update, start, jax.random.split(ours[3], 2000))[0].astype(jnp.float32)
        return jnp.mean((x @ end - y) ** 2) / 2

    return np.asarray(jax.vmap(run)(jax.random.split(jax.random.key(1), SEEDS)), float)
