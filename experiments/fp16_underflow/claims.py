"""Thresholds were set before the runs: from the rounding of one number, from theory, and a factor 2 in training.

What needs no training is drawn here: Gaussian numbers, a network's gradients in float64, weights in bfloat16.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erf

from research.gauges.formats import lost_on_the_way
from research.records.analysis import Run
from research.records.claims import Claim, claim
from research.training.rounding import stochastically

MICIKEVICIUS = "Micikevicius et al. 2018, §3 and Fig. 2-3"
ROUNDING = "Gupta et al. 2015; Zamirai et al. 2020"
FLUSH = 2.0**-25  # half the least number of float16: what is smaller becomes 0
SHIFTS = {8: 6, 64: 12, 1024: 20}  # by loss scale: 2 layers for each factor of 2
UNIT = 2.0**-7  # of bfloat16 at 1
SEEDS = 4


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Every statement of the experiment, tested on all of its seeds."""
    trained = [_trained(runs, scale) for scale in (range(16), (25,))]
    return [_gaussian(), _per_layer(), *_shifts(runs), *_foretold(runs), *trained, _dynamic(runs), *_weights()]


def chosen(runs: Sequence[Run], **settings: object) -> list[Run]:
    """The runs with these settings: ``depth``, ``kind`` of precision, ``scaling``, ``scale``, ``seed``."""
    paths = {"depth": "model.depth", "kind": "precision.kind", "seed": "seed"}
    paths |= {"scaling": "precision.loss_scaling", "scale": "precision.loss_scale"}
    return [run for run in runs if all(run[paths[name]] == value for name, value in settings.items())]


def rounded(runs: Sequence[Run], scale: float) -> list[Run]:
    """The deep networks' steps in float16 under a loss scale."""
    return chosen(runs, depth=60, kind="mixed_float16", scaling="static", scale=scale)


def half_lost(run: Run) -> float:
    """Where, between layers, half of the backward signal is zero in float16; coming from the output."""
    share = run.profiles["signal_lost"][0]
    layer = int(np.flatnonzero(share >= 0.5)[-1])
    return layer + (share[layer] - 0.5) / (share[layer] - share[layer + 1])


def _gaussian() -> Claim:
    draw = np.random.default_rng(0).standard_normal
    differences = []
    for octave in (-31, -28, -26, -25, -24, -21):
        zero = [np.mean((2.0**octave * draw(100_000)).astype(np.float16) == 0) for _ in range(SEEDS)]
        differences += [float(value) - erf(FLUSH / (2.0**octave * math.sqrt(2))) for value in zero]
    return claim(
        "Gaussian numbers of rms s in float16: fraction that is zero minus erf(2⁻²⁵/(s√2)), s from 2⁻³¹ to 2⁻²¹",
        source=MICIKEVICIUS,
        expected="within ±0.01",
        values=differences,
        holds=max(map(abs, differences)) <= 0.01,
    )


def gradients(seed: int, *, width: int = 256, depth: int = 60, batch: int = 64) -> list[np.ndarray]:
    """∂L/∂h of each layer [B, n] of a plain ReLU network with Var W = 1/n, from the output, in float64.

    ∂L/∂h at the output is Gaussian of rms 1/(B√n), which is what a mean over the batch gives.
    """
    draw = np.random.default_rng(seed).standard_normal
    weights = [draw((width, width)) / math.sqrt(width) for _ in range(depth)]
    h, masks = draw((batch, width)), []
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
            differences = [np.mean((scale * g[g != 0]).astype(np.float16) == 0) - _erf_of(scale * g) for g in layers]
            worst.append(float(max(differences, key=abs)))
    return claim(
        "plain ReLU network of depth 60, gradient of each layer in float16: fraction lost minus erf, worst layer",
        source=MICIKEVICIUS,
        expected="within ±0.02, loss scales 1, 8, 64, 1024",
        values=worst,
        holds=max(map(abs, worst)) <= 0.02,
    )


def _erf_of(gradient: np.ndarray) -> float:
    alive = np.sum(gradient != 0, axis=1)
    rms = np.sqrt(np.sum(gradient**2, axis=1) / alive)
    return float(np.sum(alive * erf(FLUSH / (rms * math.sqrt(2)))) / np.sum(alive))


def _shifts(runs: Sequence[Run]) -> list[Claim]:
    """The rms falls by √½ a layer (σ_w² = 1: χ = ½)."""
    return [
        claim(
            f"step in float16, loss scale {scale}: layers by which the half-lost layer moves towards the input",
            source=MICIKEVICIUS,
            expected=f"{expected} ± 2 = 2·log₂ {scale}",
            values=values,
            holds=all(abs(value - expected) <= 2 for value in values),
        )
        for scale, expected in SHIFTS.items()
        for values in [[half_lost(a) - half_lost(b) for a, b in _pairs(rounded(runs, 1), rounded(runs, scale))]]
    ]


def _pairs(ones: Sequence[Run], others: Sequence[Run]) -> list[tuple[Run, Run]]:
    by_seed = {run["seed"]: run for run in others}
    return [(run, by_seed[run["seed"]]) for run in ones]


def _foretold(runs: Sequence[Run]) -> list[Claim]:
    """Of the whole signal, and of the worst layer, where the chance of one network's draw shows most."""
    found = [
        run.profiles["signal_lost"][0] - lost_on_the_way(exact.profiles["signal_exponent"][0], "float16", scale)
        for scale in (1, *SHIFTS)
        for exact, run in _pairs(chosen(runs, depth=60, kind="float32"), rounded(runs, scale))
    ]
    kinds = {
        "all layers together": [float(np.mean(differences)) for differences in found],
        "worst of 61 layers": [float(differences[np.argmax(np.abs(differences))]) for differences in found],
    }
    return [
        claim(
            f"fraction lost in a step in float16 minus what the exponents of a float32 run foretell, {name}",
            source="research/gauges/formats.py",
            expected="within ±0.02, loss scales 1, 8, 64, 1024",
            values=values,
            holds=max(map(abs, values)) <= 0.02,
        )
        for name, values in kinds.items()
    ]


def final(run: Run) -> float:
    """The mean training loss of the last epoch."""
    return run.info["final"]["train_loss"]


def relative(runs: Sequence[Run], others: Sequence[Run]) -> list[float]:
    """Each run's final loss over that of float32 with the same seed."""
    exact = {run["seed"]: final(run) for run in chosen(runs, depth=12, kind="float32")}
    return [final(run) / exact[run["seed"]] for run in others]


def _trained(runs: Sequence[Run], exponents: Sequence[int]) -> Claim:
    scales = [2.0**k for k in exponents]
    static = [run for run in chosen(runs, depth=12, scaling="static") if run["precision.loss_scale"] in scales]
    if len(scales) > 1:
        values = relative(runs, static)
        return claim(
            "float16 with float32 weights, Adam, loss scales 1 to 2¹⁵: final training loss over that of float32",
            source=MICIKEVICIUS,
            expected="≤ 2",
            values=values,
            holds=max(values) <= 2,
        )
    steps = [float(np.sum(1 - run.metrics["skipped"])) for run in static]
    return claim(
        "the same, loss scale 2²⁵: steps with a finite gradient",
        source=MICIKEVICIUS,
        expected="0: the run ends as diverged, its weights untouched",
        values=steps,
        holds=max(steps) == 0,
    )


def _dynamic(runs: Sequence[Run]) -> Claim:
    values = relative(runs, chosen(runs, depth=12, scaling="dynamic"))
    return claim(
        "the same, dynamic loss scaling from 2²⁵: final training loss over that of float32",
        source="Micikevicius et al. 2018, §3.2",
        expected="≤ 2",
        values=values,
        holds=max(values) <= 2,
    )


def to_nearest(x: jax.Array, _: jax.Array) -> jax.Array:
    """The nearest bfloat16 number."""
    return x.astype(jnp.bfloat16)


def in_float32(x: jax.Array, _: jax.Array) -> jax.Array:
    """The number itself."""
    return x


def _weights() -> list[Claim]:
    nearest, stochastic = (_moved(form) for form in (to_nearest, stochastically))
    exact = _least_squares(in_float32)
    ratios = [_least_squares(form) / exact for form in (to_nearest, stochastically)]
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
        x, true = jax.random.normal(ours[0], (256, 32)), jax.random.normal(ours[1], (32,))
        y = x @ true + 0.01 * jax.random.normal(ours[2], (256,))

        def update(weights: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            wide = weights.astype(jnp.float32)
            return form(wide - 0.01 * x.T @ (x @ wide - y) / 256, key), None

        start = form(jnp.zeros(32), ours[3])
        end = jax.lax.scan(update, start, jax.random.split(ours[3], 2000))[0].astype(jnp.float32)
        return jnp.mean((x @ end - y) ** 2) / 2

    return np.asarray(jax.vmap(run)(jax.random.split(jax.random.key(1), SEEDS)), float)
