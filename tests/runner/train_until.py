"""Runs ``fathom`` and ends it in the middle of training.

usage: train_until.py [--run NAME] [--after-checkpoint] EVENT STEP WORD...

As soon as the rows from step STEP on are written, the process sends itself the signal EVENT, or it
raises a ValueError, if EVENT is ``error``.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from research.cli.main import main
from research.runner.run_writer import RunWriter
from research.training.checkpoint import Checkpoints


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("event")
    parser.add_argument("step", type=int)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    parser.add_argument("--run", default="", help="only in runs whose name contains this")
    parser.add_argument(
        "--after-checkpoint", action="store_true", help="wait until that run has a checkpoint"
    )
    return parser.parse_args()


def end_process(event: str) -> None:
    if event == "error":
        raise ValueError("no room")
    os.kill(os.getpid(), signal.Signals[event])


@contextlib.contextmanager
def ending_while_writing(arguments: argparse.Namespace) -> Iterator[None]:
    """Has ``RunWriter.write_rows`` end the process, once."""
    has_checkpoint = threading.Event()
    has_ended = threading.Event()
    write_checkpoint = Checkpoints.write
    write_rows = RunWriter.write_rows

    def write_checkpoint_and_notify(checkpoints, checkpoint):
        write_checkpoint(checkpoints, checkpoint)
        if arguments.run in checkpoints.run:
            has_checkpoint.set()

    def write_rows_and_end(writer, start, *rest):
        write_rows(writer, start, *rest)
        is_due = start >= arguments.step and arguments.run in writer.checkpoints.run
        if is_due and not has_ended.is_set():
            if arguments.after_checkpoint:
                has_checkpoint.wait()
            has_ended.set()
            end_process(arguments.event)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "write", write_checkpoint_and_notify)
        patch.setattr(RunWriter, "write_rows", write_rows_and_end)
        yield


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.argv = ["fathom", *arguments.words]
    with ending_while_writing(arguments):
        main()
