"""What signals do while something is written, and while the processes of a run are joining."""

import os
import signal
import threading
import weakref
from pathlib import Path

import jax
import pytest

from research.parallel import processes
from research.parallel.errors import JoinInterrupted
from research.runner.signals import delayed, importing, terminable, uninterrupted

START_CHECKPOINT = Path(__file__).parent / "start_checkpoint.py"
WAIT_FOR_EVER = """
import threading
from research.runner import signals
signals.SECONDS_TO_END = 0.1
threading.Thread(target=threading.Event().wait).start()
print("written")
signals.end_process(1)
"""
STOP_AT_ONCE = """
import os, signal, time
from research.runner.signals import importing, terminable, uninterrupted
signal.signal(signal.SIGINT, signal.default_int_handler)
with uninterrupted():
    os.kill(os.getpid(), signal.SIGINT)
    print("still here", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _interruptible():
    """In the background of a shell SIGINT is ignored, also by child processes."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_being_written_is_completed_first(capsys, number):
    handler = signal.getsignal(number)
    done = []

    with pytest.raises(KeyboardInterrupt), uninterrupted():
        send(number)
        done.append("written")

    assert done == ["written"]
    line = "fathom: writing what was measured; interrupt once more to stop at once\n"
    assert capsys.readouterr().err == line
    assert signal.getsignal(number) == handler


def test_without_a_signal_nothing_is_said(capsys):
    with uninterrupted():
        pass
    assert capsys.readouterr().err == ""


def test_a_closed_terminal_ends_a_command_as_ctrl_c_does():
    with pytest.raises(KeyboardInterrupt), terminable():
        send(signal.SIGHUP)
    handler = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert handler is signal.SIG_IGN  # so that the signal of the shell does not end what is written


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_modules_are_imported_before_a_signal_has_an_effect(number):
    done = []

    with pytest.raises(KeyboardInterrupt), terminable(), importing():
        send(number)
        done.append("imported")

    assert done == ["imported"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_thread_is_started_before_a_signal_has_its_effect(number):
    done = []

    with pytest.raises(KeyboardInterrupt), terminable(), delayed():
        send(number)
        send(number)
        done.append("started")

    assert done == ["started"]


def test_a_signal_while_a_thread_starts_is_deferred_as_any_other():
    with pytest.raises(KeyboardInterrupt), terminable(), processes.defer_signals():
        with delayed():
            send()
        is_deferred = processes.is_interrupted()

    assert is_deferred


@pytest.mark.slow
def test_two_interrupts_while_the_thread_of_checkpoints_starts_end_the_process(workplace, process):
    network = ["model.depth=2", "model.width=8", "data=noise", "tracker=none"]
    settings = ["train.steps=100000", "checkpoint.every=1e-3"]

    ended = process(START_CHECKPOINT, "train", *network, *settings)
    _, err = ended.communicate(timeout=300)

    assert ended.returncode == 1
    assert err.splitlines()[-1] == "fathom: interrupted; what was measured is written"


def test_a_signal_where_python_drops_exceptions_is_not_lost():
    def _xla_gc_callback():
        send()

    with pytest.raises(KeyboardInterrupt), terminable():
        _xla_gc_callback()
        threading.Event().wait(60)


def test_a_signal_in_a_callback_of_a_weak_reference_is_not_lost(capsys):
    target = threading.Event()
    reference = weakref.ref(target, lambda _: send())

    with pytest.raises(KeyboardInterrupt), terminable():
        del target
        threading.Event().wait(60)

    assert reference() is None
    assert capsys.readouterr().err == ""


def test_after_an_interrupt_a_thread_that_never_ends_is_not_waited_for(process):
    ended = process("-c", WAIT_FOR_EVER)
    out, err = ended.communicate(timeout=60)
    assert (ended.returncode, out, err) == (1, "written\n", "")


def test_with_nohup_a_closed_terminal_does_not_matter():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with terminable():
        send(signal.SIGHUP)

    handler = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert handler is signal.SIG_IGN


def test_a_second_signal_ends_the_process_at_once(process):
    ended = process("-c", STOP_AT_ONCE)
    out, err = ended.communicate()
    assert ended.returncode == 1
    assert out == "still here\n"
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[1] == "fathom: stopped at once; the same command goes on from what is written"


def test_waiting_for_other_processes_can_be_interrupted(monkeypatch):
    never = threading.Event()
    interrupt = threading.Timer(0.05, send)

    def wait(*_, **__):
        interrupt.start()
        never.wait()

    monkeypatch.setattr(jax.distributed, "initialize", wait)

    with pytest.raises(JoinInterrupted, match="while waiting for the other processes"):
        processes.join_processes(coordinator="127.0.0.1:1", num_processes=2, process_id=0)

    never.set()


def test_processes_that_cannot_join_are_explained(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("deadline exceeded")

    monkeypatch.setattr(jax.distributed, "initialize", fail)

    with pytest.raises(ValueError, match="did not find each other .deadline exceeded."):
        processes.join_processes(coordinator="127.0.0.1:1", num_processes=2, process_id=0)
