"""Runs in MLflow: by default in a database of this machine, else where its server is."""

import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from research.records.runs import JsonObject
from research.records.trackers.history import STEP
from research.records.trackers.local import (
    LocalTracker,
    final_numbers,
    numbers_of,
    quiet,
    verdict_in_markdown,
)
from research.records.trackers.media import Media, Picture

ADDRESS = "MLFLOW_TRACKING_URI"
DATABASE = "mlflow.db"
ARTIFACTS = "mlflow"
ID_TAG = "fathom.id"
NOTE_TAG = "mlflow.note.content"
MAX_METRICS = 1000  # in one request
MAX_PARAMS = 100
END_OF_STATUS = {"done": "FINISHED", "stopped": "FINISHED", "interrupted": "KILLED"}
# Tables are made when the database is opened first, which MLflow does not do from two threads.
OPENING = threading.Lock()


class MLflowTracker(LocalTracker):
    """Mirrors a run in MLflow, in the experiment of its study.

    The settings are parameters, the verdict is the description and a tag, and the pictures and the
    interactive page are artifacts.
    """

    name = "mlflow"
    title = "MLflow"
    _client: Any = None
    _run_id = ""

    def _open(self) -> None:
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]  # an extra
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        with OPENING, quiet("alembic"), quiet("mlflow"):
            self._client = MlflowClient(tracking_uri=self._address())
            experiment = self._find_experiment()
        self._remove_earlier_attempts(experiment)
        described = self._described
        tags = {ID_TAG: described.run_id, NOTE_TAG: described.notes}
        for tag in described.tags:
            word, _, value = tag.partition(":")
            tags[word] = value
        run = self._client.create_run(experiment, run_name=described.name, tags=tags)
        self._run_id = run.info.run_id
        params = [Param(path, str(value)) for path, value in described.config.items()]
        for part in _split(params, MAX_PARAMS):
            self._client.log_batch(self._run_id, params=part)

    def _address(self) -> str:
        """Where MLflow keeps its runs: the user's server, or a file of this machine."""
        chosen = os.environ.get(ADDRESS)
        if chosen:
            return chosen
        directory = Path(self._settings["dir"]).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{directory / DATABASE}"

    def _find_experiment(self) -> str:
        """The id of the experiment of the study, which is created if there is none."""
        study = self._described.study
        experiment = self._client.get_experiment_by_name(study)
        if experiment is not None:
            return experiment.experiment_id
        if os.environ.get(ADDRESS):
            return self._client.create_experiment(study)
        artifacts = Path(self._settings["dir"]).absolute() / ARTIFACTS / study
        return self._client.create_experiment(study, artifact_location=artifacts.as_uri())

    def _remove_earlier_attempts(self, experiment: str) -> None:
        same_run = f"tags.`{ID_TAG}` = '{self._described.run_id}'"
        for run in self._client.search_runs([experiment], filter_string=same_run):
            self._client.delete_run(run.info.run_id)

    def _write_rows(self, rows: Sequence[JsonObject]) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(1000 * time.time())
        metrics = []
        for row in rows:
            for key, number in numbers_of(row).items():
                if key != STEP:
                    metrics.append(Metric(key, number, now, row[STEP]))
        for part in _split(metrics, MAX_METRICS):  # a request takes much longer than a number
            self._client.log_batch(self._run_id, metrics=part)

    def _write_end(self, info: JsonObject, media: dict[str, Media]) -> None:
        self._write_rows([{STEP: self._last_step} | final_numbers(info)])
        verdict = verdict_in_markdown(info)
        notes = [self._described.notes] if self._described.notes else []
        self._client.set_tag(self._run_id, NOTE_TAG, "\n\n".join([*notes, verdict]))
        self._client.set_tag(self._run_id, "verdict", str((info.get("verdict") or {}).get("kind")))
        self._client.set_tag(self._run_id, "status", info["status"])
        with tempfile.TemporaryDirectory() as place:
            for key, each in media.items():
                self._log_media(key, each, Path(place))

    def _log_media(
        self,
        key: str,
        media: Media,
        place: Path,
    ) -> None:
        """Logs a picture, a table or a page as an artifact.

        Args:
            key: its key, which is its path without the ending.
            media: its content.
            place: a directory for its file until it is logged.
        """
        folder, _, name = key.rpartition("/")
        file = place / f"{name}{media.extension}"
        file.write_bytes(media.content)
        self._client.log_artifact(self._run_id, str(file), folder)
        if isinstance(media, Picture):  # once more where MLflow shows pictures of several runs
            from PIL import Image

            with Image.open(file) as picture:
                picture.load()
                self._client.log_image(self._run_id, picture, key=key, step=self._last_step)

    def _close(self, info: JsonObject) -> None:
        if self._run_id:
            status = END_OF_STATUS.get(info["status"], "FAILED")
            self._client.set_terminated(self._run_id, status)


def _split(items: Sequence[Any], size: int) -> Iterator[Iterable[Any]]:
    """The items in parts of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
