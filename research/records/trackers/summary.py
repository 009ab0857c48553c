"""One W&B run that summarises an experiment: its figure and its claims."""

import hashlib
from pathlib import Path
from typing import Any

from research.records.runs import Columns, Diagnostics, JsonObject
from research.records.trackers import TrackerReports
from research.records.trackers.media import Picture, Table
from research.records.trackers.wandb import choose_mode, max_call_seconds, pending_state
from research.records.trackers.wandb_runs import open_run, run_info

FINISH_SECONDS = 60.0
COLUMNS = (
    "statement",
    "source",
    "expected",
    "measured",
    "low",
    "high",
    "n",
    "holds",
)


class WandbSummary:
    """The W&B run ``summary`` in the group of an experiment's runs.

    Writing it again updates the same W&B run.

    Attributes:
        name: its key in ``mirrored``.
        remedy: how the user completes W&B after a failure.
        pending: who and where the W&B run is.
        patience: the seconds that a call may take.
    """

    name = "wandb"
    remedy = "the same command sends figure and claims again"
    patience = max_call_seconds(FINISH_SECONDS)

    def __init__(
        self,
        *,
        settings: JsonObject,
        group: str,
        figure: Path,
        claims: list[JsonObject],
    ):
        """Prepares the summary without contacting W&B.

        Args:
            settings: the ``tracker`` settings.
            group: the W&B group of the experiment's runs.
            figure: the image file of the experiment's figure.
            claims: the content of ``claims.json``.
        """
        self._settings = settings
        self._figure = figure
        self._claims = claims
        digest = hashlib.sha256(f"summary of {group}".encode()).hexdigest()
        self._identity = {
            "id": digest[:12],
            "name": "summary",
            "group": group,
            "job_type": "summary",
        }
        self.pending = pending_state(settings, self._identity)
        self._run: Any = None

    def start(self) -> JsonObject:
        """Opens the W&B run; returns its directory, or nothing if W&B is disabled."""
        chosen = choose_mode(self.pending, TrackerReports())
        opened = open_run(
            self._settings,
            {},
            self._identity,
            mode=chosen.mode,
            finish_seconds=FINISH_SECONDS,
        )
        self._run = opened.run
        return run_info(self._run)

    def log(
        self,
        metrics: Columns,
        profiles: Columns,
        diagnostics: Diagnostics,
    ) -> None:
        """Does nothing: an experiment has no rows."""

    def wants_stop(self, *, is_interrupted: bool) -> bool:
        """Never: nothing is trained."""
        del is_interrupted
        return False

    def finish(self, info: JsonObject) -> JsonObject:
        """Logs the figure and the claims, and closes the W&B run."""
        rows = [_table_row(claim) for claim in self._claims]
        num_held = sum(claim["holds"] for claim in self._claims)
        try:
            figure = Picture.read(self._figure)
            self._run.log([{"figure": figure, "claims": Table(COLUMNS, rows)}])
            self._run.update_summary({"claims/held": num_held, "claims/all": len(rows)})
        finally:
            self._run.finish(0, FINISH_SECONDS)
        return {}


def _table_row(claim: JsonObject) -> list[Any]:
    low, high = claim["interval"]
    values = claim | {"low": low, "high": high}
    return [values[name] for name in COLUMNS]
