"""The processes that train one run together (``mesh=distributed``).

All of them run the same program; only the primary one (index 0) writes records and prints. Every
process waits for the others in each all-reduce, so none may stop alone: ``run_on_all_processes``
lets all of them know when one has failed or was interrupted.
"""

import atexit
import contextlib
import dataclasses
import enum
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

from research.parallel.errors import JoinInterrupted, PeerFailed, ProcessLost

T = TypeVar("T")
MAX_MESSAGE_BYTES = 400
SECONDS_BETWEEN_SIGNAL_CHECKS = 0.1
SHUTDOWN_SECONDS = 20  # how long a process that exits waits for the others
DEFERRED_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Outcome(enum.IntEnum):
    """How a piece of work ended in one process."""

    SUCCEEDED = 0
    USER_ERROR = 1
    FAILED = 2
    INTERRUPTED = 3


@dataclasses.dataclass
class _SignalFlag:
    is_set: bool = False


# Module state, because a signal handler belongs to the whole process.
_signal_flag = _SignalFlag()


def join_processes(
    *,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> None:
    """Connects this process to the others that train the run, and waits for them.

    Where all arguments are None, JAX asks the cluster manager (Slurm, for instance). From here on
    SIGINT and SIGTERM are deferred, see ``is_interrupted``.

    Args:
        coordinator: ``host:port`` of the primary process.
        num_processes: the number of processes.
        process_id: the index of this process, from 0.

    Raises:
        ValueError: the processes are not configured, or one of them does not connect.
        JoinInterrupted: the user did not want to wait any longer.
    """
    if jax.distributed.is_initialized():
        return

    def initialize() -> None:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )

    try:
        _call_interruptibly(initialize)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"mesh=distributed: the processes did not find each other ({reason}): "
            "start the run with srun, or give each process mesh.coordinator=host:port, "
            "mesh.processes and mesh.process"
        ) from error
    for number in DEFERRED_SIGNALS:
        signal.signal(number, _set_signal_flag)


def _call_interruptibly(work: Callable[[], None]) -> None:
    """Calls ``work`` in a thread, because a signal cannot interrupt the main thread inside of JAX.

    Raises:
        JoinInterrupted: a signal came first; ``work`` goes on in its thread.
    """
    errors: list[Exception] = []

    def call() -> None:
        try:
            work()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(SECONDS_BETWEEN_SIGNAL_CHECKS)
    except KeyboardInterrupt:
        raise JoinInterrupted(" while waiting for the other processes of the run") from None
    if errors:
        raise errors[0]


def _set_signal_flag(*_: Any) -> None:
    _signal_flag.is_set = True


def is_primary() -> bool:
    """Whether this process is the one that writes records and prints."""
    return jax.process_index() == 0


def make_scratch_directory() -> str:
    """A temporary directory that is removed when this process exits."""
    directory = tempfile.mkdtemp(prefix="fathom-")
    atexit.register(functools.partial(shutil.rmtree, directory, ignore_errors=True))
    return directory


def run_on_all_processes(
    work: Callable[[], T], *, describe_error: Callable[[BaseException], str | None]
) -> T:
    """Calls ``work`` in every process and waits for all; if it fails in one, it fails in all.

    Args:
        work: what this process does.
        describe_error: one line for an error that the user can correct, None for a defect.

    Returns:
        What ``work`` returned in this process.

    Raises:
        ValueError: in the primary process, where an error that the user can correct stopped
            another process; the message names that process.
        KeyboardInterrupt: in the primary process, where another one was interrupted.
        PeerFailed: in the primary process, where another one has a defect; in every other process,
            whatever the reason.
        ProcessLost: a process is gone, for instance because the system killed it. Accelerators
            notice it after 100 s.
    """
    if jax.process_count() == 1:
        return work()
    error = None
    try:
        result = work()
    except (Exception, KeyboardInterrupt) as raised:
        error = raised
    messages = _call_collective(process_allgather, _pack_outcome(error, describe_error))
    outcomes = messages[:, 0]
    if np.all(outcomes == Outcome.SUCCEEDED):
        return result  # type: ignore[reportPossiblyUnbound]
    if is_primary():
        first_failed = int(np.flatnonzero(outcomes != Outcome.SUCCEEDED)[0])
        raise error or _unpack_error(first_failed, messages[first_failed])
    if error is not None and outcomes[jax.process_index()] == Outcome.FAILED:
        traceback.print_exception(error)  # the primary process does not have the traceback
    raise PeerFailed from error


def broadcast_scalar(value: float | None) -> float | None:
    """The value of the primary process, in float32, in all processes."""
    if jax.process_count() == 1:
        return value
    sent = np.float32(np.nan if value is None else value)
    received = float(_call_collective(broadcast_one_to_all, sent))
    return None if np.isnan(received) else received


def broadcast_arrays(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of the primary process, bit for bit, in all processes.

    The other processes pass arrays of the same names, shapes and dtypes.
    """
    if jax.process_count() == 1:
        return arrays
    sent = {}
    for name, array in arrays.items():
        sent[name] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    received = _call_collective(broadcast_one_to_all, sent)
    result = {}
    for name, array in arrays.items():
        values = np.array(received[name]).view(array.dtype)
        result[name] = values.reshape(array.shape)
    return result


def is_interrupted() -> bool:
    """Whether one of the processes has received a signal that ``defer_signals`` deferred."""
    if jax.process_count() == 1:
        return _signal_flag.is_set
    flags = _call_collective(process_allgather, np.array([_signal_flag.is_set]))
    return bool(np.any(flags))


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Defers the first SIGINT or SIGTERM: the body asks ``is_interrupted`` and ends by itself.

    A second signal ends the body at once. With several processes, ``join_processes`` has deferred
    the signals already.

    Raises:
        KeyboardInterrupt: after the body, where a signal was received.
        PeerFailed: in that case, in all processes but the primary one.
    """
    handlers: dict[int, Any] = {}
    is_main_thread = threading.current_thread() is threading.main_thread()
    if jax.process_count() == 1 and is_main_thread:
        handlers = _replaceable_handlers()
        _signal_flag.is_set = False

    def restore_handlers() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def defer(*_: Any) -> None:
        _set_signal_flag()
        restore_handlers()

    for number in handlers:
        signal.signal(number, defer)
    try:
        yield
    finally:
        restore_handlers()
    if is_interrupted():
        _signal_flag.is_set = False
        raise KeyboardInterrupt if is_primary() else PeerFailed


def _replaceable_handlers() -> dict[int, Any]:
    """The present handlers of the signals that are not ignored."""
    handlers = {}
    for number in DEFERRED_SIGNALS:
        handler = signal.getsignal(number)
        if handler not in (None, signal.SIG_IGN):
            handlers[number] = handler
    return handlers


def broadcast_finished_runs(
    infos: Sequence[dict[str, Any] | None],
) -> list[dict[str, Any] | None]:
    """Tells all processes which runs have finished, as only the primary one sees the records.

    Args:
        infos: ``run.json`` of each finished run, None for the others. Those of the primary process
            count.

    Returns:
        In the primary process, ``infos``; elsewhere an entry that says ``done`` for each finished
        run.

    Raises:
        ValueError: this process has not joined the others.
    """
    if not jax.distributed.is_initialized():
        raise ValueError(
            "mesh=distributed in a sweep needs jobs of several processes: "
            "hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node=N"
        )
    result = []
    for info in infos:
        is_finished = broadcast_scalar(float(bool(info)))
        result.append((info or {"status": "done"}) if is_finished else None)
    return result


def report_peer_failure(error: PeerFailed) -> int:
    """Prints why the run ended, in the primary process, and returns the exit code.

    Does not return where a process is lost: an orderly exit would wait for it.
    """
    if is_primary():
        print(f"fathom: {error}; what was measured is written", file=sys.stderr, flush=True)
    if isinstance(error, ProcessLost):
        os._exit(1)
    return 1


def _call_collective(collective: Callable, value: Any) -> Any:
    """Calls ``collective(value)``, which all processes must call, and returns its result.

    Raises:
        ProcessLost: JAX reports an error; the cause is almost always that another process has
            ended.
    """
    try:
        return collective(value)
    except jax.errors.JaxRuntimeError as error:
        raise ProcessLost(
            f"another of the {jax.process_count()} processes of the run is gone"
        ) from error


def _pack_outcome(
    error: BaseException | None, describe_error: Callable[[BaseException], str | None]
) -> np.ndarray:
    """The outcome in one byte, then the line that describes the error in UTF-8."""
    message = np.zeros(1 + MAX_MESSAGE_BYTES, np.uint8)
    if error is None:
        return message
    line = describe_error(error)
    if isinstance(error, KeyboardInterrupt):
        message[0] = Outcome.INTERRUPTED
    elif line is None:
        message[0] = Outcome.FAILED
    else:
        message[0] = Outcome.USER_ERROR
    text = line or f"{type(error).__name__}: {error}"
    encoded = text.encode()[:MAX_MESSAGE_BYTES]
    message[1 : 1 + len(encoded)] = np.frombuffer(encoded, np.uint8)
    return message


def _unpack_error(process: int, message: np.ndarray) -> BaseException:
    """The error to raise in the primary process for a message of another one."""
    outcome = message[0]
    if outcome == Outcome.INTERRUPTED:
        return KeyboardInterrupt()
    text = bytes(message[1:]).rstrip(b"\0").decode(errors="ignore")
    line = f"process {process} of {jax.process_count()}: {text}"
    if outcome == Outcome.USER_ERROR:
        return ValueError(line)
    return PeerFailed(line)
