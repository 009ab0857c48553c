"""Writing run directories: part files, final tables, run.json, locks, and what a crash leaves."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from research.config.system_errors import explain_system_error
from research.records import record
from research.records.record import Lock, NullRecord, RunRecord, write_json
from research.records.runs import Run
from research.records.table_writer import CorruptTable, rewrite_table

NUM_LAYERS = 3
NEVER = 1e9
ALWAYS = -1.0


def make_rows(start, count):
    """Metrics and profiles of ``count`` steps. Even steps are measured, the last is evaluated."""
    step = np.arange(start, start + count)
    eval_loss = np.ma.masked_all(count)
    eval_loss[-1] = step[-1] / 2
    metrics = {
        "step": step,
        "train_loss": np.float32(1) / (1 + step),
        "eval_loss": eval_loss,
    }
    measured = step[step % 2 == 0]
    if not len(measured):
        return metrics, {}
    signal = measured[:, None] + np.arange(NUM_LAYERS + 1) / 10
    profiles = {
        "step": measured,
        "signal_grad": signal,
        "grad_norm": signal[:, 1:].astype(np.float32),
    }
    return metrics, profiles


def open_record(directory, **arguments):
    directory.mkdir(exist_ok=True)
    return RunRecord(Lock(directory), {}, **arguments)


@pytest.fixture
def flush_always(monkeypatch):
    monkeypatch.setattr(record, "FLUSH_SECONDS", ALWAYS)


def list_files(directory):
    files = set()
    for path in directory.rglob("*"):
        if path.is_file():
            files.add(str(path.relative_to(directory)))
    return files


def recorded_steps(directory):
    return Run(directory).metrics["step"].tolist()


def measured_steps(directory):
    return Run(directory).profiles["step"].tolist()


def read_steps(file):
    return pq.read_table(file)["step"].to_pylist()


@pytest.mark.usefixtures("flush_always")
def test_while_a_run_lasts_its_rows_are_in_part_files(tmp_path):
    run_record = open_record(tmp_path)
    run_record.add(*make_rows(0, 1))
    run_record.add(*make_rows(1, 4))
    run_record.add(*make_rows(5, 4))
    expected = {"run.json", "reserved.tmp"}
    for part in range(3):
        expected.add(f"metrics.parts/{part:06d}.parquet")
        expected.add(f"profiles.parts/{part:06d}.parquet")
    assert list_files(tmp_path) == expected
    second_part = tmp_path / "metrics.parts" / "000001.parquet"
    assert read_steps(second_part) == [1, 2, 3, 4]


@pytest.mark.usefixtures("flush_always")
def test_closing_joins_the_parts_in_order(tmp_path):
    run_record = open_record(tmp_path)
    for start in (0, 4, 8):
        run_record.add(*make_rows(start, 4))
    run_record.close(status="done")
    assert list_files(tmp_path) == {"run.json", "metrics.parquet", "profiles.parquet"}
    assert read_steps(tmp_path / "metrics.parquet") == list(range(12))
    assert read_steps(tmp_path / "profiles.parquet") == list(range(0, 12, 2))


def test_how_often_a_record_is_flushed_does_not_change_it(tmp_path, monkeypatch):
    for name, seconds in (("often", ALWAYS), ("once", NEVER)):
        monkeypatch.setattr(record, "FLUSH_SECONDS", seconds)
        run_record = open_record(tmp_path / name)
        for start in range(0, 12, 3):
            run_record.add(*make_rows(start, 3))
        run_record.close()
    for table in ("metrics", "profiles"):
        often = pq.read_table(tmp_path / "often" / f"{table}.parquet")
        once = pq.read_table(tmp_path / "once" / f"{table}.parquet")
        assert often.equals(once)


@pytest.mark.parametrize(
    ("gauge", "length", "type_"),
    [
        ("signal_grad", NUM_LAYERS + 1, pa.float64()),
        ("grad_norm", NUM_LAYERS, pa.float32()),
    ],
)
def test_profiles_are_lists_as_wide_as_measured_with_one_value_per_layer(
    tmp_path, gauge, length, type_
):
    run_record = open_record(tmp_path)
    run_record.add(*make_rows(0, 4))
    run_record.close()
    table = pq.read_table(tmp_path / "profiles.parquet")
    assert table.schema.field("step").type == pa.int64()
    assert table.schema.field(gauge).type == pa.list_(type_)
    lengths = {len(values) for values in table[gauge].to_pylist()}
    assert lengths == {length}


@pytest.mark.parametrize("smallest", [1e-128, 5e-324])
def test_profiles_hold_values_beyond_the_range_of_float32(tmp_path, smallest):
    run_record = open_record(tmp_path)
    signal = np.array([[1.0, 1e-60, smallest]])
    run_record.add({}, {"step": np.array([0]), "signal_grad": signal})
    run_record.close()
    table = pq.read_table(tmp_path / "profiles.parquet")
    assert table["signal_grad"].to_pylist() == signal.tolist()


def test_missing_values_become_null_and_nan_stays_nan(tmp_path):
    run_record = open_record(tmp_path)
    metrics = {
        "step": np.arange(3),
        "masked": np.ma.masked_array([1.0, 2, 3], [True, False, True]),
        "nan": np.array([1, np.nan, 2]),
    }
    run_record.add(metrics, {})
    run_record.close()
    table = pq.read_table(tmp_path / "metrics.parquet")
    assert table["masked"].to_pylist() == [None, 2.0, None]
    assert table["nan"].null_count == 0
    assert np.isnan(table["nan"].to_pylist()[1])


def test_it_is_read_without_pandas(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    run_record = open_record(tmp_path)
    run_record.add(*make_rows(0, 4))
    run_record.close()
    file = tmp_path / "metrics.parquet"
    last_row = pq.read_table(file).to_pylist()[3]
    assert last_row == {"step": 3, "train_loss": 0.25, "eval_loss": 1.5}
    assert b"pandas" not in (pq.read_schema(file).metadata or {})


@pytest.mark.usefixtures("flush_always")
def test_a_run_that_measures_nothing_has_no_profiles(tmp_path):
    run_record = open_record(tmp_path)
    metrics, _ = make_rows(0, 3)
    run_record.add(metrics, {})
    run_record.close()
    assert list_files(tmp_path) == {"run.json", "metrics.parquet"}


def test_a_record_that_is_not_closed_reads_back_to_its_last_flush(tmp_path, monkeypatch):
    run_record = RunRecord(Lock(tmp_path), {"id": "x"})
    monkeypatch.setattr(record, "FLUSH_SECONDS", ALWAYS)
    run_record.add(*make_rows(0, 4))
    monkeypatch.setattr(record, "FLUSH_SECONDS", NEVER)
    run_record.add(*make_rows(4, 4))
    assert recorded_steps(tmp_path) == [0, 1, 2, 3]
    assert measured_steps(tmp_path) == [0, 2]
    info = Run(tmp_path).info
    assert (info["id"], info["status"]) == ("x", "running")


KILLED = """
import os, pathlib, signal, sys
import numpy as np
from research.records import record

run_record = record.RunRecord(record.Lock(pathlib.Path(sys.argv[1])), {})
record.FLUSH_SECONDS = -1.0
for step in range(40):
    metrics = {"step": np.array([step])}
    run_record.add(metrics, {"step": np.array([step]), "signal_grad": np.ones((1, 3))})
record.FLUSH_SECONDS = 1e9
run_record.add({"step": np.array([40])}, {})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_reads_back_to_its_last_flush(tmp_path, process):
    killed = process("-c", KILLED, tmp_path)
    killed.communicate()
    assert killed.returncode == -9
    assert recorded_steps(tmp_path) == list(range(40))
    run = Run(tmp_path)
    assert run.profiles["signal_grad"].shape == (40, 3)
    assert run.info["status"] == "running"


def write_half(path):
    """Fails in the middle of writing a file."""
    Path(path).write_bytes(b"PAR1 half")
    raise OSError(28, "No space left on device", str(path))


@pytest.mark.usefixtures("flush_always")
def test_a_table_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    run_record = open_record(tmp_path)
    run_record.add(*make_rows(0, 4))
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", lambda table, path: write_half(path))
        with pytest.raises(OSError, match="No space left"):
            run_record.add(*make_rows(4, 4))
    assert recorded_steps(tmp_path) == [0, 1, 2, 3]
    assert measured_steps(tmp_path) == [0, 2]


def test_run_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    run_record = RunRecord(Lock(tmp_path), {"id": "x"})
    monkeypatch.setattr(Path, "write_text", lambda path, *_, **__: write_half(path))
    with pytest.raises(OSError, match="No space left"):
        run_record.update(status="done")
    written = json.loads((tmp_path / "run.json").read_bytes())
    assert (written["id"], written["status"]) == ("x", "running")


def test_run_json_is_replaced_in_one_step_by_a_complete_file(tmp_path, monkeypatch):
    run_record = open_record(tmp_path)
    first = json.loads((tmp_path / "run.json").read_bytes())
    replacements = []
    replace = os.replace

    def watched_replace(source, target):
        new = json.loads(Path(source).read_text())
        old = json.loads(Path(target).read_text())
        replacements.append((new, old))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched_replace)
    run_record.update(steps=3)
    assert replacements == [(first | {"steps": 3}, first)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.nan, None),
        (-np.inf, None),
        (np.float32("inf"), None),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        ((1, np.nan), [1, None]),
        ({"a": {"b": [np.nan, 1.0]}}, {"a": {"b": [None, 1.0]}}),
        ("σ_w ≥ 1", "σ_w ≥ 1"),
        (None, None),
    ],
)
def test_json_that_every_reader_accepts(tmp_path, value, expected):
    def refuse(constant):
        raise ValueError(constant)

    file = tmp_path / "a.json"
    write_json(file, {"value": value})
    read = json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
    assert read == {"value": expected}
    assert type(read["value"]) is type(expected)


@pytest.mark.usefixtures("flush_always")
def test_a_new_attempt_removes_what_a_finished_one_and_a_killed_one_left(tmp_path):
    finished = open_record(tmp_path)
    finished.add(*make_rows(0, 4))
    finished.close()
    finished.release()
    killed = open_record(tmp_path)
    killed.add(*make_rows(0, 4))
    killed.add(*make_rows(4, 4))
    killed.release()  # as the end of its process does
    last = open_record(tmp_path)
    last.add(*make_rows(0, 2))
    assert recorded_steps(tmp_path) == [0, 1]
    last.close()
    assert recorded_steps(tmp_path) == [0, 1]


@pytest.fixture
def interrupted(tmp_path, flush_always):
    """The directory of an interrupted run with the steps 0 to 7, and its rows after step 3."""
    run_record = open_record(tmp_path)
    run_record.add(*make_rows(0, 4))
    run_record.add_inspections(0, {"sharpness": np.array(2.0)})
    num_rows = run_record.flush()
    run_record.add(*make_rows(4, 4))
    run_record.close(keep_parts=True, status="interrupted")
    run_record.release()
    return tmp_path, num_rows


def test_a_resumed_record_keeps_the_rows_up_to_its_checkpoint(interrupted):
    directory, num_rows = interrupted
    assert num_rows == {"metrics": 4, "profiles": 2, "inspections": 1}
    resumed = open_record(directory, keep_rows=num_rows)
    expected, _ = make_rows(0, 4)
    kept = resumed.read("metrics")
    assert np.array_equal(kept["train_loss"], expected["train_loss"])
    assert kept["eval_loss"].tolist() == [None, None, None, 1.5]
    assert resumed.read("inspections") == {"step": [0], "sharpness": [2]}
    resumed.add(*make_rows(4, 2))
    resumed.close(status="done")
    assert recorded_steps(directory) == [0, 1, 2, 3, 4, 5]


def test_what_others_leave_among_the_part_files_is_no_part(interrupted):
    """macOS writes ``._NAME``, and programs that synchronise folders write copies."""
    directory, num_rows = interrupted
    (directory / "metrics.parquet").unlink()
    first = directory / "metrics.parts" / "000000.parquet"
    shutil.copy(first, first.with_name("000000 (conflicted copy).parquet"))
    first.with_name("._000000.parquet").write_bytes(b"Mac OS X")

    assert recorded_steps(directory) == list(range(8))
    resumed = open_record(directory, keep_rows=num_rows)
    assert resumed.read("metrics")["step"].tolist() == list(range(4))
    resumed.close(status="done")
    assert recorded_steps(directory) == list(range(4))


def test_a_table_with_fewer_rows_than_the_checkpoint_says_is_corrupt(interrupted):
    directory, num_rows = interrupted
    num_rows["metrics"] = 9
    with pytest.raises(CorruptTable, match="expected 9 rows of metrics, found 8"):
        open_record(directory, keep_rows=num_rows)


@pytest.mark.parametrize("kept", [0, 3, 5, 8])
def test_a_rewritten_table_can_be_read_whole_at_any_moment(interrupted, monkeypatch, kept):
    """A process that is killed while it rewrites a table leaves the old rows or the new ones."""
    directory, _ = interrupted
    (directory / "metrics.parquet").unlink()  # as a killed process leaves it
    new = make_rows(0, kept)[0] if kept else {}
    readings = []

    def watch(patch, owner, name):
        act = getattr(owner, name)

        def read_and_act(*arguments, **named):
            readings.append(recorded_steps(directory))
            return act(*arguments, **named)

        patch.setattr(owner, name, read_and_act)

    with monkeypatch.context() as patch:
        watch(patch, os, "replace")
        watch(patch, shutil, "rmtree")
        watch(patch, Path, "mkdir")
        if kept:
            watch(patch, Path, "unlink")
        assert rewrite_table(directory, "metrics", new) == kept

    assert len(readings) == (7 if kept else 1)
    assert all(steps in (list(range(8)), list(range(kept))) for steps in readings)
    resumed = open_record(directory, keep_rows={"metrics": kept})
    assert len(resumed.read("metrics").get("step", [])) == kept


@pytest.mark.parametrize("content", [None, b"", b"PAR1"])
@pytest.mark.usefixtures("flush_always")
def test_a_record_that_has_lost_rows_does_not_end_as_if_it_were_whole(tmp_path, content):
    run_record = open_record(tmp_path)
    run_record.add(*make_rows(0, 4))
    run_record.add(*make_rows(4, 4))
    part = tmp_path / "metrics.parts" / "000000.parquet"
    part.unlink()
    if content is not None:
        part.write_bytes(content)

    with pytest.raises(CorruptTable, match="metrics.parts"):
        run_record.close(status="done")

    assert Run(tmp_path).info["status"] == "running"


@pytest.mark.usefixtures("flush_always")
def test_the_names_of_folders_are_no_columns(tmp_path):
    """Older versions of pyarrow read ``depth=2`` as a column of every file below it."""
    directory = tmp_path / "depth=2,width=8"
    directory.mkdir()
    run_record = open_record(directory)
    metrics, profiles = make_rows(0, 4)
    run_record.add(metrics, profiles)

    assert run_record.read("metrics").keys() == metrics.keys()
    run_record.close(status="done")

    assert Run(directory).metrics.keys() == metrics.keys()
    assert Run(directory).profiles.keys() == profiles.keys()


def test_a_record_that_cannot_be_opened_leaves_no_space_reserved(tmp_path):
    (tmp_path / "run.tmp").mkdir()  # so that run.json cannot be written

    with pytest.raises(OSError, match="run.tmp"):
        open_record(tmp_path)

    assert [file.name for file in tmp_path.iterdir()] == ["run.tmp"]


def test_a_file_system_without_locks_is_not_taken_for_another_process(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Function not implemented") as raised:
        Lock(tmp_path)
    line = explain_system_error(raised.value)
    assert line is not None
    assert line.startswith(f"{tmp_path} cannot be written: Function not implemented; its")
    assert "hydra.run.dir=FOLDER" in line


def test_a_process_that_does_not_write_the_run_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    null_record = NullRecord({"id": "x"})
    null_record.add(*make_rows(0, 4))
    null_record.add_inspections(0, {"sharpness": np.array(2.0)})
    assert null_record.flush() == {}
    null_record.close(status="done")
    null_record.release()
    assert null_record.info == {"id": "x", "status": "done"}
    assert list_files(tmp_path) == set()


FORKING = """
import os, pathlib, sys
from research.records.record import Lock
directory = pathlib.Path(sys.argv[1])
lock = Lock(directory)
read_end, write_end = os.pipe()
if os.fork() == 0:  # a process that loads data, say, and lives longer than the run
    os.close(write_end)
    os.read(read_end, 1)
    os._exit(0)
lock.release()
Lock(directory).release()
"""


def test_a_forked_process_does_not_hold_the_lock_of_its_parent(tmp_path):
    ended = subprocess.run([sys.executable, "-c", FORKING, tmp_path], capture_output=True)

    assert ended.returncode == 0, ended.stderr
