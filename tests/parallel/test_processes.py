"""One run on several devices or in several processes is the run on one device."""

import os
import signal
import socket
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from research.records.runs import Run

FATHOM = ["-c", "from research.cli.main import main; main()"]
TRAIN_UNTIL = Path(__file__).parent.parent / "runner" / "train_until.py"
SHORT = [
    "model.depth=2",
    "model.width=8",
    "train.batch_size=64",
    "train.steps=4",
    "train.eval_every=2",
    "tracker=none",
]
LONG = ["train.steps=1000000", "train.eval_every=10", "name=long"]
FULL = ["measure=full", "measure.every=2"]
BATCH_NORM = ["norm=batch"]
SLOW_RUNS = [
    ["norm=layer", "skip=identity", "model.dropout=0.2", "train.input_noise=0.1"],
    # Without biases: those before batch norm have gradients of nothing but rounding errors, whose
    # exponents can be any.
    ["model=cnn", "norm=batch", "model.bias=false", "optimizer.clip=global_norm", *FULL],
    ["model=resnet_cifar", "model.depth=8", "norm=group", *FULL],
    ["optimizer=gd", "data.limit=128", "precision=float64"],
]
RUNS = [BATCH_NORM, *(pytest.param(words, marks=pytest.mark.slow) for words in SLOW_RUNS)]


@pytest.fixture
def train_alone(fathom, workplace):
    """Trains on one device."""

    def train(words):
        assert fathom("train", *SHORT, *words, "name=alone").code == 0
        return read_run(workplace, "alone")

    return train


@pytest.fixture
def start_two(process):
    """Starts the two processes of one run; ``ends`` has each of them end early, or not."""
    started = []

    def start(*words, ends=([], [])):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mesh = ["mesh=distributed", f"mesh.coordinator=127.0.0.1:{port}", "mesh.processes=2"]
        processes = []
        for number, end in enumerate(ends):
            program = [TRAIN_UNTIL, *end] if end else FATHOM
            command = ["train", *SHORT, *words, *mesh, f"mesh.process={number}"]
            processes.append(process(*program, *command))
        started.extend(processes)
        return processes

    yield start
    for each in started:
        each.kill()


def end_one(victim, event):
    """The argument ``ends`` that ends one process at step 30."""
    ends = [[], []]
    ends[victim] = [event, 30]
    return ends


def read_run(workplace, name):
    (file,) = workplace.glob(f"outputs/{name}/*/run.json")
    return Run(file.parent)


class Output(NamedTuple):
    """What a process wrote, but for the lines of the collectives' library."""

    out: str
    err: str


def finish(processes):
    """Waits for processes to end; returns the output of each."""
    outputs = []
    for each in processes:
        out, err = each.communicate()
        outputs.append(Output(without_gloo(out), without_gloo(err)))
    return outputs


def without_gloo(text):
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("[Gloo]"))


def assert_same(run, other):
    """Two runs of different folders agree to 1e-6, means relative to the signal's size.

    Means cancel. Of a histogram of exponents one element in 10⁴ may lie in another bin, because
    rounding moves numbers close to a power of two.
    """
    assert run.info["id"] != other.info["id"]
    assert run.directory.name == other.directory.name
    assert run.info["steps"] == other.info["steps"] == 4
    assert_close(run.metrics, other.metrics)
    assert_close(run.profiles, other.profiles)


def assert_close(columns, expected):
    assert set(columns) == set(expected)
    for name, values in columns.items():
        difference = np.abs(values - expected[name])
        if name.endswith("_exponent"):
            moved = difference.sum(axis=-1, keepdims=True) / 2
            is_close = moved <= 1e-4
        else:
            scale = np.abs(expected[name])
            if name == "activation_mean":
                scale = expected["activation_rms"]
            is_close = difference <= 1e-6 * scale
        are_missing = np.isnan(values) & np.isnan(expected[name])
        assert np.all(is_close | are_missing), name


@pytest.mark.slow
@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_four_devices_share_the_work_and_agree_with_one(train_alone, workplace, process, words):
    dump = f"--xla_dump_to={workplace}/hlo --xla_dump_hlo_as_text"
    command = ["train", *SHORT, *words, "name=shared", "mesh=data_parallel"]

    ended = process(*FATHOM, *command, JAX_NUM_CPU_DEVICES="4", XLA_FLAGS=dump)

    _, err = ended.communicate()
    assert ended.returncode == 0, err
    shared = read_run(workplace, "shared")
    assert shared.info["device"]["count"] == 4
    assert_same(shared, train_alone(words))
    programs = list(workplace.glob("hlo/*after_optimizations.txt"))
    assert any("all-reduce" in program.read_text() for program in programs)


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "num_devices"), [(64, 2), (65, 1)])
def test_the_cores_of_a_cpu_share_a_batch(workplace, process, batch_size, num_devices):
    if len(os.sched_getaffinity(0)) != 2:
        pytest.skip("the expected numbers are those of two cores")
    command = ["train", *SHORT, f"train.batch_size={batch_size}", "name=shared"]

    ended = process(*FATHOM, *command, "mesh=data_parallel")

    _, err = ended.communicate()
    assert ended.returncode == 0, err
    assert read_run(workplace, "shared").info["device"]["count"] == num_devices


def test_a_batch_that_cannot_be_split_is_refused(workplace, process):
    command = ["train", *SHORT, "train.batch_size=66", "mesh=data_parallel"]

    ended = process(*FATHOM, *command, JAX_NUM_CPU_DEVICES="4")

    _, err = ended.communicate()
    assert ended.returncode == 2
    *_, last_line = err.splitlines()
    assert last_line == (
        "fathom: train.batch_size must be a multiple of 4, "
        "the number of devices that share a batch, got 66"
    )
    assert not list(workplace.rglob("*.json"))
    assert not list(workplace.glob("outputs/*"))


def test_processes_that_are_not_configured_are_refused(workplace, process):
    ended = process(*FATHOM, "train", "mesh=distributed")

    _, err = ended.communicate()
    assert ended.returncode == 2
    assert err.count("\n") == 1
    assert "did not find each other" in err
    assert "mesh.coordinator" in err
    assert not list(workplace.iterdir())


@pytest.mark.slow
def test_two_processes_agree_with_one_and_the_primary_alone_writes(
    train_alone, start_two, workplace
):
    primary, secondary = finish(start_two(*BATCH_NORM, "name=shared"))
    assert "record: " in primary.out
    assert "step 4/4" in primary.err
    assert secondary == Output("", "")
    shared = read_run(workplace, "shared")
    assert shared.info["device"]["count"] == 2

    primary, secondary = finish(start_two(*BATCH_NORM, "name=shared"))
    assert "nothing was trained" in primary.out
    assert secondary == Output("", "")
    assert_same(shared, train_alone(BATCH_NORM))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    ("event", "line", "status"),
    [
        ("SIGTERM", "interrupted; what was measured is written", "interrupted"),
        ("error", "no room", "failed"),
    ],
)
def test_what_ends_one_process_ends_both_with_one_line(
    start_two, workplace, victim, event, line, status
):
    processes = start_two(*LONG, ends=end_one(victim, event))

    primary, secondary = finish(processes)
    lines = [text for text in primary.err.splitlines() if text.startswith("fathom: ")]
    assert len(lines) == 1, primary.err
    assert lines[0].endswith(line)
    assert secondary.err == ""
    for each in processes:
        assert each.returncode in (1, 2)
    run = read_run(workplace, "long")
    assert run.info["status"] == status
    assert run.info["steps"] >= 30


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_other(start_two, workplace):
    processes = start_two(*LONG, ends=end_one(1, "SIGKILL"))

    primary, _ = finish(processes)
    assert [each.returncode for each in processes] == [1, -signal.SIGKILL]
    assert primary.err.endswith(
        "fathom: another of the 2 processes of the run is gone; what was measured is written\n"
    )
    run = read_run(workplace, "long")
    assert run.info["status"] == "failed"
    assert run.metrics["step"].tolist() == list(range(run.info["steps"]))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_processes_that_were_interrupted_resume(start_two, workplace, victim):
    """Only the primary process has the checkpoint; the others receive it bit for bit."""
    words = ["norm=batch", "optimizer=adam", "train.steps=60", "train.eval_every=10"]
    outputs = finish(start_two(*words, "name=cut", ends=end_one(victim, "SIGTERM")))
    run = read_run(workplace, "cut")
    steps = run.info["steps"]
    assert run.info["status"] == "interrupted", outputs
    assert 30 < steps < 60
    (checkpoint,) = (run.directory / "checkpoints").iterdir()
    assert checkpoint.name == str(steps)

    primary, secondary = finish(start_two(*words, "name=cut"))

    assert f"resumes at step {steps}/60" in primary.err
    assert secondary == Output("", "")
    finish(start_two(*words, "name=whole"))
    resumed = read_run(workplace, "cut")
    whole = read_run(workplace, "whole")
    assert resumed.info["resumed"] == [steps]
    assert resumed.info["verdict"] == whole.info["verdict"]
    for name in ("metrics.parquet", "profiles.parquet"):
        table = pq.read_table(resumed.directory / name)
        assert table.equals(pq.read_table(whole.directory / name))
