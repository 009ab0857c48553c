"""A loop in several processes is recorded by the first of them."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest

from research.records.runs import Run

ROOT = Path(__file__).parents[2]
PROGRAM = "tests.watching.train_process"


@pytest.fixture
def train(process, tmp_path, monkeypatch):
    """Trains in some processes, each in a folder of its own; returns the folders."""

    def run(num_processes):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        folders = []
        started = []
        for number in range(num_processes):
            folder = tmp_path / f"{num_processes} processes, {number}"
            folder.mkdir()
            monkeypatch.chdir(folder)
            words = ["-m", PROGRAM, port, num_processes, number]
            started.append(process(*words, PYTHONPATH=os.fspath(ROOT)))
            folders.append(folder)
        for each in started:
            out, err = each.communicate()
            assert each.returncode == 0, err
            assert "healthy" in out.lower(), out
        return folders

    return run


@pytest.mark.slow
def test_two_processes_agree_with_one_and_the_first_alone_writes(train):
    (alone,) = train(1)
    primary, secondary = train(2)

    assert not list(secondary.iterdir())
    expected = Run(alone / "outputs" / "mine" / "run")
    shared = Run(primary / "outputs" / "mine" / "run")
    assert shared.status == "done"
    assert shared.info["device"]["count"] == 2
    assert shared.info["layer_names"] == expected.info["layer_names"]
    for name, values in expected.profiles.items():
        np.testing.assert_allclose(shared.profiles[name], values, rtol=1e-5, err_msg=name)
    for name, values in expected.metrics.items():
        np.testing.assert_allclose(shared.metrics[name], values, rtol=1e-5, err_msg=name)
