"""Tables of means over seeds, by the settings in which runs differ (``fathom table``)."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from research.config.suggestions import format_suggestion
from research.records.runs import Run
from research.reporting.aggregation import (
    Group,
    Summary,
    group_runs,
    leave_out_clashing,
    left_out_in_words,
    seeds_in_words,
    summarize,
    usual_seeds,
)
from research.reporting.quantities import BY_NAME, Better, Quantity, find_quantity, usual_quantity
from research.reporting.selection import find_setting
from research.reporting.varied_settings import (
    distinct_values,
    independent_settings,
    is_numeric,
    setting_text,
    short_name,
    varied_settings,
)

MAX_COLUMNS = 8
SEVERAL = ("eval_accuracy", "train_accuracy", "train_loss")  # shown where one setting varies


@dataclass(frozen=True)
class Column:
    """A column of means.

    Attributes:
        quantity: what is averaged.
        heading: the value of the setting in the columns, or the quantity with its unit.
        value: the value of the setting in the columns; None without one.
    """

    quantity: Quantity
    heading: str
    value: Any = None


@dataclass(frozen=True)
class Row:
    """A row of means.

    Attributes:
        values: the settings that the runs of the row share, in the order of the row settings.
        cells: a summary for each column; None where no run has these settings.
        best: for each column, whether the mean is the best one of the column.
    """

    values: tuple[Any, ...]
    cells: tuple[Summary | None, ...]
    best: tuple[bool, ...]


@dataclass(frozen=True, repr=False)
class SummaryTable:
    """Means over seeds.

    Attributes:
        runs: the runs that it summarises.
        row_settings: the settings that the rows differ in, by path.
        column_setting: the setting that the columns differ in; empty where each column is another
            quantity.
        columns: the columns of means.
        rows: the rows.
        notes_on_clashes: which runs are not averaged, because others with the same settings and
            seed have other numbers.
    """

    runs: tuple[Run, ...]
    row_settings: tuple[str, ...]
    column_setting: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes_on_clashes: tuple[str, ...] = ()

    @property
    def row_headings(self) -> list[str]:
        """The names of the row settings; ``runs`` where the rows differ in none."""
        return [short_name(path) for path in self.row_settings] or ["runs"]

    def row_texts(self, row: Row) -> list[str]:
        """The settings of a row as they are shown."""
        return [setting_text(value) for value in row.values] or ["all"]

    def to_markdown(self) -> str:
        """The table in Markdown."""
        from research.reporting.table_formats import to_markdown

        return to_markdown(self)

    def to_latex(self) -> str:
        """The table in LaTeX, for the package booktabs."""
        from research.reporting.table_formats import to_latex

        return to_latex(self)

    def to_csv(self) -> str:
        """The numbers in long form: one line for each cell."""
        from research.reporting.table_formats import to_csv

        return to_csv(self)

    def __repr__(self) -> str:
        """The table in Markdown, which a terminal shows well."""
        return self.to_markdown()

    def _repr_html_(self) -> str:
        """The table for a notebook."""
        from research.reporting.table_formats import to_html

        return to_html(self)

    def summaries(self) -> list[Summary]:
        """Every summary of the table."""
        found = []
        for row in self.rows:
            found += [cell for cell in row.cells if cell is not None]
        return found

    def _summaries_of_groups(self) -> list[Summary]:
        """A summary for each group of runs: of several quantities, that which misses the most."""
        if self.column_setting:
            return self.summaries()
        fewest = []
        for row in self.rows:
            present = [cell for cell in row.cells if cell is not None]
            fewest.append(max(present, key=_num_left_out))
        return fewest

    @property
    def title(self) -> str:
        """What the table shows."""
        parts = []
        if self.column_setting:
            quantity = self.columns[0].quantity.heading(self.runs)
            parts.append(f"{quantity} by {short_name(self.column_setting)}")
        statistic = self._statistic()
        if statistic:
            parts.append(statistic)
        return ": ".join(parts)

    def _statistic(self) -> str:
        counts = [summary.num_seeds for summary in self.summaries()]
        most = max(counts, default=1)
        if most < 2:
            return ""
        fewest = min(counts)
        seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
        statistic = "mean ± half of the 95 % interval (Student's t)"
        are_factors = {column.quantity.is_factor for column in self.columns}
        if are_factors == {True}:
            statistic = "geometric mean (95 % interval by Student's t)"
        elif True in are_factors:
            statistic += "; factors: geometric mean (interval)"
        return f"{statistic} over {seeds} seeds"

    @property
    def notes(self) -> list[str]:
        """What a reader must know: which cells are best, and which runs are left out."""
        notes = []
        if any(any(row.best) for row in self.rows):
            notes.append("* best mean of its column; cells with runs that failed cannot be best")
        left_out = left_out_in_words(self._summaries_of_groups())
        if left_out:
            shown = [text for text in map(seeds_in_words, self.summaries()) if text]
            meaning = f"; {shown[0]} says how many seeds a mean has" if shown else ""
            notes.append(f"not averaged: {left_out}{meaning}")
        return [*notes, *self.notes_on_clashes]


def summary_table(
    runs: Sequence[Run],
    *,
    values: Sequence[str] = (),
    rows: Sequence[str] = (),
    columns: str = "",
) -> SummaryTable:
    """Summarises runs over their seeds.

    Settings in which the runs differ and that are not named become rows, so that a mean never
    covers runs of different settings.

    Args:
        runs: at least one.
        values: the numbers that are averaged, such as ``eval_accuracy``; the usual ones without.
        rows: the settings of the rows, from left to right.
        columns: the setting of the columns; chosen where ``rows`` and ``values`` leave the choice.

    Raises:
        ValueError: there is no such number or setting, one is named twice, or several numbers are
            asked for in columns of a setting. Or all runs clash; see ``leave_out_clashing``.
    """
    if not all(name.strip() for name in (*values, *rows)):
        raise ValueError("--value and --rows take names between commas, got an empty one")
    if "," in columns:
        raise ValueError(f"--columns must be one setting, got {columns}: others become rows")
    quantities = [find_quantity(name, runs, "--value") for name in values]
    row_paths = [find_setting(word, runs, "--rows") for word in rows]
    column_path = find_setting(columns, runs, "--columns") if columns else ""
    _check_once("--value", [quantity.name for quantity in quantities])
    _check_once("--rows and --columns", [*row_paths, column_path])
    if column_path and len(quantities) > 1:
        raise ValueError(
            f"--columns {columns} leaves room for one number, got {', '.join(values)}: "
            "leave --columns out, or ask for one"
        )
    averageable = leave_out_clashing(runs)
    averageable.check_any()
    runs = averageable.runs
    settings = varied_settings(runs)
    if not columns and not rows and len(quantities) <= 1:
        column_path = _choose_columns(runs, settings)
    named = [*row_paths, column_path] if column_path else row_paths
    others = independent_settings(runs, settings, given=named)
    row_paths += [path for path in others if path not in named]
    if not quantities:
        quantities = _usual_quantities(runs, has_columns=bool(column_path))
    table = _build(runs, row_paths, column_path, quantities)
    return dataclasses.replace(table, notes_on_clashes=tuple(averageable.notes))


def _check_once(option: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{option} must name each once, got {name} again")


def _choose_columns(runs: Sequence[Run], settings: Sequence[str]) -> str:
    """The setting with the most values that fit, numbers before names; empty for one setting."""
    if len(settings) < 2:
        return ""
    fitting = []
    for path in settings:
        num_values = len(distinct_values(runs, path))
        if num_values <= MAX_COLUMNS:
            fitting.append((is_numeric(runs, path), num_values, path))
    return max(fitting)[2] if fitting else ""


def _usual_quantities(runs: Sequence[Run], has_columns: bool) -> list[Quantity]:
    first = usual_quantity(runs)
    if has_columns or first.name not in SEVERAL:
        return [first]
    chosen = []
    for name in SEVERAL:
        quantity = BY_NAME[name]
        if any(quantity.value(run) is not None for run in runs):
            chosen.append(quantity)
    if not chosen:
        counts = Counter(run.info.get("status", "unfinished") for run in runs)
        listed = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        raise ValueError(f"no run has a final number: {listed}")
    return chosen


def _build(
    runs: Sequence[Run],
    row_paths: Sequence[str],
    column_path: str,
    quantities: Sequence[Quantity],
) -> SummaryTable:
    columns = _make_columns(runs, column_path, quantities)
    paths = [*row_paths, column_path] if column_path else list(row_paths)
    groups = group_runs(runs, paths)
    usual = usual_seeds(groups)
    by_row: dict[tuple[Any, ...], dict[Any, Group]] = {}
    for group in groups:
        values = tuple(group.settings[path] for path in row_paths)
        column_value = group.settings[column_path] if column_path else None
        by_row.setdefault(values, {})[column_value] = group
    cells = []
    for by_column in by_row.values():
        row = []
        for column in columns:
            group = by_column.get(column.value)
            row.append(summarize(group, column.quantity, usual) if group else None)
        cells.append(row)
    best = _find_best(cells, columns)
    rows = []
    for values, row, is_best in zip(by_row, cells, best, strict=True):
        rows.append(Row(values, tuple(row), tuple(is_best)))
    return SummaryTable(
        runs=tuple(runs),
        row_settings=tuple(row_paths),
        column_setting=column_path,
        columns=tuple(columns),
        rows=tuple(rows),
    )


def _make_columns(
    runs: Sequence[Run],
    column_path: str,
    quantities: Sequence[Quantity],
) -> list[Column]:
    if not column_path:
        return [Column(quantity, quantity.heading(runs)) for quantity in quantities]
    name = short_name(column_path)
    columns = []
    for value in distinct_values(runs, column_path):
        columns.append(Column(quantities[0], f"{name} {setting_text(value)}", value))
    return columns


def _find_best(
    cells: Sequence[Sequence[Summary | None]],
    columns: Sequence[Column],
) -> list[list[bool]]:
    """For each cell whether its mean is the best one of its column, of at least two."""
    best = [[False] * len(columns) for _ in cells]
    for position, column in enumerate(columns):
        means = []
        for row in cells:
            means.append(_comparable_mean(row[position]))
        present = [mean for mean in means if math.isfinite(mean)]
        if column.quantity.better is Better.NEITHER or len(present) < 2:
            continue
        best_mean = max(present) if column.quantity.better is Better.HIGHER else min(present)
        for number, mean in enumerate(means):
            best[number][position] = mean == best_mean
    return best


def _comparable_mean(summary: Summary | None) -> float:
    """The mean of a cell; NaN where runs of it failed, so that it cannot be called the best."""
    if summary is None or not summary.is_complete:
        return math.nan
    return summary.mean


def parse_names(text: str) -> list[str]:
    """The names in a list that is separated by commas."""
    names = [part.strip() for part in text.split(",")]
    return [name for name in names if name]


def check_choice(
    option: str,
    value: str,
    valid: Sequence[str],
) -> str:
    """A word of a fixed list, in small letters.

    Args:
        option: what is set, such as ``--format``.
        value: what was given.
        valid: the words.

    Raises:
        ValueError: it is none of them; the message has the nearest.
    """
    word = value.lower()
    if word in valid:
        return word
    hint = format_suggestion(word, valid)
    raise ValueError(f"{option} must be one of {', '.join(valid)}, got {value}{hint}")


def _num_left_out(cell: Summary) -> int:
    """How many runs are left out of a mean."""
    return sum(cell.left_out.values())
