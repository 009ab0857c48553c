"""What a process shares among its runs, and what two processes do that train the same run."""

import gc
import json
import os
import signal

import jax
import pytest

from research.config.notices import notify_once
from research.config.options import Checkpoint, FullyConnected, Mesh, MeshKind, Tracker, Train
from research.config.schema import Config
from research.records.record import RunLocked, RunRecord, is_being_written
from research.records.runs import Run
from research.runner import devices, loop, session
from research.runner.group import RunGroup
from research.runner.run_spec import RunSpec
from research.runner.session import Session
from research.training.checkpoint import Checkpoints

from .reading import have_same_tables

STEPS = 25


def test_garbage_is_collected_again_also_where_jax_cannot_be_imported(monkeypatch, tmp_path):
    def fail_to_import(_):
        raise ImportError("no jax here")

    monkeypatch.setattr(session, "prepare_jax", fail_to_import)

    (result,) = session.train_group([RunSpec(Config(), tmp_path / "run")], Session())

    assert str(result["error"]) == "no jax here"
    assert gc.isenabled()


@pytest.fixture
def fail_to_start(monkeypatch):
    """Trains a run that fails before it has a record; Hydra has written its files already."""

    def fail(run_specs, *_, **__):
        error = ValueError("it cannot start")
        return [{"status": "failed", "error": error} for _ in run_specs]

    def train(directory, config=None):
        (directory / ".hydra").mkdir(parents=True)
        for name in session.HYDRA_FILES:
            (directory / ".hydra" / name).touch()
        session.train_group([RunSpec(config or Config(), directory)], Session())

    monkeypatch.setattr(loop, "train_runs", fail)
    return train


@pytest.mark.parametrize(
    ("num_devices", "num_cores", "batch_size", "lines"),
    [
        (
            1,
            2,
            127,
            "fathom: mesh=data_parallel trains on 1 of 2 CPU cores, because more cannot share "
            "train.batch_size=127 equally; a multiple of 2 uses all\n",
        ),
        (
            4,
            6,
            128,
            "fathom: mesh=data_parallel trains on 4 of 6 CPU cores, because more cannot share "
            "train.batch_size=128 equally; a multiple of 6 uses all\n",
        ),
        (1, 1, 128, "fathom: mesh=data_parallel has no effect, because JAX has a single device\n"),
        (1, 2, 128, "fathom: mesh=data_parallel has no effect, because JAX has a single device\n"),
        (2, 2, 128, ""),
    ],
)
def test_devices_that_do_not_share_a_batch_are_named(
    monkeypatch, tmp_path, capsys, fail_to_start, num_devices, num_cores, batch_size, lines
):
    notify_once.cache_clear()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(num_cores)), raising=False)
    monkeypatch.setattr(jax, "device_count", lambda: num_devices)
    mesh = Mesh(kind=MeshKind.data_parallel)
    config = Config(mesh=mesh, train=Train(batch_size=batch_size))

    fail_to_start(tmp_path / "run", config)

    assert capsys.readouterr().err == lines


def test_a_failed_start_leaves_no_empty_folder_in_the_working_directory(
    monkeypatch, tmp_path, fail_to_start
):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    fail_to_start(work / "outputs" / "study" / "run")

    assert list(tmp_path.rglob("*")) == [work]


def test_a_failed_start_elsewhere_removes_at_most_the_folder_of_the_study(
    monkeypatch, tmp_path, fail_to_start
):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    elsewhere = tmp_path / "elsewhere"

    fail_to_start(elsewhere / "study" / "run")

    assert elsewhere.is_dir()
    assert list(elsewhere.iterdir()) == []


def test_a_failed_start_keeps_other_files(monkeypatch, tmp_path, fail_to_start):
    monkeypatch.chdir(tmp_path)
    notes = tmp_path / "outputs" / "study" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.touch()

    fail_to_start(notes.parent / "run")

    assert list(notes.parent.iterdir()) == [notes]


@pytest.fixture
def spec(tmp_path):
    config = Config(
        model=FullyConnected(depth=2, width=8),
        train=Train(steps=STEPS, eval_every=5),
        tracker=Tracker(wandb=False),
        checkpoint=Checkpoint(every=1e-9),
    )
    files = {".hydra/config.yaml": "seed: 0\n"}
    return RunSpec(config, tmp_path / "study" / "run", files)


def read_files(spec):
    """The content of every file of the run, and when it was written."""
    contents = {}
    for file in spec.directory.rglob("*"):
        if file.is_file():
            contents[file] = (file.read_bytes(), file.stat().st_mtime_ns)
    return contents


def train_until_interrupted(spec):
    """Trains some of the steps and leaves a checkpoint."""
    write_chunk = RunGroup.write_chunk
    signalled = []

    def write_chunk_after_signal(group, chunk):
        if chunk.start > 0 and not signalled:
            signalled.append(chunk.start)
            os.kill(os.getpid(), signal.SIGTERM)
        write_chunk(group, chunk)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunGroup, "write_chunk", write_chunk_after_signal)
        session.train_group([spec], Session())
    assert Checkpoints(spec.directory).has_checkpoint
    assert Run(spec.directory).info["status"] == "interrupted"


@pytest.mark.slow
def test_a_run_that_another_process_finishes_after_the_first_look_stays_as_it_is(spec, monkeypatch):
    read_ended = session.read_ended
    files = {}

    def read_ended_slowly(spec):
        info = read_ended(spec)
        monkeypatch.setattr(session, "read_ended", read_ended)
        (result,) = session.train_group([spec], Session())  # the other process, from start to end
        assert result["status"] == "done"
        files.update(read_files(spec))
        return info

    monkeypatch.setattr(session, "read_ended", read_ended_slowly)

    (second,) = session.train_group([spec], Session())

    assert second["already"]
    assert second["status"] == "done"
    assert "error" not in second
    assert read_files(spec) == files
    assert not is_being_written(spec.directory)


@pytest.mark.slow
@pytest.mark.parametrize("is_interrupted", [False, True], ids=["new", "interrupted"])
def test_a_second_process_is_refused_and_changes_nothing(spec, monkeypatch, is_interrupted):
    """Also before the first one has written that it trains the run."""
    if is_interrupted:
        train_until_interrupted(spec)
    read_checkpoint = Checkpoints.read
    refused = []

    def read_while_another_process_starts(checkpoints, form):
        files = read_files(spec)
        refused.extend(session.train_group([spec], Session()))  # the other process
        assert read_files(spec) == files
        return read_checkpoint(checkpoints, form)

    monkeypatch.setattr(Checkpoints, "read", read_while_another_process_starts)

    (first,) = session.train_group([spec], Session())

    (second,) = refused
    assert isinstance(second["error"], RunLocked)
    assert first["status"] == "done"
    assert ("resumed" in first) == is_interrupted
    assert Run(spec.directory).metrics["step"].tolist() == list(range(STEPS))


def test_a_run_is_locked_until_nothing_is_left_to_write(spec, monkeypatch):
    calls = []

    def watch(owner, name):
        method = getattr(owner, name)

        def call_and_look(*arguments, **named):
            method(*arguments, **named)
            info = json.loads((spec.directory / "run.json").read_text())
            calls.append((name, info["status"], is_being_written(spec.directory)))

        monkeypatch.setattr(owner, name, call_and_look)

    watch(RunRecord, "close")
    watch(Checkpoints, "remove")

    session.train_group([spec], Session())

    assert calls == [("close", "done", True), ("remove", "done", True)]
    assert not is_being_written(spec.directory)
    assert not Checkpoints(spec.directory).has_checkpoint


@pytest.mark.slow
def test_of_two_processes_that_start_at_once_one_trains_the_run(workplace, process, trained, small):
    settings = ["train.steps=200", "tracker=none", "name=x", "checkpoint.every=1e-9"]
    command = ["-m", "research", "train", *small, *settings]

    processes = [process(*command), process(*command)]

    errors = [each.communicate()[1] for each in processes]
    codes = sorted(each.returncode for each in processes)
    assert codes in ([0, 0], [0, 2]), errors
    if codes == [0, 2]:
        assert "is being trained by another process" in "".join(errors)
    (file,) = workplace.glob("outputs/x/*/run.json")
    run = Run(file.parent)
    alone, _ = trained("train.steps=200")
    assert have_same_tables(run, alone)
    assert set(os.listdir(run.directory)) == set(os.listdir(alone.directory))


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize 'cuda'")])
def test_a_device_that_is_not_there_is_a_mistake_of_the_request(monkeypatch, tmp_path, error):
    def fail():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr("jax.devices", fail)

    (result,) = session.train_group([RunSpec(Config(), tmp_path / "study" / "run")], Session())

    assert isinstance(result["error"], ValueError)
    assert "JAX_PLATFORMS=cuda" in str(result["error"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_NUM_CPU_DEVICES", "0"),
        ("JAX_PLATFORM_NAME", "mars"),
        ("XLA_FLAGS", "--xla_cpu_enable_fast_math=true"),
    ],
)
def test_the_variable_under_which_jax_finds_no_device_is_named(monkeypatch, name, value):
    def fail():
        raise RuntimeError("Unable to initialize backend 'cpu'")

    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv(name, value)
    monkeypatch.setattr("jax.devices", fail)

    with pytest.raises(ValueError, match=f"no device for {name}={value} .*: unset it$"):
        devices.check_devices()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--xla_cpu_ftz=true --xla_typo=1", "Unknown flag: --xla_typo=1; correct or unset it$"),
        ("--xla_cpu_ftz=perhaps", "value perhaps for flag xla_cpu_ftz; correct or unset it$"),
        ("--xla_force_host_platform_device_count=100000", "must be from 1 to 1024, got 100000$"),
    ],
)
def test_flags_that_the_compiler_refuses_are_named_and_do_not_end_the_process(
    monkeypatch, flags, message
):
    monkeypatch.setenv("XLA_FLAGS", flags)

    with pytest.raises(ValueError, match=message):
        devices.check_compiler_flags()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_NUM_CPU_DEVICES", "0"),
        ("JAX_NUM_CPU_DEVICES", "100000"),
        ("XLA_FLAGS", "--xla_typo=1"),
        ("JAX_PLATFORM_NAME", "mars"),
        ("JAX_ENABLE_X64", "maybe"),
        ("JAX_DEFAULT_MATMUL_PRECISION", "exact"),
        ("JAX_COMPILATION_CACHE_MAX_SIZE", "big"),
    ],
)
@pytest.mark.parametrize("command", ["train", "predict"])
def test_a_variable_that_jax_refuses_is_one_line(
    process, command, name, value, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)

    ended = process("-m", "research", command, "model.depth=2", **{name: value})
    _, error = ended.communicate()

    assert ended.returncode == 2
    assert error.startswith("fathom: ")
    assert error.count("\n") == 1
    assert name.lower() in error.lower()
    assert os.listdir(tmp_path) == []


def test_without_the_users_choice_a_failing_device_is_a_defect(monkeypatch, tmp_path):
    def fail():
        raise RuntimeError("no driver")

    for name in devices.DEVICE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("jax.devices", fail)

    (result,) = session.train_group([RunSpec(Config(), tmp_path / "study" / "run")], Session())

    assert isinstance(result["error"], RuntimeError)


def test_a_variable_that_does_nothing_is_named(monkeypatch, capsys):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    with jax.enable_x64(True):
        session.prepare_jax()
    said = capsys.readouterr().err
    assert said.startswith("fathom: JAX_ENABLE_X64 has no effect: precision=float64 gives ")
    assert said.count("\n") == 1
    session.prepare_jax()  # as if the variable had been 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "harmless"),
    [
        ("jax_debug_nans", True, False),
        ("jax_debug_infs", True, False),
        ("jax_check_tracer_leaks", True, False),
        ("jax_disable_jit", True, False),
        ("jax_no_execution", True, False),
        ("jax_numpy_dtype_promotion", "strict", "standard"),
        ("jax_transfer_guard", "disallow", "allow"),
        ("jax_transfer_guard_device_to_host", "disallow_explicit", "allow"),
    ],
)
def test_flags_that_would_end_the_process_are_switched_off(flag, value, harmless, capsys):
    jax.config.update(flag, value)

    session.prepare_jax()

    assert getattr(jax.config, flag) == harmless
    assert capsys.readouterr().err.startswith(f"fathom: {flag.upper()} is switched off")
