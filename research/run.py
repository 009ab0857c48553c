"""One run: the host loop. All numbers come from the program; what becomes of them is the recording's business."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from research.config import Config
from research.job import Job, prepare, run_id
from research.progress import Progress
from research.recording import Recording
from research.records.record import read_finished
from research.training.precision import scope
from research.training.program import Program, make_program
from research.training.state import TrainState

SECONDS_A_CHUNK = 0.5  # about how long the device works before the host looks


def train(config: Config, directory: Path, progress: Progress) -> dict[str, Any]:
    """Trains one run and records it in ``directory``; a run that is there already, done, is left as it is.

    Returns:
        The content of ``run.json``.
    """
    identity = run_id(directory.absolute().parent.name, config)
    finished = read_finished(directory, identity)
    if finished:
        return finished | {"already": True}
    with scope(config.precision.kind.name):
        job = prepare(config)
        recording = Recording(config, job, directory, identity, progress)
        with recording:
            _loop(job, recording)
    return recording.record.info


def _loop(job: Job, recording: Recording) -> None:
    """Trains in chunks; each chunk's rows are fetched while the device works on the next one."""
    program = make_program(job.spec)
    state = _begun(program, job, recording.config.precision.kind.name)
    recording.count(state.params)
    pending = None
    for start, steps in chunks(job.steps, job.eval_every, job.spec.capacity, recording.pace):
        state, rows = program.chunk(state, job.hp, job.feed(start, steps), jnp.int32(start), jnp.int32(steps))
        due = (start + steps) % job.eval_every == 0 or start + steps == job.steps
        evaluation = job.evaluate(program, state) if due else {}
        if pending:
            recording.take(*pending)
        if recording.diverged:
            return
        if start == 0:
            jax.block_until_ready(rows)
            recording.compiled()
        pending = (start, steps, rows, evaluation)
    if pending:
        recording.take(*pending)


def _begun(program: Program, job: Job, precision: str) -> TrainState:
    """The initial state; while it is made, the step is compiled on another core."""
    data = job.feed(0, 0)

    def compile_step(shapes: TrainState) -> None:
        with scope(precision):  # scopes do not reach from one thread into another
            program.chunk.lower(shapes, job.hp, data, jnp.int32(0), jnp.int32(0)).compile()

    with ThreadPoolExecutor(1) as other:
        compiled = other.submit(compile_step, jax.eval_shape(program.init, job.hp))
        state = program.init(job.hp)
        compiled.result()
    return state


def chunks(steps: int, eval_every: int, capacity: int, pace: Callable[[], float | None]) -> Iterator[tuple[int, int]]:
    """(start, count) of the pieces a run is trained in: single steps until the pace is known, then longer ones.

    Pieces end at evaluations and are as long as ``SECONDS_A_CHUNK`` allows at ``pace()`` seconds a step; how a run is
    cut does not change its numbers.
    """
    start = 0
    while start < steps:
        seconds = pace()
        affordable = 1 if seconds is None else max(1, int(SECONDS_A_CHUNK / max(seconds, 1e-9)))
        count = min(eval_every - start % eval_every, steps - start, capacity, affordable)
        yield start, count
        start += count
