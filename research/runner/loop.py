"""The host loop: trains a group of runs chunk by chunk and writes what each chunk measured."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.stages import Compiled, Wrapped

from research.config.errors import explain
from research.data.sources import load
from research.parallel.mesh import (
    init_layout,
    make_layout,
    map_runs,
    place_on_devices,
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
from research.records.trackers import TrackerReports
from research.runner.group import CheckpointStepMismatch, Chunk, RunGroup, is_out_of_memory
from research.runner.memory import check_memory, program_bytes, release_programs, tree_bytes
from research.runner.progress import Progress
from research.runner.run_setup import RunSetup, make_run_setup, shares_families
from research.runner.run_spec import Result, RunSpec, group_key
from research.runner.signals import COMPILE_THREAD
from research.training.checkpoint import copy_to_host, restore_state, stack_checkpoints
from research.training.precision import precision_context
from research.training.program import Metrics, Program, make_program
from research.training.state import TrainState

T = TypeVar("T")
SECONDS_PER_CHUNK = 0.5  # how long the device trains a single run before the host looks at it


def train_runs(
    run_specs: Sequence[RunSpec],
    progress: Progress,
    *,
    map_mode: str = "auto",
    devices: int | None = None,
    reports: TrackerReports | None = None,
) -> list[Result]:
    """Trains runs that differ only in traced numbers as one program, and records each of them.

    Each run resumes from its last checkpoint. Where these are of different steps, and where the
    group does not fit into memory, it is trained in smaller groups. Runs that stream their data,
    each in its own order, are trained one by one.

    Args:
        run_specs: the runs.
        progress: shows how far they are.
        map_mode: how the runs of one device are trained: ``map``, ``vmap``, or ``auto``.
        devices: the largest number of devices to use; None for all.
        reports: what the trackers of this command have reported.

    Returns:
        The result of each run, in order; where it raised, with the exception as ``error``.
    """
    groups = _split_by_program(run_specs, map_mode)
    results: dict[Path, Result] = {}
    while groups:
        group = groups.pop(0)
        progress.start_runs(_display_name(group), len(group))
        group_results: list[Result] = []
        smaller_groups: list[Sequence[RunSpec]] = []
        try:
            group_results = _train_group(group, progress, map_mode, devices, reports)
        except Exception as error:
            smaller_groups = _split_group(group, error)
            if not smaller_groups:
                group_results = [_failed_result(run_spec, error) for run_spec in group]
        # The error is gone here, and with its traceback the arrays of the whole group.
        if smaller_groups:
            progress.undo_start()
            groups = [*smaller_groups, *groups]
            continue
        for result in group_results:
            results[Path(result["directory"])] = result
    return [results[run_spec.directory] for run_spec in run_specs]


def _split_by_program(run_specs: Sequence[RunSpec], map_mode: str) -> list[Sequence[RunSpec]]:
    """The groups that can be trained as one program on the devices that there are."""
    if len(run_specs) == 1:
        return [run_specs]
    if _is_streamed(run_specs[0]):
        return [[run_spec] for run_spec in run_specs]
    if shares_families(make_layout(len(run_specs), map_mode=map_mode)):
        return [run_specs]
    groups: dict[str, list[RunSpec]] = {}
    for run_spec in run_specs:
        key = group_key(run_spec.config, families=False)
        groups.setdefault(key, []).append(run_spec)
    return [*groups.values()]


def _is_streamed(run_spec: RunSpec) -> bool:
    dataset = load(run_spec.config.data)
    return dataset.train_source is not None


def _display_name(group: Sequence[RunSpec]) -> str:
    if len(group) > 1:
        return f"{len(group)} runs"
    return group[0].directory.name


def _failed_result(run_spec: RunSpec, error: Exception) -> Result:
    return {
        "directory": str(run_spec.directory),
        "status": "failed",
        "error": error,
    }


def _split_group(group: Sequence[RunSpec], error: Exception) -> list[Sequence[RunSpec]]:
    """The smaller groups that can be trained after a group raised ``error``; none if it cannot."""
    if isinstance(error, CheckpointStepMismatch):
        return [*error.groups]
    if len(group) == 1 or not is_out_of_memory(error):
        return []
    middle = -(-len(group) // 2)
    by_depth = sorted(group, key=_depth)  # members of a family have room for the deepest one
    return [by_depth[:middle], by_depth[middle:]]


def _train_group(
    run_specs: Sequence[RunSpec],
    progress: Progress,
    map_mode: str,
    devices: int | None,
    reports: TrackerReports | None,
) -> list[Result]:
    mesh = run_specs[0].config.mesh.kind.name
    layout = make_layout(len(run_specs), kind=mesh, map_mode=map_mode, devices=devices)
    run_specs = _balance(run_specs, layout.num_run_shards)
    configs = [run_spec.config for run_spec in run_specs]
    # Every device holds the same number of runs: copies of the last one fill up the places.
    num_copies = -len(run_specs) % layout.num_run_shards
    padding_configs = num_copies * [configs[-1]]
    precision = configs[0].precision.kind.name
    release_programs()
    with precision_context(precision):
        setup = _on_all_processes(
            make_run_setup,
            *configs,
            *padding_configs,
            layout=layout,
            num_copies=num_copies,
        )
        opened = _on_all_processes(RunGroup, run_specs, setup, progress, reports)
        with opened as group, _compile_thread() as compile_pool:
            _on_all_processes(group.find_start_step)
            if not group.has_ended:
                _train_in_chunks(setup, group, precision, compile_pool)
    return group.results


@contextlib.contextmanager
def _compile_thread() -> Iterator[Executor]:
    """A thread to compile in. Where the runs end early, what it compiles is not waited for."""
    pool = ThreadPoolExecutor(1, thread_name_prefix=COMPILE_THREAD)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _balance(run_specs: Sequence[RunSpec], num_shards: int) -> list[RunSpec]:
    """Orders runs so that shards, which are cut in order, have about the same number of layers."""
    shard_size = -(-len(run_specs) // num_shards)
    shards: list[list[RunSpec]] = [[] for _ in range(num_shards)]
    sizes = []
    for shard in range(num_shards):
        num_left = max(0, len(run_specs) - shard * shard_size)
        sizes.append(min(shard_size, num_left))
    depths = [0] * num_shards
    for run_spec in sorted(run_specs, key=_depth, reverse=True):
        open_shards = [shard for shard in range(num_shards) if len(shards[shard]) < sizes[shard]]
        shallowest = min(open_shards, key=depths.__getitem__)
        shards[shallowest].append(run_spec)
        depths[shallowest] += _depth(run_spec)
    return list(itertools.chain.from_iterable(shards))


def _depth(run_spec: RunSpec) -> int:
    return run_spec.config.model.depth


def _on_all_processes(
    work: Callable[..., T],
    *arguments: Any,
    **named: Any,
) -> T:
    """Calls ``work`` in every process; an error in one of them ends the work in all."""
    call = partial(work, *arguments, **named)
    return run_on_all_processes(call, describe_error=explain)


def _train_in_chunks(
    setup: RunSetup,
    group: RunGroup,
    precision: str,
    compile_pool: Executor,
) -> None:
    """Trains the runs. Each chunk is written while the device computes the next one."""
    program = make_program(setup.program_config, setup.layout)
    state, compiled_evaluation = _on_all_processes(
        _compile_and_init, program, setup, group, precision, compile_pool
    )
    group.record_parameter_count(state.params)
    if group.start_step == setup.steps:
        _on_all_processes(group.start_training)
    chunks = plan_chunks(
        setup.steps,
        cuts=setup.cuts,
        capacity=setup.program_config.capacity,
        seconds_per_step=lambda: broadcast_scalar(group.seconds_per_step()),
        seconds_per_chunk=SECONDS_PER_CHUNK * group.flush_scale,
        first_step=group.start_step,
    )
    previous: Chunk | None = None
    with defer_signals():
        for start, num_steps in chunks:
            if is_interrupted():
                break
            end = start + num_steps
            data = setup.program_data(start, num_steps)
            diagnostics = _measure_diagnostics(program, setup, start, state, data)
            state, rows = program.chunk(
                state,
                setup.hp,
                data,
                np.int32(start),
                np.int32(num_steps),
            )
            evaluation = {}
            if end % setup.eval_every == 0 or end == setup.steps:
                if compiled_evaluation:
                    compiled_evaluation.result()  # waits until it is compiled
                evaluation = setup.evaluate(program, state)
            if previous:
                _on_all_processes(group.write_chunk, previous)
            if group.has_ended:
                return
            if start == group.start_step:
                jax.block_until_ready(rows)
                _on_all_processes(group.start_training)
            previous = Chunk(
                start=start,
                num_steps=num_steps,
                rows=rows,
                evaluation=evaluation,
                diagnostics=diagnostics,
                state=copy_to_host(state) if group.is_checkpoint_due else None,
            )
        if previous:
            _on_all_processes(group.write_chunk, previous)
        _on_all_processes(group.save_final_checkpoint, state)


def _measure_diagnostics(
    program: Program,
    setup: RunSetup,
    step: int,
    state: TrainState,
    data: dict[str, Any],
) -> Metrics:
    """Calls the diagnostic functions of the program whose interval ends at ``step``."""
    diagnostics = {}
    for name, interval in setup.diagnostic_intervals.items():
        if step % interval == 0:
            measure = getattr(program, name)
            diagnostics[name] = measure(state, setup.hp, data)
    return diagnostics


def _compile_and_init(
    program: Program,
    setup: RunSetup,
    group: RunGroup,
    precision: str,
    compile_pool: Executor,
) -> tuple[TrainState, Future | None]:
    """Makes or restores the state, while ``compile_pool`` compiles the step and the evaluation.

    Returns:
        The state, and the future of the compiled evaluation, which is needed later than the step.
        It is None where the evaluation is compiled at its first call.

    Raises:
        MemoryError: the runs do not fit; nothing has been allocated then.
    """
    layout = setup.layout
    shapes = placed_shapes(layout, jax.eval_shape(program.init, setup.hp))
    num_devices = min(layout.devices, jax.local_device_count())
    num_bytes = 2 * num_devices * tree_bytes(shapes)  # the state before a step and after it
    check_memory(
        num_bytes // layout.num_run_shards,
        num_devices,
        needed_for="the network with its optimizer",
        settings="model.depth or model.width",
    )

    def compile_function(function: Wrapped, *arguments: Any) -> Compiled:
        with precision_context(precision):  # the context applies to one thread only
            return function.lower(shapes, setup.hp, *arguments).compile()

    data = setup.program_data(0, 0)
    step = np.int32(0)
    compiled_chunk = compile_pool.submit(compile_function, program.chunk, data, step, step)
    compiled_evaluation = None
    if setup.stream is None:
        compiled_evaluation = compile_pool.submit(compile_function, program.evaluate, setup.data)
    if group.start_step:
        state = _restore_state(setup, group, shapes)
    else:
        state = program.init(to_init_device(layout, setup.hp))
    for name in setup.diagnostic_intervals:
        compile_function(getattr(program, name), data)
    needed = program_bytes(compiled_chunk.result())
    check_memory(
        num_devices * needed,
        num_devices,
        needed_for="the training step",
        settings="train.batch_size, model.depth or model.width",
    )
    return shard_state(layout, state), compiled_evaluation


def _restore_state(
    setup: RunSetup,
    group: RunGroup,
    shapes: TrainState,
) -> TrainState:
    """The state from the checkpoints of the runs, which only the primary process has read."""
    layout = init_layout(setup.layout)
    arrays = stack_checkpoints(shapes, group.pop_checkpoints())
    arrays = place_on_devices(layout, broadcast_arrays(arrays), per_run=True)
    make_key = map_runs(layout, jax.random.key, num_mapped=1)
    hp = to_init_device(setup.layout, setup.hp)
    return restore_state(shapes, arrays, jax.jit(make_key)(hp.seed))


def plan_chunks(
    num_steps: int,
    *,
    cuts: Sequence[int],
    capacity: int,
    seconds_per_step: Callable[[], float | None],
    seconds_per_chunk: float = SECONDS_PER_CHUNK,
    first_step: int = 0,
) -> Iterator[tuple[int, int]]:
    """Cuts a run into chunks, which does not change its numbers.

    Args:
        num_steps: the steps of the run.
        cuts: chunks end at every multiple of each of these numbers of steps.
        capacity: the largest number of steps in a chunk.
        seconds_per_step: the time of a step; while it is None, chunks are single steps.
        seconds_per_chunk: about how long a chunk may last.
        first_step: the first step of the first chunk.

    Yields:
        The first step and the number of steps of each chunk.
    """
    start = first_step
    while start < num_steps:
        seconds = seconds_per_step()
        longest = 1
        if seconds is not None:
            longest = max(1, int(seconds_per_chunk / max(seconds, 1e-9)))
        end = min(num_steps, start + capacity, start + longest)
        for interval in cuts:
            next_cut = (start // interval + 1) * interval
            end = min(end, next_cut)
        yield start, end - start
        start = end
