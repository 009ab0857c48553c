"""Means and intervals over seeds. Runs that cannot be averaged are counted, never hidden."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from research.config.wording import join_words
from research.records.runs import Run
from research.reporting.quantities import Quantity
from research.reporting.varied_settings import (
    RUN,
    SEED,
    differing_settings,
    is_number,
    value_order,
    values_of,
    values_order,
)

LEVEL = 0.95
LARGEST_EXPONENT = 709.0
ROUNDING = 1e-12  # relative to a mean, an interval below this is that of equal values
MISSING = "missing"
DIVERGED = "diverged"
FAILED = "failed"
UNFINISHED = "unfinished"
NO_VALUE = "without a value"
DUPLICATE = "recorded twice"
TRAINED_AGAIN = "unfinished and trained again"
REASONS = (DIVERGED, FAILED, UNFINISHED, NO_VALUE, MISSING, DUPLICATE, TRAINED_AGAIN)
FINISHED = ("done", DIVERGED)  # statuses of runs whose training would give the same again
SAME_NUMBER = 1e-6  # relative difference of two numbers up to which they are equal


@dataclass(frozen=True)
class Group:
    """Runs that agree in some settings and differ in their seed.

    Attributes:
        settings: the values in which they agree, by path.
        runs: one run for each seed, in the order of the seeds.
        repeated: how many more runs have the settings and the seed of one of them, by reason. Of
            runs of one seed, one that has finished is kept before others, and a newer one before
            older ones.
    """

    settings: Mapping[str, Any]
    runs: tuple[Run, ...]
    repeated: Mapping[str, int] = field(default_factory=dict)

    def seeds(self) -> set[Any]:
        """The seeds of the runs."""
        return {seed_of(run) for run in self.runs}


@dataclass(frozen=True)
class Summary:
    """A quantity over the seeds of a group.

    Attributes:
        values: the values that are averaged, one for each run that ended well.
        mean: their mean; of factors the geometric one. NaN without values.
        low: the lower end of the interval that holds the mean with a probability of 95 %, by
            Student's t with n − 1 degrees of freedom. NaN for fewer than two values.
        high: its upper end.
        left_out: how many runs are not averaged, by reason, such as ``diverged`` or ``missing``.
        num_seeds: how many seeds it would have if none were missing and all runs had ended well.
    """

    values: tuple[float, ...]
    mean: float
    low: float
    high: float
    left_out: Mapping[str, int]
    num_seeds: int

    @property
    def count(self) -> int:
        """How many values are averaged."""
        return len(self.values)

    @property
    def is_complete(self) -> bool:
        """Whether every run that belongs here ended well and has a value."""
        return bool(self.values) and not any(
            reason in self.left_out for reason in (DIVERGED, FAILED, UNFINISHED, NO_VALUE)
        )


@dataclass(frozen=True)
class Averaged:
    """Several curves as one: their mean, and how far they are apart.

    Attributes:
        mean: the mean at each of P points [P].
        low: the lower end of their range or of an interval [P]; NaN where it is unknown.
        high: its upper end [P].
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def exponential(self) -> "Averaged":
        """The same of the values whose logarithms these are: the mean is the geometric one."""
        return Averaged(
            mean=np.exp(self.mean),
            low=np.exp(self.low),
            high=np.exp(self.high),
        )


def mean_interval(
    values: Sequence[float] | np.ndarray,
    level: float = LEVEL,
) -> tuple[float, float]:
    """The interval that holds the mean of the distribution that ``values`` come from.

    Student's t for independent, normally distributed values (Student 1908). For a paired comparison
    pass the differences of the pairs.

    Args:
        values: two numbers or more.
        level: the probability that the interval holds the mean.

    Returns:
        Its lower and upper end, in the units of ``values``.
    """
    column = np.asarray(values, float)[:, None]
    low, high = mean_intervals(column, level)
    return low.item(), high.item()


def mean_intervals(
    values: np.ndarray,
    level: float = LEVEL,
) -> tuple[np.ndarray, np.ndarray]:
    """``mean_interval`` of each column.

    Args:
        values: one row for each run [M, K]; NaN where a run has no value.
        level: the probability that an interval holds its mean.

    Returns:
        The lower and upper ends [K]; NaN for columns with fewer than two values.
    """
    from scipy.special import stdtrit  # this import takes a third of a second

    is_value = np.isfinite(values)
    counts = is_value.sum(axis=0)
    enough = counts >= 2
    present = np.where(is_value, values, 0.0)
    divisors = np.maximum(counts, 1)
    freedom = np.maximum(counts - 1, 1)
    means = present.sum(axis=0) / divisors
    squares = np.where(is_value, (values - means) ** 2, 0.0)
    variances = squares.sum(axis=0) / freedom
    errors = np.sqrt(variances / divisors)
    quantiles = stdtrit(freedom, (1 + level) / 2)
    margins = quantiles * errors
    low = np.where(enough, means - margins, np.nan)
    high = np.where(enough, means + margins, np.nan)
    return low, high


def average_with_interval(values: np.ndarray, *, is_geometric: bool) -> Averaged:
    """The mean of each column of [M, P] and the interval of that mean.

    Args:
        values: the values; those that are not finite are left out.
        is_geometric: whether the mean is the geometric one. Then only positive values count.
    """
    if is_geometric:
        positive = np.where(values > 0, values, np.nan)
        values = np.log(positive)
    mean = column_means(values)
    low, high = mean_intervals(values)
    averaged = Averaged(mean, low, high)
    return averaged.exponential() if is_geometric else averaged


def average_with_range(values: np.ndarray) -> Averaged:
    """The mean of each column of [M, P], and its least and its greatest value.

    Args:
        values: the values; NaN where a curve has ended.
    """
    mean = np.nanmean(values, axis=0)
    if len(values) < 2:
        unknown = np.full_like(mean, np.nan)
        return Averaged(mean, unknown, unknown)
    return Averaged(
        mean=mean,
        low=np.nanmin(values, axis=0),
        high=np.nanmax(values, axis=0),
    )


def column_means(values: np.ndarray) -> np.ndarray:
    """The mean of the finite values of each column of [M, K]; NaN where there is none."""
    is_value = np.isfinite(values)
    counts = is_value.sum(axis=0)
    present = np.where(is_value, values, 0.0)
    means = present.sum(axis=0) / np.maximum(counts, 1)
    return np.where(counts > 0, means, np.nan)


def summarize(
    group: Group,
    quantity: Quantity,
    usual: Set[Any] = frozenset(),
) -> Summary:
    """The mean of a quantity over the seeds of a group, with its interval.

    Args:
        group: the runs.
        quantity: what is averaged.
        usual: the seeds that most groups have; see ``missing_seeds``.
    """
    values = []
    left_out = Counter()
    for run in group.runs:
        reason = reason_to_leave_out(run, quantity)
        if reason:
            left_out[reason] += 1
        else:
            values.append(quantity.value(run))
    num_missing = len(missing_seeds(group, usual))
    left_out[MISSING] = num_missing
    left_out.update(group.repeated)
    return Summary(
        values=tuple(values),
        **_mean_and_interval(values, quantity),
        left_out={reason: left_out[reason] for reason in REASONS if left_out[reason]},
        num_seeds=len(group.runs) + num_missing,
    )


def _mean_and_interval(values: Sequence[float], quantity: Quantity) -> dict[str, float]:
    """``mean``, ``low`` and ``high`` of a summary; of factors, those of their logarithms."""
    numbers = np.array(values, float)
    is_geometric = quantity.is_factor and bool(np.all(numbers > 0))
    if is_geometric:
        numbers = np.log(numbers)
    mean = float(numbers.mean()) if len(numbers) else math.nan
    low = math.nan
    high = math.nan
    if len(numbers) >= 2:
        low, high = mean_interval(numbers)
    ends = {"mean": mean, "low": low, "high": high}
    if is_geometric:
        return {name: _exp(value) for name, value in ends.items()}
    return ends


def _exp(value: float) -> float:
    """The exponential, limited to the largest float64 where it would overflow."""
    return math.exp(min(value, LARGEST_EXPONENT))


def reason_to_leave_out(run: Run, quantity: Quantity) -> str:
    """Why a run is not averaged; empty where it is."""
    value = quantity.value(run)
    if quantity.is_initial:
        return "" if value is not None else NO_VALUE
    status = run.status
    if status == DIVERGED:
        return DIVERGED
    if status == FAILED:
        return FAILED
    if status != "done":
        return UNFINISHED
    return "" if value is not None else NO_VALUE


def group_runs(runs: Sequence[Run], paths: Sequence[str]) -> list[Group]:
    """The runs by their values of some settings, in the order of these values.

    Args:
        runs: runs that differ in nothing but ``paths`` and their seed.
        paths: the settings.

    Raises:
        ValueError: two runs of a group have the same seed, and differ in another setting or in
            their results; see ``leave_out_clashing``.
    """
    by_values: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        values = values_of(run, paths)
        by_values.setdefault(values, []).append(run)
    groups = []
    for values in sorted(by_values, key=lambda values: values_order(paths, values)):
        settings = dict(zip(paths, values, strict=True))
        groups.append(_make_group(settings, by_values[values]))
    return groups


def without_unmeasured(
    runs: Sequence[Run],
    paths: Sequence[str],
    quantity: Quantity,
) -> list[Run]:
    """The runs without those whose whole group ended well and has no value of a quantity.

    Args:
        runs: the runs.
        paths: the settings in which the runs of a group agree.
        quantity: what would be averaged.
    """
    reasons: dict[tuple[Any, ...], set[str]] = {}
    for run in runs:
        values = values_of(run, paths)
        reason = reason_to_leave_out(run, quantity)
        reasons.setdefault(values, set()).add(reason)
    return [run for run in runs if reasons[values_of(run, paths)] != {NO_VALUE}]


def _make_group(settings: Mapping[str, Any], runs: Sequence[Run]) -> Group:
    by_seed: dict[Any, Run] = {}
    repeated = Counter()
    for run in runs:
        seed = seed_of(run)
        other = by_seed.get(seed)
        if other is None:
            by_seed[seed] = run
            continue
        _check_same(run, other)
        is_better = _preference(run) > _preference(other)
        kept, dropped = (run, other) if is_better else (other, run)
        by_seed[seed] = kept
        is_unfinished = _is_finished(kept) and not _is_finished(dropped)
        repeated[TRAINED_AGAIN if is_unfinished else DUPLICATE] += 1
    in_order = sorted(by_seed, key=lambda seed: value_order(SEED, seed))
    chosen = tuple(by_seed[seed] for seed in in_order)
    return Group(settings, chosen, repeated)


def _preference(run: Run) -> tuple[bool, float]:
    """Of runs with the same settings and seed, the one with the largest is averaged."""
    return _is_finished(run), run.start_time


def _is_finished(run: Run) -> bool:
    return run.status in FINISHED


def _check_same(run: Run, other: Run) -> None:
    """Checks that two runs with the same seed are records of the same training."""
    differing = differing_settings([run, other])
    is_same = not differing and not _do_clash(run, other)
    if is_same or run.info.get("id") == other.info.get("id"):
        return
    difference = f"differ in {', '.join(differing)}" if differing else "have other numbers"
    raise ValueError(
        f"{run.directory} and {other.directory} have the same seed here but {difference}: "
        "select one of them by a filter"
    )


def _do_clash(run: Run, other: Run) -> bool:
    """Whether two runs with the same settings and seed have finished with different results.

    Runs of two studies are other runs, although their training is the same.
    """
    if run.info.get("id") == other.info.get("id"):
        return False
    if not _is_finished(run) or not _is_finished(other):
        return False
    numbers = run.info.get("final") or {}
    others = other.info.get("final") or {}
    if run.status != other.status or numbers.keys() != others.keys():
        return True
    return not all(_are_equal(numbers[name], others[name]) for name in numbers)


def _are_equal(a: Any, b: Any) -> bool:
    """Whether two numbers of a record are the same; None and NaN are no numbers."""
    if not is_number(a) or not is_number(b) or math.isnan(a) or math.isnan(b):
        return str(a) == str(b)
    return math.isclose(a, b, rel_tol=SAME_NUMBER)


@dataclass(frozen=True)
class Averageable:
    """Runs without those whose settings and seed are the same and whose results are not.

    Attributes:
        runs: the runs of which means can be taken.
        clashing: those that are left out, the runs of one seed together.
    """

    runs: tuple[Run, ...]
    clashing: tuple[tuple[Run, ...], ...]

    @property
    def notes(self) -> list[str]:
        """Which runs are not averaged, and why, in one sentence; none where all runs are."""
        if not self.clashing:
            return []
        return [f"not averaged: {self._clash_in_words()}"]

    def check_any(self) -> None:
        """Raises ValueError, which names the runs, where none is left."""
        if self.clashing and not self.runs:
            raise ValueError(f"{self._clash_in_words()}: select one of them by a filter")

    def _clash_in_words(self) -> str:
        names = [str(run.directory) for run in self.clashing[0]]
        words = (
            f"{join_words(names, 'and')}, which have the same settings and seed but other numbers"
        )
        num_others = len(self.clashing) - 1
        return f"{words} (and {num_others} more such)" if num_others else words


def leave_out_clashing(runs: Sequence[Run]) -> Averageable:
    """Leaves out the runs that have the same settings and seed, and finished with other results.

    Which of them is right is not known. Runs with equal results, and those of which only one has
    finished, are left to ``group_runs``, which counts them once.

    Args:
        runs: the runs.
    """
    paths = [*differing_settings(runs), RUN]
    alike: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        key = (seed_of(run), values_of(run, paths))
        alike.setdefault(key, []).append(run)
    clashing = []
    for same in alike.values():
        finished = [run for run in same if _is_finished(run)]
        if any(_do_clash(run, other) for run, other in itertools.combinations(finished, 2)):
            clashing.append(tuple(finished))
    left_out = {id(run) for group in clashing for run in group}
    rest = [run for run in runs if id(run) not in left_out]
    return Averageable(tuple(rest), tuple(clashing))


def seed_of(run: Run) -> Any:
    """The seed of a run; its directory where it has none, so that it counts as one of its own."""
    seed = run.config.get(SEED, run.info.get(SEED))
    return str(run.directory) if seed is None else seed


def usual_seeds(groups: Sequence[Group]) -> frozenset[Any]:
    """The seeds that most groups have; of equally frequent sets the largest.

    It is empty where the seed is one of the settings by which the runs are grouped.
    """
    counts = Counter(frozenset(group.seeds()) for group in groups if SEED not in group.settings)
    if not counts:
        return frozenset()
    return max(counts, key=lambda seeds: (counts[seeds], len(seeds)))


def missing_seeds(group: Group, usual: Set[Any]) -> Set[Any]:
    """The usual seeds that a group lacks; none for a group that has other seeds on purpose."""
    seeds = group.seeds()
    return usual - seeds if seeds < usual else set()


def count_missing(groups: Sequence[Group]) -> int:
    """How many runs are missing in all groups."""
    usual = usual_seeds(groups)
    return sum(len(missing_seeds(group, usual)) for group in groups)


def left_out_in_words(summaries: Iterable[Summary]) -> str:
    """How many runs are not averaged, such as ``3 diverged, 1 missing``; empty where none."""
    total = Counter()
    for summary in summaries:
        total.update(summary.left_out)
    return ", ".join(f"{total[reason]} {reason}" for reason in REASONS if total[reason])


def format_mean(summary: Summary, *, is_factor: bool = False) -> str:
    """``0.931 ± 0.004``: the mean and half of its interval, with the digits that the interval has.

    Args:
        summary: what is shown. A single value has three digits and no interval.
        is_factor: whether the interval is not symmetric; then its ends are shown.
    """
    if not summary.count:
        return "–"
    if not math.isfinite(summary.low):
        return f"{summary.mean:.3g}"
    if is_factor:
        return f"{summary.mean:.3g} ({summary.low:.3g} to {summary.high:.3g})"
    half_width = (summary.high - summary.low) / 2
    return format_interval(summary.mean, half_width)


def seeds_in_words(summary: Summary) -> str:
    """``(2 of 3)``: how many seeds a mean has; empty where none is missing."""
    if summary.count == summary.num_seeds:
        return ""
    return f"({summary.count} of {summary.num_seeds})"


def format_interval(mean: float, half_width: float) -> str:
    """``0.931 ± 0.004``; ``(1.2 ± 0.3)e-07`` where the numbers are very small or large."""
    largest = max(abs(mean), half_width)
    exponent = math.floor(math.log10(largest)) if largest else 0
    if -4 <= exponent <= 5:
        decimals = _decimals(half_width, mean)
        return f"{mean:.{decimals}f} ± {half_width:.{decimals}f}"
    scale = 10.0**exponent
    decimals = _decimals(half_width / scale, mean / scale)
    return f"({mean / scale:.{decimals}f} ± {half_width / scale:.{decimals}f})e{exponent:+03d}"


def _decimals(half_width: float, mean: float) -> int:
    """Decimals that show one digit of the half width, or two where the first is 1."""
    if half_width <= ROUNDING * abs(mean):
        size = math.floor(math.log10(abs(mean))) if mean else 0
        return max(0, 2 - size)
    exponent = math.floor(math.log10(half_width))
    leading = half_width / 10.0**exponent
    decimals = -exponent + (1 if leading < 1.95 else 0)
    return min(max(0, decimals), 12)
