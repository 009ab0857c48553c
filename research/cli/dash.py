"""``fathom dash``: the report of recorded runs in the browser, live."""

from collections.abc import Sequence
from functools import partial

from research.reporting.dashboard import IDLE_SECONDS, Catalog, start_server
from research.reporting.named_runs import leave_out_damaged_silently, runs_in_folders
from research.reporting.report import read_plotly
from research.reporting.selection import ROOT
from research.reporting.tables import console
from research.runner.signals import terminable

MAX_PORT = 65_535


def main(words: Sequence[str], port: str = "") -> int:
    """Serves the page of the runs that the words name until Ctrl-C, or until it has long been idle.

    Args:
        words: filters as for ``fathom runs``, and folders of runs; none for all runs.
        port: the port; empty for the first that is free.

    Raises:
        ValueError: no run fits the words, or the port cannot be used.
    """
    number = _parse_port(port) if port else None
    read_plotly()  # refuses to start without it
    runs_in_folders(words)  # says which runs are damaged, or that none fits
    find_runs = partial(runs_in_folders, list(words), leave_out_damaged_silently)
    catalog = Catalog(find_runs, ROOT)
    catalog.index()
    title = " ".join(words) or str(ROOT)
    with terminable(), start_server(catalog, title, number) as server:
        console().print(
            f"dashboard: http://127.0.0.1:{server.port}/   Ctrl-C ends it, "
            f"as do {IDLE_SECONDS / 60:.0f} minutes without an open page",
            soft_wrap=True,
        )
        try:
            server.serve_until_idle()
        except KeyboardInterrupt:
            console().print("dashboard: ended")
            return 0
    console().print("dashboard: ended, because no page was open")
    return 0


def _parse_port(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number <= MAX_PORT:
        raise ValueError(f"--port must be a whole number from 0 to {MAX_PORT}, got {text}")
    return number
