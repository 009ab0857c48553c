import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from research.records import record
from research.records.record import Lock, RunRecord, write_json
from research.records.runs import Run

LAYERS = 3


def rows(start, count):
    """Columns as the host loop hands them over; every second step is measured."""
    step = np.arange(start, start + count)
    seen = np.ma.masked_all(count)
    seen[-1] = step[-1] / 2
    measured = step[step % 2 == 0]
    layers = measured[:, None] + np.arange(LAYERS + 1) / 10
    metrics = {"step": step, "train_loss": np.float32(1) / (1 + step), "eval_loss": seen}
    profiles = {
        "step": measured,
        "signal_grad": layers,
        "grad_norm": layers[:, 1:].astype(np.float32),
    }
    return metrics, profiles if len(measured) else {}


@pytest.fixture
def at_once(monkeypatch):
    """Every row is flushed as it comes."""
    monkeypatch.setattr(record, "FLUSH_SECONDS", -1.0)


@pytest.fixture
def rarely(monkeypatch):
    """No row is flushed before the end."""
    monkeypatch.setattr(record, "FLUSH_SECONDS", 1e9)


def files(directory):
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_while_a_run_lasts_its_rows_lie_in_whole_parts(tmp_path, at_once):
    written = RunRecord(Lock(tmp_path), {})
    for start in (0, 1, 5):
        written.add(*rows(start, 1 if start == 0 else 4))
    parts = [
        f"{table}.parts/{part:06d}.parquet"
        for table in ("metrics", "profiles")
        for part in range(3)
    ]
    assert files(tmp_path) == {"run.json", *parts}
    assert pq.read_table(tmp_path / "metrics.parts" / "000001.parquet")["step"].to_pylist() == [
        1,
        2,
        3,
        4,
    ]


def test_closing_joins_the_parts_in_order(tmp_path, at_once):
    written = RunRecord(Lock(tmp_path), {})
    for start in (0, 4, 8):
        written.add(*rows(start, 4))
    written.close(status="done")
    assert files(tmp_path) == {"run.json", "metrics.parquet", "profiles.parquet"}
    assert pq.read_table(tmp_path / "metrics.parquet")["step"].to_pylist() == list(range(12))
    assert pq.read_table(tmp_path / "profiles.parquet")["step"].to_pylist() == list(range(0, 12, 2))


def test_how_often_a_record_is_flushed_does_not_change_it(tmp_path, monkeypatch):
    for name, seconds in (("often", -1.0), ("once", 1e9)):
        monkeypatch.setattr(record, "FLUSH_SECONDS", seconds)
        (tmp_path / name).mkdir()
        written = RunRecord(Lock(tmp_path / name), {})
        for start in range(0, 12, 3):
            written.add(*rows(start, 3))
        written.close()
    for table in ("metrics", "profiles"):
        often, once = (
            pq.read_table(tmp_path / name / f"{table}.parquet") for name in ("often", "once")
        )
        assert often.equals(once)


def test_profiles_are_lists_of_float32_one_a_layer(tmp_path):
    written = RunRecord(Lock(tmp_path), {})
    written.add(*rows(0, 4))
    written.close()
    table = pq.read_table(tmp_path / "profiles.parquet")
    assert table.schema.field("step").type == pa.int64()
    for name, length in (("signal_grad", LAYERS + 1), ("grad_norm", LAYERS)):
        assert table.schema.field(name).type == pa.list_(pa.float32())
        assert {len(values) for values in table[name].to_pylist()} == {length}
    assert table["signal_grad"].to_pylist()[1] == [
        float(np.float32(2 + layer / 10)) for layer in range(LAYERS + 1)
    ]


def test_where_there_is_no_number_there_is_null_and_nan_stays_nan(tmp_path):
    written = RunRecord(Lock(tmp_path), {})
    metrics = {
        "step": np.arange(3),
        "a": np.ma.masked_array([1.0, 2, 3], [True, False, True]),
        "b": [1, np.nan, 2],
    }
    metrics["b"] = np.array(metrics["b"])
    written.add(metrics, {})
    written.close()
    table = pq.read_table(tmp_path / "metrics.parquet")
    assert table["a"].to_pylist() == [None, 2.0, None]
    assert table["b"].null_count == 0 and np.isnan(table["b"].to_pylist()[1])


def test_it_is_read_without_pandas(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    written = RunRecord(Lock(tmp_path), {})
    written.add(*rows(0, 4))
    written.close()
    assert pq.read_table(tmp_path / "metrics.parquet").to_pylist()[3] == {
        "step": 3,
        "train_loss": 0.25,
        "eval_loss": 1.5,
    }
    assert b"pandas" not in (pq.read_schema(tmp_path / "metrics.parquet").metadata or {})


def test_a_run_that_measures_nothing_has_no_profiles(tmp_path, at_once):
    written = RunRecord(Lock(tmp_path), {})
    written.add(rows(0, 3)[0], {})
    written.close()
    assert files(tmp_path) == {"run.json", "metrics.parquet"}


def test_a_record_that_is_not_closed_reads_back_to_its_last_flush(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "FLUSH_SECONDS", -1.0)
    written = RunRecord(Lock(tmp_path), {"id": "x"})
    written.add(*rows(0, 4))
    monkeypatch.setattr(record, "FLUSH_SECONDS", 1e9)
    written.add(*rows(4, 4))
    assert Run(tmp_path).metrics["step"].tolist() == [0, 1, 2, 3]
    assert Run(tmp_path).profiles["step"].tolist() == [0, 2]
    assert Run(tmp_path).info == {"id": "x", "status": "running"}


def test_a_killed_process_reads_back_to_its_last_flush(tmp_path, process):
    code = """
import os, signal, sys, pathlib, numpy as np
from research.records import record
record.FLUSH_SECONDS = -1.0
written = record.RunRecord(record.Lock(pathlib.Path(sys.argv[1])), {})
for step in range(40):
    written.add({"step": np.array([step])}, {"step": np.array([step]), "signal_grad": np.ones((1, 3))})
record.FLUSH_SECONDS = 1e9
written.add({"step": np.array([40])}, {})
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = process("-c", code, tmp_path)
    killed.communicate()
    assert killed.returncode == -9
    assert Run(tmp_path).metrics["step"].tolist() == list(range(40))
    assert Run(tmp_path).profiles["signal_grad"].shape == (40, 3)
    assert Run(tmp_path).info["status"] == "running"


def half(path, *_):
    """A writer that dies in the middle of a file."""
    Path(path).write_bytes(b"PAR1 half")
    raise OSError(28, "No space left on device", str(path))


def test_a_table_is_written_whole_or_not_at_all(tmp_path, at_once, monkeypatch):
    written = RunRecord(Lock(tmp_path), {})
    written.add(*rows(0, 4))
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", lambda table, path: half(path))
        with pytest.raises(OSError, match="No space left"):
            written.add(*rows(4, 4))
    assert Run(tmp_path).metrics["step"].tolist() == [0, 1, 2, 3]
    assert Run(tmp_path).profiles["step"].tolist() == [0, 2]


def test_run_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    written = RunRecord(Lock(tmp_path), {"id": "x"})
    monkeypatch.setattr(Path, "write_text", lambda path, *_, **__: half(path))
    with pytest.raises(OSError, match="No space left"):
        written.update(status="done")
    assert json.loads((tmp_path / "run.json").read_bytes()) == {"id": "x", "status": "running"}


def test_nobody_sees_run_json_between_two_states(tmp_path, monkeypatch):
    """It is replaced in one step by a file that is complete by then."""
    written = RunRecord(Lock(tmp_path), {})
    seen = []
    replace = os.replace

    def watched(source, target):
        seen.append((json.loads(Path(source).read_text()), json.loads(Path(target).read_text())))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    written.update(steps=3)
    assert seen == [({"status": "running", "steps": 3}, {"status": "running"})]


@pytest.mark.parametrize(
    ("value", "kept"),
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
def test_json_that_every_reader_takes(tmp_path, value, kept):
    def refuse(constant):
        raise ValueError(constant)

    write_json(tmp_path / "a.json", {"value": value})
    read = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert read == {"value": kept} and type(read["value"]) is type(kept)


def test_a_new_attempt_drops_what_the_last_one_left(tmp_path, at_once):
    first = RunRecord(Lock(tmp_path), {})
    first.add(*rows(0, 4))
    first.close()
    first.release()
    killed = RunRecord(Lock(tmp_path), {})
    killed.add(*rows(0, 4))
    killed.add(*rows(4, 4))
    killed.release()  # as the end of its process does
    last = RunRecord(Lock(tmp_path), {})
    last.add(*rows(0, 2))
    assert Run(tmp_path).metrics["step"].tolist() == [0, 1]
    last.close()
    assert Run(tmp_path).metrics["step"].tolist() == [0, 1]
