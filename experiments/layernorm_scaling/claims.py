"""Thresholds of how fast the residual stream grows, set before the runs."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import initial_profiles, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed
from research.theory.profiles import pre_norm_variances

SUN = "Sun et al. 2025"
KIM = "Kim et al. 2025"
DEEP = 64  # blocks of the networks at initialisation
TRAINED = 32  # of those that are trained
TOLERANCE = 0.08
EXPONENT_TOLERANCE = 0.12  # what a width of 256 and three seeds scatter
FIRST = 8  # the block from which on the exponent is fitted
KINDS = {
    "Pre-LN": {"norm.placement": "pre", "norm.scale": "one"},
    "Pre-LN times 1/√l": {"norm.placement": "pre", "norm.scale": "inv_sqrt_layer"},
    "Peri-LN": {"norm.placement": "peri"},
}


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The stream at initialisation, and what training makes of it."""
    initial = where(runs, {"model.depth": DEEP})
    trained = where(runs, {"model.depth": TRAINED})
    return [
        _variance(initial, "Pre-LN", scales_norm=False),
        _variance(initial, "Pre-LN times 1/√l", scales_norm=True),
        _variance(initial, "Peri-LN", scales_norm=False),
        _exponent(initial, "Pre-LN", scales_norm=False),
        _exponent(initial, "Pre-LN times 1/√l", scales_norm=True),
        _grows_more(trained),
        _stays_smaller(trained),
    ]


def select(runs: Sequence[Run], kind: str) -> list[Run]:
    """The runs with one of the three norms."""
    return where(runs, KINDS[kind])


def added_variance(rms: np.ndarray) -> np.ndarray:
    """Mean square of each signal minus that of the first one: [..., N+1]."""
    squares = rms.astype(float) ** 2
    return squares - squares[..., :1]


def fit_exponent(variances: np.ndarray) -> float:
    """The power of the block as which variances [N+1] grow from block ``FIRST`` on."""
    blocks = np.arange(FIRST, len(variances))
    return float(np.polyfit(np.log(blocks), np.log(variances[FIRST:]), 1)[0])


def final_growth(run: Run) -> float:
    """The mean square of the last signal at the end of training over that at its start."""
    last = run.profiles["activation_rms"][:, -1].astype(float)
    return float((last[-1] / last[0]) ** 2)


def _variance(
    runs: Sequence[Run],
    kind: str,
    *,
    scales_norm: bool,
) -> Claim:
    theory = pre_norm_variances(DEEP, scales_norm=scales_norm)[-1]
    rms = initial_profiles(select(runs, kind), "activation_rms")
    values = added_variance(rms)[:, -1].tolist()
    return claim(
        f"{kind}, {DEEP} blocks, initially: mean square of the last signal minus that of the first",
        source=f"{SUN}, Lemma 3.2" if kind != "Peri-LN" else f"{KIM}, §3",
        expected=f"{theory:.3g} ± {100 * TOLERANCE:g} % on every seed",
        values=values,
        holds=max(abs(value / theory - 1) for value in values) <= TOLERANCE,
    )


def _exponent(
    runs: Sequence[Run],
    kind: str,
    *,
    scales_norm: bool,
) -> Claim:
    theory = fit_exponent(pre_norm_variances(DEEP, scales_norm=scales_norm))
    rms = initial_profiles(select(runs, kind), "activation_rms")
    values = [fit_exponent(variances) for variances in added_variance(rms)]
    return claim(
        f"{kind}: that difference as a power of the block, from block {FIRST} on; exponent",
        source=SUN,
        expected=f"{theory:.2f} ± {EXPONENT_TOLERANCE:g} on every seed",
        values=values,
        holds=max(abs(value - theory) for value in values) <= EXPONENT_TOLERANCE,
    )


def _grows_more(runs: Sequence[Run]) -> Claim:
    pre = {run["seed"]: final_growth(run) for run in select(runs, "Pre-LN")}
    peri = {run["seed"]: final_growth(run) for run in select(runs, "Peri-LN")}
    ratios = [pre[seed] / peri[seed] for seed in pre]
    return claim_on_every_seed(
        f"{TRAINED} blocks, trained: factor by which training enlarges the mean square of the last "
        "signal, Pre-LN over Peri-LN, same seed",
        source=f"{KIM}, Fig. 3",
        values=ratios,
        above=1.2,
    )


def _stays_smaller(runs: Sequence[Run]) -> Claim:
    scaled = _last_squares(select(runs, "Pre-LN times 1/√l"))
    usual = _last_squares(select(runs, "Pre-LN"))
    ratios = [scaled[seed] / usual[seed] for seed in usual]
    return claim_on_every_seed(
        f"{TRAINED} blocks, trained: mean square of the last signal, Pre-LN times 1/√l over "
        "Pre-LN, same seed",
        source=f"{SUN}, Fig. 5",
        values=ratios,
        below=0.5,
    )


def _last_squares(runs: Sequence[Run]) -> dict[int, float]:
    squares = {}
    for run in runs:
        squares[run["seed"]] = float(run.profiles["activation_rms"][-1, -1]) ** 2
    return squares
