"""How the gradient travels over depth: the fit of a profile, and when it leaves the band.

The healthy band: every layer's squared backward signal is within a factor ``BAND`` of the last
layer's. A critical network stays inside it: its finite width makes the logarithm fluctuate only by
about ±5L/n. In a vanishing or exploding network the signal leaves the band after a few layers.
Slopes are fitted to logarithms of squared norms, and these logarithms are averaged, never the
norms.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from research.diagnosis.episodes import Episode, find_episodes
from research.gauges.numbering import nearest_layer

BAND = 1e4
CONFIDENCE = 0.95
# The variance of a least-squares slope on a random walk of m increments, in units of s²/m, where s
# is the standard deviation of an increment; for large m.
RANDOM_WALK_SLOPE_VARIANCE = 1.2
JUMP = 100.0  # a factor between neighbours that is named by itself
LEAST_INCREMENTS = 4  # from fewer of them no interval is given
LARGEST_EXPONENT = 709.0  # whose exponential is a float64
WIDEST_INTERVAL = 100.0  # an interval whose ends differ by a larger factor says nothing


@dataclass(frozen=True)
class Fit:
    """A profile of ln‖∂L/∂h_l‖² over depth, relative to the last layer.

    Attributes:
        kind: ``healthy``, or the side of the band that the layer farthest outside is on:
            ``vanishing``, ``exploding``; ``dead`` where the gradient is cut off.
        factor_per_layer: the factor on the squared norm from one layer to the layer below.
        interval: its 95 % interval.
        ratio: the squared gradient at the input of the first layer over that of the last layer.
        log10_ratio: its logarithm, which does not overflow.
        first_layer: the first layer outside the band on this side, coming from the output; None
            where all layers are inside.
    """

    kind: str
    factor_per_layer: float
    interval: tuple[float, float]
    ratio: float
    log10_ratio: float
    first_layer: int | None


def skipped_layers(depth: int) -> int:
    """How many layers at the input a fit leaves out.

    The signal has not reached its fixed point there.
    """
    return min(5, depth // 4)


def log_profile(signal: np.ndarray) -> np.ndarray:
    """The logarithm of the squared norms relative to the last layer's, [..., N+1].

    It is -inf where no gradient arrives.
    """
    signal = np.asarray(signal, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = 2 * np.log(signal)
        return logs - logs[..., -1:]


def fit(profile: np.ndarray, signals: Sequence[int] | None = None) -> Fit:
    """Fits one log profile.

    The slope is by least squares. The increments from layer to layer are independent, their sums
    are not. So the interval comes from the spread of the increments: the slope of a random walk of
    m increments with standard deviation s has the standard error s·√(6/5m), because 1.2 s²/m is the
    variance of a least-squares slope on a random walk for large m.

    Args:
        profile: the log profile [layers].
        signals: the numbers of its signals; None for 0, 1, 2, ….
    """
    slope = float(slopes_of(profile[None])[0])
    half_width = _slope_half_width(profile)
    interval = (0.0, 0.0)
    if math.isfinite(slope):
        interval = (_exp(slope - half_width), _exp(slope + half_width))
    log_ratio = float(profile[0])
    kind = kind_of(profile)
    outside = entries_outside(profile, kind)
    first_layer = None
    if len(outside):
        nearest = int(outside[-1])
        first_layer = nearest_layer(nearest if signals is None else signals[nearest])
    return Fit(
        kind=kind,
        factor_per_layer=_exp(slope),
        interval=interval,
        ratio=_exp(log_ratio),
        log10_ratio=log_ratio / math.log(10),
        first_layer=first_layer,
    )


def has_interval(fitted: Fit, num_signals: int) -> bool:
    """Whether the interval of a factor says something: it has enough layers and is not too wide.

    Args:
        fitted: the fit.
        num_signals: the entries of its profile.
    """
    low, high = fitted.interval
    has_enough = _num_increments(num_signals) >= LEAST_INCREMENTS
    return has_enough and low > 0 and high <= WIDEST_INTERVAL * low


def _num_increments(num_signals: int) -> int:
    """The fitted increments from layer to layer of a profile."""
    return num_signals - 1 - skipped_layers(num_signals - 1)


def _exp(value: float) -> float:
    """The exponential, limited to the largest float64 where it would overflow."""
    return math.exp(min(value, LARGEST_EXPONENT))


def slopes_of(profiles: np.ndarray) -> np.ndarray:
    """The least-squares slopes of log profiles, in nats per layer towards the input.

    Args:
        profiles: log profiles [S, layers].

    Returns:
        The slopes over the layers with a gradient [S]; -inf for fewer than two such layers.
    """
    layers = np.arange(profiles.shape[1])
    first_fitted = skipped_layers(len(layers) - 1)
    is_fitted = np.isfinite(profiles) & (layers >= first_fitted)
    counts = is_fitted.sum(axis=1)
    sums = (is_fitted * layers).sum(axis=1)
    middles = sums / np.maximum(counts, 1)
    offsets = np.where(is_fitted, layers - middles[:, None], 0.0)
    logs = np.where(is_fitted, profiles, 0.0)
    covariances = (offsets * logs).sum(axis=1)
    is_enough = counts >= 2
    variances = np.where(is_enough, (offsets**2).sum(axis=1), 1.0)
    return np.where(is_enough, -covariances / variances, -np.inf)


def factors_of(profiles: np.ndarray) -> np.ndarray:
    """The factors per layer [S] of log profiles [S, layers]; see ``slopes_of``."""
    return np.exp(np.minimum(slopes_of(profiles), LARGEST_EXPONENT))


def _slope_half_width(profile: np.ndarray) -> float:
    """Half the width of the slope's interval, in nats per layer.

    It is infinite for fewer than two increments.
    """
    fitted = profile[skipped_layers(len(profile) - 1) :]
    increments = np.diff(fitted[np.isfinite(fitted)])
    count = len(increments)
    if count < 2:
        return math.inf
    from scipy.special import stdtrit  # this import takes a third of a second

    quantile = stdtrit(count - 1, 0.5 + CONFIDENCE / 2)
    deviation = np.std(increments, ddof=1)
    return float(quantile * deviation * math.sqrt(RANDOM_WALK_SLOPE_VARIANCE / count))


def kind_of(profile: np.ndarray) -> str:
    """The kind of a log profile [layers], decided by the layer farthest outside the band."""
    return str(kinds_of(profile[None])[0])


def kinds_of(profiles: np.ndarray) -> np.ndarray:
    """The kinds [S] of log profiles [S, layers]."""
    is_cut, is_vanishing, is_exploding = _states(profiles)
    is_farther_below = -profiles.min(axis=1) >= profiles.max(axis=1)
    choices = {
        "dead": is_cut,
        "vanishing": is_vanishing & (is_farther_below | ~is_exploding),
        "exploding": is_exploding,
    }
    return np.select(list(choices.values()), list(choices), "healthy")


def entries_outside(profile: np.ndarray, kind: str) -> np.ndarray:
    """The entries of a log profile [layers] that are outside the band on the side of ``kind``.

    Returns:
        Their indices in ascending order, [K]; none for ``healthy``.
    """
    if kind in ("vanishing", "dead"):
        return np.flatnonzero(profile < -math.log(BAND))
    if kind == "exploding":
        return np.flatnonzero(profile > math.log(BAND))
    return np.zeros(0, int)


def largest_jump(profile: np.ndarray, extreme: int) -> int | None:
    """The layer at which alone most of the way to the extreme happens; None where there is none.

    That layer's squared gradient differs from that of the next one by a factor ``JUMP`` or more,
    and its logarithm by half or more of all between ``extreme`` and the last layer.

    Args:
        profile: a log profile [layers].
        extreme: the entry that is farthest from the last one.

    Returns:
        The entry below the jump, towards the input.
    """
    logs = profile[extreme:]
    if len(profile) <= LEAST_INCREMENTS or not np.isfinite(logs).all():
        return None
    changes = logs[:-1] - logs[1:]
    sizes = changes * np.sign(profile[extreme])
    position = int(np.argmax(sizes))
    half_of_all = abs(profile[extreme]) / 2
    is_large = sizes[position] >= max(math.log(JUMP), half_of_all)
    return extreme + position if is_large else None


def _states(profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether log profiles [S, layers] are cut off, vanish and explode, each [S].

    A gradient that falls from inside the band to exactly 0 within one layer did not fade: it is cut
    off.
    """
    is_below = profiles < -math.log(BAND)
    is_exploding = np.any(profiles > math.log(BAND), axis=1)
    num_steps, num_layers = profiles.shape
    layers_above = np.argmax(is_below[:, ::-1], axis=1)  # of the last one below the band
    last_below = num_layers - 1 - layers_above
    edge = profiles[np.arange(num_steps), last_below]
    is_outside = np.any(is_below, axis=1)
    is_cut = is_outside & np.isneginf(edge)
    return is_cut, is_outside & ~is_cut, is_exploding


@dataclass(frozen=True)
class DepthHistory:
    """What the gradient over depth did during a run.

    Attributes:
        steps: the measured steps whose numbers are finite, [S].
        profiles: their log profiles, [S, layers].
        is_silent: whether no gradient arrives even at the last layer, [S].
        states: whether each step is of a kind, [S]: ``silent``, ``cut``, ``gone`` (either of
            them), ``vanishing``, ``exploding``.
        signals: the number of the signal of each entry of a profile.
    """

    steps: np.ndarray
    profiles: np.ndarray
    is_silent: np.ndarray
    states: dict[str, np.ndarray]
    signals: Sequence[int]

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def num_signals(self) -> int:
        """The entries of a profile."""
        return self.profiles.shape[1]

    def episodes(self, state: str) -> list[Episode]:
        """The stretches of steps over which a state holds."""
        return find_episodes(self.states[state])

    def is_at_end(self, state: str) -> bool:
        """Whether a state holds at the end."""
        episodes = self.episodes(state)
        return bool(episodes) and episodes[-1].is_open

    def step(self, row: int) -> int:
        """The step of a row."""
        return int(self.steps[row])

    def is_healthy_first(self) -> bool:
        """Whether the first step is in none of the states; true where no step was measured."""
        return not any(state[:1].any() for state in self.states.values())

    def fit_first(self) -> Fit | None:
        """The fit of the first step, where there is a gradient."""
        if not len(self) or self.is_silent[0]:
            return None
        return fit(self.profiles[0], self.signals)

    def fit_last(self) -> Fit | None:
        """The fit of the last steps; None where no gradient arrives in them."""
        profile = self.last_profile()
        return None if profile is None else fit(profile, self.signals)

    def last_profile(self) -> np.ndarray | None:
        """The mean log profile over the last steps that are in the state of the end.

        These are the last tenth of the steps with a gradient. None where the run ends silent.
        """
        has_gradient = ~self.is_silent
        if self.is_at_end("silent") or not has_gradient.any():
            return None
        is_typical = has_gradient
        for state in ("cut", "vanishing", "exploding"):
            is_as_at_end = self.states[state] == self.is_at_end(state)
            is_typical = is_typical & is_as_at_end
        rows = np.flatnonzero(is_typical)
        if not len(rows):
            rows = np.flatnonzero(has_gradient)
        num_with_gradient = int(has_gradient.sum())
        last_tenth = rows[-max(1, num_with_gradient // 10) :]
        return self.profiles[last_tenth].mean(axis=0)

    def mean_profile(self, state: str, episode: Episode) -> np.ndarray:
        """The mean log profile [layers] of an episode, over its steps that are in the state.

        Of an episode that lasts until the end it is that of the last steps.
        """
        if episode.is_open:
            profile = self.last_profile()
            if profile is not None:
                return profile
        rows = self.rows_of(state, episode)
        return self.profiles[rows].mean(axis=0)

    def rows_of(self, state: str, episode: Episode) -> np.ndarray:
        """The indices [K] of the rows of an episode that are in the state."""
        rows = np.flatnonzero(self.states[state])
        is_inside = (rows >= episode.first) & (rows <= episode.last)
        return rows[is_inside]


def make_history(
    steps: np.ndarray,
    signal: np.ndarray,
    signals: Sequence[int] | None = None,
) -> DepthHistory:
    """Sorts measured steps by what the gradient does over depth.

    Args:
        steps: the measured steps [S], ascending.
        signal: ‖∂L/∂h_l‖ [S, N+1]; steps at which one is not finite are left out.
        signals: the numbers l of the signals that are judged; None for all.
    """
    if signals is None:
        signals = range(np.shape(signal)[1])
    signal = np.asarray(signal)[:, list(signals)]
    is_finite = np.isfinite(signal).all(axis=1)
    signal = signal[is_finite]
    is_silent = signal[:, -1] == 0
    profiles = log_profile(signal)
    profiles[is_silent] = 0.0
    is_cut, is_vanishing, is_exploding = _states(profiles)
    return DepthHistory(
        steps=np.asarray(steps)[is_finite],
        profiles=profiles,
        is_silent=is_silent,
        states={
            "silent": is_silent,
            "cut": is_cut,
            "gone": is_silent | is_cut,
            "vanishing": is_vanishing,
            "exploding": is_exploding,
        },
        signals=signals,
    )


def pick(profile: np.ndarray, kind: str) -> int:
    """The entry of a log profile [layers] farthest outside the band on the side of ``kind``."""
    if kind in ("vanishing", "dead"):
        return int(np.argmin(profile))
    return int(np.argmax(profile))


def is_geometric(profile: np.ndarray, fitted: Fit) -> bool:
    """Whether one factor per layer describes a log profile [layers] that leaves the band.

    Its direction is that of the kind, as is that of its interval where it has one, and the first
    layer is the one that is farthest outside.
    """
    if pick(profile, fitted.kind) != 0:
        return False
    low = fitted.factor_per_layer
    high = fitted.factor_per_layer
    if _num_increments(len(profile)) >= LEAST_INCREMENTS:
        low, high = fitted.interval
    return high < 1 if fitted.kind == "vanishing" else low > 1


def order_of_magnitude(profile: np.ndarray, layer: int) -> float:
    """log₁₀ of a layer's squared gradient over that of the last layer, of a profile [layers]."""
    return float(profile[layer]) / math.log(10)
