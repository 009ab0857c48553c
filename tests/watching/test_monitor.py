"""``research.Monitor`` records a loop as Fathom records its own runs."""

import errno
import json
import os
import shutil
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

import research
from research.records.runs import Run
from research.watching import monitor

from . import networks

PARAMS = networks.make_params()
BATCH = networks.make_batch()
WATCH = research.watch()


@jax.jit
def step(params, scale):
    def loss(params):
        return networks.scanned_loss(params, BATCH) * scale

    value, grads, gauges = WATCH.value_and_grad(loss)(params)
    return jax.tree.map(lambda leaf, grad: leaf - 0.1 * grad, params, grads), value, gauges


def train(monitor, steps, scale=1.0, start=0):
    params = PARAMS
    for number in range(start, steps):
        params, loss, gauges = step(params, jnp.float32(scale))
        monitor.log(number, gauges if monitor.due(number) else None, loss=loss, lr=0.1)


@pytest.fixture
def directory(workplace):
    return workplace / "outputs" / "mine" / "first"


def test_a_loop_leaves_the_record_of_a_run(directory, fathom):
    settings = {"model": {"depth": 4}, "optimizer": "sgd", "seed": 3}

    with research.Monitor(directory, WATCH, every=2, settings=settings) as monitor:
        train(monitor, 5)
        verdict = monitor.verdict()
        assert verdict is not None
        assert verdict.kind == "healthy"

    run = Run(directory)
    assert run.status == "done"
    assert run["model.depth"] == 4
    assert run.info["layer_names"] == [f"layers[{n}]" for n in range(4)]
    assert run.info["steps"] == 5
    np.testing.assert_array_equal(run.metrics["step"], range(5))
    np.testing.assert_array_equal(run.profiles["step"], [0, 2, 4])
    assert run.profiles["signal_grad"].shape == (3, 5)
    assert np.isfinite(run.metrics["grad_norm"]).tolist() == [True, False, True, False, True]
    assert run.info["final"]["train_loss"] == pytest.approx(run.metrics["train_loss"][-1])
    shown = fathom("show", "first")
    assert shown.code == 0, shown.err
    assert "the squared gradient of layers[" in shown.out
    assert "optimizer=sgd" in shown.out
    listed = fathom("runs", "verdict=healthy", "seed=3")
    assert listed.code == 0, listed.err
    assert "healthy" in listed.out


def test_a_spike_of_the_loss_is_a_warning(directory):
    with research.Monitor(directory, WATCH, every=50) as monitor:
        params = PARAMS
        for number in range(60):
            _, loss, gauges = step(params, jnp.float32(100.0 if number == 40 else 1.0))
            monitor.log(number, gauges if monitor.due(number) else None, loss=loss)

    verdict = Run(directory).info["verdict"]
    assert verdict["kind"] == "healthy"
    assert [finding["kind"] for finding in verdict["findings"]] == ["spike"]
    assert "Loss spike: at step 40" in verdict["sentence"]


def test_an_existing_run_is_kept_unless_it_is_resumed(directory):
    with research.Monitor(directory, WATCH) as monitor:
        train(monitor, 5)
    number = Run(directory).info["id"]

    with pytest.raises(ValueError, match="already holds a run"):
        research.Monitor(directory, WATCH)
    with research.Monitor(directory, WATCH, resume=True) as monitor:
        train(monitor, 6, start=3)

    run = Run(directory)
    assert run.info["id"] == number
    assert run.info["resumed"] == [3]
    np.testing.assert_array_equal(run.metrics["step"], range(6))
    np.testing.assert_array_equal(run.profiles["step"], range(6))


def test_tags_are_recorded_and_runs_are_found_by_them(directory, fathom):
    with research.Monitor(directory, tags=["night", "2"]) as monitor:
        monitor.log(0, loss=2.3)
    with research.Monitor(directory.parent / "second", tags=["day"]) as monitor:
        monitor.log(0, loss=2.3)

    assert Run(directory).info["tags"] == ["night", "2"]
    found = fathom("runs", "tags=night")
    assert found.code == 0, found.err
    assert "first" in found.out
    assert "second" not in found.out
    assert "night" in fathom("show", "first").out


@pytest.mark.parametrize(("given", "kept"), [({}, ["night"]), ({"tags": ["day"]}, ["day"])])
def test_a_resumed_loop_keeps_its_tags_unless_it_is_given_others(directory, given, kept):
    with research.Monitor(directory, tags=["night"]) as monitor:
        monitor.log(0, loss=2.3)

    with research.Monitor(directory, resume=True, **given) as monitor:
        monitor.log(1, loss=2.2)

    run = Run(directory)
    assert run.info["tags"] == kept
    assert run["tags"] == kept
    assert run["watch.tags"] == kept


@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_that_another_monitor_writes_is_refused(directory, resume):
    with research.Monitor(directory, WATCH) as monitor:
        monitor.log(0, loss=2.3)
        with pytest.raises(ValueError, match="is being written by another Monitor") as raised:
            research.Monitor(directory, WATCH, resume=resume)
        monitor.log(1, loss=2.2)
    assert "resume" not in str(raised.value)
    assert "name=" not in str(raised.value)
    assert Run(directory).metrics["step"].tolist() == [0, 1]


def test_rows_without_a_run_json_are_replaced_with_a_line(directory, capsys):
    with research.Monitor(directory, tracker=None) as monitor:
        monitor.log(0, loss=2.3)
    (directory / "run.json").unlink()
    assert capsys.readouterr().err == ""
    with research.Monitor(directory, tracker=None) as monitor:
        monitor.log(0, loss=2.3)
    assert "replaces them, because its run.json is missing" in capsys.readouterr().err


def test_a_loop_that_failed_before_its_first_step_does_not_block_the_next(directory):
    monitor = research.Monitor(directory, WATCH, settings={"try": 1})
    monitor.close(RuntimeError("no data"))
    assert Run(directory).status == "failed"

    with research.Monitor(directory, WATCH, settings={"try": 2}) as monitor:
        monitor.log(0, loss=2.3)

    run = Run(directory)
    assert run.status == "done"
    assert run["try"] == 2
    np.testing.assert_array_equal(run.metrics["step"], [0])
    with pytest.raises(ValueError, match="already holds a run"):
        research.Monitor(directory, WATCH)


def test_a_number_that_cannot_be_fetched_does_not_hide_what_stopped_the_loop(directory):
    monitor = research.Monitor(directory, WATCH)
    lost = jnp.ones(())
    monitor.log(0, loss=1.0)
    monitor.log(1, loss=lost)
    lost.delete()

    monitor.close(RuntimeError("out of memory"))

    run = Run(directory)
    assert run.status == "failed"
    assert run.info["error"] == "RuntimeError: out of memory"
    np.testing.assert_array_equal(run.metrics["step"], [0])


def read_files(directory):
    return {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()}


KILLED = ": the earlier attempt was killed before it wrote them"


@pytest.mark.parametrize(
    ("status", "earlier", "later", "expected"),
    [
        ("running", [0], [20, 21], f"has no rows of steps 1 to 19{KILLED}"),
        ("running", [0, 1, 2], [3, 4], ""),
        ("running", [0, 1, 2], [1, 2], ""),
        ("running", [0, 10, 20], [30, 40], ""),
        ("running", [0, 10, 20], [50, 60], f"has no rows of steps 21 to 49{KILLED}"),
        ("running", [0], [50, 100], ""),
        ("running", [], [20, 21], f"has no rows of the steps before 20{KILLED}"),
        ("running", [], [10, 20], ""),
        ("running", [0, 1], [20], f"has no rows of steps 2 to 19{KILLED}"),
        ("done", [0, 1], [20, 21], "has no rows of steps 2 to 19"),
        ("failed", [], [20, 21], ""),
    ],
)
def test_rows_that_a_kill_has_lost_are_a_line(directory, capsys, status, earlier, later, expected):
    with research.Monitor(directory) as monitor:
        for number in earlier:
            monitor.log(number, loss=1.0)
    file = directory / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": status}))
    capsys.readouterr()

    with research.Monitor(directory, resume=True) as monitor:
        for number in later:
            monitor.log(number, loss=1.0)

    err = capsys.readouterr().err
    assert err == (f"fathom: {directory} {expected}\n" if expected else "")


@pytest.mark.parametrize("error", [None, RuntimeError("no memory"), KeyboardInterrupt()])
def test_a_loop_that_resumes_and_logs_nothing_leaves_the_record_as_it_is(directory, error):
    """It had nothing left to do, or failed before its first step."""
    with research.Monitor(directory, WATCH) as monitor:
        train(monitor, 4)
    before = read_files(directory)

    monitor = research.Monitor(directory, WATCH, resume=True)
    monitor.close(error)

    assert read_files(directory) == before
    with research.Monitor(directory, WATCH, resume=True) as monitor:
        train(monitor, 5, start=4)
    np.testing.assert_array_equal(Run(directory).metrics["step"], range(5))


def test_a_loop_that_is_killed_after_it_has_resumed_keeps_the_earlier_rows(directory, tmp_path):
    with research.Monitor(directory, WATCH) as monitor:
        train(monitor, 4)

    monitor = research.Monitor(directory, WATCH, resume=True)
    monitor.log(3, loss=1.0)
    left_by_a_kill = shutil.copytree(directory, tmp_path / "killed")
    monitor.close()

    run = Run(left_by_a_kill)
    np.testing.assert_array_equal(run.metrics["step"], range(3))
    np.testing.assert_array_equal(run.profiles["step"], range(3))
    np.testing.assert_array_equal(Run(directory).metrics["step"], range(4))


def test_what_was_logged_before_a_pause_reaches_the_disk(directory, monkeypatch):
    monkeypatch.setattr(monitor, "FLUSH_SECONDS", 1e-3)
    opened = research.Monitor(directory)
    for number in range(3):
        opened.log(number, loss=1.0)

    deadline = time.monotonic() + 60
    while recorded_steps(directory) != [0, 1, 2] and time.monotonic() < deadline:
        time.sleep(1e-3)

    assert recorded_steps(directory) == [0, 1, 2]
    opened.log(3, loss=1.0)
    opened.close()
    assert recorded_steps(directory) == [0, 1, 2, 3]


def test_a_forked_process_that_ends_does_not_end_the_run(directory, monkeypatch):
    opened = research.Monitor(directory)
    opened.log(0, loss=1.0)

    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: -1)
        opened.close()
    opened.log(1, loss=1.0)
    opened.close()

    assert Run(directory).status == "done"
    assert recorded_steps(directory) == [0, 1]


def test_a_program_may_change_its_directory(workplace, monkeypatch, tmp_path):
    opened = research.Monitor("outputs/mine/run", tracker="wandb")
    (workplace / "elsewhere").mkdir()
    monkeypatch.chdir(workplace / "elsewhere")
    for step in range(3):
        opened.log(step, loss=1.0)
    monkeypatch.chdir(workplace)
    (workplace / "elsewhere").rmdir()  # nothing was written there
    opened.close()

    assert recorded_steps(workplace / "outputs" / "mine" / "run") == [0, 1, 2]
    assert len([*workplace.glob("outputs/wandb/offline-run-*")]) == 1


def test_a_forked_process_cannot_log(directory, monkeypatch):
    opened = research.Monitor(directory)
    opened.log(0, loss=1.0)

    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: -1)
        with pytest.raises(ValueError, match="another process has opened the monitor"):
            opened.log(1, loss=9.0)
        with pytest.raises(ValueError, match="another process has opened the monitor"):
            opened.verdict()
    opened.log(1, loss=1.0)
    opened.close()

    assert Run(directory).metrics["train_loss"].tolist() == [1.0, 1.0]


def recorded_steps(directory):
    """The steps that are on the disk."""
    try:
        return Run(directory).metrics["step"].tolist()
    except FileNotFoundError:
        return []


def test_a_damaged_record_is_not_resumed(directory):
    with research.Monitor(directory, WATCH) as monitor:
        train(monitor, 2)
    (directory / "run.json").write_text("{")

    with pytest.raises(ValueError, match="is damaged"):
        research.Monitor(directory, WATCH, resume=True)

    np.testing.assert_array_equal(Run(directory).metrics["step"], range(2))


def test_a_loop_whose_disk_is_full_has_failed(directory, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monitor = research.Monitor(directory, WATCH)
    train(monitor, 3)
    monkeypatch.setattr(pq, "write_table", refuse)
    with pytest.raises(OSError, match="No space left"):
        monitor.close()

    run = Run(directory)
    assert run.status == "failed"
    assert "No space left" in run.info["error"]


def test_a_loop_that_diverges_or_fails_says_so(directory):
    with research.Monitor(directory, WATCH) as monitor:
        train(monitor, 2)
        train(monitor, 3, scale=np.inf, start=2)
    run = Run(directory)
    assert run.status == "diverged"
    assert run.info["verdict"]["since_step"] == 2

    other = directory.with_name("other")
    with pytest.raises(RuntimeError), research.Monitor(other, WATCH) as monitor:
        train(monitor, 2)
        raise RuntimeError("out of luck")
    assert Run(other).status == "failed"
    assert Run(other).info["error"] == "RuntimeError: out of luck"


@pytest.mark.slow
@pytest.mark.parametrize(("bad_step", "number"), [(0, np.nan), (2, np.inf)])
def test_a_batch_that_is_not_finite_is_blamed_and_not_the_network(directory, bad_step, number):
    @jax.jit
    def measure(batch):
        return WATCH.value_and_grad(networks.scanned_loss)(PARAMS, batch)

    bad_batch = BATCH._replace(x=BATCH.x.at[0, 0].set(number))
    with research.Monitor(directory, WATCH) as monitor:
        for number_of_step in range(4):
            batch = BATCH if number_of_step < bad_step else bad_batch
            loss, _, gauges = measure(batch)
            monitor.log(number_of_step, gauges, loss=loss)
    verdict = Run(directory).info["verdict"]
    assert verdict["kind"] == "inputs"
    assert verdict["since_step"] == bad_step
    assert "Try" not in verdict["sentence"]


def test_wandb_gets_the_loop(directory, wandb_records):
    tracker = {"project": "mine", "every": 1}

    with research.Monitor(directory, WATCH, tracker=tracker, tags=["trial"]) as monitor:
        train(monitor, 3)

    info = json.loads((directory / "run.json").read_text())
    records = wandb_records(info["wandb"])
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert [row["train/step"] for row in rows if "train/loss" in row] == [0, 1, 2]
    assert rows[0]["lr"] == pytest.approx(0.1)
    assert "grad_norm_layers/depth_100" in rows[0]
    (run,) = [record["run"] for record in records if record["type"] == "run"]
    assert run["tags"] == ["trial"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be a whole number"),
        ({"tracker": "wandbb"}, "tracker must be .*; did you mean wandb"),
        ({"tracker": {"projct": "x"}}, "tracker has no setting 'projct'; did you mean project"),
        (
            {"tracker": {"layers": "16"}},
            "tracker.layers must be one of none, spread, all, got '16'",
        ),
        ({"tracker": {"every": 0}}, "tracker.every must be a whole number ≥ 1, got 0"),
        ({"tracker": {"every": "10"}}, "tracker.every must be a whole number ≥ 1, got '10'"),
        (
            {"tracker": {"finish_timeout": -1}},
            "tracker.finish_timeout must be a number > 0, got -1",
        ),
        ({"tracker": {"wandb": "yes"}}, "tracker.wandb must be true or false, got 'yes'"),
        ({"tracker": {"dir": None}}, "tracker.dir must be text, got None"),
        (
            {"tracker": {"wandb": False, "project": "mine"}},
            "tracker.project=mine has no effect: it needs tracker.wandb=true, got false",
        ),
        ({"tracker": {"layers": "none", "every": 3}}, "tracker.every=3 has no effect"),
        ({"settings": {"watch": 1}}, "settings must not have the entry 'watch'"),
        ({"tags": "trial"}, "tags must be a list"),
        ({"tags": ["a"], "settings": {"tags": ["b"]}}, "settings must not have other tags than"),
        ({"chance_loss": 0}, "chance_loss must be a positive number"),
        ({"chance_loss": "log 10"}, "chance_loss must be a positive number"),
    ],
)
def test_mistakes_leave_nothing_behind(directory, options, message):
    with pytest.raises(ValueError, match=message):
        research.Monitor(directory, WATCH, **options)
    assert not directory.exists()


@pytest.mark.parametrize("place", ["", "outputs"])
def test_a_folder_of_runs_is_no_folder_of_a_loop(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="outputs/STUDY/RUN"):
        research.Monitor(place, WATCH)
    assert not list(tmp_path.iterdir())


def test_steps_must_ascend(directory):
    with research.Monitor(directory, WATCH) as monitor:
        monitor.log(4, loss=1.0)
        with pytest.raises(ValueError, match="step 4 follows step 4"):
            monitor.log(4, loss=1.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones(3), "loss must be one number, got an array of shape \\(3,\\)"),
        ("2.3", "loss must be one number or None, got a str"),
        (len, "loss must be one number or None, got a builtin_function_or_method"),
        (1j, "loss must be one number or None, got a complex"),
        (2**53 + 1, "loss must be a whole number that float64 holds exactly"),
        (-(2**2000), "loss must be a whole number that float64 holds exactly"),
        (np.uint64(2**64 - 1), "loss must be a whole number that float64 holds exactly"),
        (np.array([2**60 + 1]), "loss must be a whole number that float64 holds exactly"),
    ],
)
def test_what_is_no_number_is_refused_at_its_step(directory, value, message):
    with research.Monitor(directory, WATCH) as monitor:
        monitor.log(0, loss=1.0)
        with pytest.raises(ValueError, match=message):
            monitor.log(1, loss=value)
        monitor.log(1, loss=np.bool_(True))

    np.testing.assert_array_equal(Run(directory).metrics["train_loss"], [1, 1])


def test_a_large_whole_number_on_the_device_is_refused_a_step_later(directory):
    monitor = research.Monitor(directory)
    with jax.enable_x64(True):
        tokens = jnp.int64(2**53 + 1)
    monitor.log(0, loss=1.0, tokens=tokens)
    with pytest.raises(ValueError, match="tokens must be a whole number .* got 9007199254740993"):
        monitor.log(1, loss=1.0)
    monitor.close()


def test_large_numbers_are_recorded_exactly(directory):
    large = [2**53, 2**60, -(2**62), 10**16, 2**900]
    with research.Monitor(directory) as monitor:
        for number, value in enumerate(large):
            monitor.log(2**53 - 10 + number, count=value)
    metrics = Run(directory).metrics
    assert [int(value) for value in metrics["count"]] == large
    assert [int(value) for value in metrics["step"]] == [2**53 - 10 + n for n in range(5)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["loss", "train_loss"], "loss and train_loss are two names of the same number"),
        (["accuracy", "train/accuracy"], "accuracy and train/accuracy are two names"),
        (["train/step"], "train/step is a name that Fathom or W&B writes itself"),
        (["_step"], "_step is a name that Fathom or W&B writes itself"),
    ],
)
def test_two_numbers_never_share_a_name(directory, names, message):
    with research.Monitor(directory) as monitor:
        with pytest.raises(ValueError, match=message):
            monitor.log(0, None, **dict.fromkeys(names, 1.0))
        monitor.log(0, None, loss=1.0, **{"valid/loss": 2.0})
    assert Run(directory).metrics["valid/loss"].tolist() == [2]


def test_the_norm_of_the_user_does_not_disappear_behind_the_measured_one(directory):
    _, loss, gauges = step(PARAMS, jnp.float32(1))
    with research.Monitor(directory, WATCH) as monitor:
        with pytest.raises(ValueError, match="grad_norm is the norm that the gauges measure"):
            monitor.log(0, gauges, loss=loss, grad_norm=123.0)
        monitor.log(0, loss=loss, grad_norm=123.0)
    assert Run(directory).metrics["grad_norm"].tolist() == [123]


def test_steps_that_threads_log_ascend(directory):
    monitor = research.Monitor(directory)
    refused = []

    def log(first):
        for number in range(first, 400, 4):
            try:
                monitor.log(number, loss=1.0)
            except ValueError:
                refused.append(number)

    threads = [threading.Thread(target=log, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monitor.close()
    steps = Run(directory).metrics["step"].tolist()
    assert steps == sorted(set(range(400)) - set(refused))


def test_a_monitor_does_not_go_on_in_a_run_that_fathom_trained(finished):
    trained, _ = finished
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    with pytest.raises(ValueError, match="holds a run that fathom train has trained"):
        research.Monitor(trained, resume=True)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


@pytest.mark.slow
def test_a_record_that_has_disappeared_is_one_line_at_the_end_of_the_process(workplace, process):
    code = (
        "import research, shutil; monitor = research.Monitor('outputs/mine/first'); "
        "monitor.log(0, loss=1.0); shutil.rmtree('outputs')"
    )
    ended = process("-c", code)
    _, err = ended.communicate()
    (line,) = err.splitlines()
    assert "outputs/mine/first was not closed: " in line


@pytest.mark.slow
@pytest.mark.parametrize(("end", "num_lines"), [("", 1), ("; monitor.close()", 0)])
def test_a_monitor_that_is_not_closed_says_so_at_the_end_of_the_process(
    workplace, process, end, num_lines
):
    code = (
        "import research; monitor = research.Monitor('outputs/mine/first', tracker=None); "
        "monitor.log(0, loss=1.0)"
    )
    ended = process("-c", code + end)
    _, err = ended.communicate()
    lines = err.splitlines()
    assert len(lines) == num_lines
    assert all("outputs/mine/first was not closed, so its status is" in line for line in lines)


@pytest.mark.parametrize("step", [-1, 0.5, np.nan, np.inf, "a", None, True, 2**53 + 1, np.ones(2)])
def test_a_step_is_a_whole_number(directory, step):
    monitor = research.Monitor(directory)
    with pytest.raises(ValueError, match="step must be a whole number from 0 to 2\\^53, got "):
        monitor.log(step, loss=1.0)
    monitor.log(0, loss=1.0)
    monitor.close()
    assert Run(directory).metrics["step"].tolist() == [0]


def test_none_is_a_number_that_a_step_does_not_have(directory):
    with research.Monitor(directory, WATCH) as monitor:
        for number in range(3):
            held_out = 2.0 if number == 2 else None
            monitor.log(number, loss=jnp.float32(1), eval_loss=held_out, eval_accuracy=None)

    run = Run(directory)
    np.testing.assert_array_equal(np.isfinite(run.metrics["eval_loss"]), [False, False, True])
    assert "eval_accuracy" not in run.metrics
    assert run.info["final"] == {"train_loss": 1, "eval_loss": 2}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("los", "loss"),
        ("losss", "loss"),
        ("lsos", "loss"),
        ("eval_lass", "eval_loss"),
        ("acuracy", "accuracy"),
        ("learning_rat", "learning_rate"),
        ("gauge", "gauges"),
    ],
)
def test_a_slip_in_the_name_of_a_number_is_answered(directory, name, meant):
    numbers: dict[str, Any] = {name: 1.0}

    with (
        research.Monitor(directory, WATCH) as monitor,
        pytest.raises(ValueError, match=f"log got {name}=…: did you mean {meant}=…"),
    ):
        monitor.log(0, **numbers)


def test_names_of_your_own_are_recorded(directory):
    with research.Monitor(directory, WATCH) as monitor:
        monitor.log(0, loss=1.0, los=2.0, gloss=3.0, loss2=4.0, perplexity=5.0)

    metrics = Run(directory).metrics
    assert [metrics[name][0] for name in ("los", "gloss", "loss2", "perplexity")] == [2, 3, 4, 5]


def test_a_loop_that_diverges_names_the_layer_or_where_numbers_were_largest_before(directory):
    _, loss, healthy = step(PARAMS, jnp.float32(1.0))
    with research.Monitor(directory, WATCH, every=2) as monitor:
        monitor.log(0, healthy, loss=loss)
        monitor.log(1, loss=np.inf)
        unmeasured = str(monitor.verdict())
    broken = PARAMS._replace(kernel=PARAMS.kernel.at[2].set(jnp.inf))
    with research.Monitor(directory.with_name("other"), WATCH) as monitor:
        _, loss, gauges = step(broken, jnp.float32(1.0))
        monitor.log(0, gauges, loss=loss)
        measured = monitor.verdict()

    assert "At step 0, the last one that was measured, no activation was larger" in unmeasured
    assert measured is not None
    assert "first the activation of layers[2]" in str(measured)
    assert measured.worst.findings[0].origin == 2
