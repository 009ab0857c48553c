"""Prints the table of all runs (``fathom runs``) and one run (``fathom show``)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from research.config.suggestions import format_suggestion
from research.gauges.table import SIGNAL_GRAD
from research.records.runs import Run, find_runs
from research.reporting.tables import (
    VERDICT_COLOURS,
    bar_chart,
    console,
    format_final,
    runs_table,
)

ROOT = Path("outputs")
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
NAMED_RUNS = 4  # how many runs an error message lists


def show_runs(filters: Sequence[str]) -> None:
    """Prints the table of all runs under outputs/ that match every filter.

    Raises:
        ValueError: there are no runs, none matches, or a filter names an unknown setting.
    """
    console(pipe_width=1000).print(runs_table(select_runs(filters)))


def select_runs(filters: Sequence[str]) -> list[Run]:
    """The runs under outputs/ that match every filter.

    Raises:
        ValueError: there are no runs, none matches, or a filter names an unknown setting.
    """
    runs = find_runs(ROOT)
    if not runs:
        raise ValueError(f"there are no runs under {ROOT.absolute()}; fathom train makes one")
    matching = runs
    for word in filters:
        matching = [run for run in matching if _matches(run, word)]
    if not matching:
        words = " ".join(filters)
        hint = _filter_hint(filters, runs[0])
        raise ValueError(f"none of the {len(runs)} runs under {ROOT.absolute()} fits {words}{hint}")
    return matching


def _matches(run: Run, word: str) -> bool:
    """Whether a run matches one filter.

    ``path=value`` compares a setting, the status or the verdict. Any other word must be a part of
    the run's path.
    """
    path, equals, value = word.partition("=")
    if not equals:
        return word in _path_without_setting_names(run)
    verdict = run.info.get("verdict") or {}
    known = dict(run.config)
    known["status"] = run.info.get("status")
    known["verdict"] = verdict.get("kind")
    for name in (path, f"{path}.kind", f"{path}.name"):
        if name in known:
            return _equals(known[name], value)
    groups = [name.split(".")[0] for name in known]
    raise ValueError(f"{path} is not a setting{format_suggestion(path, [*known, *groups])}")


def _path_without_setting_names(run: Run) -> str:
    """``outputs/grid/64,none`` for ``outputs/grid/model.depth=64,skip=none``.

    All runs of a sweep have the same setting names in their path, so a search finds values only.
    """
    values = re.sub(r"(^|,)[\w.]+=", r"\1", run.directory.name)
    return str(run.directory.with_name(values))


def _equals(setting: Any, text: str) -> bool:
    """Whether ``text`` is a way to write a setting's value, such as 1e-2 for 0.01."""
    if str(setting) == text or setting == yaml.safe_load(text):
        return True
    if isinstance(setting, bool | str | None):
        return False
    try:
        return float(setting) == float(text)
    except (TypeError, ValueError):
        return False


def _filter_hint(filters: Sequence[str], run: Run) -> str:
    """How to filter by a setting that the user gave without a value; empty if there is none."""
    for path in run.config:
        short = path.removesuffix(".kind").removesuffix(".name")
        last_word = short.rpartition(".")[2]
        for word in (path, short, last_word):
            if word in filters:
                return f"; {word} is a setting: {short}=VALUE"
    return ""


def find_run(word: str) -> Run:
    """The run in the directory ``word``, or the only run under outputs/ whose path contains it.

    Raises:
        ValueError: no run or several runs match.
    """
    if (Path(word) / "run.json").exists():
        return Run(Path(word))
    runs = {}
    for run in find_runs(ROOT):
        path = run.directory.relative_to(ROOT)
        runs[str(path)] = run
    if word in runs:
        return runs[word]
    matching = [path for path in runs if word in path]
    if not matching:
        hint = format_suggestion(word, runs)
        raise ValueError(f"there is no run {word} under {ROOT.absolute()}{hint}")
    if len(matching) > 1:
        names = ", ".join(matching[:NAMED_RUNS])
        more = " …" if len(matching) > NAMED_RUNS else ""
        raise ValueError(f"{word} fits {len(matching)} runs: {names}{more}")
    return runs[matching[0]]


def show_run(word: str) -> None:
    """Prints one run: its settings, data, final numbers, verdict, profile over depth and loss."""
    run = find_run(word)
    info = run.info
    out = console()
    directory = escape(str(run.directory))
    steps = info.get("steps", 0)
    out.print(f"[bold]{directory}[/]  {info['status']}  {steps} steps", soft_wrap=True)
    settings = []
    for path in SHOWN_SETTINGS:
        name = path.removesuffix(".kind")
        settings.append(f"{name}={run[path]}")
    out.print("  ".join(settings), soft_wrap=True)
    out.print(describe_data(info.get("data") or {}), soft_wrap=True)
    out.print(format_final(info.get("final") or {}))
    verdict = info.get("verdict")
    if verdict:
        colour = VERDICT_COLOURS.get(verdict["kind"], "")
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
    if not counts:
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
    try:
        signal = run.profiles[SIGNAL_GRAD.name]
    except FileNotFoundError:
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
    _print_chart(title, logs.tolist(), out)


def _print_loss(run: Run, out: Console) -> None:
    try:
        loss = run.metrics["train_loss"]
    except FileNotFoundError:
        out.print("no steps yet")
        return
    num_bars = min(len(loss), LOSS_BARS)
    pieces = np.array_split(loss, num_bars)
    means = [float(np.mean(piece)) for piece in pieces]
    _print_chart(f"train loss, step 0 to {len(loss) - 1}", means, out)


def _print_chart(
    title: str,
    values: Sequence[float],
    out: Console,
) -> None:
    """Prints a bar chart below its title; nothing if no value is finite."""
    lines = bar_chart(values)
    if lines:
        out.print(f"\n{title}")
    for line in lines:
        out.print(f"  {line}", markup=False, soft_wrap=True)
