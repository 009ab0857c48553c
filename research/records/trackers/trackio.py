"""Runs in trackio, in the files of its dashboard on this machine."""

import importlib
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from research.records.runs import JsonObject
from research.records.trackers.history import STEP
from research.records.trackers.local import LocalTracker, final_numbers, verdict_in_markdown
from research.records.trackers.media import Media, Page, Picture

VARIABLE = "TRACKIO_DIR"
FOLDER = "trackio"
IMAGE = "trackio.image"
HTML = "trackio.html"
MARKDOWN = "trackio.markdown"
IMPORTING = threading.Lock()
# trackio waits ten seconds for its own lock, and then loses what it was given.
WRITING = threading.Lock()


class TrackioTracker(LocalTracker):
    """Mirrors a run in trackio, in the project of its study.

    trackio's own ``Run`` prints, and warns where it loses rows. So rows are handed to the storage
    below it, which raises.
    """

    name = "trackio"
    title = "trackio"

    def _open(self) -> None:
        self._storage = _import_storage(self._directory())
        described = self._described
        with WRITING:
            self._storage.delete_run(described.study, described.name, run_id=described.run_id)
        self._config = dict(described.config)
        self._config |= {"tags": list(described.tags), "notes": described.notes}
        self._config |= {"_Group": described.study, "_Created": datetime.now(UTC).isoformat()}
        shutil.rmtree(self._media_folder(0).parent, ignore_errors=True)

    def _directory(self) -> Path:
        """Where trackio keeps its runs, as an absolute path."""
        return Path(os.environ.get(VARIABLE) or Path(self._settings["dir"]) / FOLDER).absolute()

    def _media_folder(self, step: int) -> Path:
        from trackio.media import (  # pyright: ignore[reportMissingImports]  # an extra
            get_project_media_path,
        )

        described = self._described
        return get_project_media_path(project=described.study, run=described.name, step=step)

    def _write_rows(self, rows: Sequence[JsonObject]) -> None:
        from trackio.utils import serialize_values  # pyright: ignore[reportMissingImports]

        steps = [row[STEP] for row in rows]
        metrics = []
        for row in rows:
            shown = {key: value for key, value in row.items() if key != STEP}
            metrics.append(serialize_values(shown))
        with WRITING:
            self._storage.bulk_log(
                self._described.study,
                self._described.name,
                metrics,
                steps=steps,
                config=self._config,
                run_id=self._described.run_id,
            )

    def _write_end(self, info: JsonObject, media: dict[str, Media]) -> None:
        verdict = {"_type": MARKDOWN, "_value": verdict_in_markdown(info)}
        row: JsonObject = {STEP: self._last_step, "verdict": verdict} | final_numbers(info)
        for key, each in media.items():
            if isinstance(each, Picture | Page):
                row[key] = self._save(key, each)
        self._write_rows([row])

    def _save(self, key: str, media: Media) -> JsonObject:
        """Writes a picture or a page, and returns what trackio's rows hold of it."""
        from trackio.utils import MEDIA_DIR  # pyright: ignore[reportMissingImports]

        file = self._media_folder(self._last_step) / f"{key.replace('/', '_')}{media.extension}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(media.content)
        kind = IMAGE if isinstance(media, Picture) else HTML
        return {"_type": kind, "file_path": str(file.relative_to(MEDIA_DIR)), "caption": key}

    def _close(self, info: JsonObject) -> None:
        """Does nothing: every call has written its rows."""


def _import_storage(directory: Path) -> Any:
    """The storage of trackio, which has one directory for the whole process.

    Args:
        directory: that directory.

    Raises:
        ValueError: the process uses another one already.
    """
    with IMPORTING:
        if "trackio.utils" not in sys.modules:
            before = os.environ.get(VARIABLE)
            os.environ[VARIABLE] = str(directory)  # trackio reads it when it is imported
            try:
                importlib.import_module("trackio.utils")
            finally:
                if before is None:
                    del os.environ[VARIABLE]
        from trackio.sqlite_storage import (  # pyright: ignore[reportMissingImports]
            SQLiteStorage,
        )
        from trackio.utils import TRACKIO_DIR  # pyright: ignore[reportMissingImports]
    if Path(TRACKIO_DIR).absolute() != directory:
        raise ValueError(f"trackio has been opened in {TRACKIO_DIR}, so it cannot use {directory}")
    return SQLiteStorage
