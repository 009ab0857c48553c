"""Sizes that no machine has are refused in one line, before anything is allocated or written."""

import io
import os
import zipfile

import numpy as np
import pytest

from research.config.system_errors import explain_system_error

NOISE = ["data=noise"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["model.depth=1000000000"], ["not enough memory", "free", "reduce model.depth"]),
        (["model.width=1000000"], ["not enough memory", "model.width"]),
        (["skip=dense", "model.depth=100000000"], ["not enough memory"]),
        (["model=cnn", "model.depth=1000000000"], ["not enough memory"]),
        (["train.epochs=1e300"], ["train.epochs must be < 214748364 with 10 steps an epoch"]),
        (["train.epochs=1e15"], ["train.epochs must be <"]),
        (["measure.every=1000000000000"], ["measure.every must be", "< 2147483648"]),
        ([*NOISE, "data.examples=2000000000"], ["data.examples=2000000000", "GB"]),
        ([*NOISE, "data.examples=1000000000000"], ["data.examples must be a whole number ≤ 21474"]),
        ([*NOISE, "data.shape=[100000000000]"], ["enough for 0 examples"]),
        ([*NOISE, "data.classes=1000000000"], ["data.classes must be", "≤ 100000"]),
    ],
    ids=str,
)
def test_a_size_that_cannot_be_allocated_is_one_line_and_leaves_nothing(
    fathom, workplace, words, parts
):
    result = fathom("train", "tracker=none", *words)

    assert result.code == 2
    assert result.err.count("\n") == 1, result.err
    for part in parts:
        assert part in result.err
    assert os.listdir(workplace) == []


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["model.depth=1000000000", "model.width=1000000"])
def test_a_prediction_that_does_not_fit_into_memory_is_one_line(fathom, workplace, setting):
    result = fathom("predict", setting)

    assert result.code == 2
    assert result.err.startswith("fathom: not enough memory: the network with its optimizer needs")
    assert result.err.count("\n") == 1
    assert os.listdir(workplace) == []


def test_an_array_whose_header_is_too_large_names_its_file(fathom, workplace, tmp_path_factory):
    file = tmp_path_factory.mktemp("arrays") / "huge.npz"
    header = io.BytesIO()
    described = {"descr": "<f8", "fortran_order": False, "shape": (10**14,)}
    np.lib.format.write_array_header_1_0(header, described)
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("x.npy", "y.npy"):
            archive.writestr(name, header.getvalue())

    result = fathom("train", "tracker=none", "data=arrays", f"data.path={file}")

    assert result.code == 2
    assert result.err.startswith(f"fathom: {file} holds an array that does not fit into memory")
    assert result.err.count("\n") == 1
    assert os.listdir(workplace) == []


@pytest.mark.parametrize(
    "setting", ["init.gain=1e300", "init.sigma_b=1e300", "optimizer.learning_rate=1e300"]
)
def test_a_number_that_the_format_cannot_hold_makes_the_run_diverge(trained, setting):
    run, result = trained(setting, code=1)

    assert run.info["status"] == "diverged"
    assert result.err == ""


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OSError(28, "No space left on device"), "No space left on device; free some space"),
        (OSError(28, "No space left on device", "a/b"), "a/b cannot be written: No space"),
        (OSError(30, "Read-only file system", "a/b"), "a/b cannot be written: Read-only"),
        (FileExistsError(17, "File exists", "outputs"), "outputs is in the way, because it is no"),
        (OSError(18, "Invalid cross-device link", "a/b"), "hydra.run.dir=FOLDER"),
        (MemoryError(), "not enough memory"),
        (MemoryError("Unable to allocate 466. TiB"), "not enough memory: Unable to allocate"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "reduce train.batch_size"),
        (OverflowError("out of bounds for int32"), "too large"),
    ],
    ids=str,
)
def test_what_the_machine_refuses_is_explained(error, part):
    line = explain_system_error(error)
    assert line is not None
    assert part in line


def test_a_file_in_place_of_the_folder_of_runs_is_named(workplace, fathom):
    file = workplace / "outputs"
    file.touch()
    error = NotADirectoryError(20, "Not a directory", str(file / "study" / "run"))

    said = [explain_system_error(error)]
    said += [fathom(*words).err for words in (["runs"], ["show", "last"], ["plot"])]

    for line in said:
        assert f"{file} is in the way, because it is no directory: move or remove it" in str(line)


def test_a_link_that_leads_nowhere_is_named_as_such(workplace, fathom):
    link = workplace / "outputs"
    link.symlink_to("big_disk")

    said = [explain_system_error(FileExistsError(17, "File exists", str(link)))]
    said += [fathom(*words).err for words in (["runs"], ["show", "last"], ["plot"])]

    for line in said:
        expected = "is a link to big_disk, which does not exist: create that or remove the link"
        assert f"{link} {expected}" in str(line)


@pytest.mark.parametrize(
    ("readable", "message"),
    [
        (True, "a/b cannot be written: Permission denied; start in another directory, or choose"),
        (False, "cannot open a/b: Permission denied"),
    ],
)
def test_a_place_that_may_be_read_was_to_be_written(monkeypatch, readable, message):
    monkeypatch.setattr(os, "access", lambda *_: readable)

    line = explain_system_error(PermissionError(13, "Permission denied", "a/b"))

    assert line is not None
    assert line.startswith(message)


@pytest.mark.parametrize("error", [OSError(9, "Bad file descriptor"), KeyError("a")], ids=str)
def test_a_defect_is_not_explained(error):
    assert explain_system_error(error) is None
