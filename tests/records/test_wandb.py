"""What a training run looks like in Weights & Biases, read back by W&B's own command."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from research.records.runs import Run, flatten_dict
from research.records.trackers import BackgroundTrackers
from research.records.trackers.wandb import WandbTracker, make_tags


def group_by_type(wandb_records):
    groups = {}
    for record in wandb_records:
        kind = record["type"]
        groups.setdefault(kind, []).append(record.get(kind))
    return groups


@pytest.fixture(scope="module")
def mirrored(finished, wandb_records):
    """The finished run, its W&B folder, and the W&B records by type."""
    directory, _ = finished
    run = Run(directory)
    folder = directory.parents[2] / run.info["wandb"]
    return run, folder, group_by_type(wandb_records(folder))


def read_config(directory):
    file = directory / ".hydra" / "config.yaml"
    return yaml.safe_load(file.read_text())


def merge_summary(records):
    """The summary as a dashboard shows it: later values replace earlier ones."""
    summary = {}
    for record in records["summary"]:
        summary |= record.get("update", {})
    return summary


def history_rows(records):
    return [record["item"] for record in records["history"]]


def layer_keys(row):
    return [key for key in row if key.startswith("grad_norm_layers/depth")]


def test_the_configuration_holds_the_resolved_settings_that_have_an_effect(mirrored):
    run, _, records = mirrored
    config = dict(records["run"][0]["config"]["update"])
    assert config.pop("_wandb") == {}
    recorded = flatten_dict(read_config(run.directory))
    recorded = {path: value for path, value in recorded.items() if not path.startswith("tracker.")}
    mirrored_settings = flatten_dict(config)
    assert mirrored_settings.items() <= recorded.items()
    without_effect = {path.partition(".")[2] for path in recorded.keys() - mirrored_settings.keys()}
    assert without_effect == {
        "backoff_factor",
        "base_depth",
        "base_width",
        "boundaries",
        "clip_threshold",
        "decay_factor",
        "decay_rate",
        "decay_steps",
        "end_value",
        "growth_factor",
        "growth_interval",
        "inspect_every",
        "layer_gain",
        "loss_scale",
        "power",
        "staircase",
        "transition_steps",
        "warmup_steps",
    }


def test_the_run_is_found_by_id_name_group_and_tags(mirrored):
    run, folder, records = mirrored
    described = records["run"][0]
    assert described["run_id"] == run.info["id"]
    assert folder.name.endswith(run.info["id"])
    assert described["project"] == "fathom"
    assert described["run_group"] == "first"
    assert described["job_type"] == "train"
    assert described["display_name"] == run.directory.name
    expected = {"depth:2", "skip:none", "activation:relu", "optimizer:momentum", "data:digits"}
    assert expected <= set(described["tags"])


@pytest.mark.parametrize(
    ("key", "column"),
    [
        ("train/loss", "train_loss"),
        ("grad_norm/total", "grad_norm"),
        ("train/epoch", "epoch"),
    ],
)
def test_there_is_one_row_for_each_step_with_the_numbers_of_the_record(mirrored, key, column):
    run, _, records = mirrored
    rows = [row for row in history_rows(records) if "train/loss" in row]
    assert [row["train/step"] for row in rows] == list(range(25))
    logged = [row[key] for row in rows]
    assert np.allclose(logged, run.metrics[column], rtol=1e-7)


def test_evaluations_are_in_the_rows_of_their_steps(mirrored):
    run, _, records = mirrored
    logged = {}
    for row in history_rows(records):
        if "eval/accuracy" in row:
            logged[row["train/step"]] = row["eval/accuracy"]
    recorded = run.metrics["eval_accuracy"]
    assert sorted(logged) == [9, 19, 24]
    for step, accuracy in logged.items():
        assert accuracy == recorded[step]


def test_every_tenth_row_carries_one_value_for_each_layer(mirrored):
    run, _, records = mirrored
    for step, row in enumerate(history_rows(records)[:25]):
        keys = layer_keys(row)
        if step % 10:
            assert keys == []
        else:
            assert keys == ["grad_norm_layers/depth_000", "grad_norm_layers/depth_100"]
            logged = [row[key] for key in keys]
            assert logged == run.profiles["grad_norm"][step].tolist()


def test_every_measured_row_carries_numbers_that_summarise_the_layers(mirrored):
    run, _, records = mirrored
    first, last = run.profiles["grad_norm"].T
    for step, row in enumerate(history_rows(records)[:25]):
        assert row["grad_norm/first"] == first[step]
        assert row["grad_norm/last"] == last[step]
        assert row["grad_norm/ratio"] == first[step] / last[step]
        assert row["grad_norm/min"] == min(first[step], last[step])
        assert row["grad_norm/max"] == max(first[step], last[step])


def test_every_tenth_row_carries_the_judgement_of_its_step(mirrored):
    run, _, records = mirrored
    for step, row in enumerate(history_rows(records)[:25]):
        assert ("verdict/kind" in row) == (step % 10 == 0)
    first_row = history_rows(records)[0]
    initial = run.info["verdict"]["initial"]
    assert first_row["verdict/kind"] == initial["kind"]
    assert first_row["verdict/factor_per_layer"] == initial["factor_per_layer"]


@pytest.fixture(scope="module")
def defined_metrics(mirrored):
    """The metrics that are defined in W&B, by name or pattern."""
    _, _, records = mirrored
    metrics = {}
    for metric in records["metric"]:
        metrics[metric.get("name") or metric["glob_name"]] = metric
    return metrics


def test_everything_is_drawn_over_the_training_step(defined_metrics):
    axes = {name: metric.get("step_metric") for name, metric in defined_metrics.items()}
    assert axes.pop("train/step") is None
    assert set(axes.values()) == {"train/step"}
    assert defined_metrics["grad_norm_layers/*"]["summary"] == {"none": True}


def test_patterns_of_metrics_do_not_overlap(defined_metrics):
    """W&B does not say which of two patterns applies."""
    patterns = [name for name in defined_metrics if "*" in name]
    assert set(patterns) == {"grad_norm_layers/*", "inspect/*"}
    prefixes = {pattern.partition("/")[0] for pattern in patterns}
    assert len(prefixes) == len(patterns)


def test_every_key_that_is_logged_is_a_defined_metric(mirrored, defined_metrics):
    _, _, records = mirrored
    logged = set()
    for row in history_rows(records)[:25]:
        for key in row:
            if not key.startswith("_") and "_layers/" not in key:
                logged.add(key)
    assert logged <= {name for name in defined_metrics if "*" not in name}


@pytest.mark.parametrize("section", ["final", "verdict"])
def test_the_summary_holds_the_final_numbers_and_the_verdict(mirrored, section):
    run, _, records = mirrored
    summary = merge_summary(records)
    for key, value in run.info[section].items():
        if key != "findings":  # they have a table
            assert summary.get(f"{section}/{key}") == value


def test_the_summary_holds_the_status_and_no_layers(mirrored):
    _, _, records = mirrored
    summary = merge_summary(records)
    assert summary["status"] == "done"
    assert layer_keys(summary) == []
    assert records["exit"][0]["exit_code"] == 0


def test_the_heat_map_is_one_more_row(mirrored):
    _, folder, records = mirrored
    (file,) = (folder / "files" / "media").rglob("heat_map*.png")
    picture = Image.open(file)
    assert min(picture.size) > 300
    greys = set(picture.convert("L").get_flattened_data())
    assert len(greys) > 20
    assert len(records["history"]) == 26


def test_the_page_holds_every_gauge_at_every_step(mirrored):
    run, folder, records = mirrored
    (file,) = (folder / "files" / "media" / "html").rglob("depth*.html")
    html = file.read_text()
    assert records["history"][25]["item"]["profile/depth.path"] in str(file)
    data = json.loads(html.partition('type="application/json">')[2].partition("</script>")[0])
    assert data["steps"] == list(range(25))
    assert data["sentence"] == run.info["verdict"]["sentence"]
    profiles = {gauge["name"]: gauge for gauge in data["gauges"]}
    for name in ("signal_grad", "grad_norm", "activation_rms"):
        gauge = profiles[name]
        values = np.frombuffer(base64.b64decode(gauge["values"]), f"<f{gauge['bits'] // 8}")
        assert np.allclose(values.reshape(25, -1), run.profiles[name], rtol=1e-6)


def test_the_table_holds_the_profile(mirrored):
    run, folder, _ = mirrored
    (file,) = (folder / "files" / "media").rglob("table*.json")
    table = json.loads(file.read_text())
    assert table["columns"] == [
        "layer",
        "signal_grad_first_step",
        "signal_grad_last_step",
        "grad_norm",
    ]
    layers, first, last, norms = zip(*table["data"], strict=True)
    signal = run.profiles["signal_grad"]
    assert list(layers) == [-1, 0, 1]  # the input of layer 0, and the outputs of the layers
    assert list(first) == signal[0].tolist()
    assert list(last) == signal[-1].tolist()
    assert list(norms) == [None, *run.profiles["grad_norm"][-1].tolist()]


@pytest.fixture
def tracker(finished, workplace):
    """A tracker that records offline in an empty directory."""
    directory, _ = finished
    config = read_config(directory)
    return WandbTracker(settings=config["tracker"], run_id="x", name="x", group="x", config=config)


def test_findings_are_a_table(tracker):
    profiles = {
        "step": np.arange(3),
        "signal_grad": np.ones((3, 3)),
        "grad_norm": np.ones((3, 2)),
    }
    finding = {
        "kind": "vanishing",
        "severity": "severe",
        "first_step": 1,
        "last_step": None,
        "layers": [[0, 1]],
        "sentence": "Vanishing: …",
        "advice": "try skip=identity.",
    }
    folder = Path(tracker.start()["wandb"])
    tracker.log({"step": np.arange(3), "train_loss": np.ones(3)}, profiles, {})
    tracker.finish({"status": "done", "verdict": {"kind": "vanishing", "findings": [finding]}})
    (file,) = folder.glob("files/media/table/verdict/findings*.json")
    table = json.loads(file.read_text())
    assert table["columns"] == ["kind", "severity", "layers", "steps", "sentence", "advice"]
    row = ["vanishing", "severe", "0–1", "from 1", "Vanishing: …", "try skip=identity."]
    assert table["data"] == [row]


def test_rows_that_were_not_measured_carry_no_gradient(tracker, wandb_records):
    metrics = {
        "step": np.arange(10, 14),
        "train_loss": np.ones(4),
        "grad_norm": np.ma.masked_array([1.0, 2, 3, 4], [False, True, False, True]),
    }
    profiles = {
        "step": np.array([10, 12]),
        "signal_grad": np.ones((2, 3)),
        "grad_norm": np.ones((2, 2)),
    }
    folder = tracker.start()["wandb"]
    tracker.log(metrics, profiles, {})
    tracker.finish({"status": "interrupted"})
    rows = history_rows(group_by_type(wandb_records(folder)))
    assert [row["train/step"] for row in rows] == [10, 11, 12, 13]
    assert ["grad_norm/total" in row for row in rows] == [True, False, True, False]
    every_tenth_step = [True, False, False, False]
    assert ["grad_norm_layers/depth_100" in row for row in rows] == every_tenth_step
    assert ["grad_norm/ratio" in row for row in rows] == [True, False, True, False]


def test_a_run_whose_pictures_fail_is_closed_in_wandb(tracker, wandb_records, monkeypatch):
    def fail(*_, **__):
        raise OSError("no pictures")

    metrics = {"step": np.arange(3), "train_loss": np.ones(3)}
    profiles = {
        "step": np.arange(3),
        "signal_grad": np.ones((3, 3)),
        "grad_norm": np.ones((3, 2)),
    }
    folder = tracker.start()["wandb"]
    tracker.log(metrics, profiles, {})
    monkeypatch.setattr("research.records.trackers.heat_map.heat_map", fail)
    with pytest.raises(OSError, match="no pictures"):
        tracker.finish({"status": "diverged", "final": {}, "verdict": None})
    records = group_by_type(wandb_records(folder))
    assert [ended["exit_code"] for ended in records["exit"]] == [1]


def test_tags_name_every_option_except_where_the_run_is_trained(finished):
    directory, _ = finished
    config = read_config(directory)
    expected = set()
    for path, value in flatten_dict(config).items():
        if path.endswith(".kind") and path != "mesh.kind":
            expected.add(f"{path.removesuffix('.kind')}:{value}")
    assert expected <= set(make_tags(config))


def only_run_info(workplace):
    (file,) = workplace.glob("outputs/x/*/run.json")
    return json.loads(file.read_text())


def test_a_disabled_tracker_leaves_nothing(fathom, small, workplace, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert fathom("train", *small, "name=x").code == 0
    assert not only_run_info(workplace).get("wandb")
    assert list(workplace.rglob("*.wandb")) == []
    assert list(workplace.rglob("offline-run-*")) == []


def test_the_folder_that_the_user_chose_is_used(fathom, small, workplace, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(workplace / "mine"))
    assert fathom("train", *small, "name=x").code == 0
    folder = Path(only_run_info(workplace)["wandb"])
    assert list(folder.glob("run-*.wandb"))
    assert folder.parent == workplace / "mine" / "wandb"
    assert not (workplace / "outputs" / "wandb").exists()


def test_runs_of_one_process_in_two_folders_are_recorded_in_both(
    fathom, small, workplace, monkeypatch
):
    """W&B's service stays where the process had its first run, so relative paths would be wrong."""
    for name in ("here", "there"):
        folder = workplace / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert fathom("train", *small, "name=x").code == 0
        recorded = folder / "outputs" / "wandb"
        assert list(recorded.glob("offline-run-*/run-*.wandb"))


@pytest.mark.parametrize("method", ["start", "log", "finish"])
def test_a_tracker_that_fails_is_reported_once_and_the_run_continues(
    fathom, small, workplace, monkeypatch, method
):
    def fail(*_):
        raise RuntimeError("the dashboard is gone")

    for name in ("start", "log", "finish"):
        monkeypatch.setattr(WandbTracker, name, lambda *_: {})
    monkeypatch.setattr(WandbTracker, method, fail)
    code, out, err = fathom("train", *small, "name=x")
    assert code == 0
    assert err.count("the dashboard is gone") == 1
    assert "tracker=wandb failed" in err
    assert "Healthy" in out
    (file,) = workplace.glob("outputs/x/*/run.json")
    run = Run(file.parent)
    assert run.info["status"] == "done"
    assert len(run.metrics["step"]) == 25


class CallLog:
    """A tracker that notes its calls and may fail in ``log``."""

    name = "log"
    remedy = "nothing helps"
    patience = 60.0

    def __init__(self, *, fails=False, stops=False):
        self.pending = {"state": "pending"}
        self.fails = fails
        self.stops = stops
        self.calls = []

    def start(self):
        self.calls.append("start")
        return {"place": "here"}

    def log(self, metrics, profiles, diagnostics):
        self.calls.append(int(metrics["step"][0]))
        if self.fails:
            raise OSError("gone")

    def finish(self, info):
        self.calls.append(info["status"])
        return {"state": "complete"}

    def wants_stop(self, *, is_interrupted):
        return self.stops and not is_interrupted


def test_one_failing_tracker_leaves_the_others_alone(capsys):
    working = CallLog(fails=False)
    failing = CallLog(fails=True)
    trackers = BackgroundTrackers([failing, working])
    trackers.start()
    for step in range(5):
        trackers.log({"step": np.array([step])}, {}, {})
    assert trackers.start_info() == {"place": "here"}
    trackers.finish({"status": "done"})
    assert trackers.wait() == {"log": {"state": "complete"}}
    assert working.calls == ["start", 0, 1, 2, 3, 4, "done"]
    assert failing.calls == ["start", 0]
    assert not trackers.all_working
    assert capsys.readouterr().err.count("gone") == 1


def test_a_dashboard_can_ask_for_the_end_of_a_run_that_it_has_opened():
    asking = CallLog(stops=True)
    trackers = BackgroundTrackers([CallLog(), asking])
    assert trackers.find_stop() is None
    trackers.start()
    assert trackers.find_stop() == "log"
    assert trackers.find_stop(is_interrupted=True) is None
    trackers.finish({"status": "stopped"})
    trackers.wait()
