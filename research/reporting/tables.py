"""Runs in the terminal: the table of many, the end of one, and bar charts of text."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from research.config.wording import pluralize, shell_command
from research.diagnosis.findings import DEAD, EXPLODING, VANISHING, LayerRange
from research.diagnosis.words import name_layer, name_layers
from research.records.runs import Run, natural_order
from research.records.trackers.layers import evenly_spaced
from research.reporting.varied_settings import (
    has_no_settings,
    listed_settings,
    setting_order,
    setting_value,
    short_name,
)

VERDICT_COLOURS = {
    "healthy": "green",
    "vanishing": "yellow",
    "underflow": "yellow",
    "forward_underflow": "yellow",
    "overflow": "yellow",
    "spike": "yellow",
    "collapsed": "yellow",
    "not_learning": "yellow",
    "slow_divergence": "yellow",
    "exploding": "magenta",
    "dead": "red",
    "diverged": "red",
    "inputs": "red",
    "failed": "red",
}
RESULT_HEADINGS = (
    "status",
    "steps",
    "train loss",
    "train acc",
    "eval acc",
    "verdict",
    "per layer",
    "at init",
    "theory",
    "first/last",
)
BY_IMPORTANCE = (  # the last ones are left out first
    "status",
    "verdict",
    "eval acc",
    "train loss",
    "steps",
    "train acc",
    "per layer",
    "at init",
    "theory",
    "first/last",
)
DRIFTS = (DEAD.name, VANISHING.name, EXPLODING.name)
LEFT_ALIGNED = ("status", "verdict")
BLOCKS = " ▁▂▃▄▅▆▇█"  # by the eighths of a line that a bar fills


class _Output(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # the command line ends quietly; rich would exit with code 1


def console(pipe_width: int = 150) -> Console:
    """Standard output, also in a notebook, where Rich would show its text in another way.

    A pipe gets lines of at most ``pipe_width`` characters without colours.
    """
    width = None if sys.stdout.isatty() else pipe_width
    return _Output(width=width, highlight=False, force_jupyter=False)


def format_number(value: Any, digits: int = 3) -> str:
    """A number with ``digits`` significant digits; a dash if it is missing or not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}g}"


def format_ratio(log10: float | None) -> str:
    """A ratio, given its log₁₀ because the ratio itself may overflow; a dash if it is missing."""
    if log10 is None or math.isnan(log10):
        return "–"
    if math.isinf(log10):
        return "∞" if log10 > 0 else "0"
    return f"{10**log10:.2g}" if abs(log10) < 3 else f"1e{log10:+.0f}"


def format_final(final: Mapping[str, Any]) -> str:
    """The final losses and accuracies of ``run.json`` in one line."""
    numbers = []
    for name in ("train_loss", "train_accuracy", "eval_loss", "eval_accuracy"):
        words = name.replace("_", " ")
        numbers.append(f"{words} {format_number(final.get(name))}")
    return "  ".join(numbers)


def print_run(info: Mapping[str, Any]) -> None:
    """Prints the end of a single run: its final numbers, its verdict and where its record is."""
    out = console()
    if info.get("already"):
        out.print(
            "This run already finished, so nothing was trained. Use name=… to start a new one."
        )
    steps = info["steps"]
    training = info["seconds"]["train"]
    compiling = info["seconds"]["compile"]
    out.print(
        f"{format_final(info.get('final') or {})}   "
        f"{pluralize(steps, 'step')} in {training:.1f} s (compiled in {compiling:.1f} s)"
    )
    stopped = info.get("stopped")
    if stopped:
        by = stopped.get("by")
        reason = f"as {by} asked" if by else f"because diagnose.stop has {stopped['kind']}"
        out.print(f"stopped after step {stopped['step']}, {reason}")
    verdict = info.get("verdict")
    if verdict:
        title, _, explanation = verdict["sentence"].partition(":")
        colour = VERDICT_COLOURS.get(verdict.get("kind") or "", "")
        out.print(Text(f"{title}:", colour) + Text(explanation), soft_wrap=True)
    directory = str(info["directory"])
    command = shell_command("show", directory)
    out.print(
        f"record: {escape(directory)}   show it again: {escape(command)}",
        soft_wrap=True,
    )


@dataclass(frozen=True)
class Column:
    """One column of a table: its heading, and a cell for each row."""

    heading: str
    cells: list[Text]
    is_right_aligned: bool = False

    @property
    def width(self) -> int:
        """The characters of its widest cell or its heading."""
        widths = [cell.cell_len for cell in self.cells]
        return max(cell_len(self.heading), *widths)


@dataclass(frozen=True)
class RunsTable:
    """The table of many runs.

    Attributes:
        table: one row for each run.
        width: the characters of its longest line.
        left_out: the headings of the results for which there is no room.
    """

    table: Table
    width: int
    left_out: list[str]


def print_runs(runs: Sequence[Run]) -> None:
    """Prints the table of runs, and below it which results a narrow terminal has no room for.

    A line of settings that are longer than the terminal is wide continues on its next line.
    """
    out = console(pipe_width=1000)
    shown = runs_table(runs, max_width=out.width)
    out.width = max(out.width, shown.width)
    out.print(shown.table)
    if shown.left_out:
        names = ", ".join(shown.left_out)
        out.print(
            f"no room for {names}: a wider terminal shows them, as does fathom runs --json",
            soft_wrap=True,
        )


def runs_table(
    runs: Sequence[Run],
    max_width: int,
) -> RunsTable:
    """One row for each run: the settings that differ between the runs, and the results.

    Runs whose settings are the same are listed by their names.

    ``per layer``, ``at init`` and ``theory`` are the factors by which the squared gradient changes
    from one layer to the layer below: at the end, at initialisation, and as predicted.
    ``first/last`` is the squared gradient at the input of the first layer over that of the last
    layer.

    Args:
        runs: the runs.
        max_width: how many characters a line may have. Settings and names are always whole;
            results for which there is no room are left out, the least important ones first.
    """
    differing = listed_settings(runs)
    in_order = _in_order(runs, differing)
    columns = _identifying_columns(in_order, differing)
    results = _result_columns(in_order)
    width = sum(column.width for column in columns) + len(columns) - 1
    shown = set()
    for heading in BY_IMPORTANCE:
        with_result = width + 1 + results[heading].width
        if with_result <= max_width:
            shown.add(heading)
            width = with_result
    left_out = []
    for heading, column in results.items():
        if heading in shown:
            columns.append(column)
        else:
            left_out.append(heading)
    return RunsTable(_make_table(columns), width, left_out)


def _make_table(columns: Sequence[Column]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for column in columns:
        justify = "right" if column.is_right_aligned else "left"
        table.add_column(Text(column.heading), justify=justify, no_wrap=True)
    rows = zip(*[column.cells for column in columns], strict=True)
    for row in rows:
        table.add_row(*row)
    return table


def _identifying_columns(
    runs: Sequence[Run],
    differing: Sequence[str],
) -> list[Column]:
    """Study, settings and name: what tells the runs apart."""
    columns = []
    if len({study_of(run) for run in runs}) > 1:
        columns.append(Column("study", [Text(study_of(run)) for run in runs]))
    for path in differing:
        values = [Text(_setting(run, path)) for run in runs]
        columns.append(Column(_heading(path), values))
    rows = set()
    for index in range(len(runs)):
        rows.add(tuple(column.cells[index].plain for column in columns))
    are_alike = len(rows) < len(runs)
    if are_alike or not columns or sum(map(has_no_settings, runs)) > 1:
        columns.append(Column("run", [Text(run.directory.name) for run in runs]))
    return columns


def _result_columns(runs: Sequence[Run]) -> dict[str, Column]:
    """The columns of ``RESULT_HEADINGS``, by heading."""
    rows = [_result_cells(run) for run in runs]
    columns = {}
    for heading, cells in zip(RESULT_HEADINGS, zip(*rows, strict=True), strict=True):
        is_right_aligned = heading not in LEFT_ALIGNED
        columns[heading] = Column(heading, list(cells), is_right_aligned)
    return columns


def _in_order(runs: Sequence[Run], differing: Sequence[str]) -> list[Run]:
    """The runs sorted by study, then by the settings in the columns from left to right."""

    def sort_key(run: Run) -> list[Any]:
        key: list[Any] = [natural_order(study_of(run))]
        for path in differing:
            key.append(setting_order(run, path))
        return key

    return sorted(runs, key=sort_key)


def study_of(run: Run) -> str:
    """The name of the folder that a run shares with the other runs of its sweep."""
    return run.directory.absolute().parent.name


def _setting(run: Run, path: str) -> str:
    """A setting's value; a dash for null, and where the run's options do not have it."""
    value = run.config[path] if path in run.config else setting_value(run, path)
    return "–" if value is None else str(value)


def _heading(path: str) -> str:
    """The short name of a setting, or its path where a result has the same name."""
    heading = short_name(path)
    return path if heading in RESULT_HEADINGS else heading


def _result_cells(run: Run) -> list[Text]:
    """The cells below ``RESULT_HEADINGS``."""
    info = run.info
    final = info.get("final") or {}
    verdict = info.get("verdict") or {}
    initial = verdict.get("initial") or {}
    return [
        Text(run.status),
        Text(str(run.num_steps)),
        Text(format_number(final.get("train_loss"))),
        Text(format_number(final.get("train_accuracy"))),
        Text(format_number(final.get("eval_accuracy"))),
        _verdict_cell(info),
        Text(format_number(verdict.get("factor_per_layer"))),
        Text(format_number(initial.get("factor_per_layer"))),
        Text(format_number(verdict.get("theory"))),
        Text(format_ratio(verdict.get("log10_ratio"))),
    ]


def _verdict_cell(info: Mapping[str, Any]) -> Text:
    """``vanishing in layers 0–40``, ``diverged in layer 3 at step 12``; layers that have names by
    these.
    """
    verdict = info.get("verdict") or {}
    kind = verdict.get("kind") or "–"
    layer = verdict.get("first_layer")
    names = layer_names(info)
    words = kind
    ranges = _judged_ranges(verdict, names)
    if ranges:
        words += f" in {name_layers(ranges, names)}"
    elif layer is not None and kind in (*DRIFTS, "diverged"):
        name = name_layer(layer, names if layer < len(names) else ())
        words += f" in {name}" if kind == "diverged" else f" from {name}"
    if kind == "diverged":
        words += f" at step {verdict.get('since_step', '?')}"
    return Text(words, style=VERDICT_COLOURS.get(kind, ""))


def _judged_ranges(verdict: Mapping[str, Any], names: Sequence[str]) -> list[LayerRange]:
    """The layers of the finding that a verdict is named after; empty where nothing says them."""
    kind = verdict.get("kind")
    if kind not in DRIFTS:
        return []
    for finding in verdict.get("findings") or []:
        if isinstance(finding, dict) and finding.get("kind") == kind:
            return _read_ranges(finding.get("layers"), len(names))
    return []


def _read_ranges(value: Any, num_names: int) -> list[LayerRange]:
    """Ranges of layers as ``run.json`` has them; empty where it holds something else."""
    ranges = []
    for entry in value if isinstance(value, list) else []:
        is_pair = isinstance(entry, list) and len(entry) == 2
        if not is_pair or not all(isinstance(layer, int) for layer in entry):
            return []
        first, last = entry
        if not 0 <= first <= last or (num_names and last >= num_names):
            return []
        ranges.append((first, last))
    return ranges


def layer_names(info: Mapping[str, Any]) -> list[str]:
    """The names of the layers of a run that ``fathom.Monitor`` recorded; empty for others.

    Args:
        info: ``run.json``.
    """
    return [str(name) for name in info.get("layer_names") or []]


def print_failures(failures: Sequence[tuple[str, str]], num_runs: int) -> None:
    """Prints the names of the failed runs of a sweep and why they failed, on standard error."""
    out = Console(stderr=True, highlight=False, soft_wrap=True, force_jupyter=False)
    out.print(f"fathom: {len(failures)} of {num_runs} runs did not end well:")
    for name, reason in failures:
        out.print(f"  {name}: {reason}", markup=False)


def bar_chart(
    values: Sequence[float],
    height: int = 8,
    width: int = 80,
    min_span: float = 0.0,
    limits: tuple[float, float] | None = None,
) -> list[str]:
    """Draws a bar chart with text, scaled from the lowest to the highest finite value.

    Args:
        values: one bar each; values that are not finite leave a gap.
        height: number of lines.
        width: largest number of bars; of more values, the first, the last and evenly spaced ones
            between them are drawn.
        min_span: the axis covers at least this range, up to the highest value.
        limits: the lower and the upper end of the axis, instead of the lowest and highest value.

    Returns:
        The lines from top to bottom, empty if no value is finite. The first names the upper end of
        the axis and the last one the lower end.
    """
    shown = [values[entry] for entry in evenly_spaced(len(values), width).tolist()]
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return []
    low, high = limits or (min(finite), max(finite))
    low = min(low, high - min_span)
    span = (high - low) or 1.0
    tops = []  # the height of each bar in eighths of a line
    for value in shown:
        if math.isfinite(value):
            top = (value - low) / span * (height * 8 - 1) + 1
            tops.append(round(top))
        else:
            tops.append(0)
    lines = []
    for row in reversed(range(height)):
        line = ""
        for top in tops:
            filled = min(max(top - row * 8, 0), 8)
            line += BLOCKS[filled]
        lines.append(line)
    lines[0] += f"  {high:.3g}"
    lines[-1] += f"  {low:.3g}"
    return lines
