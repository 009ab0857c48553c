"""What ``fathom remedy`` has tried for a run: a table, and a sentence for ``fathom show``."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from research.config.wording import shell_command
from research.records.runs import Run
from research.records.tried import Tried, TriedChange, half_width
from research.reporting.tables import VERDICT_COLOURS, format_number

RESULT_COLOURS = {"helps": "green", "worse": "red"}


def remedies_table(tried: Tried) -> Table:
    """One row for the unchanged run and one for each change, the lowest training loss first."""
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("change")
    for heading in ("train loss", "eval acc"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("seconds", justify="right")
    table.add_column("result")
    for change in (*tried.changes, tried.unchanged):
        is_changed = change is not tried.unchanged
        result = change.result(tried.unchanged) if is_changed else ""
        table.add_row(
            Text(change.change),
            format_interval(change.train_loss),
            format_interval(change.eval_accuracy),
            Text(change.finding, style=VERDICT_COLOURS.get(change.finding, "")),
            f"{change.seconds:.1f}",
            Text(result, style=RESULT_COLOURS.get(result, "")),
        )
    return table


def format_interval(values: Sequence[float]) -> str:
    """The mean of some seeds with its 95 % interval; a dash without values."""
    if not values:
        return "–"
    mean = sum(values) / len(values)
    width = half_width(values)
    text = format_number(mean)
    return text if text == "–" else f"{text} ± {format_number(width, 2)}"


def describe_tried(tried: Tried) -> str:
    """What was tried and what helped, in one sentence."""
    seeds = len(tried.unchanged.train_loss)
    trials = f"{tried.steps} steps, {seeds} seeds"
    before = format_interval(tried.unchanged.train_loss)
    best = tried.best
    if best is None:
        names = ", ".join(change.change for change in tried.changes)
        return f"Tried ({trials}): {names}. None helps; unchanged, the training loss is {before}."
    after = format_interval(best.train_loss)
    return f"Tried ({trials}): {best.change} helps, training loss {after} instead of {before}."


def command_to_copy(run: Run, change: TriedChange) -> str:
    """The command that trains a run with a change."""
    changed = {"name": f"{run.directory.absolute().parent.name}-remedy"}
    for override in (*run.overrides, *change.change.split()):
        path, _, value = override.partition("=")
        if path != "name":
            changed[path] = value
    words = [f"{path}={value}" for path, value in changed.items()]
    return shell_command("train", *words)
