"""The rows about whole commands, in small; and the PyTorch loop does the work of our command."""

import importlib.util

import numpy as np
import pytest

from research.benchmark.commands import (
    MAIN_JOB,
    MAIN_JOB_PAIRS,
    LoopCommand,
    MainJob,
    compare_main_job,
    compare_short_runs,
    reproduction,
    time_fathom,
)
from research.benchmark.loop_settings import LoopRun, read_runs, write_runs
from research.benchmark.rows import ROWS
from research.config.options import Level
from research.gauges.table import GAUGES

DEEPEST = 64
TOLERANCE = 1e-4
# The biases are not zero, so that the test notices one that is missing in a copy or in a norm.
WEIGHTS = ("init=gaussian", "init.sigma_w=1.4", "init.sigma_b=0.3")


def make_run(**settings):
    defaults = {
        "activation": "relu",
        "skip": "none",
        "depth": 4,
        "width": 16,
        "seed": 0,
        "steps": 12,
        "batch_size": 128,
        "learning_rate": 0.03,
        "momentum": 0.9,
    }
    return LoopRun(**{**defaults, **settings})


SMALL_JOB = MainJob(
    words=(
        "train",
        "-m",
        f"experiment={MAIN_JOB}",
        "hydra/launcher=grouped",
        "train.steps=12",
        "activation=relu",
        "model.width=16",
        "model.depth=4",
        "skip=none",
        "seed=0",
    ),
    loop_runs=(make_run(),),
)


@pytest.fixture
def one_thread():
    """Keeps PyTorch to one thread, which is fast for small networks on a busy machine."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ignore_progress(done, total):
    pass


def test_the_main_job_has_the_runs_of_the_experiment():
    job = reproduction(MAIN_JOB)
    assert job.words == ("reproduce", MAIN_JOB)
    names = {run.name for run in job.loop_runs}
    assert len(names) == 54
    assert "sigmoid-none-depth64-seed2" in names
    assert {run.activation for run in job.loop_runs} == {"sigmoid", "tanh", "relu"}
    assert {run.skip for run in job.loop_runs} == {"none", "inv_sqrt_depth"}
    assert {run.steps for run in job.loop_runs} == {300}
    assert {run.learning_rate for run in job.loop_runs} == {0.03}


def test_settings_of_the_loop_are_read_as_they_were_written(tmp_path):
    runs = [make_run(), make_run(activation="tanh", seed=3)]
    write_runs(runs, tmp_path / "runs.json")
    assert read_runs(tmp_path / "runs.json") == runs


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("skip", ["none", "inv_sqrt_depth"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_the_loop_measures_our_numbers_from_the_same_weights(activation, skip):
    from research.benchmark.torch_steps import loop_disagreement

    run = make_run(activation=activation, skip=skip)
    assert loop_disagreement(run, *WEIGHTS) < TOLERANCE


@pytest.mark.usefixtures("one_thread")
def test_the_loop_measures_gradients_whose_squares_vanish_in_float32():
    from research.benchmark.torch_steps import loop_disagreement

    run = make_run(activation="sigmoid", depth=DEEPEST, width=64)
    assert loop_disagreement(run) < 1e-3  # 64 layers forward and backward


@pytest.mark.usefixtures("one_thread")
def test_the_loop_keeps_every_default_gauge_of_every_step_and_every_evaluation():
    from research.benchmark.torch_loop import load_data, train

    run = make_run(steps=12)
    history = train(run, load_data())
    for gauge in GAUGES:
        if not gauge.is_measured(Level.norms):
            continue
        name = "layer_grad_norm" if gauge.name == "grad_norm" else gauge.name
        assert history[name].shape == (12, gauge.length(run.depth))
        assert np.all(np.isfinite(history[name]))
    assert history["grad_norm"].shape == (12,)
    assert history["train_loss"].shape == (12,)
    assert history["eval_loss"].shape == (2,)  # after the epoch of ten steps, and at the end


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("skip", ["none", "inv_sqrt_depth"])
def test_the_loop_learns_the_digits(skip):
    from research.benchmark.torch_loop import load_data, train

    history = train(make_run(skip=skip, steps=100, width=64), load_data())
    assert history["eval_accuracy"][-1] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("warm", [False, True])
def test_the_main_job_is_timed_in_small(warm):
    pytest.importorskip("torch")
    reported = []

    def note_progress(done, total):
        reported.append((done, total))

    measurement = compare_main_job(
        note_progress,
        warm=warm,
        job=SMALL_JOB,
        pairs=1,
        num_threads=1,
    )
    assert measurement.value is not None
    assert measurement.value > 0
    assert ", 1 pairs, PyTorch threads: 1" in measurement.note
    assert reported == [(0, 1), (1, 1)]


def test_the_main_job_says_at_its_start_how_many_pairs_it_times(monkeypatch):
    class Started(Exception):
        pass

    def note_progress(done, total):
        assert (done, total) == (0, MAIN_JOB_PAIRS)
        raise Started

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(Started):
        ROWS["main_job"].measure(note_progress)


def test_a_command_that_fails_is_an_error_with_its_message(tmp_path):
    with pytest.raises(RuntimeError, match="ended with code 2: .*did you mean"):
        time_fathom(("reproduce", "vanishing_gradient"), str(tmp_path))


def test_a_loop_that_fails_is_an_error():
    pytest.importorskip("torch")
    loop = LoopCommand([make_run(activation="gelu")])
    with pytest.raises(RuntimeError, match="KeyError: 'gelu'"):
        loop.time()


@pytest.mark.slow
def test_short_runs_are_timed_in_small():
    measurement = compare_short_runs(ignore_progress, runs=2, steps=2, pairs=1)
    assert measurement.value is not None
    assert measurement.value > 0
