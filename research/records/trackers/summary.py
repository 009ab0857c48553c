"""One W&B run for all runs of an experiment: its figure, and its claims as measured."""

import hashlib
from pathlib import Path
from typing import Any

from research.records.trackers import Beside, Columns
from research.records.trackers.wandb import folder_of, open_run

# columns, around the interval's two
BEFORE = ("statement", "source", "expected", "measured")
BEHIND = ("n", "holds")


class WandbSummary:
    """The run ``summary`` in the group of an experiment's runs; written again, it is the same run."""

    def __init__(
        self, *, settings: dict[str, Any], group: str, figure: Path, claims: list[dict[str, Any]]
    ):
        """``settings``: the ``tracker`` group. ``claims``: as ``claims.json`` holds them."""
        self._settings = settings
        self._figure = figure
        self._claims = claims
        run_id = hashlib.sha256(f"summary of {group}".encode()).hexdigest()[:12]
        self._identity = {"id": run_id, "name": "summary", "group": group, "job_type": "summary"}
        self._run: Any = None

    def start(self) -> dict[str, Any]:
        """Opens the run; returns its folder, nothing where W&B is switched off."""
        self._run, _ = open_run(self._settings, {}, self._identity)
        return folder_of(self._run)

    def log(self, metrics: Columns, profiles: Columns, beside: Beside) -> None:
        """An experiment has no rows of its own."""

    def finish(self, info: dict[str, Any]) -> None:
        """Writes figure and claims, and closes the run."""
        import wandb

        rows = [
            [*_picked(claim, BEFORE), *claim["interval"], *_picked(claim, BEHIND)]
            for claim in self._claims
        ]
        table = wandb.Table(columns=[*BEFORE, "low", "high", *BEHIND], data=rows)
        held = sum(claim["holds"] for claim in self._claims)
        try:
            self._run.log({"figure": wandb.Image(str(self._figure)), "claims": table})
            self._run.summary.update({"claims/held": held, "claims/all": len(rows)})
        finally:
            self._run.finish(exit_code=0)


def _picked(claim: dict[str, Any], names: tuple[str, ...]) -> list[Any]:
    return [claim[name] for name in names]
