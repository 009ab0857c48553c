"""An experiment's figure and claims in the W&B group of its runs, read back by W&B's own command."""

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
    """An experiment's folder once its claims were tested: one run, the figure, the claims."""
    directory = workplace / "outputs" / "first"
    shutil.copytree(finished[0], directory / finished[0].name)
    Image.new("L", (40, 30), 200).save(directory / "figure.png")
    (directory / "claims.json").write_text(json.dumps(CLAIMS))
    return directory


def test_figure_and_claims_are_one_run_of_the_group_however_often_they_are_written(
    judged, wandb_records, workplace
):
    for claims in ([], CLAIMS):
        (judged / "claims.json").write_text(json.dumps(claims))
        upload_results(judged)
    (folder,) = workplace.glob("outputs/wandb/offline-run-*")
    records = wandb_records(folder)
    (described,) = (record["run"] for record in records if record["type"] == "run")
    assert (described["job_type"], described["run_group"], described["display_name"]) == (
        "summary",
        "first",
        "summary",
    )
    (picture,) = (folder / "files" / "media" / "images").glob("figure*.png")
    assert picture.read_bytes() == (judged / "figure.png").read_bytes()
    (table,) = (folder / "files" / "media" / "table").glob("claims*.json")
    written = json.loads(table.read_text())
    assert written["columns"] == [
        "statement",
        "source",
        "expected",
        "measured",
        "low",
        "high",
        "n",
        "holds",
    ]
    assert written["data"] == [
        ["a", "b", "≤ 1", 0.5, 0, 1, 3, True],
        ["c", "d", "≥ 2", 1.5, 1, 2, 4, False],
    ]
    summary = {
        k: v for record in records for k, v in record.get("summary", {}).get("update", {}).items()
    }
    assert (summary["claims/held"], summary["claims/all"]) == (1, 2)


def test_runs_that_are_not_in_wandb_have_no_summary_there(judged, workplace):
    (file,) = judged.glob("*/run.json")
    file.write_text(
        json.dumps(
            {key: value for key, value in json.loads(file.read_text()).items() if key != "wandb"}
        )
    )
    upload_results(judged)
    assert not (workplace / "outputs" / "wandb").exists()


@pytest.mark.parametrize("broken", ["wandb.init", "wandb.Image"])
def test_a_summary_that_fails_is_one_line_and_is_tried_again(
    judged, workplace, capsys, monkeypatch, broken
):
    def breaks(*_, **__):
        raise TimeoutError("no answer")

    def sent_again():
        shutil.rmtree(workplace / "outputs" / "wandb", ignore_errors=True)
        upload_results(judged)
        return len(list(workplace.glob("outputs/wandb/offline-run-*")))

    with monkeypatch.context() as patch:
        patch.setattr(broken, breaks)
        upload_results(judged)
    said = capsys.readouterr().err
    assert "WandbSummary stopped (TimeoutError: no answer)" in said and said.count("\n") == 1
    assert [sent_again(), sent_again()] == [1, 0]  # once W&B has it, no more
    assert capsys.readouterr().err == ""


def test_what_was_written_while_wandb_was_switched_off_is_sent_later(
    judged, workplace, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        upload_results(judged)
    assert not list(workplace.glob("outputs/wandb/*run-*"))
    upload_results(judged)
    assert len(list(workplace.glob("outputs/wandb/offline-run-*"))) == 1
