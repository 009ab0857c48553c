import contextlib
import gzip
import http.server
import json
import re
import shutil
import socket
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from research.records.analysis import Run, flat
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
    return {key: value for record in records["summary"] for key, value in record.get("update", {}).items()}


def test_the_configuration_is_the_resolved_tree(mirrored):
    run, _, records = mirrored
    config = dict(records["run"][0]["config"]["update"])
    assert config.pop("_wandb") == {}
    assert config == yaml.safe_load((run.directory / ".hydra" / "config.yaml").read_text())


def test_the_run_is_found_by_id_name_group_and_tags(mirrored):
    run, folder, records = mirrored
    described = records["run"][0]
    assert described["run_id"] == run.info["id"] and folder.name.endswith(run.info["id"])
    assert (described["project"], described["run_group"], described["job_type"]) == ("fathom", "first", "train")
    assert described["display_name"] == run.directory.name
    assert {"depth:2", "skip:none", "activation:relu", "optimizer:momentum", "data:digits"} <= set(described["tags"])


def test_there_is_one_row_a_step_with_the_numbers_of_the_record(mirrored):
    run, _, records = mirrored
    rows = [record["item"] for record in records["history"] if "train/loss" in record["item"]]
    assert [row["train/step"] for row in rows] == list(range(25))
    for key, column in (("train/loss", "train_loss"), ("grad_norm/total", "grad_norm"), ("train/epoch", "epoch")):
        assert np.allclose([row[key] for row in rows], run.metrics[column], rtol=1e-7)
    evaluated = {row["train/step"]: row["eval/accuracy"] for row in rows if "eval/accuracy" in row}
    assert evaluated == {step: run.metrics["eval_accuracy"][step] for step in (9, 19, 24)}


def test_every_tenth_row_carries_one_value_a_layer(mirrored):
    run, _, records = mirrored
    for step, record in enumerate(records["history"][:25]):
        layers = {key: value for key, value in record["item"].items() if key.startswith("grad_norm/layer")}
        assert list(layers) == (["grad_norm/layer_000", "grad_norm/layer_001"] if step % 10 == 0 else [])
        assert list(layers.values()) == (run.profiles["grad_norm"][step].tolist() if layers else [])


def test_everything_is_drawn_over_the_training_step(mirrored):
    """Each key by itself or by one pattern: patterns that overlap would win by chance."""
    _, _, records = mirrored
    metrics = {metric.get("name") or metric["glob_name"]: metric for metric in records["metric"]}
    axes = {name: metric.get("step_metric") for name, metric in metrics.items()}
    assert axes.pop("train/step") is None and set(axes.values()) == {"train/step"}
    patterns = {name for name in axes if "*" in name}
    assert {"grad_norm/layer_*", "signal_lost/layer_*", "inspect/*"} <= patterns
    assert len({name.partition("/")[0] for name in axes if "*" in name}) == len(patterns), "patterns overlap"
    assert metrics["grad_norm/layer_*"]["summary"] == {"none": True}
    logged = {key for record in records["history"][:25] for key in record["item"] if not key.startswith("_")}
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
    assert min(Image.open(picture).size) > 300 and len(set(Image.open(picture).convert("L").get_flattened_data())) > 20
    (file,) = (folder / "files" / "media").rglob("table*.json")
    table = json.loads(file.read_text())
    signal, norms = run.profiles["signal_grad"], [*run.profiles["grad_norm"][-1].tolist(), None]
    assert table["columns"] == ["layer", "signal_grad_first_step", "signal_grad_last_step", "grad_norm"]
    assert table["data"] == [[n, *values] for n, values in enumerate(zip(signal[0], signal[-1], norms, strict=True))]
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
    tracker = WandbTracker(settings=config["tracker"], run_id="x", name="x", group="x", config=config)
    logged = []
    tracker._run = types.SimpleNamespace(log=logged.append)
    norm = np.ma.masked_array([1.0, 2, 3, 4], [False, True, False, True])
    profiles = {"step": np.array([10, 12]), "signal_grad": np.ones((2, 3)), "grad_norm": np.ones((2, 2))}
    tracker.log({"step": np.arange(10, 14), "train_loss": np.ones(4), "grad_norm": norm}, profiles, {})
    assert ["grad_norm/total" in row for row in logged] == [True, False, True, False]
    assert ["grad_norm/layer_001" in row for row in logged] == [True, False, False, False]  # every tenth step


def test_a_run_is_closed_there_also_where_its_pictures_fail(finished, monkeypatch):
    config = yaml.safe_load((finished[0] / ".hydra" / "config.yaml").read_text())
    tracker = WandbTracker(settings=config["tracker"], run_id="x", name="x", group="x", config=config)
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
    kinds = {path.removesuffix(".kind"): value for path, value in flat(config).items() if path.endswith(".kind")}
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
        assert list((workplace / place / "outputs" / "wandb").glob("offline-run-*/run-*.wandb")), place


@pytest.mark.parametrize("method", ["start", "log", "finish"])
def test_a_tracker_that_fails_is_reported_once_and_the_run_goes_on(fathom, small, workplace, monkeypatch, method):
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
            self.broken, self.calls = broken, []

        def start(self):
            self.calls.append("start")
            return {"place": "here"}

        def log(self, metrics, profiles, beside):
            self.calls.append(metrics["step"])
            if self.broken:
                raise OSError("gone")

        def finish(self, info):
            self.calls.append(info["status"])

    good, bad = Recorder(False), Recorder(True)
    trackers = Background([bad, good])
    trackers.start()
    for step in range(5):
        trackers.log({"step": step}, {}, {})  # type: ignore[dict-item]
    assert trackers.described() == {"place": "here"}
    trackers.finish({"status": "done"})
    assert good.calls == ["start", 0, 1, 2, 3, 4, "done"] and bad.calls == ["start", 0]
    assert capsys.readouterr().err.count("gone") == 1


class Server(http.server.ThreadingHTTPServer):
    """A W&B server on the loopback address, as far as an upload needs one; it keeps what it receives."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.runs, self.rows, self.files = {}, {}, []


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self):
        asked, data = self._body(), {}
        if self.path == "/graphql":
            data = self._graphql(
                re.findall(r"(?:query|mutation)\s+(\w+)", asked["query"])[0], asked.get("variables", {})
            )
        elif self.path.endswith("/file_stream"):
            for line in asked.get("files", {}).get("wandb-history.jsonl", {}).get("content", []):
                self.server.rows.setdefault(self.path.split("/")[4], []).append(json.loads(line))
        self._answer({"data": data})

    def do_PUT(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.server.files.append(self.path)
        self._answer({})

    def _graphql(self, name, variables):
        bucket = {"name": variables.get("name"), "project": {"name": "fathom", "entity": {"name": "me"}}}
        if name == "UpsertBucket":
            self.server.runs.setdefault(variables["name"], variables)
            return {"upsertBucket": {"bucket": {"id": "r", "displayName": "", "sweepName": None} | bucket}}
        files = [{"name": file, "uploadUrl": f"{self.server.address}/{file}"} for file in variables.get("files", [])]
        artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": None}}
        return {
            "Viewer": {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}},
            "RunResumeStatus": {"model": bucket["project"] | {"bucket": self._known(variables.get("name"))}},
            "CreateRunFiles": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}},
            "ArtifactType": {"project": {"artifact": None}},
            "CreateArtifact": {"createArtifact": {"artifact": artifact}},
        }.get(name, {})

    def _known(self, name):
        """What is there of a run, for the next part of it; ``t`` is how W&B tells one that was begun."""
        rows = self.server.rows.get(name)
        if not rows:
            return None
        lines = {"historyLineCount": len(rows), "eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]"}
        described = {"name": name, "id": "r", "displayName": name, "config": "{}", "summaryMetrics": "{}", "tags": []}
        return described | lines | {"historyTail": json.dumps([json.dumps(rows[-1])]), "wandbConfig": '{"t": 1}'}

    def _body(self):
        sent = self.rfile.read(int(self.headers["content-length"] or 0))
        sent = gzip.decompress(sent) if self.headers.get("content-encoding") == "gzip" else sent
        return json.loads(sent) if self.path == "/graphql" or self.path.endswith("/file_stream") else {}

    def _answer(self, value):
        sent = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def no_server(monkeypatch):
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    return f"127.0.0.1:{port}"


MIRRORS = """
import sys, yaml, numpy as np
from research.records.trackers.wandb import WandbTracker
config = yaml.safe_load(open(sys.argv[1]))
tracker = WandbTracker(settings=config["tracker"], run_id="abc", name="first run", group="study", config=config)
print(tracker.start()["wandb"])
for start in range(0, int(sys.argv[2]), 5):
    step = np.arange(start, start + 5)
    profiles = {"step": step, "signal_grad": np.ones((5, 3)), "grad_norm": np.ones((5, 2))}
    tracker.log({"step": step, "train_loss": 1.0 / (1 + step)}, profiles, {})
tracker.finish({"status": sys.argv[3], "final": {}, "verdict": None})
"""


@pytest.fixture
def mirror(finished, workplace, process):
    """Mirrors some steps in a process of its own that asks for the server: the W&B folder, and what was said."""

    def run(steps=10, status="done"):
        started = process("-c", MIRRORS, finished[0] / ".hydra" / "config.yaml", steps, status, WANDB_MODE="online")
        try:
            out, err = started.communicate(timeout=60)
        finally:
            started.kill()
        assert started.returncode == 0, err
        return workplace / out.splitlines()[-1], out + err

    return run


def test_without_a_server_an_online_run_goes_on_offline(mirror, no_server):
    folder, said = mirror()
    assert said.count(no_server) == 1 and "fathom sync" in said
    assert folder.name.startswith("offline-run-") and list(folder.glob("run-*.wandb"))


def test_an_online_run_sends_its_rows(mirror, server):
    folder, _ = mirror()
    assert folder.name.startswith("run-")
    run = server.runs["abc"]
    assert (run["groupName"], run["displayName"], run["jobType"]) == ("study", "first run", "train")
    assert "depth:2" in run["tags"]
    rows = server.rows["abc"]
    assert [(row["train/step"], row["train/loss"]) for row in rows[:10]] == [(n, 1 / (1 + n)) for n in range(10)]


@pytest.mark.slow
def test_an_online_run_that_goes_on_sends_each_row_once(mirror, server):
    """The next part hands the tracker all rows from the first one on."""
    mirror(steps=5, status="interrupted")
    assert [row["train/step"] for row in server.rows["abc"]] == list(range(5))
    mirror()
    assert [row["train/step"] for row in server.rows["abc"] if "train/step" in row] == list(range(10))


def test_a_trial_of_the_servers_search_is_the_run_that_its_agent_waits_for(mirror, server, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "search")
    monkeypatch.setenv("WANDB_RUN_ID", "trial")
    mirror()
    assert set(server.runs) == {"trial"} and server.runs["trial"]["sweep"] == "search"
    assert len(server.rows["trial"]) >= 10


@pytest.fixture
def offline(finished, workplace):
    """An offline run below outputs/, ready to be uploaded."""
    (source,) = (finished[0].parents[1] / "wandb").glob("offline-run-*")
    return Path(shutil.copytree(source, workplace / "outputs" / "wandb" / source.name))


def test_an_offline_run_is_uploaded_once(fathom, offline, server):
    code, out, err = fathom("sync")
    assert code == 0, out + err
    assert out.count("\n") == 1 and offline.name in out and out.endswith(": uploaded\n")
    (rows,) = server.rows.values()
    assert [row["train/step"] for row in rows if "train/loss" in row] == list(range(25))
    assert [file for file in server.files if "heat_map" in file]
    server.runs.clear()
    code, out, _ = fathom("sync")
    assert code == 0 and "nothing to upload" in out and not server.runs


def test_what_cannot_be_uploaded_is_said_in_one_line_a_run(offline, process, no_server):
    """In bounded time: W&B itself would ask an absent server again for hours."""
    shutil.copytree(offline, offline.with_name("offline-run-20250101_000000-abcdefgh"))
    ended = process("-c", "import sys; from research import cli; sys.exit(cli.run(['sync']))")
    try:
        out, _ = ended.communicate(timeout=20)
    finally:
        ended.kill()
    assert ended.returncode == 1
    assert len(out.splitlines()) == 2 and all("offline-run" in line for line in out.splitlines()), out
    assert no_server in out and "option" not in out, out


def test_with_nothing_to_upload_all_is_well(fathom, workplace):
    code, out, _ = fathom("sync")
    assert code == 0 and out.count("\n") == 1 and "nothing to upload" in out
