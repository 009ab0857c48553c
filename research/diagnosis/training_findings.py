"""Findings about the loss, the units and the updates of a run."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from research.diagnosis import findings, words
from research.diagnosis.findings import Finding, Kind, LayerRange, Severity
from research.diagnosis.observed import (
    EMBEDDING,
    FORGOTTEN,
    HEAD,
    LEAST_ROWS,
    Divergence,
    Observed,
    Settings,
    end_rows,
)
from research.gauges.numbering import nearest_layers
from research.gauges.table import ACTIVATION_RMS, SIGNAL_GRAD
from research.theory.formats import FORMATS, option_name
from research.theory.update_rules import momentum_edge

LEAST_STEPS = 100  # before a run is said not to learn
# Losses and the loss of chance are counted from the least possible loss: 0 but for label smoothing.
AT_CHANCE = 0.97  # a loss above this share of chance is that of chance
BETTER_THAN_CHANCE = 0.15  # of the accuracy, above which something was learned
SMALLEST_PROGRESS = 0.01  # of the loss, or of that of chance, between the last two quarters
SPIKE_WINDOW = 20  # steps before a step that its loss is compared with
SPIKE_DEVIATIONS = 8.0
SPIKE_RATIO = 1.5
SPIKE_SHARE = 0.1  # of the loss of chance
DEVIATIONS_PER_MAD = 1.4826  # of a Gaussian, standard deviations in a median absolute deviation
RISE_OF_HELD_OUT = 1.15
SAME_SIGNAL = 1e-4
MOSTLY_DEAD = 0.75
MOSTLY_SKIPPED = 0.5
LOST_AGAIN = 3.0  # times the lowest loss, from which on a spike has undone what was learned
LOST_SHARE = 0.3  # of the loss of chance, at least
NEAR_CHANCE = 0.9  # of the loss of chance
ABOVE_CHANCE = 1.05  # times the loss of chance, beyond which a loss is not that of chance
UNREMARKABLE = 100.0  # a root mean square that may occur in a network that trains
FAR_ABOVE = 3.0  # times the loss of chance
HUGE = 1e6  # times the median loss
WINDOWS = 20  # of a run, over which its loss is averaged
LOST_HALF = 0.5  # of what was learned, beyond which it counts as lost
SMALL_SHARE = 0.1  # of a rise, up to which it has not begun
CERTAIN_DEVIATIONS = 5.0  # of the mean of a window
MOSTLY_SATURATED = 0.8
BOUNDED = ("sigmoid", "tanh", "softsign")
LARGE_UPDATE = 0.1
SMALL_UPDATE = 1e-6
USUAL_SHARE = (
    1e-2  # of the largest gradient, from which on that of a layer is large enough to matter
)
EDGE = 0.2
DIVIDED_BY_RMS = ("adam", "adamw", "rmsprop")
OVERFLOW_FORMATS = ("float16", "float8_e4m3fn", "float8_e5m2")


@dataclass(frozen=True)
class RunContext:
    """What the findings about a run are made of.

    Attributes:
        observed: its measurements.
        settings: its configuration by dotted path.
        diverged: where its numbers stopped being finite; None where they did not.
    """

    observed: Observed
    settings: Settings
    diverged: Divergence | None = None


def find_training_findings(ctx: RunContext) -> list[Finding]:
    """The findings about the loss, the units and the updates."""
    lost = find_lost_progress(ctx.observed)
    spike = find_spike(ctx, lost)
    plateau = find_plateau(ctx, lost, spike)
    candidates = (
        find_bad_inputs(ctx),
        find_overflow(ctx),
        find_collapse(ctx),
        plateau,
        find_slow_divergence(ctx, lost, spike, plateau),
        find_dead_units(ctx),
        find_saturation(ctx),
        find_update_ratio(ctx),
        find_hidden_gradient(ctx),
        spike,
        find_overfitting(ctx),
        find_edge_of_stability(ctx),
        find_fitted(ctx),
    )
    return [finding for finding in candidates if finding is not None]


def _make(
    kind: Kind,
    text: str,
    *,
    first_step: int | None = None,
    last_step: int | None = None,
    layers: tuple[LayerRange, ...] = (),
    **evidence: float,
) -> Finding:
    return Finding(
        kind=kind,
        severity=kind.severity,
        text=text,
        first_step=first_step,
        last_step=last_step,
        layers=layers,
        evidence=evidence,
    )


def find_bad_inputs(ctx: RunContext) -> Finding | None:
    """Inputs that are constant or not finite."""
    mean_square = ctx.observed.input_mean_square
    if mean_square is None or (math.isfinite(mean_square) and mean_square > 0):
        return None
    problem = "are all the same number" if mean_square == 0 else "are not all finite"
    return _make(
        findings.INPUTS,
        f"the training inputs {problem}, so nothing can be learned from them.",
        first_step=0,
        mean_square=mean_square,
    )


def describe_divergence(ctx: RunContext, names: Sequence[str] = ()) -> Finding | None:
    """Where and when numbers stopped being finite, and which numbers first.

    Args:
        ctx: the run.
        names: the names of its layers; empty where they are numbers.
    """
    diverged = ctx.diverged
    if diverged is None:
        return None
    step = diverged.step
    text = f"numbers stop being finite at step {step}"
    skipped = find_overflow(ctx)
    if skipped is not None:
        first = skipped.first_step
        text = f"the gradients of the steps {first} to {step} are not finite, so none was taken"
    if step == 0:
        text += ", before the first update"
    if diverged.quantity or skipped is None:
        text += _place_of_divergence(ctx.observed, diverged, names)
    format_ = ctx.observed.format_
    is_activation = diverged.quantity == "activation"
    if is_activation and format_ in OVERFLOW_FORMATS:
        largest = FORMATS[format_].largest
        name = option_name(format_)
        text += f", which exceeds the largest {name} number, about {largest:.3g}"
    elif is_activation and diverged.part == EMBEDDING and step > 0 and not names:
        text += ", so the update before broke the parameters"
    evidence = {}
    before = _largest_before(ctx.observed, ACTIVATION_RMS.name, step)
    if before is not None:
        evidence["activation_rms_before"] = before.value
    layer = diverged.layer
    finding = _make(
        findings.DIVERGED,
        f"{text}.",
        first_step=step,
        layers=() if layer is None else ((layer, layer),),
        **evidence,
    )
    return dataclasses.replace(finding, origin=layer)


def _place_of_divergence(
    observed: Observed,
    diverged: Divergence,
    names: Sequence[str],
) -> str:
    """Which number of which layer was not finite first, or what is known instead."""
    where = diverged.part
    if diverged.layer is not None:
        where = words.name_layer(diverged.layer, names)
    if not where:
        return _last_known_place(observed, diverged.step, names)
    if names and where == EMBEDDING:
        return f", first {words.name_signal(0, names)}"
    if names and where == HEAD:
        return f", first the gradient of the output of {names[-1]}"
    if not diverged.quantity:
        return f", first in {where}"
    if diverged.quantity == "gradient":
        return f", first the gradient that {where} passes on"
    return f", first the {diverged.quantity} of {where}"


def _last_known_place(
    observed: Observed,
    step: int,
    names: Sequence[str],
) -> str:
    """Where numbers were largest before a step whose layers say nothing."""
    measured = np.asarray(observed.profiles.get("step", ()))
    if not len(measured):
        return "; no layer was measured"
    if step in measured:
        return ", first outside of the layers, which are all finite"
    for gauge, quantity in ((ACTIVATION_RMS.name, "activation"), (SIGNAL_GRAD.name, "gradient")):
        largest = _largest_before(observed, gauge, step)
        if largest is not None:
            where = words.name_signal(largest.signal, names)
            text = f"{where} had the largest {quantity}, {largest.value:.3g}"
            if largest.value < UNREMARKABLE:
                text = f"no {quantity} was larger than {largest.value:.3g}"
            return (
                f"; the layers were not measured there. At step {largest.step}, the last one that "
                f"was measured, {text}"
            )
    return "; the layers were not measured there"


@dataclass(frozen=True)
class _Largest:
    """The largest value of a gauge over the signals at a step."""

    step: int
    signal: int
    value: float


def _largest_before(
    observed: Observed,
    gauge: str,
    step: int,
) -> _Largest | None:
    """The largest finite value at the last measured step before ``step``; None without one."""
    steps = np.asarray(observed.profiles.get("step", ()))
    rows = np.flatnonzero(steps < step)
    values = observed.profiles.get(gauge)
    if values is None or not len(rows):
        return None
    last = np.asarray(values, np.float64)[rows[-1]]
    is_known = np.isfinite(last)
    if not is_known.any():
        return None
    signal = int(np.argmax(np.where(is_known, last, -np.inf)))
    return _Largest(
        step=int(steps[rows[-1]]),
        signal=signal,
        value=float(last[signal]),
    )


def find_overflow(ctx: RunContext) -> Finding | None:
    """Steps that are skipped because the scaled gradient is not finite."""
    observed = ctx.observed
    share = observed.end_of("skipped")
    has_scale = ctx.settings.get("precision.loss_scaling", "none") != "none"
    if not has_scale or share is None or share <= MOSTLY_SKIPPED:
        return None
    steps, skipped = observed.series("skipped")
    if len(steps) < LEAST_ROWS:
        return None
    others = np.flatnonzero(skipped == 0)
    first = int(others[-1]) + 1 if len(others) else 0
    first_step = int(steps[min(first, len(steps) - 1)])
    _, scales = observed.series("loss_scale")
    scale = float(scales[-1]) if len(scales) else 1.0
    name = option_name(observed.format_)
    return _make(
        findings.OVERFLOW,
        f"{words.percent(share)} of the last steps were skipped, because the gradient times the "
        f"loss scale of {scale:.3g} exceeds the largest {name} number. "
        f"{words.capitalize(words.name_steps(first_step, None, int(steps[0])))}.",
        first_step=first_step,
        share=share,
        loss_scale=scale,
    )


def find_plateau(
    ctx: RunContext,
    lost: "LostProgress | None",
    spike: Finding | None,
) -> Finding | None:
    """A training loss that is still that of chance.

    Args:
        ctx: the run.
        lost: what it learned and lost again.
        spike: its spikes.
    """
    observed = ctx.observed
    steps, losses = observed.series("train_loss")
    if ctx.diverged or len(losses) < LEAST_STEPS:
        return None
    end = observed.end_of("train_loss")
    assert end is not None
    known = observed.chance_loss
    chance = known if known is not None else float(np.mean(losses[:5]))
    least = observed.least_loss
    steps_to_chance = _steps_to_chance(losses - least, chance - least)
    if end - least < AT_CHANCE * (chance - least) or steps_to_chance <= len(losses):
        return None
    accuracy = observed.end_of("train_accuracy") or 0.0
    if known is not None and accuracy > observed.chance_accuracy + BETTER_THAN_CHANCE:
        return None
    is_above_chance = end - least > ABOVE_CHANCE * (chance - least)
    if lost is not None and is_above_chance and not _is_severe(spike):
        return None  # the loss still grows, and a slow divergence is found
    evidence = {"train_loss": end, "lowest_loss": _lowest(losses), "highest_loss": np.max(losses)}
    evidence["chance_loss" if known is not None else "first_loss"] = chance
    evidence |= {"least_loss": least} if least else {}
    reference = "chance" if known is not None else "the start"
    text = (
        f"after {len(losses)} steps the training loss is {end:#.4g}, and that of {reference} is "
        f"{chance:#.4g}"
    )
    first_step = int(steps[0])
    if math.isfinite(steps_to_chance):
        evidence["steps_to_chance"] = steps_to_chance
        text += f"; it falls, but needs {steps_to_chance:,.0f} more steps for that at this pace"
    if lost is not None:
        first_step = lost.lost_from
        evidence |= lost.evidence
        text += (
            f"; it was {lost.lowest:#.4g} by step {lost.best_step}, and what was learned then was "
            f"lost by step {first_step}"
        )
    finding = _make(findings.NOT_LEARNING, f"{text}.", first_step=first_step)
    numbers = {name: float(value) for name, value in evidence.items()}
    return dataclasses.replace(finding, evidence=numbers)


def find_slow_divergence(
    ctx: RunContext,
    lost: "LostProgress | None",
    spike: Finding | None,
    plateau: Finding | None,
) -> Finding | None:
    """A training loss that fell, and rose again without a jump.

    Args:
        ctx: the run.
        lost: what it learned and lost again.
        spike: its spikes.
        plateau: the finding that its loss is that of chance.
    """
    if ctx.diverged or lost is None:
        return None
    if _is_severe(spike) or plateau is not None:
        return None
    known = ctx.observed.chance_loss is not None
    reference = "chance" if known else "the start"
    loss = f"{lost.reference:.3g}, the loss of {reference}"
    extent = f"{words.percent(lost.share)} of the way back to {loss}"
    if lost.share >= 1:
        extent = f"above {loss}"
    finding = _make(
        findings.SLOW_DIVERGENCE,
        f"the training loss was {lost.lowest:.3g} by step {lost.best_step}, rises from step "
        f"{lost.rises_from} on, and is {lost.end:.3g} at the end: {extent}.",
        first_step=lost.rises_from,
    )
    evidence = {**lost.evidence, "lost_share": lost.share}
    evidence["chance_loss" if known else "first_loss"] = lost.reference
    return dataclasses.replace(finding, evidence=evidence)


def _is_lost_in_jump(
    losses: np.ndarray,
    rows: np.ndarray,
    lost: "LostProgress",
) -> bool:
    """Whether one of some spikes raises the loss, for longer than a moment, by most of the rise.

    Args:
        losses: the losses [T].
        rows: the rows of the spikes.
        lost: what was lost.
    """
    window = _window_of(losses)
    rise = min(lost.end, lost.reference) - lost.lowest
    for row in rows.tolist():
        before = np.mean(losses[max(0, row - SPIKE_WINDOW) : row])
        after = np.median(losses[row : row + window])
        if after - before > LOST_HALF * rise:
            return True
    return False


def _is_severe(spike: Finding | None) -> bool:
    """Whether there is a spike in which the run lost what it had learned."""
    return spike is not None and spike.is_severe


@dataclass(frozen=True)
class LostProgress:
    """What a network learned and lost again.

    Attributes:
        lowest: the lowest mean loss of some consecutive steps.
        best_step: the last of these steps.
        rises_from: the step from which on the loss is above it until the end.
        lost_from: the step from which on more than half of what was learned is lost.
        end: the loss at the end.
        reference: the loss without learning.
        learning_rates: at ``best_step`` and at the end; empty where they are not known.
    """

    lowest: float
    best_step: int
    rises_from: int
    lost_from: int
    end: float
    reference: float
    learning_rates: tuple[float, float] | tuple[()] = ()

    @property
    def share(self) -> float:
        """The share of what was learned that is lost."""
        return (self.end - self.lowest) / (self.reference - self.lowest)

    @property
    def evidence(self) -> dict[str, float]:
        """Its numbers by name."""
        evidence = {
            "lowest_loss": self.lowest,
            "train_loss": self.end,
            "best_step": float(self.best_step),
        }
        if self.learning_rates:
            evidence["best_learning_rate"] = self.learning_rates[0]
            evidence["last_learning_rate"] = self.learning_rates[1]
        return evidence


def find_lost_progress(observed: Observed) -> LostProgress | None:
    """What was learned and is lost at the end; None where it is not more than half of it."""
    steps, losses = observed.series("train_loss")
    reference = observed.loss_without_learning
    if len(losses) < LEAST_STEPS or reference is None:
        return None
    window = _window_of(losses)
    least = observed.least_loss
    losses = losses - least
    reference -= least
    # Far above chance, how far says nothing of what is lost, and is no measure of the noise.
    losses = np.minimum(losses, FAR_ABOVE * reference)
    means = _window_means(losses, window)
    best = int(np.argmin(means))
    lowest = float(means[best])
    end = float(means[-1])
    has_learned = lowest < FORGOTTEN * reference
    if not has_learned or end - lowest <= LOST_HALF * (reference - lowest):
        return None
    best_losses = losses[best : best + window]
    last_losses = losses[-window:]
    noise = math.hypot(np.std(best_losses), np.std(last_losses))
    if end - lowest <= CERTAIN_DEVIATIONS * noise / math.sqrt(window):
        return None
    learned = reference - lowest
    rise = min(end - lowest, learned)
    ends = steps[window - 1 :]  # the last step of each window
    return LostProgress(
        lowest=lowest + least,
        best_step=int(ends[best]),
        rises_from=int(ends[_last_below(means, lowest + SMALL_SHARE * rise)]),
        lost_from=int(ends[_last_below(means, lowest + LOST_HALF * learned)]),
        end=observed.end_of("train_loss") or end + least,
        reference=reference + least,
        learning_rates=_learning_rates(observed, int(ends[best])),
    )


def _window_of(losses: np.ndarray) -> int:
    """The rows over which a loss is averaged to see whether it rises."""
    return max(SPIKE_WINDOW, len(losses) // WINDOWS)


def _last_below(means: np.ndarray, limit: float) -> int:
    """The last row whose mean is not above a limit."""
    return int(np.flatnonzero(means <= limit)[-1])


def _learning_rates(observed: Observed, step: int) -> tuple[float, float] | tuple[()]:
    """The learning rates at a step and at the end; empty where they are not known."""
    before = observed.value_at("learning_rate", step)
    after = observed.end_of("learning_rate")
    return () if before is None or after is None else (before, after)


def _lowest(losses: np.ndarray) -> float:
    """The lowest mean of the loss over some consecutive steps."""
    return float(np.min(_window_means(losses, SPIKE_WINDOW)))


def _window_means(losses: np.ndarray, window: int) -> np.ndarray:
    """The means of the loss over some consecutive steps; the first is that of the first steps.

    They are differences of sums, so a loss that is huge for a moment would drown all that follow.
    """
    count = min(len(losses), window)
    limited = np.minimum(losses, HUGE * np.median(np.abs(losses)))
    sums = np.concatenate([[0.0], np.cumsum(limited)])
    return (sums[count:] - sums[:-count]) / count


def _steps_to_chance(losses: np.ndarray, chance: float) -> float:
    """The further steps to the loss of chance at the pace of the last two quarters of the steps.

    0 if the loss is below it, infinite if it does not fall noticeably.
    """
    quarter = len(losses) // 4
    earlier = losses[-2 * quarter : -quarter]
    later = losses[-quarter:]
    end = float(np.mean(later))
    progress = float(np.mean(earlier)) - end
    noise = math.hypot(np.std(earlier), np.std(later)) / math.sqrt(quarter)
    smallest = SMALLEST_PROGRESS * max(abs(chance), end)
    if progress <= max(smallest, 3 * noise):
        return math.inf
    since_middle = (end - chance) / progress * quarter
    return max(0.0, since_middle - (quarter - 1) / 2)


def find_spike(ctx: RunContext, lost: LostProgress | None) -> Finding | None:
    """Steps whose loss is far above the losses before them.

    It is severe where what was learned is lost in one of them.

    Args:
        ctx: the run.
        lost: what it learned and lost again.
    """
    steps, losses = ctx.observed.series("train_loss")
    reference = ctx.observed.reference_loss
    if len(losses) <= SPIKE_WINDOW + 1 or reference is None:
        return None
    least = ctx.observed.least_loss
    losses = losses - least
    reference = abs(reference - least)
    rows, medians = _find_spikes(losses, SPIKE_SHARE * reference)
    if not len(rows):
        return None
    largest = int(np.argmax(losses[rows] - medians))
    before = float(medians[largest]) + least
    highest = float(losses[rows[largest]]) + least
    step = int(steps[rows[largest]])
    count = len(words.to_ranges(rows))
    first_step = int(steps[rows[0]])
    last_step = int(steps[rows[-1]])
    times = ""
    if count > 1:
        times = f" (the highest of {count} spikes from step {first_step} to {last_step})"
    lowest = _lowest(losses)
    end = float(np.mean(losses[-end_rows(len(losses)) :]))
    is_far_above = end > max(LOST_AGAIN * lowest, LOST_SHARE * reference)
    is_back_at_chance = end > NEAR_CHANCE * reference > 2 * NEAR_CHANCE * lowest
    is_gradual = lost is not None and not _is_lost_in_jump(losses, rows, lost)
    is_lost = (is_far_above or is_back_at_chance) and not is_gradual and not ctx.diverged
    extremes = f"it was {lowest + least:.3g} at best and ends at {end + least:.3g}"
    outcome = f"; {extremes}" if is_lost else ""
    finding = _make(
        findings.SPIKE,
        f"at step {step} the training loss jumps from {before:.3g} to {highest:.3g}{times}"
        f"{outcome}.",
        first_step=first_step,
        last_step=last_step,
        before=before,
        highest=highest,
        spikes=float(count),
    )
    severity = Severity.severe if is_lost else finding.severity
    return dataclasses.replace(finding, severity=severity)


def _find_spikes(losses: np.ndarray, smallest_rise: float) -> tuple[np.ndarray, np.ndarray]:
    """The rows [K] whose loss is far above those before, and the median of those before, [K]."""
    windows = np.lib.stride_tricks.sliding_window_view(losses[:-1], SPIKE_WINDOW)
    now = losses[SPIKE_WINDOW:]
    # A median takes long, and few losses are this far above the lowest one before them.
    lowest = windows.min(axis=1)
    is_candidate = (now > SPIKE_RATIO * lowest) & (now - lowest > smallest_rise)
    candidates = np.flatnonzero(is_candidate)
    medians = np.median(windows[candidates], axis=1)
    deviations = np.abs(windows[candidates] - medians[:, None])
    spreads = np.median(deviations, axis=1) * DEVIATIONS_PER_MAD
    rise = now[candidates] - medians
    is_spike = rise > np.maximum(SPIKE_DEVIATIONS * spreads, smallest_rise)
    is_spike &= now[candidates] > SPIKE_RATIO * medians
    return candidates[is_spike] + SPIKE_WINDOW, medians[is_spike]


def find_overfitting(ctx: RunContext) -> Finding | None:
    """A held-out loss that rises while the training loss is far below it."""
    steps, losses = ctx.observed.series("eval_loss")
    train = ctx.observed.end_of("train_loss")
    if len(losses) < 3 or train is None:
        return None
    lowest = int(np.argmin(losses))
    is_rising = losses[-1] > RISE_OF_HELD_OUT * losses[lowest]
    if not is_rising or losses[lowest] <= 0 or ctx.observed.unsmoothed(train) > losses[-1] / 2:
        return None
    least = ctx.observed.least_loss
    floor = f", and the least possible with label smoothing {least:.3g}" if least else ""
    return _make(
        findings.OVERFITTING,
        f"the held-out loss rose from {losses[lowest]:.3g} at step {int(steps[lowest])} to "
        f"{losses[-1]:.3g}, while the training loss is {train:.3g}{floor}.",
        first_step=int(steps[lowest]),
        lowest=float(losses[lowest]),
        last=float(losses[-1]),
        train_loss=train,
    )


def find_dead_units(ctx: RunContext) -> Finding | None:
    """Layers most of whose units are zero for every example."""
    return _find_share(
        ctx,
        "dead",
        MOSTLY_DEAD,
        kind=findings.DEAD_UNITS,
        what="units",
        state="are zero for every example",
    )


def find_saturation(ctx: RunContext) -> Finding | None:
    """Layers most of whose elements are on the flat part of a bounded activation."""
    if ctx.settings.get("activation.kind") not in BOUNDED:
        return None
    return _find_share(
        ctx,
        "saturated",
        MOSTLY_SATURATED,
        kind=findings.SATURATED,
        what="elements",
        state="are on the flat part of the activation",
    )


def _find_share(
    ctx: RunContext,
    gauge: str,
    limit: float,
    *,
    kind: Kind,
    what: str,
    state: str,
) -> Finding | None:
    """Layers at which a gauge, a share, is above a limit at the end.

    Args:
        ctx: the run.
        gauge: the name of the gauge.
        limit: the largest share that is usual.
        kind: the kind of the finding.
        what: of what it is a share.
        state: what the share counts.
    """
    shares = ctx.observed.last_rows(gauge)
    if shares is None:
        return None
    layers = np.flatnonzero(shares > limit)
    if not len(layers):
        return None
    ranges = words.to_ranges(layers)
    share = float(np.mean(shares[layers]))
    first_step = _first_above(ctx.observed, gauge, limit)
    return _make(
        kind,
        f"{words.percent(share)} of the {what} of {words.name_layers(ranges)} {state}. "
        f"{_since(ctx.observed, first_step)}.",
        first_step=first_step,
        layers=tuple(ranges),
        share=share,
    )


def _first_above(
    observed: Observed,
    gauge: str,
    limit: float,
) -> int | None:
    """The step from which on a gauge is above a limit in some layer until the end."""
    is_above = np.max(np.asarray(observed.profiles[gauge]), axis=1) > limit
    return _first_where(observed, is_above)


def _first_where(observed: Observed, holds: np.ndarray) -> int | None:
    """The measured step from which on a condition [S] holds until the end."""
    others = np.flatnonzero(~holds)
    first = int(others[-1]) + 1 if len(others) else 0
    steps = observed.profiles["step"]
    return int(steps[first]) if first < len(steps) else None


def _since(observed: Observed, first_step: int | None) -> str:
    """From which step on something holds, as a sentence without its full stop."""
    steps = observed.profiles["step"]
    first = int(steps[-1]) if first_step is None else first_step
    return words.capitalize(words.name_steps(first, None, int(steps[0])))


def find_collapse(ctx: RunContext) -> Finding | None:
    """A last signal that hardly differs between examples."""
    shares = ctx.observed.last_rows("signal_variation")
    if shares is None or ctx.observed.is_fitted() or not shares[-1] < SAME_SIGNAL:
        return None
    layers = nearest_layers(np.flatnonzero(shares < SAME_SIGNAL))
    variation = np.asarray(ctx.observed.profiles["signal_variation"])[:, -1:]
    share = f"only {shares[-1]:.1g}" if shares[-1] > 0 else "nothing"
    ability = "can hardly" if shares[-1] > 0 else "cannot"
    text = (
        f"{share} of the signal of the last layer differs between examples, so the head {ability} "
        "tell them apart"
    )
    others = words.to_ranges(layers[:-1])
    if others:
        text += f"; the same holds in {words.name_layers(others)}"
    first_step = _first_where(ctx.observed, (variation < SAME_SIGNAL)[:, 0])
    return _make(
        findings.COLLAPSED,
        f"{text}. {_since(ctx.observed, first_step)}.",
        first_step=first_step,
        layers=tuple(words.to_ranges(layers)),
        variation=float(shares[-1]),
    )


def find_update_ratio(ctx: RunContext) -> Finding | None:
    """Steps that change the weights by too much or by too little."""
    ratios = ctx.observed.last_rows("update_ratio")
    if ratios is None or np.isnan(ratios).all() or ctx.observed.is_fitted():
        return None
    if (ctx.observed.end_of("skipped") or 0.0) > 0:
        return None
    still = _find_still_layers(ctx, ratios)
    if still is not None:
        return still
    middle = float(np.nanmedian(ratios))
    largest = float(np.nanmax(ratios))
    if middle > LARGE_UPDATE:
        text = (
            f"a step changes the weights of half of the layers by {middle:.2g} of their norm or "
            "more, so by more than a tenth"
        )
    elif largest == 0:
        text = "the last steps change the weights of no layer"
    elif largest < SMALL_UPDATE:
        text = (
            f"a step changes the weights of no layer by more than {largest:.2g} of their norm, so "
            "by less than a millionth"
        )
    else:
        return None
    return _make(
        findings.UPDATE_RATIO,
        f"{text}.",
        median=middle,
        largest=largest,
    )


def _find_still_layers(ctx: RunContext, ratios: np.ndarray) -> Finding | None:
    """Single layers whose weights stay as they are although they get a gradient like the others.

    Args:
        ctx: the run.
        ratios: the update ratio of each layer at the end [N].
    """
    norms = ctx.observed.last_rows("grad_norm")
    if norms is None or not np.nanmax(ratios) > 0:
        return None
    is_usual = norms > USUAL_SHARE * np.nanmax(norms)
    layers = np.flatnonzero((ratios == 0) & is_usual)
    if not len(layers) or len(layers) > len(ratios) / 2:
        return None
    ranges = words.to_ranges(layers)
    of_all_steps = np.asarray(ctx.observed.profiles["update_ratio"])
    does_not_change = np.max(of_all_steps[:, layers], axis=1) == 0
    first_step = _first_where(ctx.observed, does_not_change)
    finding = _make(
        findings.UPDATE_RATIO,
        f"the weights of {words.name_layers(ranges)} do not change, although their gradient is not "
        f"small. {_since(ctx.observed, first_step)}.",
        first_step=first_step,
        layers=tuple(ranges),
        median=float(np.nanmedian(ratios)),
        largest=float(np.nanmax(ratios)),
    )
    origin = int(layers[0]) if len(layers) == 1 else None
    return dataclasses.replace(finding, origin=origin)


def find_hidden_gradient(ctx: RunContext) -> Finding | None:
    """Layers whose gradient is smaller than the ε of the optimizer."""
    observed = ctx.observed
    epsilon = ctx.settings.get("optimizer.epsilon")
    norms = observed.last_rows("grad_norm")
    is_divided = ctx.settings.get("optimizer.kind") in DIVIDED_BY_RMS
    if not is_divided or not epsilon or norms is None or not observed.layer_parameters:
        return None
    if observed.is_fitted():
        return None
    root_mean_square = norms / math.sqrt(observed.layer_parameters)
    layers = np.flatnonzero((root_mean_square < epsilon) & (norms > 0))
    if not len(layers):
        return None
    ranges = words.to_ranges(layers)
    smallest = float(np.min(root_mean_square[layers]))
    return _make(
        findings.HIDDEN_GRADIENT,
        f"in {words.name_layers(ranges)}, the root mean square of the gradient's elements is as "
        f"small as {smallest:.1g}, below optimizer.epsilon={epsilon:g}, so these layers take "
        "smaller steps.",
        layers=tuple(ranges),
        smallest=smallest,
        epsilon=float(epsilon),
    )


def find_edge_of_stability(ctx: RunContext) -> Finding | None:
    """A sharpness close to the largest at which the learning rate is stable."""
    sharpness = ctx.observed.sharpness
    kind = ctx.settings.get("optimizer.kind")
    if not sharpness or kind not in ("gd", "sgd", "momentum"):
        return None
    step = max(sharpness)
    rate = _learning_rate_at(ctx, step)
    if not rate:
        return None
    momentum = ctx.settings.get("optimizer.momentum", 0.0) if kind == "momentum" else 0.0
    largest = momentum_edge(rate, momentum)
    if abs(sharpness[step] / largest - 1) > EDGE:
        return None
    return _make(
        findings.EDGE_OF_STABILITY,
        f"at step {step} the sharpness is {sharpness[step]:.3g}, and the largest that the learning "
        f"rate allows is 2(1 + β)/η = {largest:.3g}.",
        first_step=step,
        last_step=step,
        sharpness=sharpness[step],
        largest=largest,
    )


def _learning_rate_at(ctx: RunContext, step: int) -> float | None:
    """The learning rate of a step; where that was not recorded, the setting."""
    steps, rates = ctx.observed.series("learning_rate")
    rows = np.flatnonzero(steps == step)
    if len(rows):
        return float(rates[rows[0]])
    return ctx.settings.get("optimizer.learning_rate")


def find_fitted(ctx: RunContext) -> Finding | None:
    """A training loss far below that of chance."""
    observed = ctx.observed
    loss = observed.end_of("train_loss")
    if loss is None or not observed.is_fitted():
        return None
    return Finding(
        kind=findings.FITTED,
        severity=Severity.note,
        text=f"the training loss is {_fitted_loss_in_words(loss, observed)}.",
        evidence={"train_loss": loss},
    )


def _fitted_loss_in_words(loss: float, observed: Observed) -> str:
    """The training loss, and why little is left to learn."""
    if not observed.least_loss:
        return f"{loss:.2g}, so little is left to learn"
    return (
        f"{loss:.4g}, and the least possible with label smoothing {observed.least_loss:.4g}, so "
        "little is left to learn"
    )
