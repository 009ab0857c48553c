"""Underflow told from vanishing: what the number format took of the gradient, where, and which loss scale keeps it."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from research.diagnosis.advice import Settings, advice
from research.diagnosis.verdict import Verdict, ratio_in_words
from research.theory.formats import smallest_safe_loss_scale, log_mean_square

NOTICED = 0.1  # a layer that loses more of its gradient suffers from underflow
KEEP = 0.99


def judge_underflow(
    verdict: Verdict,
    steps: Sequence[int],
    profiles: Sequence[Mapping[str, np.ndarray]],
    *,
    format_: str,
    settings: Settings,
) -> Verdict:
    """The verdict with ``lost_fraction``, and of kind ``underflow`` where a layer lost a tenth of its gradient.

    Args:
        verdict: the judgement by norms; that a run has diverged stands.
        steps: where exponents were counted.
        profiles: what was found there, as ``formats.gauges_from_counts`` gives it; the last one counts.
        format_: the format that loses first.
        settings: the run's configuration by dotted path.
    """
    if not profiles or "signal_lost" not in profiles[-1]:
        return verdict
    last = profiles[-1]
    lost = last["signal_lost"]
    verdict = dataclasses.replace(
        verdict, lost_fraction=float(np.nanmean(lost)) if np.any(lost >= 0) else None
    )
    layers = np.flatnonzero(lost > NOTICED)
    if not len(layers) or verdict.kind == "diverged":
        return verdict
    words = [_where(layers, lost, format_), _advice(last, format_, settings), _in_float32(last)]
    sentence = "; ".join(word for word in words if word) + "." + advice("underflow", settings)
    since = int(
        steps[_since([bool(np.any(profile["signal_lost"] > NOTICED)) for profile in profiles])]
    )
    return dataclasses.replace(
        verdict, kind="underflow", since_step=since, sentence=f"underflow: {sentence}"
    )


def _since(suffers: list[bool]) -> int:
    return next((n + 1 for n in reversed(range(len(suffers))) if not suffers[n]), 0)


def _where(layers: np.ndarray, lost: np.ndarray, format_: str) -> str:
    runs = np.split(layers, np.flatnonzero(np.diff(layers) > 1) + 1)
    named = ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    noun = "layers" if len(layers) > 1 else "layer"
    return f"{noun} {named}: {100 * np.mean(lost[layers]):.0f} % of the gradient is zero in {format_} alone"


def _advice(profile: Mapping[str, np.ndarray], format_: str, settings: Settings) -> str:
    if settings["precision.tensor_scale"]:
        return ""
    scale = smallest_safe_loss_scale(profile["signal_exponent_float32"], format_, KEEP)
    if scale is None:
        return f"no loss scale would keep {KEEP:.0%} without overflow".replace("%", " %")
    return f"a loss scale of 2^{int(np.log2(scale))} would keep {KEEP:.0%}".replace("%", " %")


def _in_float32(profile: Mapping[str, np.ndarray]) -> str:
    logs = log_mean_square(profile["signal_exponent_float32"])
    if not np.isfinite(logs[[0, -1]]).all():
        return ""
    ratio = ratio_in_words((logs[0] - logs[-1]) / np.log(10))
    return f"in float32 the first layer receives {ratio} the squared gradient of the last"
