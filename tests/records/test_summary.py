"""An experiment's figure and claims in the W&B group of its runs."""

import json
import shutil

import pytest
from PIL import Image

from research.reproduce.results import upload_results

CLAIMS = [
    {
        "statement": "a",
        "source": "b",
        "expected": "≤ 1",
        "measured": 0.5,
        "interval": [0, 1],
        "n": 3,
        "holds": True,
    },
    {
        "statement": "c",
        "source": "d",
        "expected": "≥ 2",
        "measured": 1.5,
        "interval": [1, 2],
        "n": 4,
        "holds": False,
    },
]


@pytest.fixture
def judged(finished, workplace):
    """The folder of an experiment with a figure and claims, and with one run."""
    run_directory, _ = finished
    directory = workplace / "outputs" / "first"
    shutil.copytree(run_directory, directory / run_directory.name)
    Image.new("L", (40, 30), 200).save(directory / "figure.png")
    (directory / "claims.json").write_text(json.dumps(CLAIMS))
    return directory


def offline_runs(workplace):
    return list(workplace.glob("outputs/wandb/offline-run-*"))


@pytest.fixture
def summary(judged, workplace):
    """The W&B folder of a summary that was written twice, the second time with the claims."""
    for claims in ([], CLAIMS):
        (judged / "claims.json").write_text(json.dumps(claims))
        upload_results(judged)
    (folder,) = offline_runs(workplace)
    return folder


def test_the_summary_is_one_run_in_the_group_of_the_experiment(summary, wandb_records):
    records = wandb_records(summary)
    (run,) = (record["run"] for record in records if record["type"] == "run")
    assert run["job_type"] == "summary"
    assert run["run_group"] == "first"
    assert run["display_name"] == "summary"
    values = {}
    for record in records:
        values |= record.get("summary", {}).get("update", {})
    assert values["claims/held"] == 1
    assert values["claims/all"] == 2


def test_the_summary_holds_the_figure_and_the_claims(summary, judged):
    media = summary / "files" / "media"
    (picture,) = media.glob("images/figure*.png")
    (file,) = media.glob("table/claims*.json")
    table = json.loads(file.read_text())
    assert picture.read_bytes() == (judged / "figure.png").read_bytes()
    assert table["columns"] == [
        "statement",
        "source",
        "expected",
        "measured",
        "low",
        "high",
        "n",
        "holds",
    ]
    assert table["data"] == [
        ["a", "b", "≤ 1", 0.5, 0, 1, 3, True],
        ["c", "d", "≥ 2", 1.5, 1, 2, 4, False],
    ]


def test_runs_that_are_not_in_wandb_have_no_summary_there(judged, workplace):
    (file,) = judged.glob("*/run.json")
    info = json.loads(file.read_text())
    del info["wandb"]
    file.write_text(json.dumps(info))
    upload_results(judged)
    assert not (workplace / "outputs" / "wandb").exists()


@pytest.mark.parametrize("broken", ["summary.open_run", "media.Picture.read"])
def test_a_summary_that_fails_is_one_line_and_is_tried_again(
    judged, workplace, capsys, monkeypatch, broken
):
    def fail(*_, **__):
        raise TimeoutError("no answer")

    def count_new_runs():
        shutil.rmtree(workplace / "outputs" / "wandb", ignore_errors=True)
        upload_results(judged)
        return len(offline_runs(workplace))

    with monkeypatch.context() as patch:
        patch.setattr(f"research.records.trackers.{broken}", fail)
        upload_results(judged)
    err = capsys.readouterr().err
    assert "tracker=wandb failed" in err
    assert "TimeoutError: no answer" in err
    assert err.count("\n") == 1
    assert count_new_runs() == 1
    assert count_new_runs() == 0  # W&B has the summary already
    assert capsys.readouterr().err == ""


def test_a_summary_that_was_not_sent_because_wandb_was_disabled_is_sent_later(
    judged, workplace, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        upload_results(judged)
    assert not list(workplace.glob("outputs/wandb/*run-*"))
    upload_results(judged)
    assert len(offline_runs(workplace)) == 1
