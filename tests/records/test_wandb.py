import contextlib
import json
import types
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from research.records.runs import Run, flat
from research.records.trackers import Background
from research.records.trackers.wandb import MOST_LAYERS, WandbTracker, layer_values, tags


@pytest.fixture(scope="module")
def mirrored(finished, wandb_records):
    """The finished run, its W&B folder, and the W&B records by type."""
    run = Run(finished[0])
    folder = finished[0].parents[2] / run.info["wandb"]
    records = {}
    for record in wandb_records(folder):
        records.setdefault(record["type"], []).append(record.get(record["type"]))
    return run, folder, records


def merged(records):
    """The summary as a dashboard shows it: later values replace earlier ones."""
    return {
        key: value
        for record in records["summary"]
        for key, value in record.get("update", {}).items()
    }


def test_the_configuration_is_the_resolved_tree(mirrored):
    run, _, records = mirrored
    config = dict(records["run"][0]["config"]["update"])
    assert config.pop("_wandb") == {}
    assert config == yaml.safe_load((run.directory / ".hydra" / "config.yaml").read_text())


def test_the_run_is_found_by_id_name_group_and_tags(mirrored):
    run, folder, records = mirrored
    described = records["run"][0]
    assert described["run_id"] == run.info["id"] and folder.name.endswith(run.info["id"])
    assert (described["project"], described["run_group"], described["job_type"]) == (
        "fathom",
        "first",
        "train",
    )
    assert described["display_name"] == run.directory.name
    assert {"depth:2", "skip:none", "activation:relu", "optimizer:momentum", "data:digits"} <= set(
        described["tags"]
    )


def test_there_is_one_row_a_step_with_the_numbers_of_the_record(mirrored):
    run, _, records = mirrored
    rows = [record["item"] for record in records["history"] if "train/loss" in record["item"]]
    assert [row["train/step"] for row in rows] == list(range(25))
    for key, column in (
        ("train/loss", "train_loss"),
        ("grad_norm/total", "grad_norm"),
        ("train/epoch", "epoch"),
    ):
        assert np.allclose([row[key] for row in rows], run.metrics[column], rtol=1e-7)
    evaluated = {row["train/step"]: row["eval/accuracy"] for row in rows if "eval/accuracy" in row}
    assert evaluated == {step: run.metrics["eval_accuracy"][step] for step in (9, 19, 24)}


def test_every_tenth_row_carries_one_value_a_layer(mirrored):
    run, _, records = mirrored
    for step, record in enumerate(records["history"][:25]):
        layers = {
            key: value for key, value in record["item"].items() if key.startswith("grad_norm/layer")
        }
        assert list(layers) == (
            ["grad_norm/layer_000", "grad_norm/layer_001"] if step % 10 == 0 else []
        )
        assert list(layers.values()) == (run.profiles["grad_norm"][step].tolist() if layers else [])


def test_everything_is_drawn_over_the_training_step(mirrored):
    """Each key by itself or by one pattern: patterns that overlap would win by chance."""
    _, _, records = mirrored
    metrics = {metric.get("name") or metric["glob_name"]: metric for metric in records["metric"]}
    axes = {name: metric.get("step_metric") for name, metric in metrics.items()}
    assert axes.pop("train/step") is None and set(axes.values()) == {"train/step"}
    patterns = {name for name in axes if "*" in name}
    assert {"grad_norm/layer_*", "signal_lost/layer_*", "inspect/*"} <= patterns
    assert len({name.partition("/")[0] for name in axes if "*" in name}) == len(patterns), (
        "patterns overlap"
    )
    assert metrics["grad_norm/layer_*"]["summary"] == {"none": True}
    logged = {
        key
        for record in records["history"][:25]
        for key in record["item"]
        if not key.startswith("_")
    }
    assert {key for key in logged if "layer" not in key} == set(axes) - patterns | {"train/step"}


def test_the_summary_holds_the_end_and_the_verdict(mirrored):
    run, _, records = mirrored
    summary = merged(records)
    for prefix in ("final", "verdict"):
        kept = {f"{prefix}/{key}": value for key, value in run.info[prefix].items()}
        assert {key: summary.get(key) for key in kept} == kept
    assert summary["status"] == "done"
    assert not [key for key in summary if key.startswith("grad_norm/layer")]
    assert records["exit"] == [{"exit_code": 0}] or records["exit"][0]["exit_code"] == 0


def test_there_are_a_map_and_a_table_of_the_profile(mirrored):
    run, folder, records = mirrored
    (picture,) = (folder / "files" / "media").rglob("heat_map*.png")
    assert (
        min(Image.open(picture).size) > 300
        and len(set(Image.open(picture).convert("L").get_flattened_data())) > 20
    )
    (file,) = (folder / "files" / "media").rglob("table*.json")
    table = json.loads(file.read_text())
    signal, norms = run.profiles["signal_grad"], [*run.profiles["grad_norm"][-1].tolist(), None]
    assert table["columns"] == [
        "layer",
        "signal_grad_first_step",
        "signal_grad_last_step",
        "grad_norm",
    ]
    assert table["data"] == [
        [n, *values] for n, values in enumerate(zip(signal[0], signal[-1], norms, strict=True))
    ]
    assert len(records["history"]) == 26


@pytest.mark.parametrize(
    ("layers", "first", "last"), [(1, "layer_000", "layer_000"), (1001, "layer_0000", "layer_1000")]
)
def test_layers_have_names_of_one_width_and_are_not_too_many(layers, first, last):
    values = layer_values("grad_norm", np.arange(layers))
    assert len({len(name) for name in values}) == 1 and len(values) == min(layers, MOST_LAYERS)
    assert list(values) == sorted(values)
    assert (list(values)[0], list(values)[-1]) == (f"grad_norm/{first}", f"grad_norm/{last}")
    assert all(int(name.rpartition("_")[2]) == value for name, value in values.items())


def test_rows_that_were_not_measured_carry_no_gradient(finished):
    config = yaml.safe_load((finished[0] / ".hydra" / "config.yaml").read_text())
    tracker = WandbTracker(
        settings=config["tracker"], run_id="x", name="x", group="x", config=config
    )
    logged = []
    tracker._run = types.SimpleNamespace(log=logged.append)
    norm = np.ma.masked_array([1.0, 2, 3, 4], [False, True, False, True])
    profiles = {
        "step": np.array([10, 12]),
        "signal_grad": np.ones((2, 3)),
        "grad_norm": np.ones((2, 2)),
    }
    tracker.log(
        {"step": np.arange(10, 14), "train_loss": np.ones(4), "grad_norm": norm}, profiles, {}
    )
    assert ["grad_norm/total" in row for row in logged] == [True, False, True, False]
    assert ["grad_norm/layer_001" in row for row in logged] == [
        True,
        False,
        False,
        False,
    ]  # every tenth step


def test_a_run_is_closed_there_also_where_its_pictures_fail(finished, monkeypatch):
    config = yaml.safe_load((finished[0] / ".hydra" / "config.yaml").read_text())
    tracker = WandbTracker(
        settings=config["tracker"], run_id="x", name="x", group="x", config=config
    )
    closed = []
    tracker._run = types.SimpleNamespace(
        log=lambda _: None, summary={}, finish=lambda exit_code: closed.append(exit_code)
    )
    tracker._rows = [{"step": np.zeros(0), "signal_grad": np.zeros((0, 3))}]  # a picture of nothing
    with contextlib.suppress(Exception):
        tracker.finish({"status": "diverged", "final": {}, "verdict": None})
    assert closed == [1]


def test_tags_name_every_choice_but_where_a_run_is_trained(finished):
    config = yaml.safe_load((finished[0] / ".hydra" / "config.yaml").read_text())
    kinds = {
        path.removesuffix(".kind"): value
        for path, value in flat(config).items()
        if path.endswith(".kind")
    }
    kinds.pop("mesh")
    assert {f"{group}:{value}" for group, value in kinds.items()} <= set(tags(config))


def test_a_disabled_tracker_leaves_nothing(fathom, small, workplace, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert fathom("train", *small, "name=x").code == 0
    (file,) = workplace.glob("outputs/x/*/run.json")
    assert not json.loads(file.read_text()).get("wandb")
    assert not list(workplace.rglob("*.wandb")) + list(workplace.rglob("offline-run-*"))


def test_the_folder_that_the_user_chose_is_used(fathom, small, workplace, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(workplace / "mine"))
    assert fathom("train", *small, "name=x").code == 0
    (file,) = workplace.glob("outputs/x/*/run.json")
    told = Path(json.loads(file.read_text())["wandb"])
    assert list(told.glob("run-*.wandb")) and told.parent == workplace / "mine" / "wandb"
    assert not (workplace / "outputs" / "wandb").exists()


def test_each_folder_of_one_process_keeps_its_runs(fathom, small, workplace, monkeypatch):
    """W&B's service stays where the first run of the process was: a relative path would be taken from there."""
    for place in ("here", "there"):
        (workplace / place).mkdir()
        monkeypatch.chdir(workplace / place)
        assert fathom("train", *small, "name=x").code == 0
        assert list((workplace / place / "outputs" / "wandb").glob("offline-run-*/run-*.wandb")), (
            place
        )


@pytest.mark.parametrize("method", ["start", "log", "finish"])
def test_a_tracker_that_fails_is_reported_once_and_the_run_goes_on(
    fathom, small, workplace, monkeypatch, method
):
    def breaks(*_):
        raise RuntimeError("the dashboard is gone")

    for name in ("start", "log", "finish"):
        monkeypatch.setattr(WandbTracker, name, breaks if name == method else lambda *_: {})
    code, out, err = fathom("train", *small, "name=x")
    assert code == 0 and err.count("the dashboard is gone") == 1 and "WandbTracker" in err
    (file,) = workplace.glob("outputs/x/*/run.json")
    assert Run(file.parent).info["status"] == "done" and len(Run(file.parent).metrics["step"]) == 25
    assert "healthy" in out


def test_one_failing_tracker_leaves_the_others_alone(capsys):
    class Recorder:
        def __init__(self, broken):
            self.broken = broken
            self.calls = []

        def start(self):
            self.calls.append("start")
            return {"place": "here"}

        def log(self, metrics, profiles, beside):
            self.calls.append(metrics["step"])
            if self.broken:
                raise OSError("gone")

        def finish(self, info):
            self.calls.append(info["status"])

    good = Recorder(False)
    bad = Recorder(True)
    trackers = Background([bad, good])
    trackers.start()
    for step in range(5):
        trackers.log({"step": step}, {}, {})  # type: ignore[dict-item]
    assert trackers.described() == {"place": "here"}
    trackers.finish({"status": "done"})
    assert good.calls == ["start", 0, 1, 2, 3, 4, "done"] and bad.calls == ["start", 0]
    assert capsys.readouterr().err.count("gone") == 1
