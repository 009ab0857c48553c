"""Pictures, tables and pages of a run in W&B: the files that it keeps of them, and what says so.

W&B names such a file by the key, the number of the row and the SHA-256 of the content, so the same
content has the same name whoever writes it.
"""

import functools
import hashlib
import json
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.records.runs import JsonObject
from research.records.trackers.server import import_wandb

HASH_LENGTH = 20
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_PALETTE = 3
PNG_UP_FILTER = 2
PNG_SIZE = slice(16, 24)  # where a PNG file says how wide and how high it is


class Media(ABC):
    """Something that W&B keeps in a file of its own.

    Attributes:
        folder: the folder in ``media``.
        extension: the end of the file's name.
        kind: W&B's name for it.
    """

    folder: str
    extension: str
    kind: str

    @property
    @abstractmethod
    def content(self) -> bytes:
        """The content of the file."""

    @property
    @abstractmethod
    def facts(self) -> JsonObject:
        """What W&B's history says of it besides the file."""

    @abstractmethod
    def to_wandb(self, place: Path) -> Any:
        """The object that ``run.log`` takes.

        Args:
            place: a directory for its file until it is logged.
        """

    def path(self, key: str, row: int) -> str:
        """Its path in the files of a run.

        Args:
            key: the key under which it is logged.
            row: the number of the history row.
        """
        digest = hashlib.sha256(self.content).hexdigest()
        return f"media/{self.folder}/{key}_{row}_{digest[:HASH_LENGTH]}{self.extension}"

    def describe(self, path: str) -> JsonObject:
        """What W&B's history has for it.

        Args:
            path: its path in the files of the run.
        """
        file = {
            "_type": self.kind,
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "size": len(self.content),
            "path": path,
        }
        return file | self.facts


class Picture(Media):
    """A picture, as PNG."""

    folder = "images"
    extension = ".png"
    kind = "image-file"

    def __init__(
        self,
        content: bytes,
        width: int,
        height: int,
    ):
        """Keeps a picture.

        Args:
            content: the PNG file.
            width: its pixels from left to right.
            height: its pixels from top to bottom.
        """
        self._content = content
        self._width = width
        self._height = height

    @classmethod
    def encode(cls, colors: np.ndarray, palette: np.ndarray) -> "Picture":
        """A picture, encoded quickly rather than as small as can be.

        Args:
            colors: the number of the colour of each pixel [H, W], as bytes.
            palette: red, green and blue of each colour [256, 3], as bytes.
        """
        height, width = colors.shape
        header = struct.pack(">IIBBBBB", width, height, 8, PNG_PALETTE, 0, 0, 0)
        content = PNG_SIGNATURE + _png_chunk(b"IHDR", header)
        content += _png_chunk(b"PLTE", palette.tobytes())
        content += _png_chunk(b"IDAT", zlib.compress(_filter_rows(colors).data, level=1))
        return cls(content + _png_chunk(b"IEND", b""), width, height)

    @classmethod
    def read(cls, file: Path) -> "Picture":
        """The picture in a PNG file."""
        content = file.read_bytes()
        width, height = struct.unpack(">II", content[PNG_SIZE])
        return cls(content, width, height)

    @property
    def content(self) -> bytes:
        """The PNG file."""
        return self._content

    @property
    def facts(self) -> JsonObject:
        """Its size in pixels."""
        return {"format": "png", "width": self._width, "height": self._height}

    def to_wandb(self, place: Path) -> Any:
        """A ``wandb.Image``."""
        return import_wandb().Image(_write(self, place))


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    length = struct.pack(">I", len(content))
    return length + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _filter_rows(colors: np.ndarray) -> np.ndarray:
    """The rows of a PNG file as bytes [H, W + 1], each as its difference from the row above."""
    height, width = colors.shape
    filtered = np.empty((height, width + 1), np.uint8)
    filtered[:, 0] = PNG_UP_FILTER
    filtered[0, 1:] = colors[0]
    np.subtract(colors[1:], colors[:-1], out=filtered[1:, 1:])
    return filtered


class Page(Media):
    """A page of HTML, which W&B shows in a frame."""

    folder = "html"
    extension = ".html"
    kind = "html-file"

    def __init__(self, html: str):
        """Keeps a page.

        Args:
            html: the whole document.
        """
        self._html = html

    @functools.cached_property
    def content(self) -> bytes:
        """The document in UTF-8."""
        return self._html.encode()

    @property
    def facts(self) -> JsonObject:
        """Nothing."""
        return {}

    def to_wandb(self, place: Path) -> Any:
        """A ``wandb.Html``, to which W&B adds no style sheet of its own."""
        return import_wandb().Html(_write(self, place), inject=False)


class Table(Media):
    """A table."""

    folder = "table"
    extension = ".table.json"
    kind = "table-file"

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]):
        """Keeps a table.

        Args:
            columns: the names of the columns.
            rows: numbers and texts, row by row.
        """
        self._columns = list(columns)
        self._rows = [list(row) for row in rows]

    @functools.cached_property
    def content(self) -> bytes:
        """The table as W&B writes it."""
        table = {"columns": self._columns, "data": self._rows}
        return json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()

    @property
    def facts(self) -> JsonObject:
        """Its size."""
        size = {"ncols": len(self._columns), "nrows": len(self._rows)}
        return size | {"log_mode": "IMMUTABLE"}

    def to_wandb(self, place: Path) -> Any:
        """A ``wandb.Table``, which W&B also keeps as an artifact."""
        del place
        return import_wandb().Table(columns=self._columns, data=self._rows)


def _write(media: Media, place: Path) -> str:
    digest = hashlib.sha256(media.content).hexdigest()
    file = place / f"{digest}{media.extension}"
    file.write_bytes(media.content)
    return str(file)
