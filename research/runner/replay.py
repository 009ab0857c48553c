"""Computes the steps of a run again, from a checkpoint to the step where it went wrong.

The steps are those of the run's own program, so that they equal the recorded ones bit for bit on
the same machine. Beside it, from the same state, a second program measures all gauges.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from research.config.options import MeasureFull
from research.config.schema import Config
from research.config.wording import format_steps
from research.gauges.norms import tree_euclidean
from research.gauges.table import WEIGHT_NORM, trim_profile
from research.models.architecture import ForwardContext
from research.models.hparams import HParams
from research.records.jax_settings import describe_changed_settings, read_jax_settings
from research.records.replayed import Replayed
from research.records.runs import Run, describe_verdict
from research.runner.kept import read_config
from research.runner.replay_events import HISTORY, find_events, places_of, read_values
from research.runner.replay_search import Fault, SearchResult, Snapshots, search_formats
from research.runner.run_setup import RunSetup, make_run_setup
from research.training.checkpoint import (
    FOLDER,
    REPLAY_FOLDER,
    Checkpoint,
    Checkpoints,
    InvalidCheckpoint,
    array_specs,
    copy_to_host,
    restore_state,
    stack_checkpoints,
)
from research.training.layer_params import STAGES
from research.training.losses import loss_and_accuracy
from research.training.objective import (
    batch_indices,
    epoch_permutation,
    graph_of,
    next_batch,
    step_key,
)
from research.training.precision import precision_context
from research.training.program import Metrics, make_program
from research.training.state import TrainState

STEPS = 200  # that are measured before the step where the run went wrong
# Findings that say at which step something happened, the most telling first.
TELLING = ("diverged", "overflow", "spike")
COMPARED_METRICS = ("train_loss", "loss_scale", "learning_rate")
SUSPECT_SHARE = 0.5  # of the loss of a batch, above which an example stands out
MOST_SUSPECTS = 5
PART_NAMES = {"embed": "embedding"}


def find_wrong_step(run: Run) -> int:
    """The step at which the record says that the run went wrong.

    Raises:
        ValueError: it says so of no step.
    """
    info = run.info
    verdict = info.get("verdict") or {}
    if info.get("status") == "diverged" and info.get("steps"):
        return int(info["steps"]) - 1
    found = verdict.get("findings") or []
    severe = [finding for finding in found if finding.get("severity") == "severe"]
    for kind in (*TELLING, None):
        for finding in found if kind else severe:
            is_asked_for = kind is None or finding.get("kind") == kind
            if is_asked_for and finding.get("first_step") is not None:
                return int(finding["first_step"])
    raise ValueError(
        f"nothing went wrong in {run.directory}, {describe_verdict(run)}: "
        "fathom replay RUN --to STEP computes the steps up to another one"
    )


def replay_run(
    run: Run,
    *,
    to: int | None = None,
    num_steps: int = STEPS,
    has_search: bool = True,
    report: Callable[[str], None] = print,
) -> Replayed:
    """Computes the steps of a run again up to the step where it went wrong.

    Args:
        run: a run that Fathom trained.
        to: the last step; None for the step at which the record says that the run went wrong.
        num_steps: how many steps before it have all gauges; the others only lead there.
        has_search: whether it is searched for number formats that would have prevented it.
        report: gets what is being done, in words.

    Raises:
        ValueError: nothing went wrong, the step was not recorded, the run cannot be read, or it was
            trained under other settings of JAX.
    """
    end = find_wrong_step(run) if to is None else to
    last_recorded = int(run.metrics["step"][-1])
    if end > last_recorded:
        raise ValueError(f"--to must be a recorded step, at most {last_recorded}, got {end}")
    config = read_config(run.directory)
    changes = describe_changed_settings(run.info.get("jax_settings") or {}, read_jax_settings())
    if changes:
        raise ValueError(
            f"{run.directory} was trained under settings of JAX that give other numbers "
            f"({changes}): set them as they were to replay it"
        )
    with precision_context(config.precision.kind.name):
        setup = make_run_setup(config)
        replay = _Replay(run, config, setup, end, num_steps)
        report(f"computes {format_steps(replay.start, end)} again")
        replay.run()
        return replay.summarize(has_search, report)


class _Replay:
    """The steps that are computed again, and what was measured in them."""

    def __init__(
        self,
        run: Run,
        config: Config,
        setup: RunSetup,
        end: int,
        num_steps: int,
    ):
        self.source = run
        self.config = config
        self.setup = setup
        self.end = end
        self.layers = setup.layers_of(config)
        self.program = make_program(setup.program_config, setup.layout)
        with_gauges = dataclasses.replace(
            setup.program_config,
            measure=MeasureFull(),
            capacity=1,
        )
        self.measuring_program = make_program(with_gauges, setup.layout)
        shapes = jax.eval_shape(self.program.init, setup.hp)
        self.checkpoint = _find_checkpoint(run, setup, shapes, end)
        self.start = self.checkpoint.step if self.checkpoint else 0
        self.first_measured = max(self.start, end - num_steps)
        self.state = self._first_state(shapes)
        parts = map(str, self.state.params)
        self.outer_parts = [part for part in parts if part != STAGES]
        names = [PART_NAMES.get(part, part) for part in self.outer_parts]
        self.places = places_of(self.layers, names)
        self.steps: list[int] = []
        self.values: list[np.ma.MaskedArray] = []
        self.first_difference: int | None = None
        self.snapshots = Snapshots(shapes, setup.hp)

    def _first_state(self, shapes: TrainState) -> TrainState:
        if self.checkpoint is None:
            return self.program.init(self.setup.hp)
        arrays = jax.tree.map(jnp.array, stack_checkpoints(shapes, {0: self.checkpoint}))
        keys = jax.vmap(jax.random.key)(self.setup.hp.seed)
        return restore_state(shapes, arrays, keys)

    def run(self) -> None:
        """Computes the steps, compares them with the record, and keeps what was measured."""
        self._add_recorded_history()
        capacity = self.setup.program_config.capacity
        step = self.start
        while step < self.first_measured:
            num_steps = min(capacity, self.first_measured - step)
            self._advance(step, num_steps, self.setup.program_data(step, num_steps))
            step += num_steps
        for step in range(self.first_measured, self.end + 1):
            self._replay_step(step)

    def _replay_step(self, step: int) -> None:
        """Computes a step with all gauges, and then with the program of the run."""
        data = self.setup.program_data(step, 1)
        self.snapshots.add(step, copy_to_host(self.state))
        profile = self._measure(step, data)
        rows = self._advance(step, 1, data)
        metrics = {name: column[0] for name, column in rows.items() if name != "profile"}
        values = read_values(self.places, metrics, profile)
        if metrics["finite"]:  # what loss scaling skips is no fault
            values[~np.isfinite(values.data)] = np.ma.masked
        self.steps.append(step)
        self.values.append(values)

    def _advance(
        self,
        step: int,
        num_steps: int,
        data: dict[str, Any],
    ) -> Metrics:
        """Trains steps with the program of the run; returns their metrics."""
        first = np.int32(step)
        count = np.int32(num_steps)
        self.state, rows = self.program.chunk(self.state, self.setup.hp, data, first, count)
        rows = jax.tree.map(partial(_rows_of_first_run, num_steps=num_steps), rows)
        if self.first_difference is None:
            self.first_difference = self._find_difference(step, rows)
        return rows

    def _measure(self, step: int, data: dict[str, Any]) -> dict[str, np.ndarray]:
        """All gauges of a step, and the norms of the parameters outside the layers."""
        state = jax.tree.map(jnp.copy, self.state)
        first = np.int32(step)
        _, rows = self.measuring_program.chunk(state, self.setup.hp, data, first, np.int32(1))
        of_run = jax.tree.map(partial(_rows_of_first_run, num_steps=1), rows["profile"])
        profile = {}
        for name, column in trim_profile(of_run, self.layers).items():
            profile[name] = column[0]
        outer_norms = []
        for part in self.outer_parts:
            outer_norms.append(float(tree_euclidean(self.state.params[part])))
        profile[WEIGHT_NORM.name] = np.append(profile[WEIGHT_NORM.name], outer_norms)
        return profile

    def _find_difference(self, step: int, rows: Metrics) -> int | None:
        """The first step whose metrics differ from those that are recorded."""
        differs = np.zeros(len(rows["finite"]), bool)
        for name in COMPARED_METRICS:
            replayed = np.asarray(rows[name], float)
            recorded = self.source.metrics[name][step : step + len(replayed)]
            both_missing = np.isnan(replayed) & np.isnan(recorded)
            differs |= (replayed != recorded) & ~both_missing
        different = np.flatnonzero(differs)
        return step + int(different[0]) if len(different) else None

    def _add_recorded_history(self) -> None:
        """Takes what is recorded of the steps before the first one that is measured."""
        try:
            profiles = self.source.profiles
        except FileNotFoundError:
            profiles = {"step": np.zeros(0, int)}
        row_of_step = {int(step): row for row, step in enumerate(profiles["step"])}
        for step in range(max(0, self.first_measured - HISTORY), self.first_measured):
            profile = {}
            if step in row_of_step:
                row = row_of_step[step]
                profile = {name: column[row] for name, column in profiles.items()}
            metrics = {name: column[step] for name, column in self.source.metrics.items()}
            self.steps.append(step)
            self.values.append(read_values(self.places, metrics, profile))

    def summarize(self, has_search: bool, report: Callable[[str], None]) -> Replayed:
        """What was found, with a search over number formats."""
        values = np.ma.stack(self.values)
        events = find_events(self.places, self.steps, values, self.first_measured)
        examples: list[int] = []
        suspects: list[int] = []
        if events:
            examples = self._examples(events[0].step)
            suspects = self._suspects(events[0].step, examples)
        search = SearchResult(no_search="it was not asked for")
        if has_search:
            fault = Fault(self.config, self.setup, events, self.end)
            search = search_formats(fault, self.snapshots, report)
        return Replayed(
            start=self.start,
            is_from_checkpoint=self.checkpoint is not None,
            end=self.end,
            first_difference=self.first_difference,
            events=events,
            examples=examples,
            suspects=suspects,
            trials=search.trials,
            no_search=search.no_search,
            first_measured=self.first_measured,
        )

    def _examples(self, step: int) -> list[int]:
        """The indices of the training examples in the batch of a step."""
        spec = self.setup.program_config
        num_examples = self.setup.dataset.examples
        if spec.full_batch:
            return list(range(num_examples))
        epoch, position = divmod(step, self.setup.steps_per_epoch)
        order = epoch_permutation(jax.random.key(self.config.seed), epoch, num_examples)
        indices = batch_indices(spec, order, jnp.int32(position))
        return np.asarray(indices).tolist()

    def _suspects(self, step: int, examples: Sequence[int]) -> list[int]:
        """The examples of a batch whose loss stands out."""
        losses = self._losses(step)
        stands_out = ~np.isfinite(losses)
        if stands_out.all():
            return []
        if not stands_out.any():
            stands_out = losses > SUSPECT_SHARE * losses.sum()
        chosen = np.flatnonzero(stands_out)[:MOST_SUSPECTS]
        return [int(examples[index]) for index in chosen]

    def _losses(self, step: int) -> np.ndarray:
        """The loss of each example of a step's batch, in the order of the batch."""
        spec = self.setup.program_config
        data = self.setup.program_data(step, 1)

        def losses_of_batch(state: TrainState, hp: HParams) -> jax.Array:
            arch = spec.architecture
            key = step_key(state) if arch.is_random else None
            inputs, labels = next_batch(spec, state, data)
            model = nnx.merge(graph_of(arch, hp), state.params, state.model_state, copy=True)
            logits, _ = model(inputs, {}, ForwardContext(hp, train=True, key=key))
            losses, _ = loss_and_accuracy(hp.loss, logits, labels)
            return losses

        losses = jax.jit(jax.vmap(losses_of_batch))(self.snapshots.state(step), self.setup.hp)
        per_example = np.asarray(losses[0], float)
        return per_example.reshape(len(per_example), -1).mean(axis=1)


def _rows_of_first_run(column: Any, num_steps: int) -> np.ndarray:
    return np.asarray(column)[0, :num_steps]


def _find_checkpoint(
    run: Run,
    setup: RunSetup,
    shapes: TrainState,
    end: int,
) -> Checkpoint | None:
    """The last checkpoint of a step up to ``end``; None where there is none.

    A run that goes on from a shorter one can start from the state which that one kept.
    """
    architecture = setup.program_config.architecture
    specs = partial(array_specs, shapes, architecture, architecture.layers)
    places = [(run.directory, REPLAY_FOLDER), (run.directory, FOLDER)]
    shorter = (run.info.get("continues") or {}).get("run")
    if shorter:
        places.append((run.directory.parent / str(shorter), FOLDER))
    found: list[Checkpoint] = []
    for directory, folder in places:
        try:
            checkpoint = Checkpoints(directory, folder).read(specs)
        except InvalidCheckpoint:
            continue  # the run can be computed again from its start
        if checkpoint is not None and checkpoint.step <= end:
            found.append(checkpoint)
    return max(found, key=_step_of, default=None)


def _step_of(checkpoint: Checkpoint) -> int:
    return checkpoint.step
