"""Terminal tables of claims: those of one experiment, and a summary of several."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from research.reporting.tables import format_number
from research.reproduce.claims import Claim


def claims_table(claims: Sequence[Claim]) -> Table:
    """One row for each claim; the last column says whether it holds."""
    table = _new_table(
        "claim",
        "source",
        "expected",
        "measured (median, range)",
        "n",
        "holds",
    )
    table.columns[4].justify = "right"
    for claim in claims:
        low, high = claim.interval
        measured = (
            f"{format_number(claim.measured)} ({format_number(low)} to {format_number(high)})"
        )
        holds = "[green]yes[/]" if claim.holds else "[red]NO[/]"
        table.add_row(
            claim.statement,
            claim.source,
            claim.expected,
            measured,
            str(claim.n),
            holds,
        )
    return table


def summary_table(tested: Mapping[Path, bool]) -> Table:
    """One row for each experiment: how many claims hold, and which do not.

    ``tested`` maps the directory of an experiment's runs to whether its claims were tested.
    """
    table = _new_table(
        "experiment",
        "claims that hold",
        "what does not hold (measured; expected)",
    )
    for directory, is_tested in tested.items():
        if not is_tested:
            table.add_row(directory.name, "[red]none: runs failed[/]", "")
            continue
        claims = json.loads((directory / "claims.json").read_text(encoding="utf-8"))
        failed = [_describe(claim) for claim in claims if not claim["holds"]]
        num_held = len(claims) - len(failed)
        failures = Text("\n".join(failed), "red")
        table.add_row(directory.name, f"{num_held} of {len(claims)}", failures)
    return table


def _describe(claim: Mapping[str, Any]) -> str:
    measured = format_number(claim["measured"])
    return f"{claim['statement']} ({measured}; {claim['expected']})"


def _new_table(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    return table
