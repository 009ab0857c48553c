"""Event files for TensorBoard in the run directory, written by tensorboardX."""

import importlib
import time
from collections.abc import Sequence
from typing import Any

from research.records.runs import JsonObject
from research.records.trackers.history import STEP
from research.records.trackers.local import (
    LocalTracker,
    config_in_markdown,
    final_numbers,
    numbers_of,
    verdict_in_markdown,
)
from research.records.trackers.media import Media, Picture

EVENT_FILES = "events.out.tfevents.*"
RGB = 3


class TensorBoardTracker(LocalTracker):
    """Writes a run for TensorBoard, which names it by its directory.

    Scalars are those of W&B. Pictures, verdict and configuration are under *images* and *text*, and
    what sets the runs apart and their final numbers, side by side, under *hparams*.
    """

    name = "tensorboard"
    title = "TensorBoard"
    _writer: Any = None

    def _open(self) -> None:
        from tensorboardX.event_file_writer import (  # pyright: ignore[reportMissingImports]
            EventsWriter,
        )

        directory = self._described.directory
        for file in directory.glob(EVENT_FILES):
            file.unlink()
        self._writer = EventsWriter(str(directory / "events"))
        self._add_text("configuration", config_in_markdown(self._described.config))

    def _write_rows(self, rows: Sequence[JsonObject]) -> None:
        for row in rows:
            self._add_numbers(numbers_of(row), row[STEP])
        self._writer.flush()

    def _write_end(self, info: JsonObject, media: dict[str, Media]) -> None:
        numbers = final_numbers(info)
        self._add_numbers(numbers, self._last_step)
        self._add_hyperparameters(numbers)
        self._add_text("verdict", verdict_in_markdown(info))
        for key, each in media.items():
            if isinstance(each, Picture):
                self._add_picture(key, each)

    def _close(self, info: JsonObject) -> None:
        if self._writer is not None:
            self._writer.close()

    def _add_numbers(self, numbers: dict[str, float], step: int) -> None:
        """Writes numbers by key as one event."""
        summary = _message("summary_pb2", "Summary")
        values = []
        for key, number in numbers.items():
            if key != STEP:
                values.append(summary.Value(tag=key, simple_value=number))
        self._add(summary(value=values), step)

    def _add_text(self, key: str, text: str) -> None:
        """Writes text in Markdown."""
        from tensorboardX import summary  # pyright: ignore[reportMissingImports]

        self._add(summary.text(key, text), self._last_step)

    def _add_picture(self, key: str, picture: Picture) -> None:
        summary = _message("summary_pb2", "Summary")
        image = summary.Image(
            height=picture.facts["height"],
            width=picture.facts["width"],
            colorspace=RGB,
            encoded_image_string=picture.content,
        )
        self._add(summary(value=[summary.Value(tag=key, image=image)]), self._last_step)

    def _add_hyperparameters(self, numbers: dict[str, float]) -> None:
        """Writes what sets the run apart, and its final numbers, for the table of all runs."""
        from tensorboardX import summary  # pyright: ignore[reportMissingImports]

        settings = {}
        for path, value in self._described.named_settings.items():
            settings[path] = _to_setting(value)
        for part in summary.hparams(settings, numbers):
            self._add(part, self._last_step)

    def _add(self, summary: Any, step: int) -> None:
        event = _message("event_pb2", "Event")
        self._writer.write_event(event(wall_time=time.time(), step=step, summary=summary))


def _message(module: str, name: str) -> Any:
    """A class of TensorBoard's messages, which tensorboardX makes when it is imported."""
    return getattr(importlib.import_module(f"tensorboardX.proto.{module}"), name)


def _to_setting(value: Any) -> bool | float | str:
    """A setting as TensorBoard takes it: lists and null become text."""
    return value if isinstance(value, bool | int | float | str) else str(value)
