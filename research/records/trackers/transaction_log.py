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
BUFFER_BYTES = 8 * BLOCK_BYTES  # fewer calls of the operating system, at which threads wait
PART_HEADER = struct.Struct("<IHB")  # checksum, length, kind of part
# By whether the part is the first one of its record, and whether it is the last one.
PART_KINDS = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}
WHOLE = PART_KINDS[True, True]
# The checksum of a part begins with that of its kind.
CHECKSUM_STARTS = {kind: zlib.crc32(bytes([kind])) for kind in PART_KINDS.values()}

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
MAX_SHORT = 1 << 63
MAX_NUMBER_LENGTH = 24  # of a float in JSON, such as -2.2250738585072014e-308


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
        self._file = file.open("xb", buffering=BUFFER_BYTES)
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
        room = BLOCK_BYTES - self._position % BLOCK_BYTES
        if len(record) + PART_HEADER.size <= room:  # nearly all of them
            self._write_part(record, WHOLE)
            return
        is_first = True
        rest = record
        while is_first or rest:
            room = BLOCK_BYTES - self._position % BLOCK_BYTES
            if room < PART_HEADER.size:
                self._file.write(bytes(room))
                self._position += room
                room = BLOCK_BYTES
            part = rest[: room - PART_HEADER.size]
            rest = rest[len(part) :]
            self._write_part(part, PART_KINDS[is_first, not rest])
            is_first = False

    def _write_part(self, part: bytes, kind: int) -> None:
        checksum = zlib.crc32(part, CHECKSUM_STARTS[kind])
        self._file.write(PART_HEADER.pack(checksum, len(part), kind) + part)
        self._position += PART_HEADER.size + len(part)

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
        item = encode_text(ITEM_KEY, key) + encode_bytes(ITEM_VALUE, _to_json(value).encode())
        encoded += encode_bytes(UPDATE, item)
    return encoded


def encode_row(values: Mapping[str, Any]) -> bytes:
    """Values by key as the items of a ``HistoryRecord`` or a ``SummaryRecord``.

    A value that is a dictionary becomes one item for each of its entries.
    """
    # Texts of which each character is a byte: numbers become text, and are joined only once.
    pieces: list[str] = []
    for key, value in values.items():
        kind = type(value)
        is_short = kind is int and -MAX_SHORT < value < MAX_SHORT
        if is_short or (kind is float and math.isfinite(value)):  # nearly all of them
            text = repr(value)
            pieces.append(_short_item_starts((key,))[len(text)])
            pieces.append(text)
        elif isinstance(value, dict):
            for name, entry in value.items():
                _add_item(pieces, (key, name), entry)
        else:
            _add_item(pieces, (key,), value)
    return "".join(pieces).encode("latin-1")


def encode_summary(values: Mapping[str, Any]) -> bytes:
    """Values by key as the items of a ``SummaryRecord``, dictionaries as they are."""
    pieces: list[str] = []
    for key, value in values.items():
        _add_item(pieces, (key,), value)
    return "".join(pieces).encode("latin-1")


def _add_item(
    pieces: list[str],
    path: tuple[str, ...],
    value: Any,
) -> None:
    """Appends an item: its keys, and its value in JSON, which is ASCII."""
    text = _to_json(value)
    pieces.append(_item_start(path, len(text)))
    pieces.append(text)


@functools.lru_cache(maxsize=10_000)
def _short_item_starts(path: tuple[str, ...]) -> list[str]:
    """What precedes a value of 0, 1, … characters; no number has more than 24."""
    return [_item_start(path, length) for length in range(MAX_NUMBER_LENGTH + 1)]


def _item_start(path: tuple[str, ...], length: int) -> str:
    """What precedes a value of ``length`` characters in an item, one character a byte."""
    start = b"".join(encode_text(ITEM_NESTED_KEY, name) for name in path)
    start += VALUE_TAG + encode_varint(length)
    return (UPDATE_TAG + encode_varint(len(start) + length) + start).decode("latin-1")


def _to_json(value: Any) -> str:
    if type(value) is int:
        return repr(value)
    return json.dumps(value, default=_to_python)


def _to_python(value: Any) -> Any:
    """A number of NumPy as one of Python."""
    return value.item()
