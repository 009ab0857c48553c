"""Prints the table of all runs (``fathom runs``) and one run (``fathom show``)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from research.diagnosis.words import name_layer, name_signal, name_steps
from research.gauges.table import OF_SIGNALS, SIGNAL_GRAD, TRACKED_DIAGNOSTICS
from research.records.replayed import read_replayed
from research.records.runs import METRICS, PROFILES, Run
from research.records.tried import read_tried
from research.reporting.remedies import describe_tried
from research.reporting.replays import describe_replayed
from research.reporting.selection import select_runs
from research.reporting.tables import (
    VERDICT_COLOURS,
    bar_chart,
    console,
    format_final,
    format_number,
    layer_names,
    print_runs,
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
TRACKER = "tracker"  # the group of settings that say nothing of a network
LOSS_BARS = 80


def show_runs(filters: Sequence[str]) -> None:
    """Prints the table of all runs under outputs/ that match every filter.

    Raises:
        ValueError: there are no runs, none matches, or a filter cannot be understood.
    """
    print_runs(select_runs(filters))


def show_run(run: Run) -> None:
    """Prints one run: its settings, data, final numbers, verdict, profile over depth and loss."""
    run.check()
    info = run.info
    out = console()
    directory = escape(str(run.directory))
    status = escape(run.status)
    out.print(f"[bold]{directory}[/]  {status}  {run.num_steps} steps", soft_wrap=True)
    out.print("  ".join(_settings(run)), soft_wrap=True, markup=False)
    for name in ("tags", "notes"):
        if info.get(name):
            words = info[name]
            if name == "tags":
                words = ", ".join(map(str, words))
            out.print(f"{name}: {words}", soft_wrap=True, markup=False)
    if info.get("data") or not run.is_watched:
        out.print(describe_data(info.get("data") or {}), soft_wrap=True, markup=False)
    out.print(format_final(info.get("final") or {}))
    verdict = info.get("verdict") or {}
    if verdict.get("sentence"):
        colour = VERDICT_COLOURS.get(verdict.get("kind") or "", "")
        out.print(Text(verdict["sentence"], style=colour), soft_wrap=True)
    _print_findings(verdict.get("findings") or [], out)
    tried = read_tried(run.directory)
    if tried is not None:
        out.print(describe_tried(tried), markup=False, soft_wrap=True)
    replayed = read_replayed(run.directory)
    if replayed is not None:
        out.print(describe_replayed(replayed), markup=False, soft_wrap=True)
    _print_profile(run, out)
    _print_diagnostics(run, out)
    _print_loss(run, out)


def _print_findings(found: Sequence[Mapping[str, Any]], out: Console) -> None:
    """Prints one line for each finding: how severe it is, its steps, its source and its advice."""
    for finding in found:
        words = [f"{finding.get('severity')}: {finding.get('kind')}"]
        first = finding.get("first_step")
        last = finding.get("last_step")
        if first is not None:
            words.append(name_steps(first, last, start=0))
        if finding.get("source"):
            words.append(f"criterion: {finding['source']}")
        for remedy in finding.get("remedies") or []:
            words.append(f"try {remedy.get('change')} [{remedy.get('source')}]")
        out.print(f"  {'; '.join(words)}", markup=False, soft_wrap=True)


def _settings(run: Run) -> list[str]:
    """The settings that are shown: the usual ones, or all of a run that is not Fathom's own."""
    settings = []
    if run.is_watched:
        for path, value in run.config.items():
            if path.partition(".")[0] != TRACKER:
                settings.append(f"{path}={value}")
        return settings
    for path in SHOWN_SETTINGS:
        name = path.removesuffix(".kind")
        settings.append(f"{name}={run.config.get(path)}")
    return settings


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
    names = layer_names(run.info)
    last = signal.shape[-1] - 1
    input_name = name_signal(0, names)
    ends = f"from {input_name} (left) to the output of {name_signal(last, names)} (right)"
    _print_signal(signal[0], "first", ends, out)
    _print_signal(signal[-1], "last", ends, out)


def _print_signal(
    signal: np.ndarray,
    which: str,
    ends: str,
    out: Console,
) -> None:
    """Prints the gradient at each layer.

    Args:
        signal: the gradient [N+1].
        which: the first or the last measured step.
        ends: where the first and the last entry are, in words.
        out: where it is printed.
    """
    with np.errstate(divide="ignore"):
        logs = 2 * np.log10(signal)
    title = f"log₁₀ ‖∂L/∂h‖² at the {which} step, {ends}"
    _print_chart(title, logs.tolist(), out, min_span=1.0)


def _print_diagnostics(run: Run, out: Console) -> None:
    """Prints the last value of each diagnostic that trackers get; of layers the first and last."""
    try:
        columns = run.inspections
    except FileNotFoundError:
        return
    if not len(columns.get("step", ())):
        return
    step = int(columns["step"][-1])
    for diagnostic in TRACKED_DIAGNOSTICS:
        name = diagnostic.name
        if not diagnostic.inspection or name not in columns:
            continue
        values = np.atleast_1d(columns[name][-1])
        text = format_number(float(values[0]))
        if not diagnostic.is_number:
            last = format_number(float(values[-1]))
            first_place = _entry_in_words(run, name, 0)
            last_place = _entry_in_words(run, name, len(values) - 1)
            text = f"{text} {first_place}, {last} {last_place}"
        out.print(f"{name} at step {step}: {text}", markup=False, soft_wrap=True)


def _entry_in_words(
    run: Run,
    name: str,
    entry: int,
) -> str:
    """Of which layer an entry of a profile is.

    Args:
        run: the run.
        name: the column of the profile.
        entry: the position of the entry.
    """
    names = layer_names(run.info)
    if name in OF_SIGNALS:
        where = name_signal(entry, names)
        return f"at {where}" if entry == 0 else f"at the output of {where}"
    return f"at {name_layer(entry, names)}"


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
