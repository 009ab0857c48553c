"""A full disk ends a run in one line, and the same command completes the run later."""

import errno
import logging
import os
import resource
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from research.records import record
from research.records.files import RESERVED_BYTES, ReservedSpace, replacing
from research.records.runs import Run
from research.training.checkpoint import Checkpoint, Checkpoints, CheckpointWriter

from .reading import have_same_tables

RESERVED = record.RESERVED_FILE


class Disk:
    """A disk that is full from one part of a table on, counted from 1, or from a whole table on."""

    def __init__(self, monkeypatch):
        self.full_from: int | str | None = None
        self.is_full = False
        self._num_parts = 0
        write_table = pq.write_table
        write_text = Path.write_text

        def write_table_or_fail(table, file):
            if self._reaches_the_end(Path(file)):
                self.is_full = True
            if self.is_full:
                Path(file).write_bytes(b"PAR1")
                raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28]")
            write_table(table, file)

        def write_text_or_fail(file, *arguments, **named):
            if self.is_full and (file.parent / RESERVED).exists():
                raise OSError(errno.ENOSPC, "No space left on device")
            return write_text(file, *arguments, **named)

        monkeypatch.setattr(pq, "write_table", write_table_or_fail)
        monkeypatch.setattr(Path, "write_text", write_text_or_fail)

    def _reaches_the_end(self, file: Path) -> bool:
        is_whole = (file.parent / "run.json").exists()
        if is_whole:
            return self.full_from == "whole table"
        self._num_parts += 1
        return self.full_from == self._num_parts

    def free(self):
        self.full_from = None
        self.is_full = False


@pytest.fixture
def disk(monkeypatch):
    monkeypatch.setattr(record, "FLUSH_SECONDS", -1.0)
    return Disk(monkeypatch)


@pytest.mark.parametrize("checkpointed", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("full_from", [1, 4, "whole table"])
def test_a_full_disk_is_recorded_and_the_same_command_completes_the_run(
    fathom, small, workplace, disk, full_from, checkpointed
):
    every = "1e-9" if checkpointed else "null"
    command = ["train", *small, "tracker=none", f"checkpoint.every={every}"]
    disk.full_from = full_from

    stopped = fathom(*command, "name=stopped")

    assert stopped.code == 1
    lines = [line for line in stopped.err.splitlines() if ": step " not in line]
    assert len(lines) == 1, lines
    assert "No space left on device; free some space" in lines[0]
    (file,) = workplace.glob("outputs/stopped/*/run.json")
    run = Run(file.parent)
    assert run.status == "failed"
    assert "No space left" in run.info["error"]
    assert not list(run.directory.rglob("*.tmp"))

    disk.free()
    assert fathom(*command, "name=stopped").code == 0

    assert fathom(*command, "name=whole").code == 0
    (whole,) = workplace.glob("outputs/whole/*/run.json")
    run = Run(file.parent)
    assert run.status == "done"
    assert have_same_tables(run, Run(whole.parent))


FULL = (
    'RESOURCE_EXHAUSTED: Error writing local file "/tmp/tmp1/checkpoints/1/manifest.ocdbt": Failed '
    "to write 114 bytes to file 8: No space left on device [os_error_code='28']"
)


@pytest.fixture
def largest_file():
    """Sets how many bytes a file of this process may have, until the test ends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_checkpoint(directory: Path, num_arrays: int) -> None:
    """Writes a checkpoint of so many arrays as a run does, in a thread."""
    arrays = {}
    for number in range(num_arrays):
        arrays[f"layer_{number}"] = np.random.default_rng(number).random(20_000)
    writer = CheckpointWriter(0.0)
    writer.write([(Checkpoints(directory), Checkpoint(1, arrays, {}))])
    writer.wait()


def test_a_checkpoint_that_does_not_fit_is_one_line_that_names_its_folder(
    tmp_path, largest_file, capfd, caplog
):
    """Orbax logs a traceback for each array that one of its threads cannot write."""
    largest_file(100_000)
    write_checkpoint(tmp_path, num_arrays=4)

    folder = tmp_path / "checkpoints"
    reason = f"{folder}: {os.strerror(errno.EFBIG)}"
    said = f"fathom: {tmp_path.name}: no checkpoint can be written ({reason}); training goes on"
    assert capfd.readouterr().err.splitlines() == [said]
    assert caplog.records == []
    assert list(folder.iterdir()) == []


def test_after_a_checkpoint_that_does_not_fit_the_next_is_written(tmp_path, largest_file, capfd):
    largest_file(100_000)
    write_checkpoint(tmp_path, num_arrays=4)
    largest_file(10_000_000)
    capfd.readouterr()
    write_checkpoint(tmp_path, num_arrays=4)
    assert Checkpoints(tmp_path).has_checkpoint
    assert capfd.readouterr().err == ""


def test_other_reports_of_the_log_are_left_as_they_are(tmp_path, monkeypatch, caplog):
    save = ocp.PyTreeCheckpointHandler.save

    def save_and_log(*arguments, **named):
        logging.getLogger("absl").error("something else")
        save(*arguments, **named)

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "save", save_and_log)
    write_checkpoint(tmp_path, num_arrays=1)
    assert caplog.messages == ["something else"]


@pytest.mark.parametrize(
    "error",
    [ValueError(FULL), OSError(errno.ENOSPC, "No space left on device", "/tmp/tmp1/checkpoints/1")],
)
def test_a_full_disk_is_told_by_the_folder_of_the_checkpoints(tmp_path, monkeypatch, capfd, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "save", refuse)
    write_checkpoint(tmp_path, num_arrays=1)
    (line,) = capfd.readouterr().err.splitlines()
    assert f"({tmp_path / 'checkpoints'}: No space left on device); training goes on" in line
    assert "tmp1" not in line


def test_a_file_in_place_of_the_checkpoints_is_named(tmp_path, capfd):
    folder = tmp_path / "checkpoints"
    folder.write_text("mine")
    write_checkpoint(tmp_path, num_arrays=1)
    (line,) = capfd.readouterr().err.splitlines()
    assert f"({folder}: File exists); training goes on" in line
    assert folder.read_text() == "mine"


def test_a_file_that_cannot_be_written_is_named_and_leaves_the_old_one(tmp_path):
    file = tmp_path / "table.parquet"
    file.write_text("old")
    with pytest.raises(OSError, match="No space left on device") as raised, replacing(file) as new:
        new.write_text("half")
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28]")
    assert raised.value.filename == str(file)
    assert raised.value.errno == errno.ENOSPC
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_space_is_reserved_until_it_is_needed(tmp_path):
    file = tmp_path / "reserved.tmp"
    reserve = ReservedSpace(file)
    assert file.stat().st_size == RESERVED_BYTES
    reserve.release()
    reserve.release()
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_reserved_nothing_happens(tmp_path):
    reserve = ReservedSpace(tmp_path / "missing" / "reserved.tmp")
    reserve.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["folder", "link", "link to itself"])
def test_what_lies_in_the_place_of_the_reserved_space_stays_as_it_is(tmp_path, place):
    other = tmp_path / "other"
    other.write_text("kept")
    file = tmp_path / "reserved.tmp"
    put_in_place(file, place, other)

    reserve = ReservedSpace(file)
    reserve.release()

    assert other.read_text() == "kept"
    assert file.is_dir() == (place == "folder")


@pytest.mark.parametrize("place", ["link", "link to itself"])
def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(tmp_path, place):
    other = tmp_path / "other"
    other.write_text("kept")
    file = tmp_path / "run.json"
    put_in_place(tmp_path / "run.tmp", place, other)

    with replacing(file) as new:
        new.write_text("new")

    assert other.read_text() == "kept"
    assert file.read_text() == "new"
    assert not file.is_symlink()


def test_a_folder_in_the_place_of_a_temporary_file_is_named(tmp_path):
    folder = tmp_path / "run.tmp"
    folder.mkdir()
    with pytest.raises(OSError, match="run.tmp"), replacing(tmp_path / "run.json"):
        pass
    assert folder.is_dir()


def put_in_place(file: Path, place: str, target: Path) -> None:
    """Puts a folder or a link where ``file`` will be written."""
    match place:
        case "folder":
            file.mkdir()
        case "link":
            file.symlink_to(target)
        case _:
            file.symlink_to(file.name)


def refuse_settings(*_, **__):
    """As a disk without space for the settings of a run, of which no file name says where."""
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("words", [[], ["-m"]])
def test_a_disk_that_is_full_at_the_start_is_named_and_nothing_is_left(
    fathom, small, workplace, monkeypatch, words
):
    monkeypatch.setattr(OmegaConf, "to_yaml", refuse_settings)
    said = fathom("train", *words, *small, "tracker=none", "name=x")
    assert said.code == 2
    line = said.err.splitlines()[-1]
    assert line.startswith(f"fathom: {workplace / 'outputs' / 'x'}/")
    assert ".hydra/config.yaml cannot be written: No space left on device" in line
    assert list(workplace.iterdir()) == []


def test_the_settings_of_a_finished_run_survive_a_full_disk(fathom, small, trained, monkeypatch):
    run, _ = trained()
    file = run.directory / ".hydra" / "config.yaml"
    before = file.read_text()
    monkeypatch.setattr(OmegaConf, "to_yaml", refuse_settings)
    assert fathom("train", *small, "tracker=none", "name=0").code == 2
    assert file.read_text() == before
