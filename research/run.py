"""The host loop of a group of runs. All numbers come from the program; what becomes of them is the group's business."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import numpy as np

from research.data.sources import load
from research.job import Job, prepare
from research.member import Member, Result
from research.running.group import Apart, Group, is_out_of_memory
from research.running.memory import check_memory, needed, release_programs, size
from research.running.processes import agreed, interrupted, noting, of_the_first, together
from research.running.progress import Progress
from research.training.checkpoint import fetch, restored, stacked
from research.training.mesh import at_the_start, gathered, make_layout, over_runs, place, placed_shapes, spread
from research.training.precision import scope
from research.training.program import Program, make_program
from research.training.state import TrainState

SECONDS_A_CHUNK = 0.5  # about how long the device works on a single run before the host looks


def train(
    members: Sequence[Member], progress: Progress, *, within: str = "auto", devices: int | None = None
) -> list[Result]:
    """Trains runs that differ only in numbers that are passed in, as one program, and records each in its directory.

    A run alone is a group of one, and each goes on from its last checkpoint; runs whose checkpoints are of different
    steps are trained apart. A group that needs more memory than there is is trained in halves; runs whose data are
    streamed, each in the order of its own seed, are trained one by one.

    Returns:
        What came of each, in order.
    """
    if len(members) > 1 and load(members[0].config.data).train is not None:
        return [train([member], progress, within=within, devices=devices)[0] for member in members]
    name = members[0].directory.name if len(members) == 1 else f"{len(members)} runs"
    progress.begin(name, len(members))
    try:
        return _together(members, progress, within, devices)
    except Exception as error:
        parts = _parts(members, error)
        if not parts:
            return [{"directory": str(member.directory), "status": "failed", "error": error} for member in members]
    progress.take_back()  # behind the except clause: the error's trace would keep the arrays
    results = {
        member.directory: result
        for part in parts
        for member, result in zip(part, train(part, progress, within=within, devices=devices), strict=True)
    }
    return [results[member.directory] for member in members]


def _parts(members: Sequence[Member], error: Exception) -> Sequence[Sequence[Member]]:
    """The smaller groups that members are trained in behind what they could not be together; none: it is an error."""
    if isinstance(error, Apart):
        return error.parts
    if len(members) == 1 or not is_out_of_memory(error):
        return []
    middle = -(-len(members) // 2)
    return members[:middle], members[middle:]


def _together(members: Sequence[Member], progress: Progress, within: str, devices: int | None) -> list[Result]:
    configs = [member.config for member in members]
    layout = make_layout(len(members), kind=configs[0].mesh.kind.name, within=within, devices=devices)
    spare = [configs[-1]] * (-len(members) % layout.lanes)  # trained once more so that devices have equal shares
    release_programs()
    with scope(configs[0].precision.kind.name):
        job = together(partial(prepare, *configs, *spare, layout=layout))
        with together(partial(Group, members, job, progress)) as group:
            together(group.begin_together)
            if not group.ended:  # another process is at them, or was
                _loop(job, group, configs[0].precision.kind.name)
    return group.results


def _loop(job: Job, group: Group, precision: str) -> None:
    """Trains in chunks; each chunk's rows are fetched while the device works on the next one."""
    program = make_program(job.spec, job.layout)
    state = together(partial(_begun, program, job, group, precision))
    group.count(state.params)
    if group.begin == job.steps:
        together(group.compiled)
    pending = None
    seconds, pace = SECONDS_A_CHUNK * group.patience, lambda: agreed(group.pace())  # noqa: E731
    cuts = job.eval_every, *job.beside.values()
    with noting():
        for start, steps in chunks(job.steps, cuts, job.spec.capacity, pace, seconds, begin=group.begin):
            if interrupted():
                break
            data = job.feed(start, steps)
            due = [name for name, every in job.beside.items() if start % every == 0]
            beside = {name: getattr(program, name)(state, job.hp, data) for name in due}
            state, rows = program.chunk(state, job.hp, data, np.int32(start), np.int32(steps))
            evaluated = (start + steps) % job.eval_every == 0 or start + steps == job.steps
            evaluation = job.evaluate(program, state) if evaluated else {}
            if pending:
                together(partial(group.take, *pending))
            if group.ended:
                return
            if start == group.begin:
                jax.block_until_ready(rows)
                together(group.compiled)
            pending = (start, steps, rows, evaluation, beside, fetch(state) if group.is_due else None)
        if pending:
            together(partial(group.take, *pending))
        together(partial(group.leave, state))


def _begun(program: Program, job: Job, group: Group, precision: str) -> TrainState:
    """The state that the runs begin with or go on from; while it is made, the step is compiled on another core.

    Raises:
        MemoryError: before anything is allocated, where the runs do not fit.
    """
    shapes, data = placed_shapes(job.layout, jax.eval_shape(program.init, job.hp)), job.feed(0, 0)
    here = min(job.layout.devices, jax.local_device_count())
    check_memory(2 * here * size(shapes) // job.layout.lanes, here)  # the state of a step and of the next one

    def compile_step() -> None:
        with scope(precision):  # scopes do not reach from one thread into another
            compiled = program.chunk.lower(shapes, job.hp, data, np.int32(0), np.int32(0)).compile()
        check_memory(here * needed(compiled), here)

    with ThreadPoolExecutor(1) as other:
        compiled = other.submit(compile_step)
        state = _restored(job, group, shapes) if group.begin else program.init(gathered(job.layout, job.hp))
        compiled.result()
    return spread(job.layout, state)


def _restored(job: Job, group: Group, shapes: TrainState) -> TrainState:
    """The state of the runs' checkpoints, which the first process alone has read."""
    layout, arrays = at_the_start(job.layout), of_the_first(stacked(shapes, group.checkpoints()))
    keys = jax.jit(over_runs(layout, jax.random.key, own=1))
    return restored(shapes, place(layout, arrays, per_run=True), keys(gathered(job.layout, job.hp)["seed"]))


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
