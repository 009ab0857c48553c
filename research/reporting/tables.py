"""Runs and claims as a reader sees them in a terminal: tables, one run's profile and loss."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from research.config.naming import SHARED
from research.config.schema import Config, flatten
from research.records.runs import Run

DEFAULTS = flatten(Config())
COLOURS = {
    "healthy": "green",
    "vanishing": "yellow",
    "underflow": "yellow",
    "exploding": "magenta",
    "dead": "red",
    "diverged": "red",
    "failed": "red",
}


class _Output(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # the command line knows that this is no error; the library would exit with 1


def console(pipe_width: int = 150) -> Console:
    """Standard output; a pipe gets plain lines of at most ``pipe_width``."""
    return _Output(width=None if sys.stdout.isatty() else pipe_width, highlight=False)


def number(value: Any, digits: int = 3) -> str:
    """A short number, a dash for none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def power(log10: float | None) -> str:
    """A ratio from its log₁₀, also where the ratio itself would overflow."""
    if log10 is None or not math.isfinite(log10):
        return "–" if log10 is None or math.isnan(log10) else "0"
    return f"{10**log10:.2g}" if abs(log10) < 3 else f"1e{log10:+.0f}"


def say_run(info: Mapping[str, Any]) -> None:
    """The end of a single run: its verdict and where the record lies."""
    if info.get("already"):
        console().print(
            "this run is there already and ended by itself: nothing trained (name= makes a new one)"
        )
    out = console()
    final = info.get("final") or {}
    verdict = info.get("verdict")
    out.print(
        f"train loss {number(final.get('train_loss'))}  accuracy {number(final.get('train_accuracy'))}   "
        f"held out: loss {number(final.get('eval_loss'))}  accuracy {number(final.get('eval_accuracy'))}   "
        f"{info['steps']} steps in {info['seconds']['train']:.1f} s (compiled in {info['seconds']['compile']:.1f} s)"
    )
    if verdict:
        kind, _, rest = verdict["sentence"].partition(":")
        out.print(Text(f"{kind}:", style=COLOURS.get(kind, "")) + Text(rest), soft_wrap=True)
    place = escape(str(info["directory"]))
    out.print(f"record: {place}   look again: fathom show {place}", soft_wrap=True)


RESULTS = (
    "status",
    "steps",
    "train loss",
    "train acc",
    "eval acc",
    "gradient",
    "a layer",
    "at init",
    "theory",
    "0/last",
)


def runs_table(runs: Sequence[Run]) -> Table:
    """One row a run: the settings that differ between the rows, how it ended, what its gradient does.

    ``a layer``, ``at init`` and ``theory`` are factors of the squared gradient per layer towards the input; ``0/last``
    is the squared gradient of layer 0 over that of the last.
    """
    differing = _differing(runs)
    studies = {run.directory.absolute().parent.name for run in runs}
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for name in (["study"] if len(studies) > 1 else []) + [_short(path) for path in differing] or [
        "run"
    ]:
        table.add_column(name, overflow="fold")
    for name in RESULTS:
        table.add_column(
            name, justify="left" if name in ("status", "gradient") else "right", no_wrap=True
        )
    for run in runs:
        study = [run.directory.absolute().parent.name] if len(studies) > 1 else []
        settings = [_setting(run, path) for path in differing]
        table.add_row(*(study + settings or [run.directory.name]), *_results(run.info))
    return table


def _differing(runs: Sequence[Run]) -> list[str]:
    """The settings that are not the same in all runs, the fewest values first."""
    values = {path: {_setting(run, path) for run in runs} for run in runs for path in run.config}
    paths = [path for path in values if len(values[path]) > 1 and path.split(".")[0] not in SHARED]
    return sorted(paths, key=lambda path: (len(values[path]), path))


def _setting(run: Run, path: str) -> str:
    """A setting in a cell: the default where an earlier version did not know it, a dash where it is left open."""
    value = run.config.get(path, DEFAULTS.get(path))
    return "–" if value is None else str(value)


def _short(path: str) -> str:
    """``model.depth`` → ``depth``, ``skip.kind`` → ``skip``, ``data.name`` → ``data``."""
    short = path.removesuffix(".kind").removesuffix(".name").rpartition(".")[2].replace("_", " ")
    return path if short in (*RESULTS, "kind", "level", "every") else short


def _results(info: Mapping[str, Any]) -> list[Any]:
    final = info.get("final") or {}
    verdict = info.get("verdict") or {}
    kind = verdict.get("kind") or "–"
    at = f" from layer {verdict['first_layer']}" if verdict.get("first_layer") is not None else ""
    since = f" at step {verdict['since_step']}" if kind == "diverged" else ""
    return [
        info.get("status", "?"),
        str(info.get("steps", 0)),
        *(number(final.get(name)) for name in ("train_loss", "train_accuracy", "eval_accuracy")),
        Text(
            f"{kind}{at.replace('from', 'in') if since else at}{since}", style=COLOURS.get(kind, "")
        ),
        number(verdict.get("factor_per_layer")),
        number((verdict.get("initial") or {}).get("factor_per_layer")),
        number(verdict.get("theory")),
        power(verdict.get("log10_ratio")),
    ]


def say_failures(failures: Sequence[tuple[str, str]], runs: int) -> None:
    """What went wrong in a sweep, run by run."""
    out = Console(stderr=True, highlight=False, soft_wrap=True)
    out.print(f"fathom: {len(failures)} of {runs} runs did not end well:")
    for name, reason in failures:
        out.print(f"  {name}: {reason}", markup=False)


def bars(values: Sequence[float], height: int = 8, width: int = 80) -> list[str]:
    """A bar chart of finite values as text lines, top first; more values than ``width`` are thinned out."""
    every = max(1, math.ceil(len(values) / width))
    shown = [value for value in list(values)[::every]]
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return []
    low = min(finite)
    high = max(finite)
    span = (high - low) or 1.0
    levels = [
        (value - low) / span * (height * 8 - 1) + 1 if math.isfinite(value) else 0
        for value in shown
    ]
    lines = []
    for row in reversed(range(height)):
        eighths = [min(max(round(level) - row * 8, 0), 8) for level in levels]
        lines.append("".join(" ▁▂▃▄▅▆▇█"[e] for e in eighths))
    lines[0] += f"  {high:.3g}"
    lines[-1] += f"  {low:.3g}"
    return lines
