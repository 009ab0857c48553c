"""One run on several devices and in several processes is the run on one."""

import signal
import socket

import numpy as np
import pyarrow.parquet as pq
import pytest

from research.records.runs import Run

SHORT = [
    "model.depth=2",
    "model.width=8",
    "train.batch_size=64",
    "train.steps=4",
    "train.eval_every=2",
    "tracker=none",
]
FULL = ["measure=full", "measure.every=2"]
RUNS = [
    ["norm=batch"],
    pytest.param(
        ["norm=layer", "skip=identity", "model.dropout=0.2", "train.input_noise=0.1"],
        marks=pytest.mark.slow,
    ),
    # without biases: in front of batch norm their gradients are 0, and what rounding leaves of it has any exponent
    pytest.param(
        ["model=cnn", "norm=batch", "model.bias=false", "optimizer.clip=global_norm", *FULL],
        marks=pytest.mark.slow,
    ),
    pytest.param(
        ["model=resnet_cifar", "model.depth=8", "norm=group", *FULL], marks=pytest.mark.slow
    ),
    pytest.param(["optimizer=gd", "data.limit=128", "precision=float64"], marks=pytest.mark.slow),
]
IN_PIECES = [
    "-c",
    "import sys; from research.cli.main import main; sys.argv[0] = 'fathom'; main()",
    "train",
]


@pytest.fixture
def alone(fathom, workplace):
    """Trains on one device."""

    def train(words):
        assert fathom("train", *SHORT, *words, "name=alone").code == 0
        return read(workplace, "alone")

    return train


def read(workplace, name):
    (file,) = workplace.glob(f"outputs/{name}/*/run.json")
    return Run(file.parent)


def assert_same(run, other):
    """To 1e-6; means, which cancel, relative to the signal they are means of.

    Of histograms of exponents one element in 10⁴ may lie elsewhere: rounding moves what is close to a power of two.
    """
    assert run.info["id"] != other.info["id"]  # of another folder
    assert (
        run.directory.name == other.directory.name and run.info["steps"] == other.info["steps"] == 4
    )
    tables = [(run.metrics, other.metrics), (run.profiles, other.profiles)]
    for mine, its in tables:
        assert set(mine) == set(its)
        for name in mine:
            scale = its["activation_rms"] if name == "activation_mean" else np.abs(its[name])
            apart = np.abs(mine[name] - its[name])
            moved = apart.sum(axis=-1, keepdims=True) / 2
            near = moved <= 1e-4 if name.endswith("_exponent") else apart <= 1e-6 * scale
            assert np.all(near | np.isnan(mine[name]) & np.isnan(its[name])), name


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_four_devices_share_the_work_and_agree_with_one(alone, workplace, process, words):
    dump = {"XLA_FLAGS": f"--xla_dump_to={workplace}/hlo --xla_dump_hlo_as_text"}
    command = [*IN_PIECES, *SHORT, *words, "name=shared", "mesh=data_parallel"]
    ended = process(*command, JAX_NUM_CPU_DEVICES="4", **dump)
    _, err = ended.communicate()
    assert ended.returncode == 0, err
    shared = read(workplace, "shared")
    assert shared.info["device"]["count"] == 4
    assert_same(shared, alone(words))
    programs = [file.read_text() for file in workplace.glob("hlo/*after_optimizations.txt")]
    assert [program for program in programs if "all-reduce" in program]


def test_a_batch_that_cannot_be_split_is_refused(workplace, process):
    command = [*IN_PIECES, *SHORT, "train.batch_size=66", "mesh=data_parallel"]
    ended = process(*command, JAX_NUM_CPU_DEVICES="4")
    _, err = ended.communicate()
    assert ended.returncode == 2
    assert (
        err == "fathom: train.batch_size must be a multiple of 4, "
        "the number of devices that share a batch, got 66\n"
    )
    assert not list(workplace.rglob("*.json")) and not list(workplace.glob("outputs/*"))


def test_processes_that_nothing_tells_of_each_other_are_refused(workplace, process):
    ended = process(*IN_PIECES, "mesh=distributed")
    _, err = ended.communicate()
    assert ended.returncode == 2 and err.count("\n") == 1
    assert (
        "did not find each other" in err
        and "mesh.coordinator" in err
        and not list(workplace.iterdir())
    )


@pytest.fixture
def two(process):
    """Starts the two processes of one run; ``code`` is what each of them does."""
    started = []

    def start(*words, code=(IN_PIECES[1],) * 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mesh = ["mesh=distributed", f"mesh.coordinator=127.0.0.1:{port}", "mesh.processes=2"]
        for n in (0, 1):
            started.append(
                process("-c", code[n], "train", *SHORT, *words, *mesh, f"mesh.process={n}")
            )
        return started

    yield start
    for each in started:
        each.kill()


def said(text):
    """Without what the collectives' library says of itself."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("[Gloo]"))


@pytest.mark.slow
def test_two_processes_agree_with_one_and_the_first_alone_writes(alone, two, workplace):
    words = RUNS[0]
    ends = [each.communicate() for each in two(*words, "name=shared")]
    shared = read(workplace, "shared")
    assert shared.info["device"]["count"] == 2
    assert "record: " in ends[0][0] and "step 4/4" in ends[0][1]
    assert said("".join(ends[1])) == ""
    again = [each.communicate() for each in two(*words, "name=shared")[2:]]
    assert "nothing was trained" in again[0][0] and said("".join(again[1])) == ""
    assert_same(shared, alone(words))


LONG = ["train.steps=1000000", "train.eval_every=10", "name=long"]
AT_30 = """
import os, signal, sys
from research.cli import main as cli
from research.runner.run_writer import RunWriter

take = RunWriter.take

def taken(self, start, steps, *rest):
    take(self, start, steps, *rest)
    if start >= 30:
        {what}

RunWriter.take = taken
sys.argv[0] = "fathom"
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    ("what", "line", "status"),
    [
        (
            "os.kill(os.getpid(), signal.SIGTERM)",
            "interrupted; what was measured is written",
            "interrupted",
        ),
        ("raise ValueError('no room')", "no room", "failed"),
    ],
)
def test_what_ends_one_process_ends_both_with_one_line(two, workplace, victim, what, line, status):
    code = [IN_PIECES[1]] * 2
    code[victim] = AT_30.format(what=what)
    processes = two(*LONG, code=code)
    ends = [said(each.communicate()[1]) for each in processes]
    lines = [text for text in ends[0].splitlines() if text.startswith("fathom: ")]
    assert len(lines) == 1 and lines[0].endswith(line) and ends[1] == "", ends
    assert all(each.returncode in (1, 2) for each in processes)
    run = read(workplace, "long")
    assert run.info["status"] == status and run.info["steps"] >= 30


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_other(two, workplace):
    processes = two(
        *LONG, code=[IN_PIECES[1], AT_30.format(what="os.kill(os.getpid(), signal.SIGKILL)")]
    )
    err = said(processes[0].communicate()[1])
    assert [each.wait() for each in processes] == [1, -signal.SIGKILL]
    assert err.endswith(
        "fathom: another of the 2 processes of the run is gone; what was measured is written\n"
    )
    run = read(workplace, "long")
    assert run.info["status"] == "failed" and run.metrics["step"].tolist() == list(
        range(run.info["steps"])
    )


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_processes_that_are_told_to_end_go_on_from_there(two, workplace, victim):
    """The first one alone has the checkpoint; the others hear of it bit for bit."""
    words = ["norm=batch", "optimizer=adam", "train.steps=60", "train.eval_every=10"]
    code = [IN_PIECES[1]] * 2
    code[victim] = AT_30.format(what="os.kill(os.getpid(), signal.SIGTERM)")
    cut = [each.communicate() for each in two(*words, "name=cut", code=code)]
    run = read(workplace, "cut")
    steps = run.info["steps"]
    assert run.info["status"] == "interrupted" and 30 < steps < 60, cut
    assert [place.name for place in (run.directory / "checkpoints").iterdir()] == [str(steps)]
    again = [each.communicate() for each in two(*words, "name=cut")[2:]]
    whole = [each.communicate() for each in two(*words, "name=whole")[4:]]
    runs = read(workplace, "cut"), read(workplace, "whole")
    assert f"goes on from step {steps}/60" in again[0][1] and said("".join(again[1])) == "", (
        again,
        whole,
    )
    assert runs[0].info["resumed"] == [steps] and runs[0].info["verdict"] == runs[1].info["verdict"]
    for table in ("metrics", "profiles"):
        mine, its = (pq.read_table(each.directory / f"{table}.parquet") for each in runs)
        assert mine.equals(its)
