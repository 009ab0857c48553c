"""The file of a W&B run that is recorded offline, written without W&B.

``wandb leet``, ``wandb sync`` and ``wandb beta`` read such files, also those of earlier versions.
A file is a log in the format of LevelDB, with CRC-32 as the checksum. Each of its entries is a
protocol buffer, the message ``Record`` of W&B's ``wandb_internal.proto``. Written here, a run costs
milliseconds; W&B takes a second to import, 40 ms to start a run, and a process and threads of its
own.

References:
    LevelDB, "Log format", doc/log_format.md. Protocol Buffers, "Encoding".
"""

import functools
import json
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE_START = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
BLOCK_BYTES = 32 * 1024
PART_HEADER = struct.Struct("<IHB")  # checksum, length, kind of part
# By whether the part is the first one of its record, and whether it is the last one.
PART_KINDS = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}

# Wire types of protocol buffers.
VARINT = 0
BYTES = 2

# Fields of messages.
NUMBER = 1  # of Record
CONTENT = {  # of Record
    "history": 2,
    "summary": 3,
    "files": 6,
    "telemetry": 11,
    "metric": 12,
    "run": 17,
    "exit": 18,
    "header": 21,
}
UPDATE = 1  # of ConfigRecord and SummaryRecord; in HistoryRecord the field is named item
ITEM_KEY = 1
ITEM_NESTED_KEY = 2
ITEM_VALUE = 16


class TransactionLog:
    """Appends records to a new file.

    Records reach the file with ``flush``; a file that was cut off is read up to its last whole
    record.
    """

    def __init__(self, file: Path):
        """Creates the file.

        Raises:
            FileExistsError: it is there already.
        """
        self._file = file.open("xb")
        self._file.write(FILE_START)
        self._position = len(FILE_START)
        self._num_records = 0

    def add(self, kind: str, content: bytes) -> None:
        """Appends a record.

        Args:
            kind: the name in ``CONTENT`` of the field of ``Record`` that holds it.
            content: its message.
        """
        self._num_records += 1
        number = encode_integer(NUMBER, self._num_records)
        self._write(number + encode_bytes(CONTENT[kind], content))

    def _write(self, record: bytes) -> None:
        """Writes a record as parts that do not cross the borders of blocks."""
        is_first = True
        rest = memoryview(record)
        while is_first or rest:
            room = BLOCK_BYTES - self._position % BLOCK_BYTES
            if room < PART_HEADER.size:
                self._file.write(bytes(room))
                self._position += room
                room = BLOCK_BYTES
            part = rest[: room - PART_HEADER.size]
            rest = rest[len(part) :]
            kind = PART_KINDS[is_first, not rest]
            checksum = zlib.crc32(part, zlib.crc32(bytes([kind])))
            self._file.write(PART_HEADER.pack(checksum, len(part), kind))
            self._file.write(part)
            self._position += PART_HEADER.size + len(part)
            is_first = False

    def flush(self) -> None:
        """Makes what was added visible to readers."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()


def encode_varint(value: int) -> bytes:
    """A whole number of at least 0, seven bits a byte.

    >>> encode_varint(300).hex()
    'ac02'
    """
    if value < len(SHORT_VARINTS):  # nearly all of them
        return SHORT_VARINTS[value]
    return _encode_varint(value)


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


SHORT_VARINTS = [_encode_varint(value) for value in range(1 << 12)]
UPDATE_TAG = encode_varint(UPDATE << 3 | BYTES)
VALUE_TAG = encode_varint(ITEM_VALUE << 3 | BYTES)


def encode_integer(field: int, value: int) -> bytes:
    """A field that is a whole number of at least 0, or a truth value."""
    return encode_varint(field << 3 | VARINT) + encode_varint(value)


def encode_bytes(field: int, content: bytes) -> bytes:
    """A field that is a message or bytes."""
    return encode_varint(field << 3 | BYTES) + encode_varint(len(content)) + content


def encode_text(field: int, text: str) -> bytes:
    """A field that is text; empty text is left out, as it is the default.

    Bytes of a path that are no text become escape sequences.
    """
    return encode_bytes(field, text.encode(errors="backslashreplace")) if text else b""


def encode_settings(values: Mapping[str, Any]) -> bytes:
    """Values by key as a ``ConfigRecord``."""
    encoded = b""
    for key, value in values.items():
        item = encode_text(ITEM_KEY, key) + encode_bytes(ITEM_VALUE, _to_json(value))
        encoded += encode_bytes(UPDATE, item)
    return encoded


def encode_row(values: Mapping[str, Any]) -> bytes:
    """Values by key as the items of a ``HistoryRecord`` or a ``SummaryRecord``.

    A value that is a dictionary becomes one item for each of its entries.
    """
    items = []
    for key, value in values.items():
        if isinstance(value, dict):
            for name, entry in value.items():
                items.append(_encode_item((key, name), entry))
        else:
            items.append(_encode_item((key,), value))
    return b"".join(items)


def encode_summary(values: Mapping[str, Any]) -> bytes:
    """Values by key as the items of a ``SummaryRecord``, dictionaries as they are."""
    return b"".join(_encode_item((key,), value) for key, value in values.items())


def _encode_item(path: tuple[str, ...], value: Any) -> bytes:
    text = _to_json(value)
    item = _encode_path(path) + encode_varint(len(text)) + text
    return UPDATE_TAG + encode_varint(len(item)) + item


@functools.lru_cache(maxsize=10_000)
def _encode_path(path: tuple[str, ...]) -> bytes:
    """The keys of an item, and the tag of its value."""
    return b"".join(encode_text(ITEM_NESTED_KEY, name) for name in path) + VALUE_TAG


def _to_json(value: Any) -> bytes:
    is_number = type(value) is int or (type(value) is float and math.isfinite(value))
    if is_number:  # nearly all of them
        return repr(value).encode()
    return json.dumps(value, default=_to_python).encode()


def _to_python(value: Any) -> Any:
    """A number of NumPy as one of Python."""
    return value.item()
