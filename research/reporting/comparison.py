"""What differs between two runs, or between two groups of runs (``fathom compare``)."""

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from research.gauges.numbering import INPUT
from research.gauges.table import METRICS as DECLARED_METRICS
from research.gauges.table import OF_SIGNALS
from research.records.runs import INSPECTIONS, METRICS, PROFILES, Columns, Run
from research.reporting.aggregation import mean_interval, reason_to_leave_out, seed_of
from research.reporting.quantities import BY_NAME, Quantity
from research.reporting.varied_settings import (
    SEED,
    differing_settings,
    distinct_values,
    setting_value,
    values_of,
)

COMPARED_IN_PAIRS = (
    "eval_accuracy",
    "train_accuracy",
    "eval_loss",
    "train_loss",
    "initial_factor",
    "factor_per_layer",
    "log10_ratio",
)
COMPARED = (*COMPARED_IN_PAIRS, "steps", "parameters")
TABLES = (METRICS, PROFILES, INSPECTIONS)


@dataclass(frozen=True)
class SettingDifference:
    """A setting that differs: its values on each side, in order."""

    path: str
    a: tuple[Any, ...]
    b: tuple[Any, ...]


@dataclass(frozen=True)
class NumberDifference:
    """A number of two runs; None on the side of a run that has none."""

    quantity: Quantity
    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        """The number of the second run minus that of the first; None where one is missing."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True)
class RecordDifference:
    """The first step at which the records of two runs differ.

    Attributes:
        step: the step.
        table: ``metrics``, ``profiles`` or ``inspections``.
        column: the first column that differs there.
        layer: the first layer whose value differs, −1 for the input of layer 0; None for a number.
        a: its value in the first run.
        b: its value in the second run.
        num_columns: how many columns differ at this step, of all tables.
    """

    step: int
    table: str
    column: str
    layer: int | None
    a: float
    b: float
    num_columns: int

    @property
    def relative(self) -> float:
        """|b − a| over the larger of both; NaN where that is not finite."""
        largest = max(abs(self.a), abs(self.b))
        difference = abs(self.b - self.a)
        is_finite = math.isfinite(difference) and largest > 0
        return difference / largest if is_finite else math.nan


@dataclass(frozen=True)
class PairedDifference:
    """A quantity in pairs of runs that agree in their seed and in all that varies on both sides.

    Attributes:
        quantity: what is compared; of factors the logarithms are.
        a: the mean over the pairs on the first side; of factors the geometric one.
        b: the mean on the second side.
        difference: the mean of b − a; of factors the geometric mean of b/a.
        low: the lower end of its 95 % interval (Student's t, n − 1); NaN for fewer than two pairs.
        high: the upper end.
        p_value: of the paired t-test, two-sided; NaN for fewer than two pairs.
        num_pairs: how many pairs are compared.
        num_left_out: pairs of which a run did not end well or has no value.
    """

    quantity: Quantity
    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float
    num_pairs: int
    num_left_out: int


@dataclass(frozen=True, repr=False)
class Comparison:
    """What differs between two sides of one run or several.

    Attributes:
        a: the runs of the first side.
        b: the runs of the second side.
        settings: the settings that differ.
        numbers: the numbers of two single runs; empty for groups.
        first_difference: where the records of two single runs begin to differ; None where they are
            equal, and for groups.
        num_compared: how many recorded numbers of two single runs were compared.
        only_in_one: the columns that only one of two runs recorded, or with another shape.
        lengths: the last recorded step of each of two single runs.
        pairs: the paired comparison of groups; empty for single runs.
        num_unpaired: the runs of groups that have no partner.
    """

    a: tuple[Run, ...]
    b: tuple[Run, ...]
    settings: tuple[SettingDifference, ...]
    numbers: tuple[NumberDifference, ...] = ()
    first_difference: RecordDifference | None = None
    num_compared: int = 0
    only_in_one: tuple[str, ...] = ()
    lengths: tuple[int, int] = (0, 0)
    pairs: tuple[PairedDifference, ...] = ()
    num_unpaired: int = 0

    @property
    def is_single(self) -> bool:
        """Whether each side is one run."""
        return len(self.a) == 1 and len(self.b) == 1

    @property
    def are_records_equal(self) -> bool:
        """Whether two single runs recorded the same numbers at the same steps."""
        same_length = self.lengths[0] == self.lengths[1]
        return self.is_single and same_length and not self.only_in_one and not self.first_difference

    def __repr__(self) -> str:
        """The comparison as the terminal shows it."""
        from research.reporting.comparison_report import comparison_text

        return comparison_text(self)

    def _repr_html_(self) -> str:
        """The comparison for a notebook; what comes from runs is escaped."""
        return f"<pre>{html.escape(repr(self))}</pre>"

    @property
    def is_identical(self) -> bool:
        """Whether two single runs agree in all settings and recorded the same numbers."""
        return self.are_records_equal and not self.settings


def compare_runs(a: Sequence[Run], b: Sequence[Run]) -> Comparison:
    """Compares two runs, or two groups of runs in pairs.

    Args:
        a: the first side.
        b: the second side.

    Raises:
        ValueError: runs of a group cannot be paired, because several of them have the same seed.
    """
    settings = tuple(_different_settings(a, b))
    if len(a) == 1 and len(b) == 1:
        return _compare_single(a[0], b[0], settings)
    partners = _pair(a, b)
    pairs = []
    for name in COMPARED_IN_PAIRS:
        paired = compare_pairs(partners, BY_NAME[name])
        if paired is not None:
            pairs.append(paired)
    return Comparison(
        a=tuple(a),
        b=tuple(b),
        settings=settings,
        pairs=tuple(pairs),
        num_unpaired=len(a) + len(b) - 2 * len(partners),
    )


def _different_settings(a: Sequence[Run], b: Sequence[Run]) -> Iterator[SettingDifference]:
    for path in sorted(differing_settings([*a, *b])):
        in_a = distinct_values(a, path)
        in_b = distinct_values(b, path)
        if in_a != in_b:
            yield SettingDifference(path, tuple(in_a), tuple(in_b))


def _compare_single(
    a: Run,
    b: Run,
    settings: tuple[SettingDifference, ...],
) -> Comparison:
    numbers = []
    for name in COMPARED:
        quantity = BY_NAME[name]
        difference = NumberDifference(quantity, quantity.value(a), quantity.value(b))
        if difference.a is not None or difference.b is not None:
            numbers.append(difference)
    records = _RecordComparison()
    for table in TABLES:
        records.compare(table, _read_table(a, table), _read_table(b, table))
    return Comparison(
        a=(a,),
        b=(b,),
        settings=settings,
        numbers=tuple(numbers),
        first_difference=records.first_difference(),
        num_compared=records.num_compared,
        only_in_one=tuple(records.only_in_one),
        lengths=(_last_step(a), _last_step(b)),
    )


def _read_table(run: Run, table: str) -> Columns:
    try:
        return getattr(run, table)
    except FileNotFoundError:  # the run recorded none
        return {}


def _steps_of(columns: Columns) -> np.ndarray:
    if "step" in columns:
        return columns["step"].astype(int)
    lengths = [len(values) for values in columns.values()]
    return np.arange(max(lengths, default=0))


def _last_step(run: Run) -> int:
    steps = _steps_of(_read_table(run, METRICS))
    return int(steps[-1]) if len(steps) else -1


class _RecordComparison:
    """The differences between the tables of two runs, collected table by table."""

    def __init__(self):
        self.num_compared = 0
        self.only_in_one: list[str] = []
        self._differences: list[RecordDifference] = []

    def compare(
        self,
        table: str,
        a: Columns,
        b: Columns,
    ) -> None:
        """Compares the columns of a table at the steps that both runs recorded."""
        steps_a = _steps_of(a)
        steps_b = _steps_of(b)
        steps, rows_a, rows_b = np.intersect1d(steps_a, steps_b, return_indices=True)
        for column in _in_declared_order({**a, **b}):
            if column == "step":
                continue
            if not _have_same_shape(a.get(column), b.get(column)):
                self.only_in_one.append(f"{table}.{column}")
                continue
            values_a = a[column][rows_a]
            values_b = b[column][rows_b]
            self._compare_column(table, column, steps, values_a, values_b)

    def _compare_column(
        self,
        table: str,
        column: str,
        steps: np.ndarray,
        a: np.ndarray,
        b: np.ndarray,
    ) -> None:
        self.num_compared += a.size
        is_missing_in_a = np.isnan(a.astype(float))
        is_missing_in_b = np.isnan(b.astype(float))
        both_missing = is_missing_in_a & is_missing_in_b
        is_equal = (a == b) | both_missing
        places = np.argwhere(~is_equal)
        if not len(places):
            return
        place = tuple(places[0])
        self._differences.append(
            RecordDifference(
                step=int(steps[place[0]]),
                table=table,
                column=column,
                layer=_layer_of(column, place),
                a=float(a[place]),
                b=float(b[place]),
                num_columns=1,
            )
        )

    def first_difference(self) -> RecordDifference | None:
        """The first difference, and how many columns differ at the same step."""
        if not self._differences:
            return None
        first = min(self._differences, key=lambda each: each.step)
        num_columns = sum(each.step == first.step for each in self._differences)
        return RecordDifference(
            step=first.step,
            table=first.table,
            column=first.column,
            layer=first.layer,
            a=first.a,
            b=first.b,
            num_columns=num_columns,
        )


def _layer_of(column: str, place: tuple) -> int | None:
    """The layer of an entry of a column; None for a number."""
    if len(place) < 2:
        return None
    return int(place[1]) + (INPUT if column in OF_SIGNALS else 0)


def _have_same_shape(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    """Whether both columns exist and have the same shape after their rows."""
    if a is None or b is None:
        return False
    return a.shape[1:] == b.shape[1:]


def _in_declared_order(columns: Mapping[str, Any]) -> list[str]:
    """The losses first, as a reader looks at them first."""
    declared = [metric.name for metric in DECLARED_METRICS]
    first = [name for name in declared if name in columns]
    return [*first, *(name for name in columns if name not in first)]


def _pair(a: Sequence[Run], b: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Pairs of runs that agree in their seed and in every setting that both sides share."""
    shared = []
    for path in differing_settings([*a, *b]):
        values_a = {setting_value(run, path) for run in a}
        values_b = {setting_value(run, path) for run in b}
        if path != SEED and values_a & values_b:
            shared.append(path)
    by_key_a = _by_key(a, shared, "A")
    by_key_b = _by_key(b, shared, "B")
    pairs = []
    for key, run in by_key_a.items():
        if key in by_key_b:
            pairs.append((run, by_key_b[key]))
    return pairs


def _by_key(
    runs: Sequence[Run],
    paths: Sequence[str],
    side: str,
) -> dict[tuple[Any, ...], Run]:
    by_key: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        key = (seed_of(run), *values_of(run, paths))
        if key in by_key:
            others = differing_settings([run, by_key[key]])
            reason = (
                f"they differ in {', '.join(others)}" if others else "their settings are the same"
            )
            raise ValueError(
                f"{side} has two runs with seed {key[0]}, {by_key[key].directory} and "
                f"{run.directory}, so they cannot be paired ({reason}): add a filter"
            )
        by_key[key] = run
    return by_key


def compare_pairs(
    partners: Sequence[tuple[Run, Run]],
    quantity: Quantity,
) -> PairedDifference | None:
    """The paired comparison of a quantity; None where no pair has it on both sides.

    Args:
        partners: the pairs.
        quantity: what is compared.

    References:
        Student, The probable error of a mean, 1908.
    """
    values = []
    num_left_out = 0
    for a, b in partners:
        if reason_to_leave_out(a, quantity) or reason_to_leave_out(b, quantity):
            num_left_out += 1
            continue
        values.append((quantity.value(a), quantity.value(b)))
    if not values:
        return None
    numbers = np.array(values, float)
    is_geometric = quantity.is_factor and bool(np.all(numbers > 0))
    if is_geometric:
        numbers = np.log(numbers)
    differences = numbers[:, 1] - numbers[:, 0]
    means = numbers.mean(axis=0)
    low = math.nan
    high = math.nan
    if len(differences) > 1:
        low, high = mean_interval(differences)
    results = np.array([means[0], means[1], differences.mean(), low, high])
    if is_geometric:
        results = np.exp(results)
    mean_a, mean_b, difference, low, high = results.tolist()
    return PairedDifference(
        quantity=quantity,
        a=mean_a,
        b=mean_b,
        difference=difference,
        low=low,
        high=high,
        p_value=paired_p_value(differences),
        num_pairs=len(differences),
        num_left_out=num_left_out,
    )


def paired_p_value(differences: np.ndarray) -> float:
    """The two-sided p-value of the paired t-test: how likely differences so large are by chance.

    Args:
        differences: of the pairs [n]; for fewer than two the result is NaN.
    """
    from scipy.special import stdtr  # this import takes a third of a second

    count = len(differences)
    if count < 2:
        return math.nan
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(count - 1, -abs(mean / error)))
