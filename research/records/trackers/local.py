"""Trackers whose dashboard is on this machine: what they have in common.

Each records a run anew: what an earlier attempt left in the dashboard is removed when the run is
opened, and the rows of that attempt are logged again. So every row is there once.
"""

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from research.records.runs import Columns, Diagnostics, JsonObject, flatten_dict
from research.records.trackers import LOCAL, PENDING
from research.records.trackers.findings import FINDING_COLUMNS, describe_findings
from research.records.trackers.history import (
    PAGE,
    History,
    StepJudge,
    has_ended,
    make_summary,
)
from research.records.trackers.media import Media

PROFILE = f"{PAGE}_picture"


@dataclass(frozen=True)
class RunDescription:
    """What a dashboard gets of a run before its rows.

    Attributes:
        directory: the run directory.
        run_id: its id.
        study: the name of its study.
        tags: words such as ``depth:64``.
        notes: the user's remark.
        config: the settings that have an effect, by dotted path, without those of the trackers.
    """

    directory: Path
    run_id: str
    study: str
    tags: tuple[str, ...]
    notes: str
    config: JsonObject

    @property
    def name(self) -> str:
        """The name of the run, which says what sets it apart from the others of its study."""
        return self.directory.name

    @property
    def named_settings(self) -> JsonObject:
        """The settings that the name of the run has; all of them where it has none."""
        words = {word.partition("=")[0] for word in self.name.split(",")}
        named = {}
        for path, value in self.config.items():
            group, _, last = path.rpartition(".")
            short = group if last in ("kind", "name", "level") else last
            if words & {path, short}:
                named[path] = value
        return named or self.config


def describe_run(
    directory: Path,
    run_id: str,
    config: JsonObject,
    tags: Sequence[str],
) -> RunDescription:
    """The description of a run.

    Args:
        directory: the run directory.
        run_id: the id of the run.
        config: its settings that have an effect, as a tree.
        tags: words to find it by.
    """
    shown = {name: values for name, values in config.items() if name != "tracker"}
    return RunDescription(
        directory=directory.absolute(),
        run_id=run_id,
        study=directory.absolute().parent.name,
        tags=tuple(tags),
        notes=str(config.get("notes") or ""),
        config=flatten_dict(shown),
    )


class LocalTracker(ABC):
    """Mirrors a run in a dashboard on this machine; see ``Tracker``.

    Attributes:
        name: its key in ``mirrored`` of ``run.json``.
        title: the name of the dashboard.
        remedy: how the user completes the dashboard after a failure.
        patience: the seconds that a call may take.
        pending: what ``run.json`` says before the dashboard has everything.
    """

    name: str
    title: str
    remedy = "the same command later records the run again from its tables"
    patience = 120.0

    def __init__(
        self,
        run: RunDescription,
        settings: JsonObject,
        judge: StepJudge | None = None,
    ):
        """Prepares the tracker without opening the dashboard.

        Args:
            run: the run.
            settings: the ``tracker`` settings.
            judge: judges single steps; None for no judgement over the steps.
        """
        self._described = run
        self._settings = settings
        self._history = History(settings, judge)
        self._last_step = 0
        self.pending: JsonObject = {"state": PENDING}

    def start(self) -> JsonObject:
        """Opens the run in the dashboard; returns no entry for ``run.json``."""
        with self._closing_on_failure():
            self._open()
        return {}

    @contextlib.contextmanager
    def _closing_on_failure(self) -> Iterator[None]:
        """Closes the run where the dashboard fails: nothing is called after a failure."""
        try:
            yield
        except Exception:
            self._close({"status": "failed"})
            raise

    def log(
        self,
        metrics: Columns,
        profiles: Columns,
        diagnostics: Diagnostics,
    ) -> None:
        """Logs recorded rows; see ``Tracker.log``.

        Args:
            metrics: numbers by name [S], with their ``step`` [S].
            profiles: gauges by name [S', N], with their ``step`` [S'].
            diagnostics: what was measured on an interval, by step.
        """
        rows = self._history.add(metrics, profiles, diagnostics)
        if rows:
            self._last_step = int(metrics["step"][-1])
            with self._closing_on_failure():
                self._write_rows(rows)

    def finish(self, info: JsonObject) -> JsonObject:
        """Writes summary, verdict and pictures, and closes the run in the dashboard.

        Args:
            info: the final ``run.json``.

        Returns:
            How far the dashboard is, for ``run.json``.
        """
        try:
            media: dict[str, Media] = {}
            if has_ended(info) and self._history.has_profiles:
                media = self._history.draw_profiles(self._described.name, info)
                media[PROFILE] = self._history.draw_profile(info)
            self._write_end(info, media)
        finally:
            self._close(info)
        return {"state": LOCAL}

    def wants_stop(self, *, is_interrupted: bool) -> bool:
        """Never: nobody can stop a run in a dashboard on this machine."""
        del is_interrupted
        return False

    @abstractmethod
    def _open(self) -> None:
        """Removes what an earlier attempt recorded, and opens the run with its configuration."""

    @abstractmethod
    def _write_rows(self, rows: Sequence[JsonObject]) -> None:
        """Writes history rows."""

    @abstractmethod
    def _write_end(self, info: JsonObject, media: dict[str, Media]) -> None:
        """Writes the summary, the verdict and the pictures."""

    @abstractmethod
    def _close(self, info: JsonObject) -> None:
        """Closes the run; it may not have been opened completely."""


def numbers_of(row: JsonObject) -> dict[str, float]:
    """The entries of a row that are numbers."""
    numbers = {}
    for key, value in row.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            numbers[key] = float(value)
    return numbers


def final_numbers(info: JsonObject) -> dict[str, float]:
    """The final numbers of a run, and the factor per layer of its verdict, by key."""
    numbers = numbers_of(make_summary(info))
    return {key: numbers[key] for key in sorted(numbers)}


def verdict_in_markdown(info: JsonObject) -> str:
    """The verdict of a run in a sentence, and a table of its findings."""
    verdict = info.get("verdict") or {}
    lines = [str(verdict.get("sentence") or f"No verdict; the run is {info['status']}.")]
    findings = describe_findings(verdict)
    if findings:
        lines += ["", _markdown_row(FINDING_COLUMNS), _markdown_row(["---"] * len(FINDING_COLUMNS))]
        lines += [_markdown_row(list(finding.values())) for finding in findings]
    return "\n".join(lines)


def config_in_markdown(config: JsonObject) -> str:
    """The settings of a run as a table.

    Args:
        config: the settings by dotted path.
    """
    lines = ["| setting | value |", "|---|---|"]
    lines += [_markdown_row([path, str(value)]) for path, value in config.items()]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
    return f"| {' | '.join(escaped)} |"


@contextlib.contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Keeps what a package logs below an error off the terminal."""
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
