"""The rows of the performance table: what each compares, its budget, and what measures it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from research.benchmark import (
    commands,
    data,
    diagnostics,
    processes,
    split,
    steps,
    sweeps,
    torch_rows,
    watching,
)
from research.benchmark.timing import Measurement, ReportProgress
from research.config.options import INSPECTIONS
from research.config.suggestions import format_suggestion


@dataclass(frozen=True)
class Row:
    """A row of the performance table.

    Attributes:
        name: The word of ``fathom bench`` that selects it.
        description: What is measured, in words.
        measure: Measures the row; takes a function to which it reports its progress.
        bound: ``≤`` or ``≥`` where the row has a budget; nothing where it is for information.
        budget: The number that the measured one is compared with.
        unit: The unit of both.
    """

    name: str
    description: str
    measure: Callable[[ReportProgress], Measurement]
    bound: str = ""
    budget: float = 0.0
    unit: str = "×"

    def holds(self, measurement: Measurement) -> bool | None:
        """Whether the budget holds; None without a budget or a number."""
        if not self.bound or measurement.value is None:
            return None
        if self.bound == "≤":
            return measurement.value <= self.budget
        return measurement.value >= self.budget


RESNET_20 = (
    "model=resnet_cifar",
    "data=noise",
    "data.shape=[28,28,1]",
    "data.examples=640",
    "train.batch_size=128",
)


def _diagnostic_row(name: str) -> Row:
    return Row(
        f"inspect_{name}",
        f"one measurement of {name} / step of the same network with the default gauges",
        functools.partial(diagnostics.compare_with_step, name=name),
    )


def _watch_rows(name: str, case: watching.Case) -> tuple[Row, Row]:
    return (
        Row(
            f"watch_{name}",
            f"{case.description}: step that fathom.watch measures / the same step without it",
            functools.partial(watching.compare_own_steps, case=case),
            bound="≤",
            budget=1.10,
        ),
        Row(
            f"watch_{name}_compile",
            "the same: tracing and compiling the step",
            functools.partial(watching.compare_compiling, case=case),
            bound="≤",
            budget=1.30,
        ),
    )


ALL_ROWS = (
    Row(
        "gauges",
        "step with the default gauges / bare step",
        functools.partial(
            steps.compare_steps,
            subject=("measure=norms",),
            baseline=("measure=off",),
        ),
        bound="≤",
        budget=1.10,
    ),
    Row(
        "gauges_skip",
        "the same with skip=inv_sqrt_depth",
        functools.partial(
            steps.compare_steps,
            subject=("measure=norms", "skip=inv_sqrt_depth"),
            baseline=("measure=off", "skip=inv_sqrt_depth"),
        ),
        bound="≤",
        budget=1.10,
    ),
    Row(
        "full",
        "step with measure=full at its default interval / bare step",
        functools.partial(
            steps.compare_steps,
            subject=("measure=full",),
            baseline=("measure=off",),
        ),
        bound="≤",
        budget=1.10,
    ),
    Row(
        "exponents",
        "100 steps of measure=full and one count of exponents / 100 bare steps",
        steps.compare_exponents,
        bound="≤",
        budget=1.10,
    ),
    *map(_diagnostic_row, INSPECTIONS),
    *_watch_rows("mlp", watching.MLP),
    *_watch_rows("transformer", watching.TRANSFORMER),
    Row(
        "dynamic",
        "bare step with dynamic loss scaling / bare step",
        functools.partial(
            steps.compare_steps,
            subject=("measure=off", "precision.loss_scaling=dynamic"),
            baseline=("measure=off",),
        ),
        bound="≤",
        budget=1.03,
    ),
    Row(
        "bfloat16",
        "step of mixed_bfloat16 with the default gauges / of float32",
        functools.partial(
            steps.compare_steps,
            subject=("precision=mixed_bfloat16",),
            baseline=("precision=float32",),
        ),
    ),
    Row(
        "float16",
        "step of mixed_float16 with the default gauges / of float32",
        functools.partial(
            steps.compare_steps,
            subject=("precision=mixed_float16",),
            baseline=("precision=float32",),
        ),
    ),
    Row(
        "torch",
        "PyTorch eager with hooks that measure the same / step with the default gauges",
        functools.partial(torch_rows.compare_torch_steps, style="hooks"),
        bound="≥",
        budget=6.0,
    ),
    Row(
        "torch_tuned",
        "the same, PyTorch tuned by hand: norms in one call, fused SGD / "
        "step with the default gauges",
        functools.partial(torch_rows.compare_torch_steps, style="tuned"),
    ),
    Row(
        "torch_bare",
        "PyTorch eager without hooks / bare step",
        functools.partial(torch_rows.compare_torch_steps, style="bare"),
    ),
    Row(
        "torch_resnet",
        "ResNet-20 on 28×28 pixels, batch 128: PyTorch tuned, measuring the same / our step",
        functools.partial(
            torch_rows.compare_torch_steps,
            style="tuned",
            overrides=RESNET_20,
            steps=4,
            repetitions=7,
        ),
        bound="≥",
        budget=1.0,
    ),
    Row(
        "blas",
        "bare step / its matrix products alone, in NumPy",
        steps.compare_with_numpy,
        bound="≤",
        budget=1.6,
    ),
    Row(
        "split",
        "step with the default gauges on one device / its batch shared by all cores",
        split.compare_one_with_all_cores,
        bound="≥",
        budget=1.2,
    ),
    Row(
        "split_gauges",
        "the same, shared by all cores: step with the default gauges / bare step",
        split.compare_gauges_on_all_cores,
        bound="≤",
        budget=1.10,
    ),
    Row(
        "depth",
        "time to the first step, less the step itself: depth 10,000 / depth 10",
        processes.compare_mlp_depths,
        bound="≤",
        budget=1.3,
    ),
    Row(
        "depth_resnet",
        "the same of resnet_cifar: depth 110 / depth 20",
        processes.compare_resnet_depths,
        bound="≤",
        budget=1.3,
    ),
    Row(
        "sweep_compiled",
        "32 runs of the default network: one process that compiles each / grouped",
        sweeps.compare_compiling_each,
        bound="≥",
        budget=10,
    ),
    Row(
        "sweep_shared",
        "the same: one after the other with one shared program / grouped",
        sweeps.compare_shared_program,
    ),
    Row(
        "sweep_cores",
        "the same grouped, steps alone: on one core / on all cores",
        sweeps.compare_cores,
        bound="≥",
        budget=1.7,
    ),
    Row(
        "sweep_torch",
        "the same: PyTorch eager in a loop with hooks that measure the same / grouped",
        torch_rows.compare_torch_sweep,
        bound="≥",
        budget=12.0,
    ),
    Row(
        "main_job",
        "54 runs of 18 networks: PyTorch in a loop with hooks that measure the same / "
        "fathom reproduce vanishing_gradients, W&B offline, caches empty",
        functools.partial(commands.compare_main_job, warm=False),
        bound="≥",
        budget=3.0,
    ),
    Row(
        "main_job_warm",
        "the same, compilation cache filled",
        functools.partial(commands.compare_main_job, warm=True),
        bound="≥",
        budget=4.0,
    ),
    Row(
        "sweep_compose",
        "1,000 jobs of a sweep composed and checked",
        sweeps.time_composition,
        bound="≤",
        budget=5.0,
        unit=" s",
    ),
    Row(
        "data",
        "default step, its data in memory / the same step on batches that lie ready",
        data.compare_ready_batches,
        bound="≤",
        budget=1.03,
    ),
    Row(
        "data_memory",
        "images of 28×28 pixels a second, shuffled and gathered on the device",
        data.rate_in_memory,
        unit=" a second",
    ),
    Row(
        "data_stream",
        "JPEGs of 160×160 pixels a second, streamed, random parts at 128×128",
        data.rate_streamed,
        unit=" a second",
    ),
    Row(
        "wandb",
        "run with W&B offline, 100 layers recorded every 10 steps / without trackers",
        processes.compare_wandb,
        bound="≤",
        budget=1.05,
    ),
    Row(
        "findings",
        "run whose findings are formed every few seconds / the same less forming them, CPU seconds",
        processes.compare_live_findings,
        bound="≤",
        budget=1.01,
    ),
    Row(
        "wandb_short",
        "24 runs of 100 steps, grouped: command with W&B offline / without trackers",
        commands.compare_short_runs,
        bound="≤",
        budget=1.10,
    ),
    Row("help", "fathom --help", processes.time_help, bound="≤", budget=0.7, unit=" s"),
    Row(
        "first_step_cold",
        "first step of the default run, nothing compiled before",
        processes.time_cold_start,
        bound="≤",
        budget=5.0,
        unit=" s",
    ),
    Row(
        "first_step_warm",
        "first step of the default run, compilation cache filled",
        processes.time_warm_start,
        bound="≤",
        budget=3.0,
        unit=" s",
    ),
)
ROWS = {row.name: row for row in ALL_ROWS}


def select_rows(names: Sequence[str], rows: Mapping[str, Row]) -> list[Row]:
    """The named rows in the table's order; all rows where none is named.

    Args:
        names: The names of rows.
        rows: All rows of the table, by name.

    Raises:
        ValueError: There is no row of that name.
    """
    for name in names:
        if name not in rows:
            valid = ", ".join(rows)
            raise ValueError(
                f"there is no row {name}{format_suggestion(name, rows, {})} (valid: {valid})"
            )
    if not names:
        return list(rows.values())
    return [row for row in rows.values() if row.name in names]
