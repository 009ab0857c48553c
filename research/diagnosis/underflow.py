"""Distinguishes underflow from vanishing: what the number format removed from the gradient.

The sentence says in which layers, and which loss scale would avoid it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from research.diagnosis.advice import NARROW_RANGE, Settings, advice
from research.diagnosis.verdict import Verdict, ratio_in_words
from research.theory.formats import log_mean_square, smallest_safe_loss_scale

NOTICED = 0.1  # a layer that loses a larger fraction of its gradient suffers from underflow
PRESERVED = 0.99

Profile = Mapping[str, np.ndarray]


def judge_underflow(
    verdict: Verdict,
    steps: Sequence[int],
    profiles: Sequence[Profile],
    *,
    format_: str,
    settings: Settings,
) -> Verdict:
    """Adds ``lost_fraction`` to a verdict.

    The verdict becomes ``underflow`` where a layer lost more than a tenth of its gradient. Where a
    narrow format was used and nothing was measured, its sentence says so.

    Args:
        verdict: the verdict from the norms. A diverged run stays diverged.
        steps: the steps at which exponents were counted.
        profiles: the gauges of each of these steps, as ``formats.gauges_from_counts`` returns them.
            The last decides.
        format_: the narrowest format that the gradient passes.
        settings: the run's configuration by dotted path.
    """
    if not profiles or "signal_lost" not in profiles[-1]:
        return _say_not_measured(verdict, format_, settings)
    last = profiles[-1]
    lost = last["signal_lost"]
    mean_lost = float(np.nanmean(lost)) if np.any(lost >= 0) else None
    verdict = dataclasses.replace(verdict, lost_fraction=mean_lost)
    layers = np.flatnonzero(lost > NOTICED)
    if not len(layers) or verdict.kind == "diverged":
        return verdict
    since = _first_of_last_run([_has_underflow(profile) for profile in profiles])
    return dataclasses.replace(
        verdict,
        kind="underflow",
        since_step=int(steps[since]),
        sentence=_sentence(last, layers, format_, settings),
    )


def _say_not_measured(
    verdict: Verdict,
    format_: str,
    settings: Settings,
) -> Verdict:
    """The verdict with a note where the format is narrow, and nothing says what it lost."""
    if settings.get("precision.kind") not in NARROW_RANGE:
        return verdict
    note = f" What {format_} loses was not measured: measure=full measures it."
    return dataclasses.replace(verdict, sentence=verdict.sentence + note)


def _has_underflow(profile: Profile) -> bool:
    return bool(np.any(profile["signal_lost"] > NOTICED))


def _first_of_last_run(holds: list[bool]) -> int:
    """The index from which on a condition holds until the end."""
    first = len(holds)
    while first > 0 and holds[first - 1]:
        first -= 1
    return first


def _sentence(
    profile: Profile,
    layers: np.ndarray,
    format_: str,
    settings: Settings,
) -> str:
    parts = [
        _lost_in_layers(layers, profile["signal_lost"], format_),
        _sufficient_loss_scale(profile, format_, settings),
        _ratio_in_float32(profile),
    ]
    text = "; ".join(part for part in parts if part)
    return f"underflow: {text}." + advice("underflow", settings)


def _lost_in_layers(
    layers: np.ndarray,
    lost: np.ndarray,
    format_: str,
) -> str:
    noun = "layers" if len(layers) > 1 else "layer"
    where = f"{noun} {_ranges_in_words(layers)}"
    percent = f"{100 * np.mean(lost[layers]):.0f} %"
    return f"{where}: {percent} of the gradient is zero in {format_} but not in float32"


def _ranges_in_words(layers: np.ndarray) -> str:
    """Ascending numbers with neighbours joined: 0–3, 7."""
    is_gap = np.diff(layers) > 1
    runs = np.split(layers, np.flatnonzero(is_gap) + 1)
    words = []
    for run in runs:
        words.append(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]))
    return ", ".join(words)


def _sufficient_loss_scale(
    profile: Profile,
    format_: str,
    settings: Settings,
) -> str:
    """Which loss scale would be enough; empty where each tensor has its scale anyway."""
    if settings.get("precision.tensor_scale"):
        return ""
    percent = f"{100 * PRESERVED:.0f} %"
    histogram = profile["signal_exponent_float32"]
    scale = smallest_safe_loss_scale(histogram, format_, PRESERVED)
    if scale is None:
        return f"no loss scale would keep {percent} without overflow"
    return f"a loss scale of 2^{int(np.log2(scale))} would keep {percent}"


def _ratio_in_float32(profile: Profile) -> str:
    """The first layer's squared gradient over the last layer's; empty where either is zero."""
    logs = log_mean_square(profile["signal_exponent_float32"])
    first = logs[0]
    last = logs[-1]
    if not (np.isfinite(first) and np.isfinite(last)):
        return ""
    ratio = ratio_in_words((first - last) / np.log(10))
    return f"in float32 the first layer receives {ratio} the squared gradient of the last"
