"""A W&B run that is recorded in files on this machine, without W&B."""

import contextlib
import functools
import os
import platform
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.records.runs import JsonObject
from research.records.trackers.media import Media
from research.records.trackers.transaction_log import (
    TransactionLog,
    encode_bytes,
    encode_integer,
    encode_row,
    encode_settings,
    encode_summary,
    encode_text,
)

FORMAT_VERSION = "0.31.0"  # the version of W&B whose files these are like
OLDEST_READER = "0.70.0"  # as W&B of that version writes it
LATEST = "latest-run"

# Fields of messages.
RUN_TEXTS = {"id": 1, "entity": 2, "project": 3, "group": 6, "job_type": 7, "name": 8, "notes": 9}
RUN_CONFIG = 4
RUN_TAG = 10
RUN_HOST = 13
RUN_START_TIME = 17
RUN_TELEMETRY = 19
SECONDS = 1
NANOSECONDS = 2
PYTHON_VERSION = 4
WANDB_VERSION = 5
METRIC_NAME = 1
METRIC_PATTERN = 2
METRIC_STEP = 4
METRIC_OPTIONS = 6
METRIC_SUMMARY = 7
IS_STEP_SYNCHRONISED = 1
IS_HIDDEN = 2
IS_DEFINED = 3
HAS_NO_SUMMARY = 6
HISTORY_STEP = 2
FILE = 1
FILE_PATH = 1
FILE_TYPE = 3
FILE_IS_MEDIA = 2
EXIT_CODE = 1
EXIT_RUNTIME = 2


class OfflineRun:
    """Writes the folder ``offline-run-DATE_TIME-ID``, as W&B does in its mode ``offline``.

    Attributes:
        directory: this folder.
        starting_row: the rows that the server is known to have; 0 offline.
    """

    starting_row = 0

    def __init__(
        self,
        root: Path,
        identity: JsonObject,
        *,
        project: str,
        entity: str | None,
        config: JsonObject,
    ):
        """Creates the folder.

        Args:
            root: the folder ``wandb`` in which the folders of runs lie.
            identity: ``id``, ``name``, ``group``, ``job_type``; ``tags`` and ``notes`` if any.
            project: the W&B project.
            entity: the W&B entity; None for the user's default.
            config: the configuration that W&B shows.
        """
        self._started_at = time.time()
        self._monotonic_start = time.monotonic()
        self._id = identity["id"]
        self.directory = _create_folder(root, self._id, self._started_at)
        self._files = self.directory / "files"
        self._files.mkdir()
        self._log = TransactionLog(self.directory / f"run-{self._id}.wandb")
        self._num_rows = 0
        self._summary: JsonObject = {}
        self._without_summary: list[str] = []  # keys and beginnings of keys
        texts = identity | {"project": project, "entity": entity}
        texts["notes"] = os.environ.get("WANDB_NOTES") or identity.get("notes")
        self._write_run(texts, identity.get("tags") or (), config)
        _point_to_latest(self.directory)

    def _write_run(
        self,
        texts: Mapping[str, Any],
        tags: Sequence[str],
        config: JsonObject,
    ) -> None:
        versions = encode_text(1, FORMAT_VERSION) + encode_text(2, OLDEST_READER)
        self._log.add("header", encode_bytes(1, versions))
        telemetry = encode_text(PYTHON_VERSION, platform.python_version())
        telemetry += encode_text(WANDB_VERSION, FORMAT_VERSION)
        seconds = int(self._started_at)
        nanoseconds = int((self._started_at - seconds) * 1e9)
        start = encode_integer(SECONDS, seconds) + encode_integer(NANOSECONDS, nanoseconds)
        run = b""
        for name, field in RUN_TEXTS.items():
            run += encode_text(field, texts.get(name) or "")
        run += encode_bytes(RUN_CONFIG, encode_settings({"_wandb": {}} | config))
        for tag in tags:
            run += encode_text(RUN_TAG, tag)
        run += encode_text(RUN_HOST, socket.gethostname())
        run += encode_bytes(RUN_START_TIME, start)
        run += encode_bytes(RUN_TELEMETRY, telemetry)
        self._log.add("run", run)
        self._log.add("telemetry", telemetry)
        self._log.flush()

    def define_metric(
        self,
        name: str,
        *,
        step_metric: str | None = None,
        has_summary: bool = True,
        is_hidden: bool = False,
    ) -> None:
        """Says how W&B shows a key.

        Args:
            name: the key, or a pattern that ends in ``*``.
            step_metric: the key of the horizontal axis.
            has_summary: whether the last value belongs to the summary.
            is_hidden: whether it has no chart of its own.
        """
        metric = encode_metric(name, step_metric, has_summary=has_summary, is_hidden=is_hidden)
        self._log.add("metric", metric)
        if not has_summary:
            self._without_summary.append(name)

    def log(self, rows: Sequence[JsonObject]) -> None:
        """Appends history rows, each with numbers, texts and media by key."""
        latest: JsonObject = {}  # by key
        for row in rows:
            values = dict(row)
            for key, value in row.items():
                if type(value) is not float and isinstance(value, Media):  # nearly all are floats
                    values[key] = self._keep(key, value)
            runtime = self._runtime()
            values["_timestamp"] = self._started_at + runtime
            values["_runtime"] = runtime
            values["_step"] = self._num_rows
            step = encode_bytes(HISTORY_STEP, encode_integer(1, self._num_rows))
            self._log.add("history", encode_row(values) + step)
            self._num_rows += 1
            latest |= values
        for key, value in latest.items():
            if self._belongs_to_summary(key):
                self._summary[key] = value
        if rows:
            self._log.add("summary", encode_row(self._summary))
        self._log.flush()

    def _keep(self, key: str, media: Media) -> JsonObject:
        """Writes the file of a picture, table or page; returns what the history has for it."""
        path = media.path(key, self._num_rows)
        file = self._files / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(media.content)
        described = encode_text(FILE_PATH, path) + encode_integer(FILE_TYPE, FILE_IS_MEDIA)
        self._log.add("files", encode_bytes(FILE, described))
        return media.describe(path)

    def _belongs_to_summary(self, key: str) -> bool:
        for name in self._without_summary:
            if key == name or (name.endswith("*") and key.startswith(name[:-1])):
                return False
        return True

    def update_summary(self, values: JsonObject) -> None:
        """Sets values of the summary."""
        self._log.add("summary", encode_summary(values))

    def finish(self, exit_code: int, seconds: float) -> None:
        """Ends the run.

        Args:
            exit_code: 0 for a run that is done.
            seconds: how long a server may take; there is none.
        """
        del seconds
        runtime = int(self._runtime())
        self._log.add("summary", encode_row({"_wandb": {"runtime": runtime}, "_runtime": runtime}))
        self._log.add("exit", _encode_exit(exit_code, runtime))
        self._log.close()

    def _runtime(self) -> float:
        """The seconds since the start. They never decrease, unlike those of the machine's clock."""
        return time.monotonic() - self._monotonic_start


@functools.cache
def encode_metric(
    name: str,
    step_metric: str | None,
    *,
    has_summary: bool,
    is_hidden: bool,
) -> bytes:
    """The message of ``OfflineRun.define_metric``; the runs of a group have the same ones.

    Args:
        name: the key, or a pattern that ends in ``*``.
        step_metric: the key of the horizontal axis.
        has_summary: whether the last value belongs to the summary.
        is_hidden: whether it has no chart of its own.
    """
    is_pattern = name.endswith("*")
    options = encode_integer(IS_DEFINED, 1)
    if is_hidden:
        options = encode_integer(IS_HIDDEN, 1) + options
    metric = encode_text(METRIC_PATTERN if is_pattern else METRIC_NAME, name)
    if step_metric:
        metric += encode_text(METRIC_STEP, step_metric)
        options = encode_integer(IS_STEP_SYNCHRONISED, 1) + options
    metric += encode_bytes(METRIC_OPTIONS, options)
    if not has_summary:
        metric += encode_bytes(METRIC_SUMMARY, encode_integer(HAS_NO_SUMMARY, 1))
    return metric


def _encode_exit(exit_code: int, runtime: int) -> bytes:
    code = encode_integer(EXIT_CODE, exit_code) if exit_code else b""
    return code + encode_integer(EXIT_RUNTIME, runtime)


def _create_folder(
    root: Path,
    run_id: str,
    started_at: float,
) -> Path:
    """A new folder whose name says when the run started; a later second where it is taken."""
    while True:
        date = time.strftime("%Y%m%d_%H%M%S", time.localtime(started_at))
        folder = root / f"offline-run-{date}-{run_id}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            started_at += 1


def remove_dangling_link(place: Path) -> None:
    """Removes the link ``latest-run`` of a folder if what it points to is gone."""
    link = place / LATEST
    if link.is_symlink() and not link.exists():
        link.unlink()


def _point_to_latest(folder: Path) -> None:
    """Has the link ``latest-run``, which W&B's commands follow, point to a folder."""
    link = folder.with_name(LATEST)
    temporary = folder.with_name(f"{LATEST}.{folder.name}")
    with contextlib.suppress(OSError):  # not every file system has links
        temporary.symlink_to(folder.name)
        os.replace(temporary, link)
