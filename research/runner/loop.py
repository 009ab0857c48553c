"""The host loop of a group of runs. All numbers come from the program; what becomes of them is the group's business."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np

from research.config.errors import explain
from research.data.sources import load
from research.parallel.mesh import (
    init_layout,
    make_layout,
    map_runs,
    place,
    placed_shapes,
    shard_state,
    to_init_device,
)
from research.parallel.processes import (
    broadcast_arrays,
    broadcast_scalar,
    defer_signals,
    is_interrupted,
    run_on_all_processes,
)
from research.runner.group import CheckpointStepMismatch, RunGroup, is_out_of_memory
from research.runner.memory import check_memory, needed, release_programs, size
from research.runner.progress import Progress
from research.runner.run_setup import RunSetup, make_run_setup
from research.runner.run_spec import Result, RunSpec
from research.training.checkpoint import fetch, restored, stacked
from research.training.precision import scope
from research.training.program import Program, make_program
from research.training.state import TrainState

T = TypeVar("T")
SECONDS_A_CHUNK = 0.5  # about how long the device works on a single run before the host looks


def train_runs(
    members: Sequence[RunSpec],
    progress: Progress,
    *,
    map_mode: str = "auto",
    devices: int | None = None,
) -> list[Result]:
    """Trains runs that differ only in numbers that are passed in, as one program, and records each in its directory.

    A run alone is a group of one, and each goes on from its last checkpoint; runs whose checkpoints are of different
    steps are trained apart. A group that needs more memory than there is is trained in halves; runs whose data are
    streamed, each in the order of its own seed, are trained one by one.

    Returns:
        What came of each, in order.
    """
    if len(members) > 1 and load(members[0].config.data).train is not None:
        return [
            train_runs([member], progress, map_mode=map_mode, devices=devices)[0]
            for member in members
        ]
    name = members[0].directory.name if len(members) == 1 else f"{len(members)} runs"
    progress.begin(name, len(members))
    try:
        return _train_group(members, progress, map_mode, devices)
    except Exception as error:
        parts = _parts(members, error)
        if not parts:
            return [
                {"directory": str(member.directory), "status": "failed", "error": error}
                for member in members
            ]
    progress.take_back()  # behind the except clause: the error's trace would keep the arrays
    results = {
        member.directory: result
        for part in parts
        for member, result in zip(
            part, train_runs(part, progress, map_mode=map_mode, devices=devices), strict=True
        )
    }
    return [results[member.directory] for member in members]


def _on_all_processes(work: Callable[[], T]) -> T:
    return run_on_all_processes(work, describe_error=explain)


def _parts(members: Sequence[RunSpec], error: Exception) -> Sequence[Sequence[RunSpec]]:
    """The smaller groups that members are trained in behind what they could not be together; none: it is an error."""
    if isinstance(error, CheckpointStepMismatch):
        return error.parts
    if len(members) == 1 or not is_out_of_memory(error):
        return []
    middle = -(-len(members) // 2)
    return members[:middle], members[middle:]


def _train_group(
    members: Sequence[RunSpec], progress: Progress, map_mode: str, devices: int | None
) -> list[Result]:
    configs = [member.config for member in members]
    layout = make_layout(
        len(members), kind=configs[0].mesh.kind.name, map_mode=map_mode, devices=devices
    )
    spare = [configs[-1]] * (
        -len(members) % layout.num_run_shards
    )  # trained once more so that devices have equal shares
    release_programs()
    with scope(configs[0].precision.kind.name):
        job = _on_all_processes(partial(make_run_setup, *configs, *spare, layout=layout))
        with (
            _on_all_processes(partial(RunGroup, members, job, progress)) as group,
            ThreadPoolExecutor(1) as other,
        ):
            _on_all_processes(group.begin_together)
            if not group.ended:  # another process is at them, or was
                _loop(job, group, configs[0].precision.kind.name, other)
    return group.results


def _loop(job: RunSetup, group: RunGroup, precision: str, other: Executor) -> None:
    """Trains in chunks; each chunk's rows are fetched while the device works on the next one."""
    program = make_program(job.spec, job.layout)
    state, evaluates = _on_all_processes(
        partial(_compile_and_init, program, job, group, precision, other)
    )
    group.count(state.params)
    if group.begin == job.steps:
        _on_all_processes(group.compiled)
    pending = None
    seconds = SECONDS_A_CHUNK * group.patience

    def pace():
        return broadcast_scalar(group.pace())

    cuts = job.eval_every, *job.diagnostic_intervals.values()
    with defer_signals():
        for start, steps in chunks(
            job.steps, cuts, job.spec.capacity, pace, seconds, begin=group.begin
        ):
            if is_interrupted():
                break
            data = job.feed(start, steps)
            due = [name for name, every in job.diagnostic_intervals.items() if start % every == 0]
            beside = {name: getattr(program, name)(state, job.hp, data) for name in due}
            state, rows = program.chunk(state, job.hp, data, np.int32(start), np.int32(steps))
            evaluated = (start + steps) % job.eval_every == 0 or start + steps == job.steps
            if evaluated and evaluates:
                evaluates.result()
            evaluation = job.evaluate(program, state) if evaluated else {}
            if pending:
                _on_all_processes(partial(group.take, *pending))
            if group.ended:
                return
            if start == group.begin:
                jax.block_until_ready(rows)
                _on_all_processes(group.compiled)
            pending = (
                start,
                steps,
                rows,
                evaluation,
                beside,
                fetch(state) if group.is_due else None,
            )
        if pending:
            _on_all_processes(partial(group.take, *pending))
        _on_all_processes(partial(group.leave, state))


def _compile_and_init(
    program: Program, job: RunSetup, group: RunGroup, precision: str, other: Executor
) -> tuple[TrainState, Future | None]:
    """The state that the runs begin with or go on from; while it is made, the step is compiled on the ``other`` core.

    Behind the step comes the evaluation, which is needed later: what is returned with the state says when it is there.

    Raises:
        MemoryError: before anything is allocated, where the runs do not fit.
    """
    shapes = placed_shapes(job.layout, jax.eval_shape(program.init, job.hp))
    data = job.feed(0, 0)
    here = min(job.layout.devices, jax.local_device_count())
    check_memory(
        2 * here * size(shapes) // job.layout.num_run_shards, here
    )  # the state of a step and of the next one

    def compiled(function: jax.stages.Wrapped, *arguments: Any) -> jax.stages.Compiled:
        with scope(precision):  # scopes do not reach from one thread into another
            return function.lower(shapes, job.hp, *arguments).compile()

    step = other.submit(compiled, program.chunk, data, np.int32(0), np.int32(0))
    evaluates = other.submit(compiled, program.evaluate, job.data) if job.stream is None else None
    state = (
        _restored(job, group, shapes)
        if group.begin
        else program.init(to_init_device(job.layout, job.hp))
    )
    for name in job.diagnostic_intervals:
        compiled(getattr(program, name), data)
    check_memory(here * needed(step.result()), here)
    return shard_state(job.layout, state), evaluates


def _restored(job: RunSetup, group: RunGroup, shapes: TrainState) -> TrainState:
    """The state of the runs' checkpoints, which the first process alone has read."""
    layout = init_layout(job.layout)
    arrays = broadcast_arrays(stacked(shapes, group.checkpoints()))
    keys = jax.jit(map_runs(layout, jax.random.key, num_mapped=1))
    return restored(
        shapes,
        place(layout, arrays, per_run=True),
        keys(to_init_device(job.layout, job.hp).seed),
    )


def chunks(
    steps: int,
    cuts: Sequence[int],
    capacity: int,
    pace: Callable[[], float | None],
    seconds_a_chunk: float = SECONDS_A_CHUNK,
    begin: int = 0,
) -> Iterator[tuple[int, int]]:
    """(start, count) of the pieces a run is trained in from ``begin`` on: single steps until the pace is known.

    Pieces end at multiples of each of ``cuts`` and are as long as ``seconds_a_chunk`` allows at ``pace()`` seconds a
    step; how a run is cut does not change its numbers.
    """
    start = begin
    while start < steps:
        seconds = pace()
        affordable = 1 if seconds is None else max(1, int(seconds_a_chunk / max(seconds, 1e-9)))
        count = min(*(every - start % every for every in cuts), steps - start, capacity, affordable)
        yield start, count
        start += count
