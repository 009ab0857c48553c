"""Findings about the gradient over depth: dead, vanishing and exploding."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from research.diagnosis import depth, findings, words
from research.diagnosis.depth import DepthHistory, Fit
from research.diagnosis.episodes import Episode
from research.diagnosis.findings import Finding, Kind, Severity
from research.diagnosis.observed import Observed, Theory
from research.gauges.numbering import layer_with_output, nearest_layer
from research.gauges.table import ACTIVATION_RMS

UNSTABLE = "the fixed point of the variance is unstable"
GONE = ("silent", "cut")  # states without a gradient in some layer


@dataclass(frozen=True)
class DepthContext:
    """What the findings about depth are made of.

    Attributes:
        history: the gradient over depth at the measured steps.
        observed: the other measurements.
        theory: what theory predicts at initialisation; None without a prediction.
        names: the names of the layers [N]; empty where they are numbers.
        unit: what lies between two signals: a layer, or an iteration of a loop.
    """

    history: DepthHistory
    observed: Observed
    theory: Theory | None = None
    names: Sequence[str] = ()
    unit: str = "layer"

    def layer(self, entry: int) -> str:
        """The layer of an entry of a profile, in words; it gets the gradient of its output."""
        return words.name_signal(self.history.signals[entry], self.names)

    def number(self, entry: int) -> int:
        """The number of the layer of an entry."""
        return nearest_layer(self.history.signals[entry])

    @property
    def last_layer(self) -> str:
        """The last layer in words."""
        return self.layer(-1) if self.names else "the last layer"

    def ranges(self, entries: np.ndarray) -> list[findings.LayerRange]:
        """The layers of entries [K] of a profile.

        The input of the first layer counts as this layer.
        """
        ranges = []
        for first, last in words.to_ranges(self._without_input(entries)):
            ranges.append((self.number(first), self.number(last)))
        return ranges

    def where(self, entries: np.ndarray) -> str:
        """Entries [K] of a profile in words.

        The input of the first layer is left out where there are others.
        """
        others = self._without_input(entries)
        if len(others) == 1:
            return self.layer(int(others[0]))
        return words.name_layers(self.ranges(others), self.names)

    def _without_input(self, entries: np.ndarray) -> np.ndarray:
        """The entries without that of the input of the first layer, unless it is alone."""
        has_others = len(entries) > 1
        is_input = has_others and self.history.signals[entries[0]] == 0
        return entries[1:] if is_input else entries

    def when(self, episode: Episode) -> str:
        """The steps of an episode in words, as the start of a sentence."""
        history = self.history
        last = None if episode.is_open else history.step(episode.last)
        first = history.step(episode.first)
        return words.capitalize(words.name_steps(first, last, history.step(0)))


def find_depth_findings(ctx: DepthContext) -> list[Finding]:
    """The findings about the gradient over depth, each with its steps and layers."""
    found = []
    for state, describe in (
        ("silent", _describe_silent),
        ("cut", _describe_cut),
        ("vanishing", _describe_drift),
        ("exploding", _describe_drift),
    ):
        episodes = ctx.history.episodes(state)
        if state in GONE:
            episodes = _join_gone(ctx.history, episodes)
        for episode in _select_episodes(episodes):
            found.append(describe(ctx, state, episode))
    return found


def _join_gone(history: DepthHistory, episodes: Sequence[Episode]) -> list[Episode]:
    """Episodes without a gradient, where the one that lasts begins when the gradient was gone.

    A gradient that first ends at a layer and later does not leave the loss was gone all the time.
    """
    gone = history.episodes("gone")
    if not gone or not gone[-1].is_open:
        return list(episodes)
    first = gone[-1].first
    joined = []
    for episode in episodes:
        if episode.is_open:
            joined.append(dataclasses.replace(episode, first=min(first, episode.first)))
        elif episode.first < first:
            joined.append(episode)
    return joined


def _select_episodes(episodes: Sequence[Episode]) -> list[Episode]:
    """The longest episode that has ended, and the one that lasts until the end."""
    selected = [episode for episode in episodes if episode.is_open]
    ended = [episode for episode in episodes if not episode.is_open]
    if ended:
        selected.insert(0, max(ended, key=len))
    return selected


def _make_finding(
    ctx: DepthContext,
    kind: Kind,
    episode: Episode,
    text: str,
    *,
    layers: Sequence[findings.LayerRange],
    evidence: dict[str, float],
    origin: int | None = None,
) -> Finding:
    history = ctx.history
    return Finding(
        kind=kind,
        severity=_severity(ctx.observed, kind, episode),
        text=text,
        first_step=history.step(episode.first),
        last_step=None if episode.is_open else history.step(episode.last),
        layers=layers,
        evidence=evidence,
        origin=origin,
    )


def _severity(observed: Observed, kind: Kind, episode: Episode) -> Severity:
    """Severe is what lasts until the end, unless the training loss says that the run learns.

    Large gradients do no harm to a network that learns: in front of a first norm whose input hardly
    varies they are large in all networks. Vanishing ones do, because the layers above can learn
    alone.
    """
    learns = observed.has_learned() if kind is findings.EXPLODING else observed.is_fitted()
    return Severity.severe if episode.is_open and not learns else Severity.warning


def _describe_silent(ctx: DepthContext, state: str, episode: Episode) -> Finding:
    """No gradient arrives even at the last layer."""
    del state
    steps = ctx.history.steps
    first_step = int(steps[episode.first])
    last_step = int(steps[episode.last])
    norm = _gradient_norm(ctx.observed, first_step, last_step)
    evidence = {}
    if norm is None:
        cause = f"no gradient reaches {ctx.last_layer}"
    elif norm > 0:
        evidence["grad_norm"] = norm
        cause = (
            "no gradient passes from the head into the layers, although the head itself gets one "
            f"(its norm is {norm:.3g})"
        )
    else:
        evidence["grad_norm"] = norm
        cause = "no gradient leaves the loss"
    entries = np.arange(ctx.history.num_signals)
    origin = _first_without_output(ctx.observed, last_step)
    if origin is not None:
        cause = f"the output of {words.name_layer(origin, ctx.names)} is zero, and {cause}"
    return _make_finding(
        ctx,
        findings.DEAD,
        episode,
        f"{cause}. {ctx.when(episode)}.",
        layers=ctx.ranges(entries),
        evidence=evidence,
        origin=origin,
    )


def _first_without_output(observed: Observed, step: int) -> int | None:
    """The first layer whose output is zero at a step, but not its input; None without one."""
    steps = np.asarray(observed.profiles.get("step", ()))
    sizes = observed.profiles.get(ACTIVATION_RMS.name)
    rows = np.flatnonzero(steps == step)
    if sizes is None or not len(rows):
        return None
    zeros = np.flatnonzero(np.asarray(sizes)[rows[-1]] == 0)
    return layer_with_output(int(zeros[0])) if len(zeros) else None


def _gradient_norm(
    observed: Observed,
    first_step: int,
    last_step: int,
) -> float | None:
    """The norm of the whole gradient over steps; None where it was not measured."""
    steps, norms = observed.series("grad_norm")
    is_inside = (steps >= first_step) & (steps <= last_step)
    return float(np.mean(norms[is_inside])) if is_inside.any() else None


def _describe_cut(ctx: DepthContext, state: str, episode: Episode) -> Finding:
    """The gradient falls from inside the band to exactly zero within one layer, which is named."""
    profile = ctx.history.mean_profile(state, episode)
    silent = np.flatnonzero(np.isneginf(profile))
    above = int(silent[-1]) + 1
    ratio = words.format_ratio(depth.order_of_magnitude(profile, above))
    text = f"{ctx.layer(above)} passes no gradient on to {_below(ctx, silent, above)}"
    if above < len(profile) - 1:
        text += f", although it gets {ratio} of what {ctx.last_layer} gets"
    return _make_finding(
        ctx,
        findings.DEAD,
        episode,
        f"{text}. {ctx.when(episode)}.",
        layers=ctx.ranges(silent),
        evidence={"silent_layers": float(len(silent))},
        origin=ctx.number(above),
    )


def _below(
    ctx: DepthContext,
    entries: np.ndarray,
    above: int,
) -> str:
    """Entries of a profile in words, where ``above`` is the entry of a layer named before them."""
    is_input = ctx.history.signals[entries[-1]] == 0
    if is_input and ctx.number(above) == 0:
        return "its input"
    return ctx.where(entries)


def _describe_drift(ctx: DepthContext, state: str, episode: Episode) -> Finding:
    """The gradient leaves the band on one side."""
    kind = findings.VANISHING if state == "vanishing" else findings.EXPLODING
    profile = _profile_outside(ctx.history, state, episode)
    outside = depth.entries_outside(profile, state)
    fitted = depth.fit(profile, ctx.history.signals)
    extreme = depth.pick(profile, state)
    log10_ratio = depth.order_of_magnitude(profile, extreme)
    where = ctx.where(outside)
    if len(outside) == 1 and ctx.history.signals[outside[0]] == 0:
        where = f"at {where}"
    parts = [_explain(ctx, state, profile, fitted), f"{ctx.when(episode)}, {where}."]
    jump = depth.largest_jump(profile, extreme)
    return _make_finding(
        ctx,
        kind,
        episode,
        " ".join(parts),
        layers=ctx.ranges(outside),
        evidence={
            "factor_per_layer": fitted.factor_per_layer,
            "log10_ratio": log10_ratio,
            "layer": float(ctx.number(extreme)),
        },
        origin=_origin_of_jump(ctx, jump),
    )


def _origin_of_jump(ctx: DepthContext, jump: int | None) -> int | None:
    """The layer that makes a jump; None where there is no jump, or no single layer."""
    if jump is None or not _has_single_layer(ctx, jump):
        return None
    return ctx.number(jump + 1)


def _profile_outside(
    history: DepthHistory,
    state: str,
    episode: Episode,
) -> np.ndarray:
    """The mean profile of an episode; where the mean is inside the band, its most extreme step."""
    profile = history.mean_profile(state, episode)
    if len(depth.entries_outside(profile, state)):
        return profile
    profiles = history.profiles[history.rows_of(state, episode)]
    extremes = profiles.min(axis=1) if state == "vanishing" else -profiles.max(axis=1)
    return profiles[int(np.argmin(extremes))]


def _explain(
    ctx: DepthContext,
    state: str,
    profile: np.ndarray,
    fitted: Fit,
) -> str:
    """How the gradient changes over depth, and what the layer farthest outside gets."""
    extreme = depth.pick(profile, state)
    ratio = words.format_ratio(depth.order_of_magnitude(profile, extreme))
    share = f"{ratio} of" if state == "vanishing" else f"{ratio} times"
    layer = ctx.layer(extreme)
    jump = depth.largest_jump(profile, extreme)
    if jump is not None:
        change = _describe_jump(ctx, profile, jump)
        return f"{change}; {layer} gets {share} what {ctx.last_layer} gets."
    is_steady = fitted.kind == state and depth.is_geometric(profile, fitted)
    if len(profile) <= 2 or not is_steady:
        return f"{layer} gets {share} the squared gradient of {ctx.last_layer}."
    factor = words.format_factor(fitted.factor_per_layer)
    details = factor_details(ctx, fitted, len(profile))
    in_brackets = f" ({'; '.join(details)})" if details else ""
    start = _start_in_words(ctx)
    return (
        f"the squared gradient is multiplied by {factor} per {ctx.unit} towards the "
        f"{start}{in_brackets}, so {layer} gets {share} what {ctx.last_layer} gets."
    )


def _describe_jump(ctx: DepthContext, profile: np.ndarray, jump: int) -> str:
    """How the squared gradient changes in one layer, from its output to its input."""
    change = float(profile[jump] - profile[jump + 1]) / math.log(10)
    ratio = words.format_ratio(change)
    verb = f"falls to {ratio} of itself" if change < 0 else f"grows {ratio} times"
    where = f"in {ctx.layer(jump + 1)}"
    if not _has_single_layer(ctx, jump):
        where = f"from {ctx.layer(jump + 1)} to {ctx.layer(jump)}"
    return f"the squared gradient {verb} {where} alone"


def _has_single_layer(ctx: DepthContext, entry: int) -> bool:
    """Whether one layer lies between an entry and the next one, or others that are not measured."""
    signals = ctx.history.signals
    return signals[entry + 1] == signals[entry] + 1


def _start_in_words(ctx: DepthContext) -> str:
    """Where the gradient travels to."""
    return "input" if ctx.unit == "layer" else "start"


def factor_details(
    ctx: DepthContext,
    fitted: Fit,
    num_signals: int,
) -> list[str]:
    """The interval of a factor, and the factor at initialisation next to that of theory.

    Args:
        ctx: the context.
        fitted: the fit that has the factor.
        num_signals: the entries of its profile.
    """
    details = []
    if depth.has_interval(fitted, num_signals):
        low, high = fitted.interval
        details.append(f"95 % {words.format_factor(low)}–{words.format_factor(high)}")
    initial = ctx.history.fit_first()
    if ctx.theory is not None and initial is not None:
        measured = words.format_factor(initial.factor_per_layer)
        details.append(f"at initialisation {measured}{_theory_in_words(ctx.theory)}")
    return details


def _theory_in_words(theory: Theory) -> str:
    """The factor of theory with its margin, and whether its fixed point is unstable.

    There is no factor where the margin is as large as the factor.
    """
    factor = words.format_factor(theory.factor)
    if not theory.margin:
        return f", where theory expects {factor}"
    margin = f"{theory.margin:.1g}"
    if float(margin) >= float(factor):
        return f", where {UNSTABLE}" if theory.is_unstable else ""
    remark = f", but {UNSTABLE}" if theory.is_unstable else ""
    return f", where theory expects {factor} ± {margin} at this width{remark}"


def describe_healthy(ctx: DepthContext) -> str:
    """What a healthy gradient over depth looks like, with numbers; empty if nothing is known."""
    history = ctx.history
    profile = history.last_profile()
    if profile is None:
        return ""
    fitted = depth.fit(profile, history.signals)
    lowest = words.format_ratio(depth.order_of_magnitude(profile, depth.pick(profile, "vanishing")))
    highest = words.format_ratio(
        depth.order_of_magnitude(profile, depth.pick(profile, "exploding"))
    )
    text = (
        f"every {ctx.unit} gets {lowest} to {highest} times the squared gradient of "
        f"{ctx.last_layer}"
    )
    if lowest == highest:
        text = f"every {ctx.unit} gets the same squared gradient"
    if len(profile) > 2:
        details = factor_details(ctx, fitted, len(profile))
        in_brackets = f" ({'; '.join(details)})" if details else ""
        factor = words.format_factor(fitted.factor_per_layer)
        text += (
            f"; it is multiplied by {factor} per {ctx.unit} towards the {_start_in_words(ctx)}"
            f"{in_brackets}"
        )
    return f"{text}."
