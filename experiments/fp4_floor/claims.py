"""Thresholds of what the noise of 4-bit gradients costs, set before the runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from research.config.options import BlockScale
from research.models import block_rounding
from research.records.queries import by_seed, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed
from research.theory.quantization import THRESHOLD, step_share

CHMIEL = "Chmiel et al. 2025, §4"
GUPTA = "Gupta et al. 2015"
EXAMPLES = 64  # whose gradients are rounded one by one before their mean is taken
WIDTH = 128
DRAWS = 400
SIZES = (1.0, 0.1, 0.05, 0.03, 0.02, 0.01)  # of the mean gradient, over that of one example's
LOSS_STEPS = 50  # that a loss is the mean of


@dataclass(frozen=True)
class RoundedStep:
    """What rounding does to a gradient on a quadratic loss of one curvature.

    Attributes:
        noise_ratio: ρ, the root mean squared distance of rounded gradients from their mean, over
            the norm of the exact one.
        share: the improvement by the best step along rounded gradients over that along the exact
            one.
    """

    noise_ratio: float
    share: float

    @property
    def gradient_over_noise(self) -> float:
        """1/ρ; ∞ without noise."""
        return 1 / self.noise_ratio if self.noise_ratio else math.inf


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The law of a noisy step, and what becomes of gradient and loss in training."""
    nv = of_blocks(runs, "nv")
    return [
        _follows_the_law(),
        _starts_above(nv),
        _falls_below(nv),
        _mx_is_noisier(runs),
        _stops(runs, "nv"),
        _stops(runs, "mx"),
    ]


def of_blocks(runs: Sequence[Run], block_scale: str) -> list[Run]:
    """The runs in 4 bits with one kind of blocks."""
    return where(runs, {"precision.kind": "float4_e2m1", "precision.block_scale": block_scale})


def rounded_step(size: float, block_scale: BlockScale) -> RoundedStep:
    """Rounds the gradients of 64 examples, whose mean is small, 400 times at random.

    At distance g from the minimum of ½‖θ‖², the best step along noisy gradients g_i improves the
    loss in the mean by (g·ḡ)²/(2·mean ‖g_i‖²), and a step along g by ‖g‖²/2.

    Args:
        size: the norm of the mean gradient over that of one example's.
        block_scale: the size of the blocks, and the format of their scales.
    """
    draw = np.random.default_rng(0).standard_normal
    exact = size * draw(WIDTH)
    others = draw((EXAMPLES // 2, WIDTH))
    examples = jnp.asarray(exact + np.concatenate([others, -others]), jnp.float32)

    def rounded_mean(key: jax.Array) -> jax.Array:
        return jnp.mean(block_rounding.round_in_blocks(examples, block_scale, key), axis=0)

    keys = jax.random.split(jax.random.key(0), DRAWS)
    gradients = np.asarray(jax.vmap(rounded_mean)(keys), float)
    mean = gradients.mean(axis=0)
    noise = math.sqrt(np.sum((gradients - mean) ** 2) / (DRAWS - 1))
    squares = np.mean(np.sum(gradients**2, axis=1))
    norm = float(np.linalg.norm(exact))
    return RoundedStep(noise / norm, float((exact @ mean) ** 2 / (norm**2 * squares)))


def gradient_over_noise(run: Run) -> np.ndarray:
    """‖m‖/σ at each measured step: the mean of rounded gradients over their noise."""
    measured = run.inspections
    with np.errstate(divide="ignore"):
        return measured["quantized_gradient_norm"] / measured["quantization_noise"]


def crossing_step(run: Run) -> int | None:
    """The first measured step with ‖m‖ below √3·σ."""
    below = np.flatnonzero(gradient_over_noise(run) < THRESHOLD)
    return int(run.inspections["step"][below[0]]) if len(below) else None


def loss_at(run: Run, step: int) -> float:
    """The mean training loss of the 50 steps from a step on."""
    last = len(run.metrics["train_loss"]) - LOSS_STEPS
    start = min(step, last)
    return float(np.mean(run.metrics["train_loss"][start : start + LOSS_STEPS]))


def _follows_the_law() -> Claim:
    errors = []
    for block_scale in BlockScale:
        for size in SIZES:
            step = rounded_step(size, block_scale)
            errors.append(step.share / float(step_share(step.noise_ratio)) - 1)
    return claim(
        "4-bit gradients on a quadratic of one curvature: improvement by the best step over that "
        "without noise, over 1/(1 + ρ²), minus 1; ρ from 0.02 to 2",
        source=f"{CHMIEL}; {GUPTA}",
        expected="within ±0.03",
        values=errors,
        holds=max(map(abs, errors)) <= 0.03,
    )


def _starts_above(runs: Sequence[Run]) -> Claim:
    return claim_on_every_seed(
        "nv: gradient's norm over its noise at initialisation",
        source=CHMIEL,
        values=[float(gradient_over_noise(run)[0]) for run in runs],
        at_least=2 * THRESHOLD,
    )


def _falls_below(runs: Sequence[Run]) -> Claim:
    values = []
    for run in runs:
        ratios = gradient_over_noise(run)
        values.append(float(np.median(ratios[len(ratios) // 2 :])))
    return claim(
        "nv: gradient's norm over its noise, median over the second half of training",
        source=CHMIEL,
        expected="≤ √3 = 1.73 on every seed",
        values=values,
        holds=max(values) <= THRESHOLD,
    )


def _mx_is_noisier(runs: Sequence[Run]) -> Claim:
    nv = by_seed(of_blocks(runs, "nv"))
    mx = by_seed(of_blocks(runs, "mx"))
    values = []
    for seed, run in nv.items():
        usual = run.inspections["quantization_noise"][0]
        values.append(float(mx[seed].inspections["quantization_noise"][0] / usual))
    return claim_on_every_seed(
        "noise of mx over that of nv at initialisation",
        source="Chmiel et al. 2025, §3",
        values=values,
        at_least=1,
    )


def _stops(runs: Sequence[Run], block_scale: str) -> Claim:
    """From the step at which the gradient falls below √3 times the noise to the end."""
    exact = by_seed(where(runs, {"precision.kind": "float32"}))
    values = []
    for run in of_blocks(runs, block_scale):
        step = crossing_step(run)
        if step is None:
            values.append(math.nan)
            continue
        end = len(run.metrics["train_loss"])
        improvement = loss_at(run, step) - loss_at(run, end)
        without = loss_at(exact[run["seed"]], step) - loss_at(exact[run["seed"]], end)
        values.append(improvement / without)
    return claim_on_every_seed(
        f"{block_scale}: improvement of the loss after that step over that of float32",
        source=CHMIEL,
        values=values,
        at_most=0.5,
    )
