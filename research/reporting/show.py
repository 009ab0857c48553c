"""Runs looked at from the terminal: the table of all, and one with its profile over depth and its loss."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.markup import escape
from rich.text import Text

from research.config.errors import nearest
from research.records.runs import Run, find_runs
from research.reporting.tables import COLOURS, bars, console, number, runs_table

ROOT = Path("outputs")


def show_runs(filters: Sequence[str]) -> None:
    """The table of all runs under outputs/ that every filter keeps.

    Raises:
        ValueError: where there are no runs, none that the filters keep, or no such setting to filter by.
    """
    runs = find_runs(ROOT)
    if not runs:
        raise ValueError(f"there are no runs under {ROOT.absolute()}: fathom train makes one")
    kept = [run for run in runs if all(_keeps(run, word) for word in filters)]
    if not kept:
        said = f"none of the {len(runs)} runs under {ROOT.absolute()} fits {' '.join(filters)}"
        raise ValueError(f"{said}{_setting_named(filters, runs[0])}")
    console(pipe_width=1000).print(runs_table(kept))


def _keeps(run: Run, word: str) -> bool:
    """``path=value`` compares a setting, the status or the verdict; any other word is looked for in the name.

    Of a run's name these are the values: the settings in it would fit every run that a sweep has of them.
    """
    path, equals, value = word.partition("=")
    if not equals:
        return word in str(
            run.directory.with_name(re.sub(r"(^|,)[\w.]+=", r"\1", run.directory.name))
        )
    known = run.config | {
        "status": run.info.get("status"),
        "verdict": (run.info.get("verdict") or {}).get("kind"),
    }
    for name in (path, f"{path}.kind", f"{path}.name"):
        if name in known:
            return (
                str(known[name]) == value
                or known[name] == yaml.safe_load(value)
                or _same_number(known[name], value)
            )
    raise ValueError(
        f"{path} is not a setting{nearest(path, [*known, *(name.split('.')[0] for name in known)])}"
    )


def _setting_named(filters: Sequence[str], run: Run) -> str:
    """How to filter by the setting that one of the words names without a value."""
    for path in run.config:
        short = path.removesuffix(".kind").removesuffix(".name")
        for word in {path, short, short.rpartition(".")[2]}.intersection(filters):
            return f"; {word} is a setting: {short}=VALUE"
    return ""


def _same_number(known: Any, value: str) -> bool:
    """Whether ``value`` is another way to write the number, such as 1e-2 for 0.01."""
    try:
        return not isinstance(known, bool | str | None) and float(known) == float(value)
    except (TypeError, ValueError):
        return False


def find_run(word: str) -> Run:
    """The run of a directory, or the only one under outputs/ whose name holds ``word``.

    Raises:
        ValueError: where none or several fit.
    """
    if (Path(word) / "run.json").exists():
        return Run(Path(word))
    paths = {str(run.directory.relative_to(ROOT)): run for run in find_runs(ROOT)}
    fits = [path for path in paths if path == word] or [path for path in paths if word in path]
    if len(fits) == 1:
        return paths[fits[0]]
    if fits:
        raise ValueError(
            f"{word} fits {len(fits)} runs: {', '.join(fits[:4])}{' …' if len(fits) > 4 else ''}"
        )
    raise ValueError(f"there is no run {word} under {ROOT.absolute()}{nearest(word, paths)}")


def show_run(word: str) -> None:
    """One run in the terminal: what it was, its verdict, its profile over depth, its loss."""
    run = find_run(word)
    out = console()
    info = run.info
    verdict = run.info.get("verdict") or {}
    final = run.info.get("final") or {}
    out.print(
        f"[bold]{escape(str(run.directory))}[/]  {info['status']}  {info.get('steps', 0)} steps",
        soft_wrap=True,
    )
    chosen = (
        "model.depth",
        "model.width",
        "activation.kind",
        "skip.kind",
        "norm.kind",
        "init.kind",
        "optimizer.kind",
    )
    settings = [
        f"{path.removesuffix('.kind')}={run[path]}"
        for path in (*chosen, "optimizer.learning_rate", "seed")
    ]
    out.print("  ".join(settings), soft_wrap=True)
    out.print(_data(info.get("data") or {}), soft_wrap=True)
    names = ("train_loss", "train_accuracy", "eval_loss", "eval_accuracy")
    out.print("  ".join(f"{name.replace('_', ' ')} {number(final.get(name))}" for name in names))
    if verdict:
        out.print(Text(verdict["sentence"], style=COLOURS.get(verdict["kind"], "")), soft_wrap=True)
    _show_profile(run, out)
    _show_loss(run, out)


def _data(data: Mapping[str, Any]) -> str:
    """The dataset and how its training examples are shared out among the classes."""
    counts = data.get("class_counts") or []
    line = f"data {data.get('name')} {data.get('version')} {data.get('split')}: {data.get('examples')} examples"
    if not counts:
        return line
    least, most = (f"class {counts.index(count)} {count}" for count in (min(counts), max(counts)))
    return f"{line} of {len(counts)} classes: fewest of {least}, most of {most} ({max(counts) / sum(counts):.0%})"


def _show_profile(run: Run, out: Any) -> None:
    try:
        signal = run.profiles["signal_grad"]
    except FileNotFoundError:
        out.print("no profile: this run measured nothing (measure=off), or has written nothing yet")
        return
    for row, when in ((0, "at the first step"), (-1, "at the last step")):
        with np.errstate(divide="ignore"):
            logs = 2 * np.log10(signal[row])
        if not np.isfinite(logs).any():
            continue
        out.print(f"\nlog₁₀ ‖∂L/∂h‖² {when}, layer 0 to {len(logs) - 1} (left is the input)")
        _print_lines(bars(logs.tolist()), out)


def _show_loss(run: Run, out: Any) -> None:
    try:
        loss = run.metrics["train_loss"]
    except FileNotFoundError:
        out.print("no steps yet")
        return
    pieces = np.array_split(loss, min(len(loss), 80))
    means = [float(np.mean(piece)) for piece in pieces]
    if any(math.isfinite(mean) for mean in means):
        out.print(f"\ntrain loss, step 0 to {len(loss) - 1}")
        _print_lines(bars(means), out)


def _print_lines(lines: Sequence[str], out: Any) -> None:
    for line in lines:
        out.print(f"  {line}", markup=False, soft_wrap=True)
