"""A comparison of runs in the terminal, as JSON, and as a figure."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from research.config.wording import pluralize
from research.gauges.numbering import INPUT
from research.gauges.table import SIGNAL_GRAD
from research.records.runs import Run
from research.reporting.aggregation import column_means
from research.reporting.comparison import Comparison, PairedDifference, RecordDifference
from research.reporting.gauge_histories import name_end, read_gauge
from research.reporting.tables import bar_chart, format_number
from research.reporting.varied_settings import SEED, differing_settings, setting_text

MAX_VALUES = 6  # of a setting that are written out
CHART_WIDTH = 34
ROWS = {"first": 0, "last": -1}


def comparison_text(comparison: Comparison) -> str:
    """What ``print_comparison`` prints, without colours."""
    file = io.StringIO()
    out = Console(file=file, width=120, highlight=False, force_jupyter=False)
    print_comparison(comparison, out)
    return file.getvalue()


def print_comparison(comparison: Comparison, out: Console) -> None:
    """Prints what differs, from the settings to the profiles."""
    for side, runs in (("A", comparison.a), ("B", comparison.b)):
        out.print(f"{side}  {_describe_side(runs)}", markup=False, soft_wrap=True)
    out.print("\n".join(summary_lines(comparison)), markup=False, soft_wrap=True)
    if comparison.settings:
        out.print(_settings_table(comparison))
    if comparison.numbers:
        out.print(_numbers_table(comparison))
    if comparison.pairs:
        out.print(_pairs_table(comparison))
    if not comparison.is_identical:
        _print_profiles(comparison, out)


def _describe_side(runs: Sequence[Run]) -> str:
    first = f"{runs[0].directory} ({runs[0].status})"
    if len(runs) == 1:
        return first
    ended = [run for run in runs if run.status == "done"]
    others = len(runs) - len(ended)
    note = f", {others} of them did not end well" if others else ""
    return f"{len(runs)} runs{note}, such as {runs[0].directory}"


def summary_lines(comparison: Comparison) -> list[str]:
    """The result in a few sentences."""
    lines = []
    if comparison.is_identical and not comparison.num_compared:
        return ["the same settings, and neither of them recorded a step"]
    if comparison.is_identical:
        return [
            f"identical: the same settings, and all {comparison.num_compared} recorded numbers "
            f"are equal up to step {comparison.lengths[0]}"
        ]
    if comparison.settings:
        names = ", ".join(difference.path for difference in comparison.settings)
        lines.append(f"settings that differ: {names}")
    else:
        lines.append("the settings are the same")
    if comparison.is_single:
        lines += _record_lines(comparison)
    else:
        lines += _pairing_lines(comparison)
    return lines


def _record_lines(comparison: Comparison) -> list[str]:
    lines = []
    first = comparison.first_difference
    last_a, last_b = comparison.lengths
    if min(last_a, last_b) < 0:
        silent = [name for name, last in (("A", last_a), ("B", last_b)) if last < 0]
        return [f"{' and '.join(silent)} recorded no step, so no records are compared"]
    if first is None:
        lines.append(f"all {comparison.num_compared} numbers that both recorded are equal")
    else:
        lines.append(_first_difference_in_words(first))
    if last_a != last_b:
        lines.append(f"A ends at step {last_a}, B at step {last_b}")
    if comparison.only_in_one:
        shown = ", ".join(comparison.only_in_one[:MAX_VALUES])
        more = " …" if len(comparison.only_in_one) > MAX_VALUES else ""
        lines.append(f"not comparable, recorded by one alone or with another shape: {shown}{more}")
    return lines


def _place_in_words(layer: int) -> str:
    return "the input of layer 0" if layer == INPUT else f"layer {layer}"


def _first_difference_in_words(first: RecordDifference) -> str:
    place = "" if first.layer is None else f" of {_place_in_words(first.layer)}"
    relative = first.relative
    share = f", {relative:.2g} of the larger one" if math.isfinite(relative) else ""
    others = f"; {first.num_columns - 1} more columns differ there" if first.num_columns > 1 else ""
    return (
        f"the records differ from step {first.step} on: {first.column}{place} is {first.a:.9g} in "
        f"A and {first.b:.9g} in B (difference {first.b - first.a:.3g}{share}){others}"
    )


def _pairing_lines(comparison: Comparison) -> list[str]:
    num_pairs = (len(comparison.a) + len(comparison.b) - comparison.num_unpaired) // 2
    if not num_pairs:
        return ["no run of A has a partner in B with the same seed, so nothing is paired"]
    pairs = pluralize(num_pairs, "pair")
    line = f"{pairs} of runs with the same seed, and equal in all that both sides vary"
    if comparison.num_unpaired:
        others = (
            "1 run has" if comparison.num_unpaired == 1 else f"{comparison.num_unpaired} runs have"
        )
        line += f"; {others} no partner"
    return [line]


def _new_table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for number, heading in enumerate(headings):
        justify = "left" if number == 0 else "right"
        table.add_column(heading, justify=justify, overflow="fold")
    return table


def _settings_table(comparison: Comparison) -> Table:
    table = _new_table("setting", "A", "B")
    for difference in comparison.settings:
        table.add_row(difference.path, _values(difference.a), _values(difference.b))
    return table


def _values(values: Sequence[Any]) -> str:
    texts = [setting_text(value) for value in values[:MAX_VALUES]]
    if len(values) > MAX_VALUES:
        texts.append("…")
    return ", ".join(texts)


def _numbers_table(comparison: Comparison) -> Table:
    table = _new_table("number", "A", "B", "B − A")
    for number in comparison.numbers:
        table.add_row(
            number.quantity.name,
            format_number(number.a, 4),
            format_number(number.b, 4),
            format_number(number.difference),
        )
    return table


def _pairs_table(comparison: Comparison) -> Table:
    table = _new_table("number", "A", "B", "difference (95 %)", "p", "pairs")
    for pair in comparison.pairs:
        left_out = f" ({pair.num_left_out} left out)" if pair.num_left_out else ""
        table.add_row(
            pair.quantity.name,
            format_number(pair.a, 4),
            format_number(pair.b, 4),
            _difference_text(pair),
            format_number(pair.p_value, 2),
            f"{pair.num_pairs}{left_out}",
        )
    return table


def _difference_text(pair: PairedDifference) -> str:
    sign = "× " if pair.quantity.is_factor else ""
    text = f"{sign}{format_number(pair.difference)}"
    if math.isfinite(pair.low):
        text += f" ({format_number(pair.low)} to {format_number(pair.high)})"
    return text


def _print_profiles(comparison: Comparison, out: Console) -> None:
    """Prints the gradient over the layers of both sides next to each other."""
    reason = _reason_against_profiles(comparison)
    if reason:
        out.print(f"no profiles: {reason}", markup=False, soft_wrap=True)
        return
    every_run = [*comparison.a, *comparison.b]
    for step in ROWS:
        logs = [_log_profile(runs, step) for runs in (comparison.a, comparison.b)]
        finite = np.concatenate(logs)
        finite = finite[np.isfinite(finite)]
        if not len(finite):
            out.print("no profiles: a run measured nothing (measure=off)")
            return
        high = float(finite.max())
        limits = (min(float(finite.min()), high - 1.0), high)
        charts = [bar_chart(each.tolist(), width=CHART_WIDTH, limits=limits) for each in logs]
        is_first = step == "first"
        when = name_end(every_run, SIGNAL_GRAD.name, is_first=is_first)
        title = f"log₁₀ ‖∂L/∂h‖² at {when}, from the input (left) to the last layer"
        out.print(f"\n{title}")
        _print_side_by_side(charts, out)


def _print_side_by_side(charts: Sequence[list[str]], out: Console) -> None:
    left, right = charts
    height = max(len(left), len(right))
    out.print(f"  {'A':<{CHART_WIDTH + 10}}B", markup=False)
    for row in range(height):
        first = left[row] if row < len(left) else ""
        second = right[row] if row < len(right) else ""
        line = f"  {first:<{CHART_WIDTH + 10}}{second}"
        out.print(line.rstrip(), markup=False, soft_wrap=True)


def _reason_against_profiles(comparison: Comparison) -> str:
    """Why the profiles of a side cannot be averaged; empty where they can."""
    for side, runs in (("A", comparison.a), ("B", comparison.b)):
        others = [path for path in differing_settings(runs) if path != SEED]
        if others:
            return f"the runs of {side} differ in {', '.join(others)}"
    return ""


def _log_profile(runs: Sequence[Run], step: str) -> np.ndarray:
    """The mean over runs of log₁₀ ‖∂L/∂h‖² [N + 1]; empty where nothing was measured."""
    rows = []
    for run in runs:
        values = read_gauge(run, SIGNAL_GRAD.name).values
        if len(values):
            with np.errstate(divide="ignore"):
                rows.append(2 * np.log10(values[ROWS[step]]))
    same_length = len({len(row) for row in rows}) == 1
    return column_means(np.stack(rows)) if same_length else np.zeros(0)


def comparison_object(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON values; numbers that are not finite are None."""
    settings = {}
    for difference in comparison.settings:
        settings[difference.path] = {"a": list(difference.a), "b": list(difference.b)}
    numbers = {}
    for number in comparison.numbers:
        numbers[number.quantity.name] = {
            "a": number.a,
            "b": number.b,
            "difference": number.difference,
        }
    pairs = {}
    for pair in comparison.pairs:
        pairs[pair.quantity.name] = {
            "a": pair.a,
            "b": pair.b,
            "difference": pair.difference,
            "is_ratio": pair.quantity.is_factor,
            "low": pair.low,
            "high": pair.high,
            "p": pair.p_value,
            "pairs": pair.num_pairs,
            "left_out": pair.num_left_out,
        }
    return {
        "a": [str(run.directory) for run in comparison.a],
        "b": [str(run.directory) for run in comparison.b],
        "identical": comparison.is_identical,
        "settings": settings,
        "numbers": numbers,
        "first_difference": _first_difference_object(comparison.first_difference),
        "last_steps": list(comparison.lengths) if comparison.is_single else None,
        "not_comparable": list(comparison.only_in_one),
        "pairs": pairs,
        "unpaired": comparison.num_unpaired,
    }


def _first_difference_object(first: RecordDifference | None) -> dict[str, Any] | None:
    if first is None:
        return None
    return {
        "step": first.step,
        "table": first.table,
        "column": first.column,
        "layer": first.layer,
        "a": first.a,
        "b": first.b,
        "relative": first.relative,
        "columns": first.num_columns,
    }
