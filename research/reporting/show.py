"""Prints the table of all runs (``fathom runs``) and one run (``fathom show``)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from research.gauges.table import SIGNAL_GRAD
from research.records.runs import METRICS, PROFILES, Run
from research.reporting.selection import select_runs
from research.reporting.tables import (
    VERDICT_COLOURS,
    bar_chart,
    console,
    format_final,
    runs_table,
)

SHOWN_SETTINGS = (
    "model.depth",
    "model.width",
    "activation.kind",
    "skip.kind",
    "norm.kind",
    "init.kind",
    "optimizer.kind",
    "optimizer.learning_rate",
    "seed",
)
LOSS_BARS = 80


def show_runs(filters: Sequence[str]) -> None:
    """Prints the table of all runs under outputs/ that match every filter.

    Raises:
        ValueError: there are no runs, none matches, or a filter cannot be understood.
    """
    console(pipe_width=1000).print(runs_table(select_runs(filters)))


def show_run(run: Run) -> None:
    """Prints one run: its settings, data, final numbers, verdict, profile over depth and loss."""
    run.check()
    info = run.info
    out = console()
    directory = escape(str(run.directory))
    status = escape(run.status)
    steps = info.get("steps") or 0
    out.print(f"[bold]{directory}[/]  {status}  {steps} steps", soft_wrap=True)
    settings = []
    for path in SHOWN_SETTINGS:
        name = path.removesuffix(".kind")
        settings.append(f"{name}={run.config.get(path)}")
    out.print("  ".join(settings), soft_wrap=True, markup=False)
    out.print(describe_data(info.get("data") or {}), soft_wrap=True, markup=False)
    out.print(format_final(info.get("final") or {}))
    verdict = info.get("verdict") or {}
    if verdict.get("sentence"):
        colour = VERDICT_COLOURS.get(verdict.get("kind") or "", "")
        out.print(Text(verdict["sentence"], style=colour), soft_wrap=True)
    _print_profile(run, out)
    _print_loss(run, out)


def describe_data(data: Mapping[str, Any]) -> str:
    """The dataset, its number of training examples, and its smallest and largest class.

    Args:
        data: the entry ``data`` of ``run.json``.
    """
    name = f"{data.get('name')} {data.get('version')} {data.get('split')}"
    line = f"data {name}: {data.get('examples')} examples"
    counts = data.get("class_counts")
    if not counts or not sum(counts):
        return line
    fewest = min(counts)
    most = max(counts)
    share = most / sum(counts)
    return (
        f"{line} of {len(counts)} classes, "
        f"from {fewest} of class {counts.index(fewest)} "
        f"to {most} of class {counts.index(most)} ({share:.0%})"
    )


def _print_profile(run: Run, out: Console) -> None:
    signal = _read_column(run, PROFILES, SIGNAL_GRAD.name)
    if not len(signal):
        out.print("no profile: this run measured nothing (measure=off), or has not written any yet")
        return
    _print_signal(signal[0], "first", out)
    _print_signal(signal[-1], "last", out)


def _print_signal(
    signal: np.ndarray,
    which: str,
    out: Console,
) -> None:
    """Prints the gradient at each layer [N+1] in the first or the last measured step."""
    with np.errstate(divide="ignore"):
        logs = 2 * np.log10(signal)
    last_layer = len(logs) - 1
    title = (
        f"log₁₀ ‖∂L/∂h‖² at the {which} step, "
        f"from layer 0 (the input, left) to layer {last_layer} (right)"
    )
    _print_chart(title, logs.tolist(), out, min_span=1.0)


def _print_loss(run: Run, out: Console) -> None:
    loss = _read_column(run, METRICS, "train_loss")
    if not len(loss):
        out.print("no steps yet")
        return
    num_bars = min(len(loss), LOSS_BARS)
    pieces = np.array_split(loss, num_bars)
    means = [float(np.mean(piece)) for piece in pieces]
    _print_chart(f"train loss, step 0 to {len(loss) - 1}", means, out)


def _read_column(
    run: Run,
    table: str,
    name: str,
) -> np.ndarray:
    """A column of a table; empty where the run has not recorded it.

    Raises:
        ValueError: the table is damaged.
    """
    try:
        columns = run.profiles if table == PROFILES else run.metrics
    except FileNotFoundError:
        return np.zeros(0)
    values = columns.get(name, np.zeros(0))
    num_axes = 2 if table == PROFILES else 1
    if len(values) and values.ndim != num_axes:
        raise ValueError(f"the {table} of {run.directory} are damaged: {name} is no list of layers")
    return values


def _print_chart(
    title: str,
    values: Sequence[float],
    out: Console,
    min_span: float = 0.0,
) -> None:
    """Prints a bar chart below its title; nothing if no value is finite.

    Args:
        title: what is drawn.
        values: one bar each.
        out: where it is printed.
        min_span: see ``bar_chart``.
    """
    lines = bar_chart(values, min_span=min_span)
    if lines:
        out.print(f"\n{title}")
    for line in lines:
        out.print(f"  {line}", markup=False, soft_wrap=True)
