"""Prints the measured rows in the terminal and writes them as a page."""

import importlib.metadata
import importlib.util
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from research.benchmark.rows import Row
from research.benchmark.timing import Measurement
from research.config.hydra_config import resource_dir

COLUMNS = ("row", "compared", "measured", "budget", "holds", "this run")
RIGHT_ALIGNED = ("measured", "budget")
VERDICTS = {True: "yes", False: "NO", None: "–"}
COLOURS = {"yes": "[green]yes[/]", "NO": "[red]NO[/]"}
PREFACE = """\
What measuring costs, against its budgets. A ratio is the median over pairs of timings, taken one
right after the other; the quartiles of the ratio are in brackets. A slow or busy machine affects
both sides alike. Absolute times describe this run only. Steps are those of an MLP of depth 50 and
width 64 on batches of 128 digits, with SGD and momentum. The last three rows are wall times from
the start of a process. The dataset is prepared beforehand: only compiled programs are cold or warm.
"""
DEVICE_HEADING = "## On an accelerator"
DEVICE_PREFACE = """\
The same kinds of ratios on one accelerator. PyTorch computes on the same card, and both sides round
the factors of float32 matrix products to TF32, as JAX does by default. The last two rows are wall
times from the start of a process.
"""


@dataclass(frozen=True)
class MeasuredRow:
    """A row and what was measured for it."""

    row: Row
    measurement: Measurement

    @property
    def holds(self) -> bool | None:
        """Whether the row's budget holds; None without a budget or a number."""
        return self.row.holds(self.measurement)


def format_cells(measured: MeasuredRow) -> list[str]:
    """The cells of a row, in the order of ``COLUMNS``."""
    row = measured.row
    value = "–"
    if measured.measurement.value is not None:
        value = format_value(measured.measurement.value, row.bound) + row.unit
    budget = "–"
    if row.bound:
        budget = f"{row.bound} {row.budget:.2f}{row.unit}"
    verdict = VERDICTS[measured.holds]
    return [row.name, row.description, value, budget, verdict, measured.measurement.note]


def format_value(value: float, bound: str) -> str:
    """A number with two digits, rounded so that a budget that is just missed does not seem to hold.

    From a thousand on, the number has three significant figures: further ones would differ in the
    next run.

    Args:
        value: The measured number.
        bound: ``≤`` rounds up, ``≥`` rounds down, and nothing rounds to the nearest.
    """
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    hundredths = round(value * 100, 6)
    if bound == "≤":
        rounded = math.ceil(hundredths)
    elif bound == "≥":
        rounded = math.floor(hundredths)
    else:
        rounded = round(hundredths)
    return f"{rounded / 100:.2f}"


def terminal_table(measured_rows: Sequence[MeasuredRow]) -> Table:
    """The rows for a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        justify = "right" if column in RIGHT_ALIGNED else "left"
        table.add_column(column, justify=justify, overflow="fold")
    for measured in measured_rows:
        *front, verdict, note = format_cells(measured)
        coloured = COLOURS.get(verdict, verdict)
        escaped = note.replace("[", r"\[")
        table.add_row(*front, coloured, escaped)
    return table


def markdown_page(measured_rows: Sequence[MeasuredRow], command: str) -> str:
    """The rows as a page in Markdown, with the machine and the versions that were measured."""
    return f"# Benchmark\n\n{PREFACE}\n{_markdown_table(measured_rows, command)}"


def device_section(measured_rows: Sequence[MeasuredRow], command: str) -> str:
    """The rows about an accelerator as the section of the page that is about them."""
    table = _markdown_table(measured_rows, command)
    return f"{DEVICE_HEADING}\n\n{DEVICE_PREFACE}\n{table}"


def _markdown_table(measured_rows: Sequence[MeasuredRow], command: str) -> str:
    """The rows, the machine and the versions."""
    lines = [_markdown_line(COLUMNS), _markdown_line(["---"] * len(COLUMNS))]
    for measured in measured_rows:
        lines.append(_markdown_line(format_cells(measured)))
    lines.append("")
    lines.append(f"- command: `{command}`")
    for name, value in describe_machine().items():
        lines.append(f"- {name}: {value}")
    return "\n".join(lines) + "\n"


def _markdown_line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def describe_machine() -> dict[str, str]:
    """The date, the machine and the versions of the packages."""
    import jax

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"Python {platform.python_version()}"]
    for package in ("jax", "flax", "numpy", "torch"):
        if importlib.util.find_spec(package):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory",
        "JAX device": jax.devices()[0].device_kind,
        "system": platform.platform(terse=True),
        "versions": ", ".join(versions),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            _, _, model = line.partition(":")
            return model.strip()
    return platform.processor() or platform.machine()


def write_page(page: str) -> Path:
    """Writes the page into a checkout's experiments/benchmark, else under outputs/.

    A section about an accelerator that the file has stays.

    Returns:
        The file that was written.
    """
    return _write_sections(page=page)


def write_device_section(section: str) -> Path:
    """Writes the section about an accelerator at the end of the page, in place of an earlier one.

    Returns:
        The file that was written.
    """
    return _write_sections(section=section)


def _write_sections(*, page: str | None = None, section: str | None = None) -> Path:
    """Writes what is given, and keeps what is not."""
    experiments = resource_dir("experiments")
    if (experiments.parent / "pyproject.toml").exists():
        try:
            return _write(experiments / "benchmark" / "README.md", page, section)
        except OSError:  # the checkout is read-only
            pass
    return _write(Path("outputs") / "benchmark.md", page, section)


def _write(
    path: Path,
    page: str | None,
    section: str | None,
) -> Path:
    present = path.read_text() if path.exists() else ""
    present_page, heading, rest = present.partition(DEVICE_HEADING)
    parts = []
    for new, old in ((page, present_page), (section, heading + rest)):
        part = old if new is None else new
        if part:
            parts.append(part.strip("\n") + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts))
    return path
