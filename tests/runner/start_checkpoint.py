"""Runs ``fathom``; as soon as the thread that writes checkpoints starts, SIGINT is sent twice.

usage: start_checkpoint.py WORD...
"""

import gc
import os
import signal
import sys
import threading

import pytest

from research.cli.main import main
from research.runner import signals

start = threading.Thread.start


def start_and_interrupt(thread):
    start(thread)
    if thread.name.startswith("checkpoint"):
        gc.disable()  # a collection would end the thread by chance
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[0] = "fathom"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_and_interrupt)
        patch.setattr(signals, "SECONDS_TO_END", 1e6)
        patch.setattr(signals, "COMPILE_THREAD", "none")  # such a thread would end the process
        main()
