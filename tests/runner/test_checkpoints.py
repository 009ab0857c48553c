"""A run that resumes from its checkpoint is bit for bit the run without an interruption."""

import contextlib
import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pyarrow.parquet as pq
import pytest
from PIL import Image

from research.records.runs import Run
from research.runner.checkpoint_notes import CheckpointNotes, InvalidNotes
from research.runner.group import RunGroup
from research.runner.run_writer import RunWriter
from research.training import checkpoint
from research.training.checkpoint import Checkpoint, Checkpoints, CheckpointWriter

from .reading import modification_times

SMALL = [
    "model.depth=2",
    "model.width=8",
    "train.steps=25",
    "train.eval_every=5",
    "tracker=none",
    "checkpoint.keep=true",
    "checkpoint.every=1e-9",
    "name=study",
]
GROUPED = ["-m", "hydra/launcher=grouped"]
SLOW = [
    "optimizer=adam norm=batch model.dropout=0.2 train.input_noise=0.1 measure.every=2",
    "precision=bfloat16 precision.stochastic_rounding=true",
    "precision=mixed_float16 precision.loss_scaling=dynamic precision.growth_interval=3 "
    "measure=full measure.every=3 measure.exponents_every=9 measure.inspect=[sharpness] "
    "measure.inspect_every=6",
    "precision=float64 measure=full skip=identity init.gain=1e-20 model.depth=8",
    "optimizer=gd optimizer.schedule=linear measure=off",
    "model=cnn norm=batch optimizer=muon optimizer.schedule=step",
    "model=transformer data=python_docs optimizer=adamw",
    "data=folder data.path=PHOTOS data.in_memory_limit=0 train.batch_size=16 data.flip=true",
]
KINDS = ["", *(pytest.param(words, marks=pytest.mark.slow) for words in SLOW)]
TABLES = ("metrics", "profiles", "inspections")


@pytest.fixture(autouse=True, scope="module")
def _checkpoint_after_every_chunk():
    """Each checkpoint is written before the next chunk."""
    write = CheckpointWriter.write

    def write_and_wait(writer, runs):
        write(writer, runs)
        writer.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointWriter, "write", write_and_wait)
        patch.setattr(checkpoint, "PAUSE_FACTOR", 0)
        yield


def make_trainer(fathom, place, monkeypatch):
    """A function that trains in a subdirectory; it returns the runs by seed and the output.

    Where ``stop`` is given, the run of seed 0 raises ``error`` instead of writing these rows.
    """
    write_rows = RunWriter.write_rows

    def train(folder, *words, stop=None, error=KeyboardInterrupt):
        def write_rows_or_raise(writer, start, *rest):
            if stop is not None and start >= stop and writer.config.seed == 0:
                raise error
            write_rows(writer, start, *rest)

        (place / folder).mkdir(exist_ok=True)
        with monkeypatch.context() as patch:
            patch.chdir(place / folder)
            patch.setattr(RunWriter, "write_rows", write_rows_or_raise)
            result = fathom("train", *SMALL, *words)
            files = Path().glob("outputs/study/*/run.json")
            runs = [Run(file.parent.absolute()) for file in files]
        return {run["seed"]: run for run in runs}, result

    return train


@pytest.fixture
def train(fathom, tmp_path, monkeypatch):
    return make_trainer(fathom, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Random images of two classes; 64 in training: four batches of 16 an epoch."""
    place = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for split, num_images in (("train", 35), ("test", 5)):
        for label in ("cats", "dogs"):
            folder = place / split / label
            folder.mkdir(parents=True)
            for number in range(num_images):
                pixels = generator.integers(256, size=(6, 6), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return place


def checkpoint_directory(run):
    (directory,) = (run.directory / "checkpoints").iterdir()
    return directory


def read_checkpoint(run):
    def specs_on_disk():
        with ocp.PyTreeCheckpointer() as orbax:
            arrays = orbax.restore(checkpoint_directory(run))
        return {path: (array.shape, array.dtype) for path, array in arrays.items()}

    last = Checkpoints(run.directory).read(specs_on_disk)
    assert last is not None
    return last


def have_same_rows(run, other):
    for name in TABLES:
        file = run.directory / f"{name}.parquet"
        other_file = other.directory / f"{name}.parquet"
        if not file.exists() and not other_file.exists():
            continue
        if not pq.read_table(file).equals(pq.read_table(other_file)):
            return False
    return True


def assert_same(run, other):
    """Both runs recorded the same and ended in the same state, bit for bit."""
    assert have_same_rows(run, other)
    for key in ("id", "status", "steps", "final", "verdict", "parameters", "data"):
        assert run.info[key] == other.info[key], key
    last = read_checkpoint(run)
    other_last = read_checkpoint(other)
    assert last.step == run.info["steps"]
    assert other_last.step == other.info["steps"]
    assert list(last.arrays) == list(other_last.arrays)
    for path, array in last.arrays.items():
        assert array.tobytes() == other_last.arrays[path].tobytes(), path


@pytest.mark.parametrize("words", KINDS)
def test_a_resumed_run_is_the_run_without_interruption(train, photos, words):
    words = words.replace("PHOTOS", str(photos)).split()
    uninterrupted, _ = train("uninterrupted", *words)
    interrupted, result = train("cut [1]", *words, stop=11)
    assert result.code == 1
    assert interrupted[0].info["status"] == "interrupted"
    assert 11 <= interrupted[0].info["steps"] < 25

    resumed, result = train("cut [1]", *words)

    (step,) = resumed[0].info["resumed"]
    assert result.code == 0
    assert step >= 11
    assert f"resumes at step {step}/25" in result.err, result.err
    assert_same(resumed[0], uninterrupted[0])
    files = os.listdir(resumed[0].directory)
    assert set(files) == set(os.listdir(uninterrupted[0].directory))
    earlier_seconds = interrupted[0].info["seconds"]["train"]
    assert resumed[0].info["seconds"]["train"] > earlier_seconds > 0


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_runs_of_a_group_resume_together_where_they_are_at_the_same_step(train, error):
    uninterrupted, _ = train("uninterrupted", "seed=0", "-m", "seed=0,1,2")
    interrupted, result = train("cut", *GROUPED, "seed=0,1,2", stop=11, error=error)
    assert result.code == 1
    assert interrupted[0].info["status"] in ("interrupted", "failed")
    if error is KeyboardInterrupt:
        shutil.rmtree(interrupted[2].directory / "checkpoints")

    resumed, result = train("cut", *GROUPED, "seed=0,1,2")

    assert result.code == 0, result.err
    assert sorted(resumed) == sorted(uninterrupted)
    for seed, run in uninterrupted.items():
        assert have_same_rows(resumed[seed], run)
    group_sizes = [resumed[seed].info["group_size"] for seed in range(3)]
    assert group_sizes == ([2, 2, 1] if error is KeyboardInterrupt else [1, 3, 3])


def test_an_interruption_before_the_first_new_step_says_what_is_recorded(train, monkeypatch):
    interrupted, _ = train("cut", stop=11)
    steps = interrupted[0].info["steps"]

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("research.runner.loop.make_program", interrupt)

    resumed, result = train("cut")

    last = result.err.splitlines()[-1]
    assert last == f"fathom: interrupted before the first new step; {steps} steps are recorded"
    assert resumed[0].info["steps"] == steps
    assert resumed[0].info["status"] == "interrupted"


def test_an_interruption_after_the_last_step_says_so(train, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunGroup, "save_final_checkpoint", interrupt)

    runs, result = train("whole")

    last = result.err.splitlines()[-1]
    assert last == "fathom: interrupted after the last step; what was measured is written"
    assert runs[0].info["status"] == "done"


@pytest.fixture(scope="module")
def interrupted_and_whole(fathom, tmp_path_factory):
    """An interrupted run, and the same run without interruption; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        train = make_trainer(fathom, tmp_path_factory.mktemp("interrupted"), patch)
        interrupted, _ = train("cut", stop=11)
        whole, _ = train("whole")
        return interrupted[0], whole[0]


def array_files(run):
    """The files with the arrays' numbers; in some are those of an earlier checkpoint, or none."""
    return list((run.directory / "checkpoints").rglob("d/*"))


def flip_a_bit(run):
    for file in array_files(run):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


def truncate_files(run):
    for file in array_files(run):
        file.write_bytes(b"")


def remove_description(run):
    next((run.directory / "checkpoints").rglob("_METADATA")).unlink()


def save_other_arrays(run):
    with ocp.PyTreeCheckpointer() as orbax:
        notes = orbax.metadata(checkpoint_directory(run)).custom_metadata
        arrays = {"a": np.zeros(3)}
        orbax.save(checkpoint_directory(run), arrays, force=True, custom_metadata=dict(notes))


def replace_checkpoint(run, **changes):
    """Writes a changed checkpoint in the place of the one that is there."""
    changed = dataclasses.replace(read_checkpoint(run), **changes)
    checkpoints = Checkpoints(run.directory)
    checkpoints.remove()
    checkpoints.write(changed)


def narrow_the_network(run):
    arrays = {}
    for path, array in read_checkpoint(run).arrays.items():
        arrays[path] = array[..., :1] if array.ndim else array
    replace_checkpoint(run, arrays=arrays)


def change_run_id(run):
    replace_checkpoint(run, notes=read_checkpoint(run).notes | {"id": "another"})


def change_data(run):
    replace_checkpoint(run, notes=read_checkpoint(run).notes | {"data": "another"})


def empty_folder(run):
    directory = checkpoint_directory(run)
    shutil.rmtree(directory)
    directory.mkdir()


def find_part(run):
    return sorted((run.directory / "profiles.parts").iterdir())[1]


def remove_part(run):
    find_part(run).unlink()


def damage_part(run):
    find_part(run).write_bytes(b"PAR1 half")


def move_to_another_step(run):
    directory = checkpoint_directory(run)
    directory.rename(directory.with_name("24"))


def move_beyond_the_last_step(run):
    directory = checkpoint_directory(run)
    directory.rename(directory.with_name("999999"))


def claim_another_step(run):
    replace_checkpoint(run, step=23)


def change_notes(run, **changes):
    replace_checkpoint(run, notes=read_checkpoint(run).notes | changes)


def change_number_of_rows(run):
    rows = read_checkpoint(run).notes["rows"]
    change_notes(run, rows=rows | {"metrics": rows["metrics"] - 1})


def forget_rows(run):
    notes = read_checkpoint(run).notes
    del notes["rows"]
    replace_checkpoint(run, notes=notes)


def spoil_seconds(run):
    change_notes(run, seconds="many")


def spoil_metadata(run):
    """Changes the notes in their file, where the checksum does not fit them any more."""
    file = next((run.directory / "checkpoints").rglob("_CHECKPOINT_METADATA"))
    metadata = json.loads(file.read_text())
    metadata["custom_metadata"]["notes"]["resumed"] = [3]
    file.write_text(json.dumps(metadata))


def exchange_part(run):
    """A part file with as many rows and other numbers."""
    part = find_part(run)
    table = pq.read_table(part)
    steps = table.column("step").to_numpy() + 1
    pq.write_table(table.set_column(0, "step", [steps]), part)


FAST_DAMAGES = [flip_a_bit, remove_part, move_beyond_the_last_step, forget_rows]
SLOW_DAMAGES = [
    move_to_another_step,
    claim_another_step,
    change_number_of_rows,
    spoil_seconds,
    spoil_metadata,
    exchange_part,
    truncate_files,
    remove_description,
    save_other_arrays,
    narrow_the_network,
    change_run_id,
    change_data,
    empty_folder,
    damage_part,
]
DAMAGES = [*FAST_DAMAGES, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW_DAMAGES)]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_whose_checkpoint_cannot_be_used_says_so_and_starts_over(
    train, interrupted_and_whole, tmp_path, damage, monkeypatch
):
    reports = []  # of exceptions on threads
    monkeypatch.setattr(sys, "unraisablehook", reports.append)
    interrupted, whole = interrupted_and_whole
    place = interrupted.directory.parents[2]
    shutil.copytree(place, tmp_path / "cut")
    damage(Run(tmp_path / "cut" / interrupted.directory.relative_to(place)))

    again, result = train("cut")

    assert result.code == 0
    (line,) = [line for line in result.err.splitlines() if "starts from step 0" in line]
    assert line.startswith("fathom: ")
    for text in ("resumes", "Traceback", "WARNING"):
        assert text not in result.err
    assert reports == []
    assert "resumed" not in again[0].info
    assert_same(again[0], whole)


SETTINGS = {
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": False,
    "JAX_ENABLE_X64": True,
    "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
    "JAX_RANDOM_SEED_OFFSET": 7,
    "XLA_FLAGS": "--xla_cpu_enable_fast_math=true",
}


@pytest.fixture
def with_setting(monkeypatch):
    """A context in which a setting of JAX has another value, as if its variable had been set."""

    @contextlib.contextmanager
    def change(name):
        value = SETTINGS[name]
        with monkeypatch.context() as patch:
            if name == "XLA_FLAGS":
                patch.setenv(name, value)
                yield
                return
            flag = name.lower()
            before = getattr(jax.config, flag)
            jax.config.update(flag, value)
            try:
                yield
            finally:
                jax.config.update(flag, before)

    return change


FAST_SETTINGS = ["JAX_DEFAULT_PRNG_IMPL", "XLA_FLAGS"]
SLOW_SETTINGS = [
    "JAX_THREEFRY_PARTITIONABLE",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_RANDOM_SEED_OFFSET",
]


@pytest.mark.parametrize(
    "name",
    [*FAST_SETTINGS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_SETTINGS)],
)
def test_a_run_does_not_resume_under_other_settings_of_jax(
    train, interrupted_and_whole, tmp_path, with_setting, name
):
    """It would go on with other random numbers, or round otherwise. Nothing of it is lost."""
    interrupted, _ = interrupted_and_whole
    place = interrupted.directory.parents[2]
    shutil.copytree(place, tmp_path / "cut")
    run = Run(tmp_path / "cut" / interrupted.directory.relative_to(place))
    before = modification_times(run.directory)

    with with_setting(name):
        _, result = train("cut")

    assert result.code == 2
    (line,) = result.err.splitlines()
    assert f"({name} was " in line
    assert f"is {SETTINGS[name]}): set them as they were to go on, or give another name=" in line
    changed = dict(modification_times(run.directory).items() ^ before.items())
    assert all(".hydra" in str(path) for path in changed)  # which Hydra writes for each command


@pytest.mark.slow
def test_what_a_run_does_not_depend_on_may_change_before_it_resumes(
    train, interrupted_and_whole, tmp_path, with_setting
):
    """The formats of a run are those of its configuration."""
    interrupted, whole = interrupted_and_whole
    shutil.copytree(interrupted.directory.parents[2], tmp_path / "cut")
    with with_setting("JAX_DEFAULT_PRNG_IMPL"):
        train("cut")
    with with_setting("JAX_ENABLE_X64"):
        again, result = train("cut")
    assert "resumes" in result.err
    assert_same(again[0], whole)


@pytest.mark.slow
def test_a_setting_of_jax_counts_for_programs_that_are_compiled_already(train, with_setting):
    """JAX would reuse them, so that the numbers were not those of the setting in the record."""
    usual, _ = train("usual")
    with with_setting("JAX_DEFAULT_PRNG_IMPL"):
        other, _ = train("other")
    again, _ = train("again")
    assert other[0].info["jax_settings"]["JAX_DEFAULT_PRNG_IMPL"] == "rbg"
    assert not have_same_rows(other[0], usual[0])
    assert_same(again[0], usual[0])


@pytest.mark.slow
def test_a_longer_run_does_not_go_on_under_other_settings_of_jax(train, with_setting, tmp_path):
    train("long")
    with with_setting("JAX_DEFAULT_PRNG_IMPL"):
        train("whole", "train.steps=40")
        _, result = train("long", "train.steps=40")
    assert result.code == 0
    assert "starts from step 0" in result.err
    assert "JAX_DEFAULT_PRNG_IMPL was threefry2x32, is rbg" in result.err
    rows = []
    for place in ("long", "whole"):
        (file,) = tmp_path.glob(f"{place}/outputs/study/*steps=40*/run.json")
        rows.append(Run(file.parent))
    assert have_same_rows(*rows)


@pytest.mark.parametrize("name", ["²", "01", "5.tmp", "-1"])
def test_a_folder_with_another_name_is_no_checkpoint(tmp_path, name):
    (tmp_path / "checkpoints" / name).mkdir(parents=True)

    assert not Checkpoints(tmp_path).has_checkpoint


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(
    train, interrupted_and_whole, monkeypatch
):
    """The earlier checkpoint stays, and nothing half written does."""
    save = ocp.PyTreeCheckpointHandler.save
    history = []  # the steps in the folder at each call, with the one that is being written

    def save_to_full_disk(handler, directory, *arguments, **named):
        names = [place.name for place in Path(directory).parent.iterdir()]
        steps = {name.partition(".")[0] for name in names}
        history.append(steps)
        save(handler, directory, *arguments, **named)
        if "10" in steps:
            raise OSError(28, "No space left on device", str(directory))

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "save", save_to_full_disk)

    runs, result = train("full")

    assert result.code == 0
    assert result.err.count("No space left") == 1, result.err
    assert "training goes on" in result.err
    failed = next(call for call, steps in enumerate(history) if "10" in steps)
    before = history[failed] - {"10"}
    after = history[failed + 1]
    assert len(before) == 1
    assert len(after) == 2
    assert before < after
    assert "10" not in after
    _, whole = interrupted_and_whole
    assert_same(runs[0], whole)


NOTES = {
    "id": "abc",
    "data": "def",
    "resumed": [3],
    "seconds": {"compile": 1.5, "train": 2},
    "rows": {"metrics": 7, "profiles": 4, "inspections": 0},
    "part_checksums": {"metrics": 1, "profiles": 2, "inspections": 0},
    "jax_settings": {"JAX_ENABLE_X64": False},
}


def test_notes_are_read_as_they_were_written():
    notes = CheckpointNotes.from_json(NOTES, 7)
    assert notes.as_json() == NOTES


@pytest.mark.parametrize("name", list(NOTES))
@pytest.mark.parametrize("value", [None, 3, "text", [1.5], ["a"], {"metrics": 7}, True])
def test_notes_of_another_form_are_refused(name, value):
    with pytest.raises(InvalidNotes, match=name):
        if name in ("id", "data") and value == "text":
            value = b"text"
        if name == "jax_settings" and isinstance(value, dict):
            value = b"object"
        CheckpointNotes.from_json(NOTES | {name: value}, 7)


def test_notes_of_an_earlier_version_know_no_settings_of_jax():
    earlier = {name: value for name, value in NOTES.items() if name != "jax_settings"}
    assert CheckpointNotes.from_json(earlier, 7).jax_settings == {}


@pytest.mark.parametrize("name", [name for name in NOTES if name != "jax_settings"])
def test_notes_that_are_missing_are_refused(name):
    notes = dict(NOTES)
    del notes[name]
    with pytest.raises(InvalidNotes, match=f"no {name}"):
        CheckpointNotes.from_json(notes, 7)


def test_notes_of_another_step_are_refused():
    with pytest.raises(InvalidNotes, match="step 8"):
        CheckpointNotes.from_json(NOTES, 8)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_after_a_severe_finding_the_checkpoint_before_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 9, 12, 20):
        checkpoints.write(Checkpoint(step, {"weights": np.ones(2)}, {}))
        checkpoints.is_suspect = step >= 9  # seen after the checkpoint of step 9
    assert names_in(tmp_path / "replay") == ["9"]
    assert names_in(tmp_path / "checkpoints") == ["20"]
    checkpoints.keep_for_replay()
    assert names_in(tmp_path / "replay") == ["9"]


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_a_run_with_a_severe_finding_leaves_a_checkpoint_for_replay(train, fathom, activation):
    words = [f"activation={activation}", "model.depth=12", "diagnose.every=1e-9"]
    runs, _ = train("one", *words, "checkpoint.keep=false")
    run = runs[0]
    is_severe = run.info["verdict"]["kind"] != "healthy"
    assert is_severe == (activation == "sigmoid")
    assert (run.directory / "replay").exists() == is_severe
    assert not (run.directory / "checkpoints").exists()
