"""A study's saved view and report in W&B: specifications that its own package accepts."""

import importlib
import json
import shutil
import sys
import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from research.config.options import TrackedLayers
from research.gauges.table import METRICS
from research.records.trackers.layers import diagnostic_row

from .test_layers import all_diagnostics

pytest.importorskip("wandb_workspaces")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it uses an older interface of pydantic
    report_models = importlib.import_module("wandb_workspaces.reports.v2.internal")
    workspace_models = importlib.import_module("wandb_workspaces.workspaces.internal")

pytestmark = pytest.mark.usefixtures("fresh_service")


@pytest.fixture
def study(recorded):
    """A study of two depths."""
    deep = recorded.directory.with_name("depth=8")
    shutil.copytree(recorded.directory, deep)
    file = deep / ".hydra" / "config.yaml"
    file.write_text(file.read_text().replace("depth: 2\n", "depth: 8\n"))
    for directory in (recorded.directory, deep):
        info = json.loads((directory / "run.json").read_text())
        info["mirrored"]["wandb"]["state"] = "uploaded"
        (directory / "run.json").write_text(json.dumps(info))
    return recorded.directory.parent


def read_views(study):
    workspace, report = json.loads((study / "workspace.json").read_text())["views"]
    return workspace, report


def values_of(tree, name):
    """Every value under a key, at any depth."""
    if isinstance(tree, list):
        return [value for item in tree for value in values_of(item, name)]
    if not isinstance(tree, dict):
        return []
    found = [tree[name]] if name in tree else []
    for item in tree.values():
        found += values_of(item, name)
    return found


def test_the_specifications_are_valid_and_their_panels_show_what_the_runs_have(fathom, study):
    code, out, err = fathom("workspace", "first")

    assert (code, err) == (0, "")
    assert "`fathom sync` sends them" in out
    workspace, report = read_views(study)
    workspace_models.WorkspaceViewspec.model_validate(workspace["spec"])
    report_models.Spec.model_validate(report["spec"])
    keys = {metric.key for metric in METRICS}
    keys |= diagnostic_row(all_diagnostics(3), TrackedLayers.spread).keys()
    keys |= {f"grad_norm/{name}" for name in ("first", "last", "ratio", "min")}
    for view in (workspace, report):
        shown = [key for metrics in values_of(view["spec"], "metrics") for key in metrics]
        assert set(shown) <= keys | {"final/eval_accuracy"}
        media = [key for names in values_of(view["spec"], "mediaKeys") for key in names]
        assert set(media) == {"profile/depth", "profile/heat_map"}
    accessors = values_of(workspace["spec"], "accessor")
    assert accessors == [
        "config:model.value.depth",
        "summary:verdict/factor_per_layer",
        "summary:final/eval_accuracy",
    ]
    (runset,) = workspace["spec"]["section"]["runSets"]
    assert runset["grouping"] == [{"section": "config", "name": "model.value.depth"}]
    assert [item["value"] for item in runset["filters"]["filters"]] == ["first", "train"]


def test_a_damaged_run_is_left_out_with_a_line(fathom, study):
    shutil.copytree(study / "depth=8", study / "depth=9")
    (study / "depth=9" / "run.json").write_text("{")

    code, out, err = fathom("workspace", "first")

    assert code == 0
    assert out.startswith("outputs/first/workspace.json: ")
    assert err.startswith("fathom: left out: outputs/first/depth=9/run.json is damaged: ")
    assert err.count("\n") == 1


def test_what_the_runs_do_not_have_has_no_panel(fathom, study):
    """A regression has no accuracy, and a run without gauges no profiles."""
    for directory in study.iterdir():
        (directory / "profiles.parquet").unlink()
        metrics = pq.read_table(directory / "metrics.parquet")
        place = metrics.schema.get_field_index("eval_accuracy")
        missing = pa.nulls(len(metrics), pa.float32())
        metrics = metrics.set_column(place, "eval_accuracy", missing)
        pq.write_table(metrics, directory / "metrics.parquet")
        info = json.loads((directory / "run.json").read_text())
        info["final"]["eval_accuracy"] = None
        (directory / "run.json").write_text(json.dumps(info))

    assert fathom("workspace", "first").code == 0

    for view in read_views(study):
        shown = [key for metrics in values_of(view["spec"], "metrics") for key in metrics]
        assert set(shown) == {"train/loss", "eval/loss", "final/eval_loss"}
        assert values_of(view["spec"], "mediaKeys") == []
        assert "verdict/factor_per_layer" not in str(values_of(view["spec"], "accessor"))


def test_without_words_it_is_the_study_that_was_trained_last(fathom, study):
    other = study.with_name("second")
    shutil.copytree(study, other)
    for number, directory in enumerate([study, other], start=1):
        for file in directory.glob("*/run.json"):
            info = json.loads(file.read_text()) | {"started": f"2100-01-0{number}T00:00:00+00:00"}
            file.write_text(json.dumps(info))
    for file in study.glob("*/run.json"):
        file.touch()  # as new tags do

    said = fathom("workspace")

    assert said.out.startswith("outputs/second/workspace.json: "), said.err


def test_a_setting_that_follows_from_another_one_is_no_panel_of_its_own(fathom, study):
    """``fathom plot`` and ``fathom table`` tell the runs apart by the same settings."""
    deep = study / "depth=8" / ".hydra" / "config.yaml"
    deep.write_text(deep.read_text().replace("width: 8\n", "width: 16\n"))

    fathom("workspace", "first")

    workspace, _ = read_views(study)
    settings = [name for name in values_of(workspace["spec"], "accessor") if "config" in name]
    assert settings == ["config:model.value.depth"]


def test_the_view_and_the_report_are_sent_once_and_saving_again_changes_them(fathom, study, server):
    fathom("workspace", "first")
    code, out, _ = fathom("sync")
    assert code == 0, out
    assert out == "[1/1] view and report of first: uploaded\n"
    workspace, report = read_views(study)
    assert [savings[0]["displayName"] for savings in server.views.values()] == [
        "first",
        "first: gradients over depth",
    ]
    assert {savings[0]["entityName"] for savings in server.views.values()} == {"me"}
    assert "__ENTITY__" not in json.dumps(server.views)

    assert fathom("sync").out.startswith("nothing to upload")
    assert "already" in fathom("workspace", "first").out

    claim = {"statement": "a", "expected": "≤ 1", "measured": 0.5, "holds": True}
    (study / "claims.json").write_text(json.dumps([claim]))
    fathom("workspace", "first")
    fathom("sync")
    assert len(server.views[workspace["name"]]) == 1
    first, second = server.views[report["name"]]
    assert second["id"] == f"view {report['name']}"
    spec = json.dumps(json.loads(second["spec"]), ensure_ascii=False)
    assert "a | ≤ 1 | 0.5 | yes" in spec


def test_what_cannot_be_laid_out_is_one_line(fathom, study, monkeypatch):
    code, out, err = fathom("workspace", "frist")
    assert (code, out) == (2, "")
    assert err == "fathom: there is no study frist; did you mean first?\n"
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    code, out, err = fathom("workspace")
    assert code == 2
    assert "pip install 'fathom-gradients[workspace]'" in err
    assert not (study / "workspace.json").exists()
