"""Run directories read back: summaries, tables of steps, profiles over layers. No jax."""

import functools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

METRICS = "metrics"
PROFILES = "profiles"
INSPECTIONS = "inspections"


class Run:
    """One run directory, read when asked."""

    def __init__(self, directory: Path):
        self.directory = Path(directory)

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """The content of ``run.json``."""
        return json.loads((self.directory / "run.json").read_text())

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The composed configuration by dotted path."""
        import yaml

        return flat(yaml.safe_load((self.directory / ".hydra" / "config.yaml").read_text()))

    @functools.cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """Columns over recorded steps; NaN where a step has no value."""
        return {
            name: np.array(column.to_numpy(zero_copy_only=False), float)
            for name, column in _columns(self.directory, METRICS)
        }

    @functools.cached_property
    def profiles(self) -> dict[str, np.ndarray]:
        """Gauges over measured steps [S, N], histograms [S, N, K], and their ``step`` [S].

        NaN in steps where a gauge has no value, as exponents have in most.
        """
        return {name: as_array(column) for name, column in _columns(self.directory, PROFILES)}

    @functools.cached_property
    def inspections(self) -> dict[str, np.ndarray]:
        """What was measured beside the step: numbers [S] or arrays [S, …] by name, and their ``step`` [S]."""
        return {name: as_array(column) for name, column in _columns(self.directory, INSPECTIONS)}

    def __getitem__(self, path: str) -> Any:
        return self.config[path]


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, by dotted path."""
    nested = [
        flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        for key, value in tree.items()
    ]
    return {path: value for part in nested for path, value in part.items()}


def _columns(directory: Path, table: str) -> Iterator[tuple[str, Any]]:
    """The columns of a table: from its file, or from the parts of a run that has not ended."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = directory / f"{table}.parquet"
    parts = sorted((directory / f"{table}.parts").glob("*.parquet"))
    files = [file] if file.exists() else parts
    if not files:
        raise FileNotFoundError(
            f"{directory} holds no {table}: it measured nothing, or was not let to end"
        )
    try:
        whole = pa.concat_tables([pq.read_table(part) for part in files], promote_options="default")
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{directory} holds damaged {table}: remove that folder and train it again"
        ) from error
    return ((name, whole.column(name).combine_chunks()) for name in whole.column_names)


def as_array(column: Any) -> np.ndarray:
    """A column's values, in lists of one length each, as an array; rows that are null as NaN."""
    if "list" not in str(column.type):
        return column.to_numpy(zero_copy_only=False)
    filled = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    values = column
    shape = [len(filled)]
    while "list" in str(values.type):
        values = values.flatten()
        shape.append(len(values) // max(math.prod(shape), 1))
    rows = np.full((len(column), *shape[1:]), np.nan, values.type.to_pandas_dtype())
    rows[filled] = values.to_numpy(zero_copy_only=False).reshape(shape)
    return rows


def find_runs(root: Path) -> list[Run]:
    """Every run below ``root``, by name, numbers in names by size."""
    return [Run(file.parent) for file in sorted(root.glob("**/run.json"), key=_natural)]


def _natural(path: Path) -> list[tuple[float, str]]:
    pieces = re.split(r"(\d+\.?\d*)", str(path))
    return [(float(piece), "") if i % 2 else (math.inf, piece) for i, piece in enumerate(pieces)]
