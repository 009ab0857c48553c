"""The performance table of this machine: what the instrument costs, row by row against its budget.

What each row times stands in ``rows``.
"""

import importlib.metadata
import importlib.util
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from research.config.errors import nearest
from research.config.hydra_config import resource_dir
from research.reporting.tables import console
from research.runner.progress import Progress

Clock = Callable[[], float]  # does something once, and returns the seconds it took
Tick = Callable[[int, int], None]  # takes how many timings of how many are done


@dataclass(frozen=True)
class Row:
    """What is compared, and the bound that the measured number is held to; without one it is for information."""

    compares: str
    bound: str = ""  # ≤ or ≥
    budget: float = 0.0
    unit: str = "×"


ROWS = {
    "gauges": Row("step with the default gauges / bare step", "≤", 1.10),
    "gauges_skip": Row("the same with skip=inv_sqrt_depth", "≤", 1.10),
    "full": Row("step with measure=full at its default interval / bare step", "≤", 1.10),
    "exponents": Row(
        "100 steps of measure=full and one count of exponents / 100 bare steps", "≤", 1.10
    ),
    "dynamic": Row("bare step with dynamic loss scaling / bare step", "≤", 1.03),
    "bfloat16": Row("step of mixed_bfloat16 with the default gauges / of float32"),
    "float16": Row("step of mixed_float16 with the default gauges / of float32"),
    "torch": Row(
        "PyTorch eager with hooks that measure the same / step with the default gauges", "≥", 6.0
    ),
    "torch_tuned": Row(
        "the same, PyTorch tuned by hand: norms in one call, fused SGD / step with the default gauges"
    ),
    "torch_bare": Row("PyTorch eager without hooks / bare step"),
    "torch_resnet": Row(
        "ResNet-20 on 28×28 pixels, batch 128: PyTorch tuned, measuring the same / our step",
        "≥",
        1.0,
    ),
    "blas": Row("bare step / its matrix products alone, in NumPy", "≤", 1.6),
    "split": Row(
        "step with the default gauges on one device / its batch shared by all cores", "≥", 1.2
    ),
    "split_gauges": Row(
        "the same, shared by all cores: step with the default gauges / bare step", "≤", 1.10
    ),
    "depth": Row("time to the first step, less the step itself: depth 10,000 / depth 10", "≤", 1.3),
    "depth_resnet": Row("the same of resnet_cifar: depth 110 / depth 20", "≤", 1.3),
    "sweep_compiled": Row(
        "32 runs of the default network: one process that compiles each / grouped", "≥", 10
    ),
    "sweep_shared": Row("the same: one after the other with one shared program / grouped"),
    "sweep_cores": Row("the same grouped, steps alone: on one core / on all cores", "≥", 1.7),
    "sweep_torch": Row(
        "the same: PyTorch eager in a loop with hooks that measure the same / grouped", "≥", 12.0
    ),
    "sweep_compose": Row("1,000 jobs of a sweep composed and checked", "≤", 5.0, " s"),
    "data": Row(
        "default step, its data in memory / the same step on batches that lie ready", "≤", 1.03
    ),
    "data_memory": Row(
        "images of 28×28 pixels a second, shuffled and gathered on the device", unit=" a second"
    ),
    "data_stream": Row(
        "JPEGs of 160×160 pixels a second, streamed, random parts at 128×128", unit=" a second"
    ),
    "wandb": Row(
        "run with W&B offline, 100 layers recorded every 10 steps / without trackers", "≤", 1.05
    ),
    "help": Row("fathom --help", "≤", 0.7, " s"),
    "first_step_cold": Row(
        "first step of the default run, nothing compiled before", "≤", 5.0, " s"
    ),
    "first_step_warm": Row(
        "first step of the default run, compilation cache filled", "≤", 3.0, " s"
    ),
}
COLUMNS = ("row", "compared", "measured", "budget", "holds", "this run")
PREFACE = """\
What the instrument costs, against its budgets. A ratio is the median over pairs of timings taken one right after the
other, in brackets the middle half of them; a slow or busy machine bears on both sides alike. Absolute times describe
this run and promise nothing. Steps are those of an MLP of depth 50 and width 64 on batches of 128 digits, with SGD and
momentum. The last three rows are wall times from a process's start. The dataset is prepared beforehand: only compiled
programs are cold or warm."""


@dataclass(frozen=True)
class Measured:
    """A row's number, None where it could not be measured, and what else this run showed."""

    value: float | None
    note: str


def ratio(pairs: Sequence[tuple[float, float]], note: str = "") -> Measured:
    """The median ratio of pairs of seconds; noted: the median seconds, and the middle half of the ratios."""
    low, middle, high = np.quantile(
        [subject / against for subject, against in pairs], (0.25, 0.5, 0.75)
    )
    times = " / ".join(_short(seconds) for seconds in np.median(pairs, axis=0))
    return Measured(float(middle), f"{times} [{low:.2f} to {high:.2f}]{note}")


def side_by_side(
    subject: Clock, against: Clock, repetitions: int, tick: Tick, note: str = ""
) -> Measured:
    """The ratio of two things timed in turns, now the one first and now the other."""
    pairs = []
    for n in range(repetitions):
        pairs.append((subject(), against()) if n % 2 else (against(), subject())[::-1])
        tick(n + 1, repetitions)
    return ratio(pairs, note)


def in_seconds(run: Clock, tick: Tick, repetitions: int = 5) -> Measured:
    """The median of some timings; noted: the least and the greatest."""
    seconds = []
    for n in range(repetitions):
        seconds.append(run())
        tick(n + 1, repetitions)
    return Measured(float(np.median(seconds)), f"{min(seconds):.2f} to {max(seconds):.2f} s")


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1e3:.2f} ms"


def bench(words: Sequence[str]) -> int:
    """Measures the rows named by ``words``, or all, and prints them; all together are written as Markdown too.

    Returns:
        The exit code: 1 where a budget does not hold.

    Raises:
        ValueError: for a row that does not exist.
    """
    names = chosen(words)
    from research.benchmark.rows import MEASURES

    measured = {}
    with Progress(len(names)) as progress:
        for name in names:
            progress.start_runs(name)
            measured[name] = MEASURES[name](progress.step)
    console().print(table(measured))
    if len(names) == len(ROWS):
        print(f"written: {write(markdown(measured, ' '.join(['fathom bench', *words])))}")
    return int(any(holds(name, seen) is False for name, seen in measured.items()))


def chosen(words: Sequence[str]) -> list[str]:
    """The rows that are asked for, in the table's order; no word asks for all."""
    for word in words:
        if word not in ROWS:
            raise ValueError(
                f"there is no row {word}{nearest(word, ROWS)} (valid: {', '.join(ROWS)})"
            )
    return [name for name in ROWS if name in words or not words]


def holds(name: str, seen: Measured) -> bool | None:
    """Whether the row keeps its budget; None without a budget or a measurement."""
    row = ROWS[name]
    if not row.bound or seen.value is None:
        return None
    return seen.value <= row.budget if row.bound == "≤" else seen.value >= row.budget


def cells(name: str, seen: Measured) -> tuple[str, ...]:
    """One line of the table, by ``COLUMNS``."""
    row = ROWS[name]
    value = "–" if seen.value is None else f"{_number(seen.value, row.bound)}{row.unit}"
    budget = f"{row.bound} {row.budget:.2f}{row.unit}" if row.bound else "–"
    return (
        name,
        row.compares,
        value,
        budget,
        {True: "yes", False: "NO", None: "–"}[holds(name, seen)],
        seen.note,
    )


def _number(value: float, bound: str) -> str:
    """With two digits, towards the side where the budget ends: what is missed by little must not look as if it held.

    From a thousand on three figures: more would say what the next run does not.
    """
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    towards = {"≤": math.ceil, "≥": math.floor, "": round}[bound]
    return f"{towards(round(value * 100, 6)) / 100:.2f}"


def table(measured: Mapping[str, Measured]) -> Table:
    """The rows for a terminal."""
    out = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        out.add_column(
            column, justify="right" if column in ("measured", "budget") else "left", overflow="fold"
        )
    for name, seen in measured.items():
        *front, verdict, note = cells(name, seen)
        colour = {"yes": "[green]yes[/]", "NO": "[red]NO[/]"}
        out.add_row(*front, colour.get(verdict, verdict), note.replace("[", r"\["))
    return out


def markdown(measured: Mapping[str, Measured], command: str) -> str:
    """The rows as a page, with the machine and the versions that they were measured on."""
    lines = [
        COLUMNS,
        ["---"] * len(COLUMNS),
        *(cells(name, seen) for name, seen in measured.items()),
    ]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    facts = "\n".join(
        f"- {name}: {value}" for name, value in ({"command": f"`{command}`"} | machine()).items()
    )
    return f"# Benchmark\n\n{PREFACE}\n\n{rows}\n\n{facts}\n"


def machine() -> dict[str, str]:
    """Where, when and with what this is measured."""
    import jax

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = [
        name for name in ("jax", "flax", "numpy", "torch") if importlib.util.find_spec(name)
    ]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory",
        "JAX device": jax.devices()[0].device_kind,
        "system": platform.platform(terse=True),
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def write(page: str) -> Path:
    """Writes the page to the checkout's experiments/benchmark, or under outputs/ where that cannot be; says where."""
    experiments = resource_dir("experiments")
    try:
        if not (experiments.parent / "pyproject.toml").exists():
            raise FileNotFoundError("not a checkout")
        return _written(experiments / "benchmark" / "README.md", page)
    except OSError:
        return _written(Path("outputs") / "benchmark.md", page)


def _written(path: Path, page: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)
    return path
