"""The numbers of a run as a whole that tables and figures show, each declared once."""

import enum
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from research.config.arguments import naming_option
from research.config.suggestions import format_suggestion
from research.gauges.table import DIAGNOSTICS, GAUGES, Diagnostic
from research.gauges.table import METRICS as DECLARED_METRICS
from research.records.runs import Columns, Run

CROSS_ENTROPY = "cross_entropy"
NATS = "nats"
LEAST_VALUES = 3  # of a number that is followed over steps
ERROR_BOUND = "_bound"  # the end of the name of a bound of an error


class Better(enum.Enum):
    """Which of two values of a quantity is the better one."""

    HIGHER = "higher"
    LOWER = "lower"
    NEITHER = "neither"


@dataclass(frozen=True)
class Quantity:
    """A number of a run as a whole.

    Attributes:
        name: what it is called on the command line and in the columns of tables.
        label: what it is called in figures.
        read: its value for one run; None where the run has none.
        better: which values are the better ones.
        unit: empty for shares and ratios.
        is_initial: whether it is known at the first step, so that a run that diverged later has it.
        is_factor: whether it is averaged as a logarithm, as factors from layer to layer are.
        meaning: a sentence below a figure; empty where the label says it all.
    """

    name: str
    label: str
    read: Callable[[Run], Any]
    better: Better = Better.NEITHER
    unit: str = ""
    is_initial: bool = False
    is_factor: bool = False
    meaning: str = ""

    def value(self, run: Run) -> float | None:
        """Its value for one run; None where that is missing or not finite."""
        value = self.read(run)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number and math.isfinite(value) else None

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest value that it can have."""
        if self.better is Better.HIGHER:
            return 0.0, 1.0  # an accuracy
        if self.better is Better.LOWER or self.is_factor:
            return 0.0, math.inf
        return -math.inf, math.inf

    def heading(self, runs: Iterable[Run]) -> str:
        """Its label with its unit."""
        unit = self.unit_in(runs)
        return f"{self.label} ({unit})" if unit else self.label

    def unit_in(self, runs: Iterable[Run]) -> str:
        """Its unit; a loss is in nats only where all runs have cross-entropy."""
        if self.unit != NATS:
            return self.unit
        kinds = {run.config.get("loss.kind") for run in runs}
        return NATS if kinds == {CROSS_ENTROPY} else ""


def _final(name: str) -> Callable[[Run], Any]:
    def read(run: Run) -> Any:
        return (run.info.get("final") or {}).get(name)

    return read


def _of_info(name: str) -> Callable[[Run], Any]:
    def read(run: Run) -> Any:
        return run.info.get(name)

    return read


def _num_steps(run: Run) -> int:
    return run.num_steps


def _seconds(name: str) -> Callable[[Run], Any]:
    def read(run: Run) -> Any:
        return (run.info.get("seconds") or {}).get(name)

    return read


def _of_verdict(name: str) -> Callable[[Run], Any]:
    def read(run: Run) -> Any:
        return (run.info.get("verdict") or {}).get(name)

    return read


def _initial_factor(run: Run) -> Any:
    verdict = run.info.get("verdict") or {}
    initial = verdict.get("initial") or {}
    return initial.get("factor_per_layer")


def _final_quantities() -> Iterable[Quantity]:
    for metric in DECLARED_METRICS:
        if metric.is_final:
            is_accuracy = metric.name.endswith("accuracy")
            yield Quantity(
                metric.name,
                label_of(metric.name),
                _final(metric.name),
                Better.HIGHER if is_accuracy else Better.LOWER,
                unit="" if is_accuracy else NATS,
            )


def label_of(name: str) -> str:
    """``eval_accuracy`` → ``eval accuracy``; underscores become blanks."""
    return name.replace("_", " ")


PREDICTED_FACTOR = Quantity(
    "predicted_factor",
    "predicted factor per layer",
    _of_verdict("theory"),
    is_initial=True,
    is_factor=True,
)
INITIAL_FACTOR = Quantity(
    "initial_factor",
    "factor per layer on ‖∂L/∂h‖², at init",
    _initial_factor,
    is_initial=True,
    is_factor=True,
)
QUANTITIES = (
    *_final_quantities(),
    Quantity(
        "factor_per_layer",
        "factor per layer on ‖∂L/∂h‖², at the end",
        _of_verdict("factor_per_layer"),
        is_factor=True,
    ),
    INITIAL_FACTOR,
    PREDICTED_FACTOR,
    Quantity(
        "log10_ratio",
        "log₁₀ of ‖∂L/∂h‖², first layer over last",
        _of_verdict("log10_ratio"),
    ),
    Quantity("steps", "steps", _num_steps),
    Quantity("layers", "layers", _of_info("layers"), is_initial=True),
    Quantity("parameters", "parameters", _of_info("parameters"), is_initial=True),
    Quantity(
        "train_seconds",
        "time of training of the run group",
        _seconds("train"),
        Better.LOWER,
        unit="s",
        meaning="the runs of a group are trained at once, and each has the time of all of them",
    ),
)
BY_NAME: Mapping[str, Quantity] = {quantity.name: quantity for quantity in QUANTITIES}


def find_quantity(
    name: str,
    runs: Sequence[Run],
    option: str = "",
) -> Quantity:
    """The quantity with this name; of a recorded metric or inspection, the last value.

    Args:
        name: one of ``QUANTITIES``, or a column of ``metrics`` or ``inspections`` with one number
            a step.
        runs: the runs that are to have it.
        option: the option that has the name as its value, for the message; empty for none.

    Raises:
        ValueError: there is no such number; the message has the nearest name.
    """
    with naming_option(option):
        return _find_quantity(name, runs)


def _find_quantity(name: str, runs: Sequence[Run]) -> Quantity:
    name = name.replace("-", "_")
    if name in BY_NAME:
        return BY_NAME[name]
    recorded = recorded_numbers(runs)
    if name in recorded:
        return Quantity(name, f"{label_of(name)}, last value", _last_value(name))
    known = list(dict.fromkeys([*BY_NAME, *recorded]))
    declared = [each.name for each in DIAGNOSTICS if each.is_number]
    if name in declared:
        raise ValueError(f"no run recorded {name}: measure.inspect asks for it")
    if name in [gauge.name for gauge in GAUGES]:
        raise ValueError(
            f"{name} is a gauge, one number for each layer, not a number of a run: --kind profile "
            f"or --kind heatmap draws it (numbers of a run: {', '.join(known)})"
        )
    raise ValueError(
        f"{name} is no number of a run{format_suggestion(name, known)} (valid: {', '.join(known)})"
    )


def recorded_numbers(runs: Iterable[Run]) -> list[str]:
    """The columns of metrics and inspections with one number a step that some run recorded."""
    names: dict[str, None] = {}
    for run in runs:
        for columns in tables_of(run):
            for name, values in columns.items():
                if name != "step" and values.ndim == 1:
                    names[name] = None
    return list(names)


def _last_value(name: str) -> Callable[[Run], Any]:
    def read(run: Run) -> Any:
        for columns in tables_of(run):
            values = columns.get(name, np.zeros(0))
            finite = values[np.isfinite(values)] if values.ndim == 1 else values[:0]
            if len(finite):
                return float(finite[-1])
        return None

    return read


def _num_values(run: Run, name: str) -> int:
    """At how many steps a run recorded a number."""
    for columns in tables_of(run):
        if name in columns:
            return int(np.isfinite(columns[name]).sum())
    return 0


def tables_of(run: Run) -> list[Columns]:
    """The metrics and the inspections of a run; those that are recorded."""
    tables = []
    for name in ("metrics", "inspections"):
        try:
            tables.append(getattr(run, name))
        except FileNotFoundError:  # the run recorded none
            continue
    return tables


def has_several_steps(run: Run) -> bool:
    """Whether a run was trained for more than the step that its first gradient takes.

    A run that diverged at its first step counts if it was meant to be.
    """
    planned = run.config.get("train.steps") or 0
    was_cut_off = run.status == "diverged" and planned > 1
    return run.num_steps > 1 or was_cut_off


def has_started(run: Run) -> bool:
    """Whether a run has recorded a step."""
    return run.num_steps > 0


def usual_quantity(runs: Sequence[Run]) -> Quantity:
    """The number that most people ask for: the accuracy, else the loss, of runs that trained.

    Of runs of a single step it is the factor per layer at initialisation, else what they were asked
    to inspect, else the loss: their accuracy is that of chance, whatever they are.
    """
    num_trained = sum(map(has_several_steps, runs))
    is_trained = 2 * num_trained >= len(runs)
    candidates = _of_trained() if is_trained else _of_untrained(runs)
    for quantity in candidates:
        values = [quantity.value(run) for run in runs]
        if sum(value is not None for value in values) * 2 > len(runs):
            return quantity
    return BY_NAME["train_loss"]


def _of_trained() -> Iterable[Quantity]:
    for name in ("eval_accuracy", "train_accuracy", "eval_loss", "train_loss"):
        yield BY_NAME[name]


def _of_untrained(runs: Sequence[Run]) -> Iterable[Quantity]:
    yield INITIAL_FACTOR
    yield from inspected_numbers(runs)
    yield from _inspected_first_layers(runs)
    yield BY_NAME["train_loss"]
    yield BY_NAME["eval_loss"]


def inspected_numbers(runs: Iterable[Run]) -> list[Quantity]:
    """The numbers that some run was asked to inspect, without the bounds of their errors."""
    quantities = []
    for diagnostic in inspected(runs):
        name = diagnostic.name
        if diagnostic.is_number and not name.endswith(ERROR_BOUND):
            quantities.append(_of_diagnostic(diagnostic, "", _last_value(name)))
    return quantities


def numbers_over_steps(runs: Sequence[Run]) -> list[Quantity]:
    """The numbers that at least half of the runs inspected at several steps, as trackers get them.

    Numbers that say more of these, such as the bounds of their errors, are not among them.
    """
    tracked = [diagnostic.name for diagnostic in DIAGNOSTICS if diagnostic.tracked]
    followed = []
    for quantity in inspected_numbers(runs):
        counts = [_num_values(run, quantity.name) for run in runs]
        num_followed = sum(count >= LEAST_VALUES for count in counts)
        if quantity.name in tracked and 2 * num_followed >= len(runs):
            followed.append(quantity)
    return followed


def _inspected_first_layers(runs: Iterable[Run]) -> list[Quantity]:
    """What some run was asked to inspect in each layer: its value in the first one."""
    quantities = []
    for diagnostic in inspected(runs):
        name = diagnostic.name
        if diagnostic.has_layers:
            quantities.append(_of_diagnostic(diagnostic, ", first layer", _in_first_layer(name)))
    return quantities


def _of_diagnostic(
    diagnostic: Diagnostic,
    place: str,
    read: Callable[[Run], Any],
) -> Quantity:
    """A number that was inspected; an error is the better the smaller it is."""
    name = diagnostic.name
    return Quantity(
        name,
        f"{label_of(name)}{place}",
        read,
        Better.LOWER if name.endswith("error") else Better.NEITHER,
        meaning=meaning_of(diagnostic),
    )


def meaning_of(diagnostic: Diagnostic) -> str:
    """What a diagnostic is, as a part of a sentence."""
    words = diagnostic.meaning.removesuffix(".")
    return words[0].lower() + words[1:]


def inspected(runs: Iterable[Run]) -> list[Diagnostic]:
    """What some run was asked to inspect by ``measure.inspect``, in the order of the table."""
    asked = set()
    for run in runs:
        asked |= set(run.config.get("measure.inspect") or [])
    return [diagnostic for diagnostic in DIAGNOSTICS if diagnostic.inspection in asked]


def _in_first_layer(name: str) -> Callable[[Run], Any]:
    def read(run: Run) -> Any:
        for columns in tables_of(run):
            values = columns.get(name, np.zeros(0))
            if values.ndim == 2 and values.size:
                return float(values[-1, 0])
        return None

    return read
