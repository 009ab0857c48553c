"""Reads run directories: ``run.json``, the configuration, the tables. Does not import jax."""

import contextlib
import functools
import math
import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from research.config.schema import setting_paths
from research.records.run_info import (
    SOURCE_WATCH,
    DamagedRecord,
    DamagedTable,
    is_of_other_version,
    read_run_info,
)

Columns = dict[str, np.ndarray]  # the columns of a table by name, rows on the first axis
Diagnostics = Mapping[int, Columns]  # what is measured on an interval, by step, without a step axis
JsonObject = dict[str, Any]

METRICS = "metrics"
PROFILES = "profiles"
INSPECTIONS = "inspections"
STATUSES = ("running", "done", "diverged", "stopped", "interrupted", "failed")
ENDED = ("done", "diverged", "stopped")  # statuses of runs that do not go on
MAX_LEVELS = 4  # of folders between the one that is searched and that of a run
PART_NAME = re.compile(r"\d{6}\.parquet")
NUMBER_KINDS = "biuf"  # NumPy's letters for truth values, whole and real numbers


class Run:
    """One run directory. Each of its files is read when it is first needed.

    Raises:
        DamagedRecord: from ``info``, ``config`` and what needs them: a file cannot be read.
    """

    def __init__(self, directory: Path):
        self.directory = Path(directory)

    @functools.cached_property
    def info(self) -> JsonObject:
        """The content of ``run.json``."""
        return read_run_info(self.directory / "run.json")

    @property
    def status(self) -> str:
        """How the run ended; ``running`` only while a process trains it.

        A run whose process is gone before it could say so is ``interrupted``.
        """
        status = self.info.get("status") or "?"
        if status != "running":
            return status
        from research.records.record import is_being_written

        return "running" if is_being_written(self.directory) else "interrupted"

    @property
    def start_time(self) -> float:
        """When the training of the run began, or went on, in seconds since 1970.

        Tags, uploads and repairs change files of a run later, so their times say nothing of it.
        Records of earlier versions lack the time; the training last wrote their metrics.
        """
        try:
            return datetime.fromisoformat(self.info.get("started") or "").timestamp()
        except ValueError:
            metrics = self.directory / f"{METRICS}.parquet"
            file = metrics if metrics.exists() else self.directory / "run.json"
            return file.stat().st_mtime

    @property
    def num_steps(self) -> int:
        """The steps that the run was trained for; of one that has not ended, those recorded."""
        if self.info.get("status") != "running":
            return self.info.get("steps") or 0
        try:
            steps = self.metrics.get("step", np.zeros(0))
        except (FileNotFoundError, ValueError):
            return 0
        return int(steps[-1]) + 1 if len(steps) else 0

    @property
    def is_watched(self) -> bool:
        """Whether ``fathom.Monitor`` recorded the run, so that its settings are the user's."""
        return self.info.get("source") == SOURCE_WATCH

    @functools.cached_property
    def config(self) -> JsonObject:
        """The composed configuration by dotted path.

        What the record of another version lacks is at its default.

        Raises:
            DamagedRecord: the file cannot be read, or holds no settings.
        """
        import yaml

        from research.config.earlier_settings import complete_settings
        from research.config.yaml_files import parse_yaml

        file = self.directory / ".hydra" / "config.yaml"
        try:
            settings = parse_yaml(file.read_text(encoding="utf-8"))
            recorded = flatten_dict(settings)
        except OSError as error:
            raise DamagedRecord(f"{file} cannot be read: {error.strerror}") from error
        except (ValueError, AttributeError, RecursionError, yaml.YAMLError):
            raise DamagedRecord(f"{file} is damaged: it holds no settings") from None
        return complete_settings(recorded) if self._is_of_other_version() else recorded

    def _is_of_other_version(self) -> bool:
        try:
            return is_of_other_version(self.info)
        except DamagedRecord:
            return False

    @functools.cached_property
    def overrides(self) -> list[str]:
        """What was written for the run, in a sweep or on a command line; empty if not recorded."""
        import yaml

        from research.config.yaml_files import parse_yaml

        file = self.directory / ".hydra" / "overrides.yaml"
        try:
            words = parse_yaml(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return []
        return [str(word) for word in words or []]

    def find_damage(self, table: str) -> DamagedTable | None:
        """Why a table, such as ``metrics``, is lost or cannot be read; None where all is well."""
        try:
            getattr(self, table)
        except FileNotFoundError:
            return None
        except DamagedTable as error:
            return error
        return None

    def check(self) -> None:
        """Reads ``run.json`` and the configuration.

        Raises:
            DamagedRecord: one of them is missing or damaged.
        """
        for part in ("info", "config"):
            getattr(self, part)

    @functools.cached_property
    def metrics(self) -> Columns:
        """Numbers by name, one for each recorded step [S]; NaN where a step has no value."""
        with self._checked_for_loss(METRICS):
            arrays = _read_arrays(self.directory, METRICS, num_axes=1)
        return {name: array.astype(float) for name, array in arrays.items()}

    @functools.cached_property
    def profiles(self) -> Columns:
        """Gauges over measured steps [S, N], histograms [S, N, K], and their ``step`` [S].

        Gauges that are measured less often, such as exponents, are NaN in the other steps.
        """
        with self._checked_for_loss(PROFILES):
            return _read_arrays(self.directory, PROFILES)

    @contextlib.contextmanager
    def _checked_for_loss(self, table: str) -> Iterator[None]:
        """Says that a table was lost, where a run that has ended must have recorded it.

        Raises:
            DamagedTable: it was.
            FileNotFoundError: the run recorded none.
        """
        try:
            yield
        except FileNotFoundError:
            has_record = (self.directory / "run.json").exists()
            if has_record and self._must_have(table):
                raise DamagedTable.lost(self.directory, table) from None
            raise

    def _must_have(self, table: str) -> bool:
        has_steps = self.info.get("status") in ENDED and bool(self.info.get("steps"))
        if table == METRICS or not has_steps:
            return has_steps
        verdict = self.info.get("verdict") or {}
        return verdict.get("factor_per_layer") is not None  # which follows from the profiles

    @functools.cached_property
    def inspections(self) -> Columns:
        """Measurements on an interval: numbers [S] or arrays [S, …], and their ``step`` [S]."""
        return _read_arrays(self.directory, INSPECTIONS)

    def __getitem__(self, path: str) -> Any:
        """The setting at a dotted path; None for one that the run's options do not have.

        Raises:
            KeyError: there is no such setting.
        """
        if path not in self.config and path in setting_paths():
            return None
        return self.config[path]


def flatten_dict(tree: JsonObject, prefix: str = "") -> JsonObject:
    """Flattens nested dictionaries into one dictionary whose keys are dotted paths.

    >>> flatten_dict({"seed": 1, "model": {"depth": 4}})
    {'seed': 1, 'model.depth': 4}
    """
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= flatten_dict(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def _read_arrays(
    directory: Path,
    table: str,
    num_axes: int | None = None,
) -> Columns:
    """The columns of a table as arrays of numbers.

    Args:
        directory: the run directory.
        table: the name of the table.
        num_axes: how many axes every column has; None for any number.
    """
    arrays = {}
    for name, column in _read_columns(directory, table):
        try:
            array = column_to_array(column)
        except (ValueError, TypeError) as error:  # rows of different lengths
            raise DamagedTable(directory, table) from error
        if _is_truth_or_null(column):
            array = np.array(array, float)  # None becomes NaN
        is_as_expected = num_axes is None or array.ndim == num_axes
        if array.dtype.kind not in NUMBER_KINDS or not is_as_expected:
            raise DamagedTable(directory, table)
        arrays[name] = array
    return arrays


def _read_columns(directory: Path, table: str) -> Iterator[tuple[str, Any]]:
    """The names and Arrow columns of a table, from its part files while it has no final file."""
    import pyarrow as pa

    try:
        parts = read_parts(directory, table)
        whole = pa.concat_tables(parts, promote_options="default") if parts else None
    except (pa.ArrowException, OSError) as error:
        raise DamagedTable.from_error(directory, table, error) from error
    if whole is None:
        raise FileNotFoundError(
            f"{directory} has no {table}: the run recorded no measurements, "
            "or it was stopped before the first flush"
        )
    for name in whole.column_names:
        yield name, whole.column(name).combine_chunks()


def read_parts(directory: Path, table: str) -> list[Any]:
    """The rows of a table as Arrow tables, from its part files while it has no final file.

    Raises:
        OSError: a file cannot be read.
        ArrowException: a file is damaged.
    """
    final_file = directory / f"{table}.parquet"
    if not final_file.exists():
        with contextlib.suppress(FileNotFoundError):
            parts = [read_file(file) for file in find_parts(directory / f"{table}.parts")]
            if not final_file.exists():  # else the run has just ended and removes its part files
                return parts
    return [read_file(final_file)]


def count_rows_on_disk(directory: Path, table: str) -> int:
    """The rows of a table, in its part files while it has no final file; its columns are not read.

    Raises:
        OSError: a file cannot be read.
        ArrowException: a file is damaged.
    """
    import pyarrow.parquet as pq

    final_file = directory / f"{table}.parquet"
    files = [final_file]
    if not final_file.exists():
        files = find_parts(directory / f"{table}.parts")
    return sum(pq.read_metadata(file).num_rows for file in files)


def find_parts(folder: Path) -> list[Path]:
    """The part files in a folder, in order.

    What others leave there, such as ``._000000.parquet`` of macOS or a copy of a program that
    synchronises folders, is no part.
    """
    return sorted(file for file in folder.glob("*.parquet") if PART_NAME.fullmatch(file.name))


def read_file(file: Path) -> Any:
    """The rows of a file as an Arrow table.

    ``pyarrow.parquet.read_table`` of older versions adds columns for the names of its folders,
    such as ``depth=2``.

    Raises:
        OSError: it cannot be read.
        ArrowException: it is damaged.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(file).read(use_threads=False)


def column_to_array(column: Any) -> np.ndarray:
    """Converts an Arrow column to an array.

    Args:
        column: numbers, or lists (of lists) that have the same length in all rows.

    Returns:
        [S] for numbers, [S, N] for lists, [S, N, K] for lists of lists. Null lists become NaN.
    """
    if not _holds_lists(column):
        return column.to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(column_to_array(column.is_valid()))
    values = column
    shape = [len(rows)]
    while _holds_lists(values):
        num_lists = max(math.prod(shape), 1)
        values = values.flatten()
        shape.append(len(values) // num_lists)
    numbers = column_to_array(values)
    array = np.full((len(column), *shape[1:]), np.nan, numbers.dtype)
    array[rows] = numbers.reshape(shape)
    return array


def _is_truth_or_null(column: Any) -> bool:
    return str(column.type) in ("bool", "null")


def _holds_lists(column: Any) -> bool:
    return "list" in str(column.type)


def describe_verdict(run: Run) -> str:
    """What the verdict on a run is, to follow its name in a sentence."""
    kind = (run.info.get("verdict") or {}).get("kind")
    if kind:
        return f"whose verdict is {kind}"
    if run.status != "done":
        return f"which has no verdict, because its status is {run.status}"
    return "which has no verdict, because it measured nothing (measure=off)"


def find_runs(root: Path) -> list[Run]:
    """Every run below ``root``, sorted by path; numbers in a path are sorted by value.

    A run holds no others, and no run lies deeper than ``MAX_LEVELS`` below the folder. A folder
    with rows is one, too, although its ``run.json`` is missing; its ``info`` says so.
    """
    directories = []
    for place, folders, files in os.walk(root):
        directory = Path(place)
        is_run = "run.json" in files or _has_lost_record(directory)
        if is_run:
            directories.append(directory)
        level = len(directory.parts) - len(root.parts)
        if is_run or level >= MAX_LEVELS:
            folders.clear()
    return [Run(directory) for directory in sorted(directories, key=_path_order)]


def _has_lost_record(directory: Path) -> bool:
    """Whether a folder without ``run.json`` has rows, and no process is about to write it."""
    if not has_rows(directory):
        return False
    from research.records.record import is_being_written

    return not is_being_written(directory) and not (directory / "run.json").exists()


def has_rows(directory: Path) -> bool:
    """Whether rows of a run are on disk, in its table of metrics or in part files of it."""
    if (directory / f"{METRICS}.parquet").exists():
        return True
    return any(directory.glob(f"{METRICS}.parts/*.parquet"))


def _path_order(path: Path) -> list[tuple[float, str]]:
    return natural_order(str(path))


def natural_order(text: str) -> list[tuple[float, str]]:
    """A sort key in which the numbers of a text compare by value and come before other text."""
    pieces = re.split(r"(\d+\.?\d*)", text)
    key = []
    for index, piece in enumerate(pieces):
        if index % 2 == 1:  # re.split returns what the group matched at odd positions
            key.append((float(piece), ""))
        else:
            key.append((math.inf, piece))
    return key
