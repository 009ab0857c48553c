"""Uploads W&B's offline folder of a run that has no record here, each row exactly once.

``wandb sync`` appends all rows of a folder to those that the server has. So before the first
attempt the folder records how many rows the server had, and a later attempt sends the rest.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from research.records.record import Lock, write_json
from research.records.runs import JsonObject
from research.records.trackers import ServiceUnresponsive
from research.records.trackers.background import Unresponsive, call_within
from research.records.trackers.server import (
    PresentServer,
    ServerError,
    Uploaded,
    import_wandb,
    server_address,
)
from research.records.trackers.wandb import ask_for_upload, max_call_seconds, verify_upload
from research.records.trackers.wandb_runs import WANDB_SETTINGS

FINISH_SECONDS = 60.0
RECEIPT = "fathom-sync.json"
ROWS_PER_SECOND = 200  # a slow connection


@dataclass(frozen=True)
class FolderContent:
    """What an offline folder holds.

    Attributes:
        pending: who and where the W&B run is.
        rows: its history rows.
        exit_code: how it ended; 1 where its process was killed.
    """

    pending: JsonObject
    rows: list[JsonObject]
    exit_code: int


def upload_folder(folder: Path, lock: Lock) -> None:
    """Sends what the server lacks of an offline folder.

    Args:
        folder: the offline folder.
        lock: the lock on it, which a process of W&B inherits.

    Raises:
        ServerError: the server has not received everything.
        ValueError: the folder cannot be read.
    """
    content = _read_folder(folder)
    uploaded = ask_for_upload(content.pending)
    if uploaded is None:
        uploaded = Uploaded()
    first_row = _first_row(folder, uploaded)
    num_sent = uploaded.num_rows - first_row
    num_rows = first_row + len(content.rows)
    if num_sent <= 0:
        _run_wandb_sync(folder, lock, len(content.rows))
    elif num_sent < len(content.rows):
        _send_rows_within(folder, content, num_sent)
    verify_upload(content.pending, num_rows)
    receipt = {"server": server_address(), "first_row": first_row, "complete": True}
    write_json(folder / RECEIPT, receipt)
    for file in folder.glob("*.wandb"):
        file.with_suffix(".wandb.synced").touch()


def is_uploaded(folder: Path) -> bool:
    """Whether the present server has everything of an offline folder.

    W&B marks a folder as uploaded also where the server has not received all of it. It does not
    say to which server it was uploaded.
    """
    if not any(folder.glob("*.synced")):
        return False
    receipt = _read_receipt(folder)
    is_complete = receipt.get("complete", not receipt)
    return is_complete and PresentServer().is_at(receipt.get("server"))


def _first_row(folder: Path, uploaded: Uploaded) -> int:
    """How many rows the server had before the first attempt to upload the folder."""
    receipt = _read_receipt(folder)
    first_row = receipt.get("first_row")
    if isinstance(first_row, int) and PresentServer().is_at(receipt.get("server")):
        return first_row
    write_json(folder / RECEIPT, {"server": server_address(), "first_row": uploaded.num_rows})
    return uploaded.num_rows


def _read_receipt(folder: Path) -> JsonObject:
    try:
        receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return receipt if isinstance(receipt, dict) else {}


def _read_folder(folder: Path) -> FolderContent:
    """What the folder holds, read by W&B's command line."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    process = subprocess.run(command, capture_output=True, encoding="utf-8")
    if process.returncode:
        lines = (process.stdout + process.stderr).strip().splitlines()
        raise ValueError(f"it cannot be read ({lines[-1] if lines else 'no content'})")
    described: JsonObject = {}
    rows = []
    exit_code = 1
    for line in process.stdout.splitlines():
        record = json.loads(line)
        if record["type"] == "run":
            described = record["run"] | described
        elif record["type"] == "history":
            rows.append(_nest_media(record["history"]["item"]))
        elif record["type"] == "exit":
            exit_code = record["exit"].get("exit_code", 0)
    if not described:
        raise ValueError("it holds no run")
    identity = {
        "id": described["run_id"],
        "name": described.get("display_name"),
        "group": described.get("run_group"),
        "tags": described.get("tags"),
        "job_type": described.get("job_type"),
    }
    pending = {
        "project": described.get("project"),
        "entity": described.get("entity"),
        "run": identity,
    }
    return FolderContent(pending, rows, exit_code)


def _nest_media(row: JsonObject) -> JsonObject:
    """A row whose pictures and tables are dictionaries again: W&B reads them as ``KEY.path`` …

    Values that W&B adds itself are left out.
    """
    media = {key.removesuffix("._type") for key in row if key.endswith("._type")}
    nested: JsonObject = {key: {} for key in media}
    for key, value in row.items():
        name, _, part = key.partition(".")
        if name in media:
            nested[name][part] = value
        elif not key.startswith("_"):
            nested[key] = value
    return nested


def _run_wandb_sync(
    folder: Path,
    lock: Lock,
    num_rows: int,
) -> None:
    """Has W&B upload the whole folder. W&B does not say whether that worked."""
    for mark in folder.glob("*.synced"):  # of an attempt that failed
        mark.unlink()
    command = [sys.executable, "-m", "wandb", "sync", str(folder)]
    seconds = FINISH_SECONDS + num_rows / ROWS_PER_SECOND
    try:
        process = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            timeout=seconds,
            pass_fds=[lock.fileno()],
        )
    except subprocess.TimeoutExpired:
        raise ServerError(
            f"the server has not received everything within {seconds:.0f} s"
        ) from None
    if not any(folder.glob("*.synced")):
        lines = (process.stdout + process.stderr).strip().splitlines()
        raise ServerError(lines[-1] if lines else "no answer")


def _send_rows_within(
    folder: Path,
    content: FolderContent,
    num_sent: int,
) -> None:
    """Calls ``_send_rows``.

    Raises:
        ServiceUnresponsive: W&B's own process has stopped working.
    """
    send = partial(_send_rows, folder, content, num_sent)
    seconds = max_call_seconds(FINISH_SECONDS) + len(content.rows) / ROWS_PER_SECOND
    try:
        call_within(seconds, send)
    except Unresponsive:
        raise ServiceUnresponsive("W&B's own process does not answer any more") from None


def _send_rows(
    folder: Path,
    content: FolderContent,
    num_sent: int,
) -> None:
    """Sends the rows after the first ``num_sent``, and the files of the run."""
    wandb = import_wandb()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        run: Any = wandb.init(
            project=content.pending["project"],
            entity=content.pending["entity"],
            dir=place,
            mode="online",
            resume="must",
            reinit="create_new",
            settings=wandb.Settings(
                base_url=server_address(), finish_timeout=FINISH_SECONDS, **WANDB_SETTINGS
            ),
            **content.pending["run"],
        )
        try:
            for row in content.rows[num_sent:]:
                run.log(row)
            files = folder / "files"
            for file in sorted(files.glob("media/**/*")):
                if file.is_file():
                    run.save(str(file), base_path=str(files), policy="now")
        finally:
            run.finish(exit_code=content.exit_code)
