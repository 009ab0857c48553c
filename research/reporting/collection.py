"""Runs as one object for notebooks and scripts: tables, arrays, figures, and their display."""

import contextlib
import html
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from research.config.arguments import check_texts, describe_argument
from research.config.suggestions import format_suggestion
from research.config.wording import pluralize
from research.gauges.numbering import entry_layers
from research.gauges.table import OF_SIGNALS
from research.records.run_info import DamagedTable
from research.records.runs import METRICS, Columns, Run
from research.reporting.gauge_histories import find_gauge, read_gauge
from research.reporting.named_array import NamedArray
from research.reporting.quantities import QUANTITIES, label_of
from research.reporting.selection import match_runs, without_damaged_tables
from research.reporting.summary_table import SummaryTable, summary_table
from research.reporting.tables import format_number
from research.reporting.varied_settings import (
    SEED,
    differing_settings,
    listed_settings,
    setting_text,
    setting_value,
    short_name,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from research.reporting.comparison import Comparison
    from research.reporting.plots.arrangement import Drawing

Result = TypeVar("Result")

SHOWN_RUNS = 20  # rows of the display in a notebook
SHOWN_NUMBERS = ("train_loss", "train_accuracy", "eval_accuracy")


@contextlib.contextmanager
def _without_dashes() -> Iterator[None]:
    """Names the arguments of Python in messages that name the options of the command line."""
    try:
        yield
    except ValueError as error:
        message = re.sub(r"(?<![\w-])--(?=[a-z])", "", str(error))
        raise ValueError(message) from error


class Runs(Sequence[Run]):
    """Recorded runs, in the order of their paths.

    It is a sequence of ``research.records.runs.Run``. Tables are in Arrow; ``.to_pandas()`` of each
    gives a data frame where pandas is installed.

    Example:
        >>> runs = fathom.load("outputs/depth", "skip=none")  # doctest: +SKIP
        >>> runs.table().to_pandas()  # doctest: +SKIP
        >>> runs.plot(x="depth", y="eval_accuracy").save("accuracy.pdf")  # doctest: +SKIP
    """

    def __init__(self, runs: Sequence[Run]):
        self._runs = tuple(runs)

    def __len__(self) -> int:
        return len(self._runs)

    def _check_any(self) -> None:
        """Raises ValueError where there are no runs, of which nothing can be shown."""
        if not self._runs:
            raise ValueError("there are no runs here: a slice or a list of none")

    def _use(
        self,
        use: Callable[..., Result],
        *names: str,
    ) -> Result:
        """What a function makes of the runs and of names, without the runs whose table is damaged.

        Raises:
            DamagedTable: no run is left.
            ValueError: there are no runs, or a name is not known.
        """
        self._check_any()

        def use_runs(runs: Sequence[Run]) -> Result:
            return use(Runs(runs), *names)

        return without_damaged_tables(use_runs, self._runs)

    @overload
    def __getitem__(self, index: int) -> Run: ...

    @overload
    def __getitem__(self, index: slice) -> "Runs": ...

    def __getitem__(self, index: int | slice) -> "Run | Runs":
        if isinstance(index, slice):
            return Runs(self._runs[index])
        return self._runs[index]

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def select(self, *filters: str) -> "Runs":
        """The runs that match every filter, such as ``skip=none`` or ``eval_accuracy>0.9``.

        Raises:
            ValueError: none matches, or a filter cannot be understood.
        """
        check_texts("filters", filters, 'runs.select("skip=none", "depth>30")')
        self._check_any()
        return Runs(match_runs(self._runs, filters))

    def varying(self) -> list[str]:
        """The settings in which the runs differ, by path."""
        return differing_settings(self._runs)

    def table(self) -> "pa.Table":
        """One row for each run: its directory, its status, what varies, and its final numbers.

        Columns: ``run``, ``status``, ``verdict``, the settings in which the runs differ, ``seed``,
        and the numbers that ``fathom table`` knows; null where a run has none.
        """
        import pyarrow as pa

        columns: dict[str, list[Any]] = defaultdict(list)
        paths = self._labels()
        for run in self._runs:
            verdict = run.info.get("verdict") or {}
            columns["run"].append(str(run.directory))
            columns["status"].append(run.status)
            columns["verdict"].append(verdict.get("kind"))
            for path in paths:
                value = setting_value(run, path)
                columns[path].append(_plain(value))
            for quantity in QUANTITIES:
                number = quantity.value(run)
                columns[quantity.name].append(number)
        arrays = {name: _to_arrow(values) for name, values in columns.items()}
        return pa.table(arrays)

    def metrics(self, *names: str) -> "pa.Table":
        """The metrics of every step: one row for each run and step.

        A run whose metrics are missing or damaged is left out, with a line on standard error.

        Args:
            *names: the metrics; all without.

        Returns:
            Columns ``run``, what varies, ``seed``, ``step`` and the metrics; null where a step has
            no value.

        Raises:
            ValueError: no run recorded a metric.
        """
        check_texts("metrics", names, 'runs.metrics("train_loss", "eval_loss")')
        return self._use(Runs._make_metrics, *names)

    def _make_metrics(self, *names: str) -> "pa.Table":
        import pyarrow as pa

        tables = [_metrics_of(run) for run in self._runs]
        known = _names_in(tables)
        for name in names:
            if name not in known:
                hint = format_suggestion(name, known)
                raise ValueError(f"no run recorded the metric {name}{hint} ({', '.join(known)})")
        steps = [table["step"].astype(np.int64) for table in tables]
        columns = self._label_columns(list(map(len, steps)))
        columns["step"] = _stack(steps)
        for name in names or known:
            values = []
            for table in tables:
                missing = np.full(len(table["step"]), np.nan)
                values.append(table.get(name, missing))
            columns[name] = _stack(values)
        return pa.table(columns)

    def profiles(self, gauge: str) -> "pa.Table":
        """A gauge over steps and layers: one row for each run, measured step and layer.

        A run whose profiles are missing or damaged is left out, with a line on standard error.

        Args:
            gauge: its name, such as ``grad_norm``.

        Returns:
            Columns ``run``, what varies, ``seed``, ``step``, ``layer`` and the gauge. Of signals,
            layer l stands for its output and −1 for the input of layer 0.

        Raises:
            ValueError: no run recorded this gauge.
        """
        check_texts("gauges", [gauge], 'runs.profiles("grad_norm")')
        return self._use(Runs._make_profiles, gauge)

    def _make_profiles(self, gauge: str) -> "pa.Table":
        import pyarrow as pa

        gauge = find_gauge(gauge, self._runs)
        steps = []
        layers = []
        values = []
        for run in self._runs:
            history = read_gauge(run, gauge)
            num_steps, num_layers = history.values.shape
            steps.append(np.repeat(history.steps.astype(np.int64), num_layers))
            layers_of_entries = entry_layers(num_layers, gauge in OF_SIGNALS)
            layers.append(np.tile(layers_of_entries, num_steps))
            values.append(history.values.ravel())
        columns = self._label_columns(list(map(len, values)))
        columns["step"] = _stack(steps)
        columns["layer"] = _stack(layers)
        columns[gauge] = _stack(values)
        return pa.table(columns)

    def array(self, name: str) -> NamedArray:
        """A metric as an array over ``run`` and ``step``, or a gauge over ``layer`` as well.

        A run whose table is missing or damaged is left out, with a line on standard error.

        Args:
            name: a metric or a gauge. A name that is both, such as ``grad_norm``, is the gauge.

        Raises:
            ValueError: no run recorded it.
        """
        check_texts("names", [name], 'runs.array("grad_norm")')
        return self._use(Runs._make_array, name)

    def _make_array(self, name: str) -> NamedArray:
        try:
            gauge = find_gauge(name, self._runs)
        except DamagedTable:
            raise
        except ValueError:
            return self._metric_array(name)
        histories = [read_gauge(run, gauge) for run in self._runs]
        steps = _union([history.steps for history in histories])
        num_layers = max(history.values.shape[1] for history in histories)
        shape = (len(histories), len(steps), num_layers)
        values = np.full(shape, np.nan)
        for place, history in zip(values, histories, strict=True):
            rows = np.searchsorted(steps, history.steps)
            place[rows, : history.values.shape[1]] = history.values
        return NamedArray(
            name=gauge,
            values=values,
            axes=("run", "step", "layer"),
            coordinates={
                "run": self._names(),
                "step": steps.tolist(),
                "layer": entry_layers(num_layers, gauge in OF_SIGNALS).tolist(),
            },
        )

    def _metric_array(self, name: str) -> NamedArray:
        table = self._make_metrics(name)
        steps = np.unique(table.column("step").to_numpy())
        shape = (len(self), len(steps))
        values = np.full(shape, np.nan)
        for row, run in zip(values, self._runs, strict=True):
            columns = _metrics_of(run)
            if name in columns:
                places = np.searchsorted(steps, columns["step"])
                row[places] = columns[name]
        return NamedArray(
            name=name,
            values=values,
            axes=("run", "step"),
            coordinates={"run": self._names(), "step": steps.tolist()},
        )

    def summary(
        self,
        *values: str,
        rows: Sequence[str] = (),
        columns: str = "",
    ) -> SummaryTable:
        """Means over seeds with 95 % intervals, as ``fathom table`` prints them.

        Args:
            *values: the numbers, such as ``eval_accuracy``; the usual ones without.
            rows: the settings of the rows.
            columns: the setting of the columns.

        Raises:
            ValueError: there is no such number or setting.
        """
        check_texts("values", values, 'runs.summary("eval_accuracy", "train_loss")')
        self._check_any()
        named_rows = [rows] if isinstance(rows, str) or not isinstance(rows, Iterable) else rows
        check_texts("rows and columns", [*named_rows, columns], 'rows=["depth"], columns="skip"')
        with _without_dashes():
            summarize = partial(summary_table, values=values, rows=named_rows, columns=columns)
            return without_damaged_tables(summarize, self._runs)

    def plot(
        self,
        kind: str = "",
        *,
        x: str = "",
        y: str = "",
        color: str = "",
        facet: str = "",
        log: str = "",
        steps: str | int | Sequence[int] = "",
    ) -> "Drawing":
        """Draws a figure as ``fathom plot`` does; a notebook shows it.

        Args:
            kind: ``line``, ``curves``, ``profile``, ``heatmap`` or ``phase``; chosen if empty.
            x: the setting on the horizontal axis.
            y: what is drawn.
            color: the setting that has colours.
            facet: the setting that has panels.
            log: the logarithmic axes: ``x``, ``y``, ``xy`` or ``none``.
            steps: the steps of a profile: a number, several of them, or a text such as
                ``"first,last"``.

        Returns:
            The drawing; ``.save("figure.pdf")`` writes it, ``.figure`` is matplotlib's.

        Raises:
            ValueError: a name is not known, or does not suit the runs.
        """
        from research.reporting.plots.arrangement import PlotOptions
        from research.reporting.plots.draw import draw_runs

        names = [kind, x, y, color, facet, log]
        check_texts("kind, x, y, color, facet and log", names, 'runs.plot("line", x="depth")')
        self._check_any()
        steps_in_words = str(steps)
        if isinstance(steps, Iterable) and not isinstance(steps, str):
            steps_in_words = ",".join(map(str, steps))
        options = PlotOptions(
            kind=kind,
            x=x,
            y=y,
            color=color,
            facet=facet,
            log=log,
            steps=steps_in_words,
        )
        with _without_dashes():
            return without_damaged_tables(partial(draw_runs, options=options), self._runs)

    def compare(self, other: "Runs | Run") -> "Comparison":
        """What differs between these runs and others; see ``fathom compare``.

        Raises:
            TypeError: the others are no runs.
            ValueError: runs of a group cannot be paired.
        """
        from research.reporting.comparison import compare_runs

        others = [other] if isinstance(other, Run) else other
        is_list = isinstance(others, Sequence) and not isinstance(others, str)
        if not is_list or not all(isinstance(each, Run) for each in others):
            raise TypeError(
                "other must be a run or runs, such as those of fathom.load, "
                f"got {describe_argument(other)}"
            )
        self._check_any()
        if not others:
            raise ValueError("other must be a run or runs, got none")
        return without_damaged_tables(compare_runs, self._runs, others)

    def _labels(self) -> list[str]:
        """The columns that identify a run: the settings that vary, and the seed at the end."""
        paths = [path for path in differing_settings(self._runs) if path != SEED]
        return [*paths, SEED]

    def _label_columns(self, num_rows: Sequence[int]) -> dict[str, Any]:
        """The columns that say which run each row belongs to, as Arrow arrays.

        Args:
            num_rows: how many rows each run has.
        """
        positions = np.repeat(np.arange(len(self)), num_rows)
        columns = {"run": _to_arrow(self._names()).take(positions)}
        for path in self._labels():
            values = [_plain(setting_value(run, path)) for run in self._runs]
            columns[path] = _to_arrow(values).take(positions)
        return columns

    def _names(self) -> list[str]:
        return [str(run.directory) for run in self._runs]

    def __repr__(self) -> str:
        paths = ", ".join(short_name(path) for path in listed_settings(self._runs))
        differ = f" that differ in {paths}" if paths else ""
        return f"<{pluralize(len(self), 'run')}{differ}>"

    def _repr_html_(self) -> str:
        """The first runs as a table; what comes from the runs is escaped."""
        paths = listed_settings(self._runs)
        headings = ["run", *map(short_name, paths), "status", *SHOWN_NUMBERS, "verdict"]
        lines = [f"<p>{html.escape(repr(self)[1:-1])}</p>", "<table><thead><tr>"]
        for heading in headings:
            lines.append(f"<th>{html.escape(label_of(heading))}</th>")
        lines.append("</tr></thead><tbody>")
        for run in self._runs[:SHOWN_RUNS]:
            lines.append("<tr>")
            for cell in _cells(run, paths):
                lines.append(f"<td>{html.escape(cell)}</td>")
            lines.append("</tr>")
        lines.append("</tbody></table>")
        if len(self) > SHOWN_RUNS:
            lines.append(f"<p>and {len(self) - SHOWN_RUNS} more</p>")
        return "".join(lines)


def _cells(run: Run, paths: Sequence[str]) -> list[str]:
    final = run.info.get("final") or {}
    verdict = run.info.get("verdict") or {}
    cells = [run.directory.name]
    for path in paths:
        value = setting_value(run, path)
        cells.append(setting_text(value))
    cells.append(run.status)
    for name in SHOWN_NUMBERS:
        number = final.get(name)
        cells.append(format_number(number))
    kind = verdict.get("kind") or "–"
    cells.append(str(kind))
    return cells


def _metrics_of(run: Run) -> Columns:
    """The metrics of a run with their ``step``; without rows if it recorded none."""
    try:
        columns = dict(getattr(run, METRICS))
    except FileNotFoundError:
        return {"step": np.zeros(0, np.int64)}
    num_rows = max(map(len, columns.values()), default=0)
    columns.setdefault("step", np.arange(num_rows))
    return columns


def _names_in(tables: Sequence[Columns]) -> list[str]:
    names: dict[str, None] = {}
    for columns in tables:
        names.update(dict.fromkeys(columns))
    names.pop("step", None)
    return list(names)


def _stack(parts: Sequence[np.ndarray]) -> Any:
    """The numbers of several runs below one another, as an Arrow array; NaN becomes null."""
    return _to_arrow(np.concatenate(parts))


def _to_arrow(values: Any) -> Any:
    """An Arrow array; values of several kinds become text."""
    import pyarrow as pa

    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        texts = [None if value is None else str(value) for value in values]
        return pa.array(texts)


def _plain(value: Any) -> Any:
    """A setting as Arrow holds it."""
    return list(value) if isinstance(value, tuple) else value


def _union(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(arrays)).astype(int)


def load_runs(root: Path, filters: Sequence[str], make: Any = Run) -> Runs:
    """The readable runs below a folder that match every filter.

    Args:
        root: the folder.
        filters: conditions such as ``skip=none``; see ``fathom runs``.
        make: makes the object of one run from its directory.

    Raises:
        ValueError: there are no runs, none matches, or a filter cannot be understood.
    """
    from research.reporting.selection import select_runs

    selected = select_runs(filters, root)
    return Runs([make(run.directory) for run in selected])
