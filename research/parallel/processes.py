"""The processes that train one run together (``mesh=distributed``): which of them speaks, how they stay in step.

All run the same program; the first one alone writes records and says anything. A process that left on its own would
leave the others waiting for its part of a sum, so whatever ends the work of one is heard of by all at the next meeting.
"""

import atexit
import contextlib
import functools
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

from research.config.errors import PeerFailed, ProcessLost, explain
from research.config.schema import Mesh
from research.runner.run_spec import Result

T = TypeVar("T")
LONGEST = 400  # bytes of a message
SECONDS_TO_LEAVE = 20  # the others are waited for so long at the end
FINE, WRONG, FAILED, INTERRUPTED = range(4)


class _Signals:
    pending = False


def join_processes(mesh: Mesh) -> None:
    """Makes this process one of those that train the run, and waits for the others.

    Raises:
        ValueError: Nothing tells the processes of each other, or one of them does not come.
    """
    if jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(
            mesh.coordinator,
            mesh.processes,
            mesh.process,
            shutdown_timeout_seconds=SECONDS_TO_LEAVE,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"mesh=distributed: the processes did not find each other ({reason}): start it with srun, or give each of "
            "them mesh.coordinator=host:port, mesh.processes and mesh.process"
        ) from error
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _note)


def _note(*_: Any) -> None:
    """A signal is heeded between two chunks."""
    _Signals.pending = True


def is_primary() -> bool:
    """Whether this process writes and speaks."""
    return jax.process_index() == 0


def scratch() -> str:
    """A directory for what another process writes already; it goes with this one."""
    directory = tempfile.mkdtemp(prefix="fathom-")
    atexit.register(functools.partial(shutil.rmtree, directory, ignore_errors=True))
    return directory


def run_on_all_processes(work: Callable[[], T]) -> T:
    """Does ``work`` in every process and meets the others; where it failed in one of them, it fails in all.

    Raises:
        ValueError, KeyboardInterrupt: in the first process, for what a user can mend, naming the process that failed.
        Stopped: in all others.
        Lost: where one of them is gone, killed by the system for instance. Accelerators notice it after 100 s.
    """
    if jax.process_count() == 1:
        return work()
    result = None
    error = None
    try:
        result = work()
    except (Exception, KeyboardInterrupt) as raised:
        error = raised
    heard = _exchanged(process_allgather, _packed(error))
    failed = [n for n, message in enumerate(heard) if message[0] != FINE]
    if not failed:
        return result  # type: ignore[return-value]
    if is_primary():
        raise error or _unpacked(failed[0], heard[failed[0]])
    if error is not None and heard[jax.process_index()][0] == FAILED:
        traceback.print_exception(error)  # a defect shows where it happened
    raise PeerFailed from error


def broadcast_scalar(value: float | None) -> float | None:
    """What the first process has there, in all of them."""
    if jax.process_count() == 1:
        return value
    told = float(_exchanged(broadcast_one_to_all, np.float32(np.nan if value is None else value)))
    return None if np.isnan(told) else told


def broadcast_arrays(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the first process has there, bit for bit; the others have arrays of the same shapes and formats."""
    if jax.process_count() == 1:
        return arrays
    raw = {
        name: np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for name, array in arrays.items()
    }
    told = _exchanged(broadcast_one_to_all, raw)
    return {
        name: np.array(told[name]).view(array.dtype).reshape(array.shape)
        for name, array in arrays.items()
    }


def is_interrupted() -> bool:
    """Whether a signal has asked one of the processes to end; see ``noting``."""
    if jax.process_count() == 1:
        return _Signals.pending
    return bool(np.any(_exchanged(process_allgather, np.array([_Signals.pending]))))


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """What goes on within is not cut short by the first SIGINT or SIGTERM, but asks ``interrupted``; a second one does.

    Raises:
        KeyboardInterrupt: behind it, where there was one; Stopped in all processes but the first.
    """
    before: dict[int, Any] = {}
    if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {
            number: handler
            for number, handler in found.items()
            if handler not in (None, signal.SIG_IGN)
        }
        _Signals.pending = False

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(*_: Any) -> None:
        _note()
        give_back()

    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        give_back()
    if is_interrupted():
        _Signals.pending = False
        raise KeyboardInterrupt if is_primary() else PeerFailed


def as_the_first_sees(ended: Sequence[Result | None]) -> list[Result | None]:
    """Of runs that may be there already, what the first process found; the others cannot see it.

    Raises:
        ValueError: where the processes never met.
    """
    if not jax.distributed.is_initialized():
        raise ValueError(
            "mesh=distributed in a sweep needs jobs of several processes: hydra/launcher=submitit_slurm "
            "hydra.launcher.tasks_per_node=N"
        )
    return [
        info or {"status": "done"} if broadcast_scalar(float(bool(info))) else None
        for info in ended
    ]


def _exchanged(how: Callable, value: Any) -> Any:
    try:
        return how(value)
    except jax.errors.JaxRuntimeError as error:
        raise ProcessLost(
            f"another of the {jax.process_count()} processes of the run is gone"
        ) from error


def leave(error: PeerFailed) -> int:
    """The end of a process that another one has stopped; the exit code."""
    if is_primary():
        print(f"fathom: {error}; what was measured is written", file=sys.stderr, flush=True)
    if isinstance(error, ProcessLost):
        os._exit(1)  # at an orderly end jax would wait for the one that is gone
    return 1


def _packed(error: BaseException | None) -> np.ndarray:
    """One byte for what it is, then its line."""
    message = np.zeros(1 + LONGEST, np.uint8)
    if error is not None:
        line = explain(error)
        message[0] = (
            INTERRUPTED
            if isinstance(error, KeyboardInterrupt)
            else FAILED
            if line is None
            else WRONG
        )
        text = (line or f"{type(error).__name__}: {error}").encode()[:LONGEST]
        message[1 : 1 + len(text)] = np.frombuffer(text, np.uint8)
    return message


def _unpacked(process: int, message: np.ndarray) -> BaseException:
    text = bytes(message[1:]).rstrip(b"\0").decode(errors="ignore")
    if message[0] == INTERRUPTED:
        return KeyboardInterrupt()
    kind = ValueError if message[0] == WRONG else PeerFailed
    return kind(f"process {process} of {jax.process_count()}: {text}")
