"""What every dashboard on this machine shows of a run: the same contract for all of them."""

import contextlib
import json
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from research.config.notices import notify_once
from research.config.options import LOCAL_TRACKER_NAMES, TRACKER_NAMES
from research.config.packages import EXTRA_OF_PACKAGE, PACKAGE_OF_TRACKER
from research.config.schema import to_dict
from research.records.runs import Run
from research.records.trackers import TrackerReports
from research.records.trackers.registry import LOCAL_TRACKERS, make_trackers

from ..builders import make_config
from ..compiling import one_in
from .dashboards import READERS

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("default:::mlflow", "default:::trackio")


@pytest.fixture(scope="module", params=LOCAL_TRACKER_NAMES)
def shown(request, fathom, small, finished, tmp_path_factory):
    """The finished run, recorded for a dashboard afterwards: the run, and what is shown of it."""
    name = request.param
    pytest.importorskip(PACKAGE_OF_TRACKER[name])
    source, _ = finished
    place = tmp_path_factory.mktemp(name)
    directory = place / "outputs" / "first" / source.name
    shutil.copytree(source, directory)
    with contextlib.chdir(place):
        result = fathom("train", *small, "name=first", f"tracker={name}")
        assert result.code == 0, result.err
        assert result.err.count("is complete in") == 1
        yield Run(directory), READERS[name](directory)


def test_every_step_has_a_row_with_the_numbers_of_the_record(shown):
    run, dashboard = shown
    assert dashboard.num_rows == 25
    for key, column in (("train/loss", "train_loss"), ("grad_norm/total", "grad_norm")):
        logged = dashboard.scalars[key]
        assert sorted(logged) == list(range(25))
        assert np.allclose([logged[step] for step in range(25)], run.metrics[column], rtol=1e-6)


def test_layers_are_summarised_and_some_have_a_key_of_their_own(shown):
    run, dashboard = shown
    first = run.profiles["grad_norm"][:, 0]
    assert np.allclose([*dashboard.scalars["grad_norm/first"].values()], first, rtol=1e-6)
    assert sorted(dashboard.scalars["grad_norm_layers/depth_100"]) == [0, 10, 20]


def test_the_run_is_identified_by_what_varies(shown):
    run, dashboard = shown
    assert dashboard.name == run.directory.name
    assert dashboard.settings["model.depth"] == "2"
    assert dashboard.settings["skip.kind"] == "none"
    assert not any(path.startswith("tracker") for path in dashboard.settings)
    named = {"model.depth": "2", "model.width": "8", "train.steps": "25"}
    assert dashboard.columns in ({}, named)


def test_profiles_are_pictures_and_the_verdict_is_text(shown):
    run, dashboard = shown
    assert {"profile/heat_map", "profile/depth_picture"} <= dashboard.pictures
    assert run.info["verdict"]["sentence"].split(":")[0] in dashboard.text
    accuracy = dashboard.scalars["final/eval_accuracy"]
    assert [*accuracy.values()] == pytest.approx([run.info["final"]["eval_accuracy"]])


def test_the_record_says_that_the_dashboard_has_everything(shown, fathom, small):
    run, _ = shown
    (name,) = run.info["mirrored"].keys() - {"wandb"}
    assert run.info["mirrored"][name]["state"] == "local"
    again = fathom("train", *small, "name=first", f"tracker={name}")
    assert "is complete in" not in again.err


def test_a_run_that_is_recorded_again_is_there_once(shown, fathom, small):
    run, before = shown
    (name,) = run.info["mirrored"].keys() - {"wandb"}
    info = json.loads((run.directory / "run.json").read_text())
    info["mirrored"][name]["state"] = "pending"
    (run.directory / "run.json").write_text(json.dumps(info))
    assert fathom("train", *small, "name=first", f"tracker={name}").code == 0
    assert READERS[name](run.directory).scalars == before.scalars


def test_several_trackers_record_a_run_while_it_is_trained(
    fathom, small, workplace, quickly_compiled
):
    pytest.importorskip("tensorboardX")
    code, _, err = fathom("train", *small, "name=x", "tracker=[wandb,tensorboard]")
    assert code == 0, err
    (file,) = workplace.glob("outputs/x/*/run.json")
    states = json.loads(file.read_text())["mirrored"]
    assert {name: state["state"] for name, state in states.items()} == {
        "wandb": "local",
        "tensorboard": "local",
    }
    shown = READERS["tensorboard"](file.parent)
    assert sorted(shown.scalars["train/loss"]) == list(range(25))
    assert list(workplace.glob("outputs/wandb/offline-run-*"))


FAILING = [
    ("research.records.trackers.tensorboard.numbers_of",),
    ("tensorboardX.event_file_writer.EventsWriter.__init__",),
    ("research.records.trackers.profile_picture.profile_picture",),
]


@pytest.mark.parametrize("function", one_in(3, FAILING))
def test_a_dashboard_that_fails_is_one_line_and_the_same_command_completes_it(
    fathom, small, recorded, workplace, monkeypatch, function
):
    pytest.importorskip("tensorboardX")

    def fail(*_, **__):
        raise RuntimeError("the dashboard is gone")

    with monkeypatch.context() as patch:
        patch.setattr(function, fail)
        code, _, err = fathom("train", *small, "name=first", "tracker=tensorboard")
    assert code == 0
    assert err.count("the dashboard is gone") == 1
    assert "tensorboard" not in recorded.info["mirrored"]
    _, _, err = fathom("train", *small, "name=first", "tracker=tensorboard")
    assert "is complete in TensorBoard now" in err
    assert READERS["tensorboard"](recorded.directory).num_rows == 25


@pytest.mark.parametrize(
    ("name", "mode"), [("tensorboard", []), ("trackio", ["-m"]), ("mlflow", [])]
)
def test_a_package_that_is_missing_is_one_line(fathom, small, workplace, monkeypatch, name, mode):
    package = PACKAGE_OF_TRACKER[name]
    monkeypatch.setitem(sys.modules, package, None)
    code, out, err = fathom("train", *mode, *small, f"tracker={name}")
    assert (code, out) == (2, "")
    install = f"pip install 'fathom-gradients[{name}]'"
    assert err == f"fathom: tracker={name}: {package} is not installed: {install}\n"
    assert list(workplace.iterdir()) == []


def test_every_tracker_has_an_option_and_an_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    options = {file.stem for file in (ROOT / "conf" / "tracker").glob("*.yaml")}
    assert options == {*TRACKER_NAMES, "none"}
    assert tuple(tracker.name for tracker in LOCAL_TRACKERS) == LOCAL_TRACKER_NAMES
    assert set(EXTRA_OF_PACKAGE.values()) <= set(extras["optional-dependencies"])


@pytest.mark.parametrize(
    ("directory", "variable", "num_lines"),
    [("mine", "theirs", 1), ("outputs", "theirs", 0), ("mine", "", 0)],
)
def test_a_directory_that_a_variable_overrides_is_named(
    directory, variable, num_lines, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("WANDB_DIR", variable)
    config = make_config({"tracker.wandb": True, "tracker.dir": directory})
    reports = TrackerReports()
    for seed in range(2):
        make_trackers(tmp_path / str(seed), "aaaa", to_dict(config), reports=reports)
    said = capsys.readouterr().err
    assert said.count("\n") == num_lines
    if num_lines:
        assert "tracker.dir=mine has no effect on tracker=wandb: WANDB_DIR=theirs says" in said


@pytest.mark.parametrize(
    ("changes", "ignored"),
    [
        ({"project": "mine"}, "tracker.project=mine has no effect"),
        (
            {"project": "mine", "layers": "all", "every": 5},
            "tracker.project=mine tracker.layers=all tracker.every=5 have no effect",
        ),
        ({"entity": "us", "every": 5, "tensorboard": True}, "tracker.entity=us has no effect"),
        ({"every": 5, "tensorboard": True}, ""),
        ({}, ""),
        ({"wandb": False, "tensorboard": True, "layers": "all"}, ""),
    ],
)
def test_settings_of_wandb_are_named_where_it_is_disabled(
    changes, ignored, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    notify_once.cache_clear()
    config = to_dict(make_config({"tracker.wandb": True}))
    config["tracker"] |= changes

    for seed in range(2):
        make_trackers(tmp_path / str(seed), "aaaa", config)

    line = f"fathom: {ignored}: WANDB_MODE=disabled switches W&B off\n" if ignored else ""
    assert capsys.readouterr().err == line
