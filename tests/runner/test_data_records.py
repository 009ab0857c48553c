"""What a run keeps of its data, and of an accuracy that there is none of."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from research.reporting import show

SMALL = ["model.depth=2", "model.width=8", "train.steps=9", "train.eval_every=4", "tracker=none"]


@pytest.fixture(scope="module")
def regression(fathom, tmp_path_factory):
    """A run that meets a function: its directory, and what was said."""
    place = tmp_path_factory.mktemp("regression")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        said = fathom("train", "data=function", "loss=mse", *SMALL, "name=f")
    assert said.code == 0, said.err
    (directory,) = place.glob("outputs/f/*")
    return directory, said


def test_where_there_is_no_accuracy_its_columns_are_empty_and_its_end_is_none(regression):
    directory, _ = regression
    table = pq.read_table(directory / "metrics.parquet")
    info = json.loads((directory / "run.json").read_text())
    for name in ("train_accuracy", "eval_accuracy"):
        assert table[name].null_count == len(table) and info["final"][name] is None
    losses = np.array(table["train_loss"])
    assert np.isfinite(losses).all() and info["status"] == "done"
    assert info["final"]["train_loss"] == pytest.approx(losses[-8:].mean(), rel=1e-6)
    assert info["final"]["eval_loss"] == pytest.approx(table["eval_loss"].to_pylist()[-1])


def test_what_is_not_there_is_not_shown(regression):
    _, said = regression
    assert (
        "accuracy –" in said.out
        and "nan" not in said.out + said.err
        and "eval accuracy" not in said.err
    )


def test_the_record_counts_the_examples_and_those_of_each_class(finished, regression):
    data = json.loads((finished[0] / "run.json").read_text())["data"]
    assert sum(data["class_counts"]) == data["examples"] == 1400 and len(data["class_counts"]) == 10
    of_numbers = json.loads((regression[0] / "run.json").read_text())["data"]
    assert of_numbers["class_counts"] is None and of_numbers["examples"] == 1024


def test_the_balance_of_classes_is_shown():
    data = {
        "name": "trec",
        "version": "1.0.0",
        "split": "train",
        "examples": 100,
        "class_counts": [30, 60, 10],
    }
    line = show.describe_data(data)
    assert (
        line
        == "data trec 1.0.0 train: 100 examples of 3 classes, from 10 of class 2 to 60 of class 1 (60%)"
    )
    assert (
        show.describe_data(data | {"class_counts": None}) == "data trec 1.0.0 train: 100 examples"
    )
