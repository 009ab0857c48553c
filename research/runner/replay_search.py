"""Searches for the layers, the step and the number format that would have kept a run finite."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.config.options import Measure, ModelKind, PrecisionKind
from research.config.schema import Config
from research.models.hparams import HParams
from research.records.replayed import Event, PrecisionTrial
from research.runner.run_setup import RunSetup, layer_format_of, make_run_setup
from research.training.checkpoint import Arrays, restore_state
from research.training.program import Program, make_program
from research.training.state import TrainState

MOST_SNAPSHOTS = 16  # steps before the end from which the search may start
STEPS_AFTER = 5  # steps after the end that have to stay finite too
WIDER = {  # the formats that are tried, by that of the run's arithmetic
    "float16": (PrecisionKind.float32, PrecisionKind.bfloat16),
    "bfloat16": (PrecisionKind.float32,),
    "float8_e4m3": (PrecisionKind.float32, PrecisionKind.float8_e5m2),
    "float8_e5m2": (PrecisionKind.float32,),
}


class Snapshots:
    """The states of a run before some of its last steps, on the host."""

    def __init__(self, shapes: TrainState, hp: HParams):
        self._shapes = shapes
        self._seeds = hp.seed
        self._arrays: dict[int, Arrays] = {}

    def add(self, step: int, arrays: Arrays) -> None:
        """Keeps the state before a step, and forgets the oldest one where there are too many."""
        self._arrays[step] = arrays
        if len(self._arrays) > MOST_SNAPSHOTS:
            del self._arrays[min(self._arrays)]

    @property
    def steps(self) -> list[int]:
        """The steps whose state is kept, in ascending order."""
        return sorted(self._arrays)

    def state(self, step: int) -> TrainState:
        """The state [M] before a step, or before the first one that is kept.

        All arrays are new, because programs reuse the memory of the state that they get.
        """
        arrays = self._arrays[max(step, min(self._arrays))]
        keys = jax.vmap(jax.random.key)(self._seeds)
        return restore_state(self._shapes, jax.tree.map(jnp.array, arrays), keys)


@dataclass(frozen=True)
class Fault:
    """What went wrong in a run.

    Attributes:
        config: the run.
        setup: its program and data.
        events: what went wrong, the origin first.
        end: the last step that was replayed.
    """

    config: Config
    setup: RunSetup
    events: Sequence[Event]
    end: int

    @property
    def formats(self) -> Sequence[PrecisionKind]:
        """The formats that layers are given in the search."""
        return WIDER.get(self.config.precision.kind.name.removeprefix("mixed_"), ())


@dataclass(frozen=True)
class SearchResult:
    """The trials of a search.

    Attributes:
        trials: in the order in which they were trained.
        no_search: why there are none; empty where there are some.
    """

    trials: Sequence[PrecisionTrial] = ()
    no_search: str = ""


def search_formats(
    fault: Fault,
    snapshots: Snapshots,
    report: Callable[[str], None],
) -> SearchResult:
    """Trains the last steps again with some layers in wider formats.

    For each format: all layers, from the step of the origin on, else from the earliest step that
    is kept. Where that prevents it, the fewest layers in a row, by bisection from both ends, and
    the last step from which on it still does.

    Args:
        fault: what went wrong.
        snapshots: states before the last steps.
        report: gets what is being done, in words.
    """
    reason = _reason_against(fault)
    if reason:
        return SearchResult(no_search=reason)
    report("searches for layers that a wider format would have kept finite")
    trials = _Trials(fault, snapshots)
    if trials.control():
        reason = "the steps stay finite in the program of the search, which rounds otherwise"
        return SearchResult(no_search=reason)
    for number_format in fault.formats:
        _search_format(trials, number_format, fault.events[0].step)
    return SearchResult(trials.done)


def _reason_against(fault: Fault) -> str:
    """Why no format could have helped; empty where one could."""
    precision = fault.config.precision
    if not fault.events:
        return "nothing stopped being finite or jumped"
    if all(event.value is not None for event in fault.events):
        return "every number stayed finite"
    if not fault.formats:
        return f"precision={precision.kind.name} has no wider format for layers"
    if fault.config.model.kind is ModelKind.rnn:
        return "the steps of an rnn share one layer"
    if precision.layers:
        return "precision.layers is set already"
    origin = fault.events[0]
    if origin.quantity == "parameter" and origin.value is None:
        return "a parameter was not finite already, which no format of the arithmetic mends"
    return ""


def _search_format(
    trials: "_Trials",
    number_format: PrecisionKind,
    origin: int,
) -> None:
    """Tries a format: in which layers, and from which step on."""
    last_layer = trials.layers - 1
    start = max(origin, trials.steps[0])
    if not trials.prevents(start, number_format, 0, last_layer):
        if start == trials.steps[0]:
            return
        start = trials.steps[0]
        if not trials.prevents(start, number_format, 0, last_layer):
            return
    # The bisection assumes that every range around one that prevents it does so too.
    last_layer = first_true(0, last_layer, partial(trials.prevents, start, number_format, 0))
    num_upper = first_true(
        0,
        last_layer,
        lambda upper: trials.prevents(start, number_format, last_layer - upper, last_layer),
    )
    first_layer = last_layer - num_upper
    for step in range(trials.steps[-1], start, -1):
        if trials.prevents(step, number_format, first_layer, last_layer):
            return


def first_true(
    low: int,
    high: int,
    holds: Callable[[int], bool],
) -> int:
    """The least whole number for which a condition holds, by bisection.

    It must hold for ``high``, and for every number above one for which it holds.

    >>> first_true(0, 9, lambda number: number > 4)
    5

    Args:
        low: the least number that is looked at.
        high: the greatest.
        holds: the condition.
    """
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high


class _Trials:
    """Trains the last steps with some layers in another format: one program for all trials."""

    def __init__(self, fault: Fault, snapshots: Snapshots):
        self.fault = fault
        self.snapshots = snapshots
        self.steps = snapshots.steps
        self.done: list[PrecisionTrial] = []
        setup = fault.setup
        self.layers = setup.layers_of(fault.config)
        self.last_step = min(fault.end + STEPS_AFTER, setup.steps - 1)
        self.search_setup = make_run_setup(_with_layers(fault.config, fault.formats[0]))
        formats = [layer_format_of(kind) for kind in fault.formats]
        program_config = self.search_setup.program_config
        spec = dataclasses.replace(
            program_config,
            architecture=dataclasses.replace(
                program_config.architecture, layer_formats=tuple(formats)
            ),
            measure=Measure(),
            fast_compile=True,
        )
        self.program: Program = make_program(spec, setup.layout)
        self.capacity = spec.capacity

    def control(self) -> bool:
        """Whether everything stays finite although no layer has another format."""
        return self._train(self.steps[0], np.zeros(self.layers, np.int32))

    def prevents(
        self,
        step: int,
        kind: PrecisionKind,
        first_layer: int,
        last_layer: int,
    ) -> bool:
        """Whether everything stays finite with some layers in a format, from a step on."""
        for trial in self.done:
            if trial == dataclasses.replace(
                trial,
                step=step,
                number_format=kind.name,
                first_layer=first_layer,
                last_layer=last_layer,
            ):
                return trial.prevents
        indices = np.zeros(self.layers, np.int32)
        indices[first_layer : last_layer + 1] = 1 + self.fault.formats.index(kind)
        prevents = self._train(step, indices)
        self.done.append(PrecisionTrial(step, kind.name, first_layer, last_layer, prevents))
        return prevents

    def _train(self, step: int, indices: np.ndarray) -> bool:
        hp = dataclasses.replace(self.search_setup.hp, layer_formats=indices[None])
        state = self.snapshots.state(step)
        while step <= self.last_step:
            count = min(self.capacity, self.last_step + 1 - step)
            data = self.fault.setup.program_data(step, count)
            state, rows = self.program.chunk(state, hp, data, np.int32(step), np.int32(count))
            if not np.asarray(rows["finite"])[0, :count].all():
                return False
            step += count
        return True


def _with_layers(config: Config, kind: PrecisionKind) -> Config:
    """The run with the first layer in another format, so that its program selects formats."""
    precision: Any = dataclasses.replace(config.precision, layers=(f"0:{kind.name}",))
    return dataclasses.replace(config, precision=precision)
