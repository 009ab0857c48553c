"""Opens W&B runs: on the server through W&B, or in files on this machine without it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from research.records.runs import JsonObject
from research.records.trackers.background import Unresponsive, call_within
from research.records.trackers.identity import OFFLINE_MODES, find_folders
from research.records.trackers.media import Media
from research.records.trackers.offline import OfflineRun
from research.records.trackers.server import ServerError, import_wandb, server_address

SEND_SECONDS = 2.0  # between two messages to the server; W&B's own value is 15
WANDB_SETTINGS = {
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "disable_git": True,
    "disable_code": True,
    "console": "off",
    "silent": True,
    "init_timeout": 30,
    "finish_timeout_raises": True,
    "x_transaction_log_flush_interval": 2,
    "x_file_stream_transmit_interval": SEND_SECONDS,
}
FINISH_SLACK_SECONDS = 10.0  # W&B itself should give up before
MAX_ALERT_TITLE = 63


class WandbRun(Protocol):
    """A W&B run that is being recorded.

    Attributes:
        directory: its folder on this machine; None if W&B is disabled.
        starting_row: the rows that the server is known to have.
    """

    directory: Path | None
    starting_row: int

    def define_metric(
        self,
        name: str,
        *,
        step_metric: str | None = None,
        has_summary: bool = True,
        is_hidden: bool = False,
    ) -> None:
        """Says how W&B shows a key, or the keys that match a pattern."""
        ...

    def log(self, rows: Sequence[JsonObject]) -> None:
        """Appends history rows, each with numbers, texts and media by key."""
        ...

    def update_summary(self, values: JsonObject) -> None:
        """Sets values of the summary."""
        ...

    def finish(self, exit_code: int, seconds: float) -> None:
        """Ends the run.

        Args:
            exit_code: 0 for a run that is done.
            seconds: how long the server may take.

        Raises:
            ServerError: the server has not received everything within ``seconds``.
        """
        ...


class ServedRun:
    """A run that W&B sends to its server; see ``WandbRun``."""

    def __init__(self, run: Any):
        """Wraps what ``wandb.init`` returned.

        Args:
            run: W&B's object.
        """
        self._run = run
        self.directory = None if run.disabled else Path(run.dir).parent
        self.starting_row: int = run.starting_step
        self._media_folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)

    def define_metric(
        self,
        name: str,
        *,
        step_metric: str | None = None,
        has_summary: bool = True,
        is_hidden: bool = False,
    ) -> None:
        """Says how W&B shows a key, or the keys that match a pattern."""
        self._run.define_metric(
            name,
            step_metric=step_metric,
            summary=None if has_summary else "none",
            hidden=is_hidden or None,
        )

    def log(self, rows: Sequence[JsonObject]) -> None:
        """Appends history rows."""
        place = Path(self._media_folder.name)
        for row in rows:
            values = {}
            for key, value in row.items():
                values[key] = value.to_wandb(place) if isinstance(value, Media) else value
            self._run.log(values)

    def save(self, files: dict[str, bytes]) -> None:
        """Sends files by their paths in the run, apart from any row."""
        folder = Path(self._media_folder.name) / "files"
        for path, content in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            self._run.save(str(file), base_path=str(folder), policy="now")

    def alert(self, title: str, text: str) -> None:
        """Has W&B tell the user of something severe, as the user's W&B settings say."""
        self._run.alert(title[:MAX_ALERT_TITLE], text, level="ERROR")

    def update_summary(self, values: JsonObject) -> None:
        """Sets values of the summary."""
        self._run.summary.update(values)

    def finish(self, exit_code: int, seconds: float) -> None:
        """Ends the run.

        Raises:
            ServerError: the server has not received everything within ``seconds``.
        """
        finish = partial(self._run.finish, exit_code=exit_code)
        try:
            call_within(seconds + FINISH_SLACK_SECONDS, finish)
        except (TimeoutError, Unresponsive):
            raise ServerError(
                f"W&B's server has not received everything within {seconds:.0f} s"
            ) from None
        finally:
            self._media_folder.cleanup()


@dataclass(frozen=True)
class OpenedRun:
    """A W&B run, and how many steps of it earlier attempts have uploaded from this machine."""

    run: OfflineRun | ServedRun
    num_uploaded_rows: int


def open_run(
    settings: JsonObject,
    config: JsonObject,
    identity: JsonObject,
    *,
    mode: Any,
    finish_seconds: float,
    directory: Path | None = None,
    replaced_id: str | None = None,
    on_stop: Callable[[], None] | None = None,
) -> OpenedRun:
    """Opens a W&B run.

    Args:
        settings: the ``tracker`` settings.
        config: the configuration that W&B shows.
        identity: ``id``, ``name``, ``group``, ``tags`` and ``job_type`` for ``wandb.init``.
        mode: W&B's mode.
        finish_seconds: how long the server may take at the end of the run.
        directory: where W&B keeps its files; by default ``WANDB_DIR``, or else the directory of the
            settings.
        replaced_id: the id of an earlier attempt whose rows are not those of the run. Its files are
            removed, unless they were recorded offline and sent.
        on_stop: called on another thread when the run is stopped in W&B; None: W&B interrupts
            the process.
    """
    # W&B's service process has another working directory, so the path must be absolute.
    directory = Path(directory or wandb_directory(settings)).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if replaced_id:
        _remove_earlier_attempts(directory, replaced_id)
    num_uploaded_rows = _remove_earlier_attempts(directory, identity["id"])
    if mode in OFFLINE_MODES:
        run = OfflineRun(
            directory / "wandb",
            identity,
            project=settings["project"],
            entity=settings["entity"],
            config=config,
        )
        return OpenedRun(run, num_uploaded_rows)
    wandb = import_wandb()
    stop_fn = None if on_stop is None else _as_function(on_stop)
    wandb_settings = wandb.Settings(
        finish_timeout=finish_seconds, stop_fn=stop_fn, **WANDB_SETTINGS
    )
    if mode == "online":
        wandb_settings.base_url = server_address()
        num_uploaded_rows = 0  # the server says how many it has
    run = wandb.init(
        project=settings["project"],
        entity=settings["entity"],
        dir=str(directory),
        mode=mode,
        resume="allow",
        reinit="create_new",
        config=config,
        settings=wandb_settings,
        **identity,
    )
    return OpenedRun(ServedRun(run), num_uploaded_rows)


def _as_function(method: Callable[[], None]) -> Callable[[], None]:
    """A method as a function, which stays one object where W&B copies its settings."""

    def call() -> None:
        method()

    return call


def wandb_directory(settings: JsonObject) -> Path:
    """The directory whose folder ``wandb`` holds W&B's files."""
    return Path(os.environ.get("WANDB_DIR") or settings["dir"])


def run_info(run: WandbRun) -> JsonObject:
    """The directory of a W&B run as an entry of ``run.json``; empty if W&B is disabled."""
    if run.directory is None:
        return {}
    return {"wandb": str(run.directory)}


def _remove_earlier_attempts(directory: Path, run_id: str) -> int:
    """Removes W&B's files of earlier attempts of a run, unless they were recorded offline and sent.

    The present attempt records all of it again; both would show each row twice.

    Returns:
        How many steps were uploaded.
    """
    num_uploaded_rows = 0
    for attempt in find_folders(directory / "wandb", run_id):
        is_uploaded = any(attempt.glob("*.synced"))
        if is_uploaded:
            num_uploaded_rows = max(num_uploaded_rows, _count_steps(attempt))
        else:
            shutil.rmtree(attempt, ignore_errors=True)
    return num_uploaded_rows


def _count_steps(offline_run: Path) -> int:
    """How many training steps an offline run holds, read by W&B's command line."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(offline_run)]
    output = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=True
    ).stdout
    num_steps = 0
    for line in output.splitlines():
        record = json.loads(line)
        if record["type"] == "history":
            row = record["history"]["item"]
            num_steps += "train/step" in row
    return num_steps
