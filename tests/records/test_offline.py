"""A W&B run that is recorded offline without W&B, read back by W&B's own command."""

import json
import math
import time

import numpy as np
import pytest
import wandb

from research.records.trackers.media import Page, Table
from research.records.trackers.offline import OfflineRun
from research.records.trackers.transaction_log import encode_row
from research.records.trackers.wandb_runs import WANDB_SETTINGS

IDENTITY = {
    "id": "abc",
    "name": "a name with ümlauts",
    "group": "study",
    "job_type": "train",
    "tags": ["depth:2", "skip:none"],
}
CONFIG = {"model": {"depth": 2, "kind": "mlp"}, "seed": 3, "data": {"limit": None}}
ROWS = [
    {"train/step": 0, "train/loss": 1 / 3, "verdict/kind": "healthy"},
    {"train/step": 1, "train/loss": 1e-300, "grad_norm/depth_000": 2.5, "train/skipped": 1},
    {"train/step": 2, "train/loss": math.nan, "grad_norm/depth_000": math.inf},
]
TABLE = Table(["layer", "name"], [[0, "first"], [1, None]])
PAGE = Page("<!doctype html><title>x</title>")
SUMMARY = {
    "status": "done",
    "final/train_loss": np.float64(0.25),
    "verdict/since_step": np.int64(3),
    "verdict/initial": {"kind": "healthy"},
    "verdict/interval": [0.5, 1.5],
}
TIMES = ("_timestamp", "_runtime", "_wandb.runtime")


def record_ourselves(place):
    run = OfflineRun(place / "wandb", IDENTITY, project="p", entity="e", config=CONFIG)
    run.define_metric("train/step", is_hidden=True, has_summary=False)
    run.define_metric("train/loss", step_metric="train/step")
    run.define_metric("grad_norm/depth_*", step_metric="train/step", has_summary=False)
    run.log(ROWS[:2])
    run.log(ROWS[2:])
    run.log([{"profile/table": TABLE, "profile/depth": PAGE}])
    run.update_summary(SUMMARY)
    run.finish(1, 0.0)
    return run.directory


def record_with_wandb(place):
    settings = wandb.Settings(**WANDB_SETTINGS)
    run = wandb.init(
        project="p",
        entity="e",
        dir=str(place),
        mode="offline",
        resume="allow",
        reinit="create_new",
        config=CONFIG,
        settings=settings,
        **IDENTITY,
    )
    run.define_metric("train/step", hidden=True, summary="none")
    run.define_metric("train/loss", step_metric="train/step")
    run.define_metric("grad_norm/depth_*", step_metric="train/step", summary="none")
    for row in ROWS:
        run.log(row)
    run.log({"profile/table": TABLE.to_wandb(place), "profile/depth": PAGE.to_wandb(place)})
    run.summary.update(SUMMARY)
    run.finish(exit_code=1)
    (folder,) = place.glob("wandb/offline-run-*")
    return folder


def by_kind(records):
    """The records of each kind, without times, and the summary that all of them add up to."""
    kinds = {"history": [], "metric": [], "summary": {}}
    for record in records:
        content = record.get(record["type"])
        if record["type"] == "history":
            kinds["history"].append(without(content["item"], TIMES))
        elif record["type"] == "summary":
            kinds["summary"] |= content.get("update", {})
        elif record["type"] in ("run", "exit"):
            kinds[record["type"]] = content
        elif record["type"] == "metric":
            kinds["metric"].append(without(content, ["_info"]))
    return kinds


def without(values, names):
    return {name: value for name, value in values.items() if name not in names}


def test_what_is_written_is_what_wandb_writes(tmp_path, wandb_records):
    ours = by_kind(wandb_records(record_ourselves(tmp_path / "ours")))
    theirs_place = tmp_path / "theirs"
    theirs_place.mkdir()
    theirs = by_kind(wandb_records(record_with_wandb(theirs_place)))

    artifact = ("profile/table.artifact_path", "profile/table._latest_artifact_path")
    theirs["history"][3] = without(theirs["history"][3], artifact)
    assert json.dumps(ours["history"], sort_keys=True) == json.dumps(
        theirs["history"], sort_keys=True
    )
    assert ours["metric"] == theirs["metric"]
    assert ours["exit"]["exit_code"] == theirs["exit"]["exit_code"] == 1
    for name in ("run_id", "project", "entity", "run_group", "job_type", "display_name", "tags"):
        assert ours["run"][name] == theirs["run"][name]
    assert dict(ours["run"]["config"]["update"]) == dict(theirs["run"]["config"]["update"])
    for name in theirs["summary"]:
        if name not in TIMES and name not in artifact and name != "_wandb":
            assert json.dumps(ours["summary"][name]) == json.dumps(theirs["summary"][name]), name


@pytest.mark.parametrize(
    "value", [0, -3, 10**30, True, -2.2250738585072014e-308, 1e300, -math.inf, "x", None]
)
def test_a_value_of_any_kind_is_written_as_json(value):
    encoded = encode_row({"key": value})

    text = json.dumps(value).encode()
    assert encoded.endswith(bytes([len(text)]) + text)
    assert encoded[1] == len(encoded) - 2


def test_records_of_any_length_are_read_back_from_a_file_that_was_cut_off(tmp_path, wandb_records):
    lengths = [*range(0, 7000, 7), 32_768, 100_000, *range(100)]
    run = OfflineRun(tmp_path, IDENTITY, project="p", entity=None, config={})
    for length in lengths:
        run.log([{"text": "x" * length}])

    run.finish(0, 0.0)
    (file,) = run.directory.glob("*.wandb")
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1000)

    rows = by_kind(wandb_records(run.directory))["history"]

    kept = [len(row["text"]) for row in rows]
    assert kept == lengths[: len(kept)]
    assert len(kept) > len(lengths) - 20


def test_a_run_that_starts_again_in_the_same_second_has_a_folder_of_its_own(tmp_path):
    folders = set()
    for _ in range(3):
        run = OfflineRun(tmp_path, IDENTITY, project="p", entity=None, config={})
        folders.add(run.directory)
        run.finish(0, 0.0)
    assert len(folders) == 3
    assert (tmp_path / "latest-run").resolve() in folders


def test_a_clock_that_is_set_back_does_not_turn_time_round(tmp_path, wandb_records, monkeypatch):
    run = OfflineRun(tmp_path, IDENTITY, project="p", entity=None, config={})
    run.log(ROWS[:1])
    monkeypatch.setattr(time, "time", lambda: 1e9)
    run.log(ROWS[1:2])
    run.finish(0, 0.0)

    records = wandb_records(run.directory)

    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    times = [(row["_runtime"], row["_timestamp"]) for row in rows]
    assert 0 <= times[0][0] <= times[1][0]
    assert times[0][1] <= times[1][1]
    (exit_record,) = [record["exit"] for record in records if record["type"] == "exit"]
    assert 0 <= exit_record.get("runtime", 0) < 60


def test_a_name_that_is_no_text_is_shown_in_escape_sequences(tmp_path, wandb_records):
    identity = IDENTITY | {"name": "caf\udce9"}
    run = OfflineRun(tmp_path, identity, project="p", entity=None, config={})
    run.finish(0, 0.0)
    assert by_kind(wandb_records(run.directory))["run"]["display_name"] == "caf\\udce9"


OFFLINE = """
import sys
import numpy as np
from research.records.trackers.wandb import WandbTracker

config = {"watch": {}, "tracker": {}}
settings = {"project": "p", "entity": None, "dir": ".", "finish_timeout": 1.0}
tracker = WandbTracker(settings=settings, run_id="a", name="n", group="g", config=config)
tracker.start()
step = np.arange(5)
profiles = {"step": step, "signal_grad": np.ones((5, 3)), "grad_norm": np.ones((5, 2))}
tracker.log({"step": step, "train_loss": 1.0 / (1 + step)}, profiles, {})
state = tracker.finish({"status": "done", "final": {}, "verdict": None})
assert state["state"] == "local"
assert not {"wandb", "matplotlib", "pandas"} & sys.modules.keys()
"""


def test_an_offline_run_needs_neither_wandb_nor_its_process(process, workplace):
    started = process("-c", OFFLINE)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 0, err
    (folder,) = workplace.glob("wandb/offline-run-*-a")
    media = {file.name.partition("_5_")[0] for file in folder.glob("files/media/*/profile/*")}
    assert media == {"heat_map", "table", "depth"}
