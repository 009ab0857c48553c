"""What a run records of its data, and of the accuracy that a regression does not have."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from research.runner.run_writer import RunWriter

REGRESSION = [
    "train",
    "data=function",
    "loss=mse",
    "model.depth=2",
    "model.width=8",
    "train.steps=9",
    "train.eval_every=4",
    "tracker=none",
    "name=f",
]


def read_info(directory):
    return json.loads((directory / "run.json").read_text())


@pytest.fixture(scope="module")
def regression(fathom, tmp_path_factory):
    """A run that fits a function: its directory, and the command's output."""
    place = tmp_path_factory.mktemp("regression")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        result = fathom(*REGRESSION)
    assert result.code == 0, result.err
    (directory,) = place.glob("outputs/f/*")
    return directory, result


def test_the_accuracy_of_a_regression_is_null(regression):
    directory, _ = regression

    table = pq.read_table(directory / "metrics.parquet")
    info = read_info(directory)

    for name in ("train_accuracy", "eval_accuracy"):
        assert table[name].null_count == len(table)
        assert info["final"][name] is None
    losses = np.array(table["train_loss"])
    assert np.isfinite(losses).all()
    assert info["status"] == "done"
    assert info["final"]["train_loss"] == pytest.approx(losses[-8:].mean(), rel=1e-6)
    assert info["final"]["eval_loss"] == pytest.approx(table["eval_loss"].to_pylist()[-1])


def test_the_accuracy_of_a_regression_is_not_shown(regression):
    _, result = regression

    assert "accuracy –" in result.out
    assert "nan" not in result.out + result.err
    assert "eval accuracy" not in result.err


def test_the_record_counts_the_examples_and_those_of_each_class(finished, regression):
    data = read_info(finished[0])["data"]
    assert sum(data["class_counts"]) == data["examples"] == 1400
    assert len(data["class_counts"]) == 10

    data_of_regression = read_info(regression[0])["data"]
    assert data_of_regression["class_counts"] is None
    assert data_of_regression["examples"] == 1024


@pytest.mark.parametrize(
    ("class_counts", "line"),
    [
        (
            [30, 60, 10],
            "data trec 1.0.0 train: 100 examples of 3 classes, "
            "from 10 of class 2 to 60 of class 1 (60%)",
        ),
        (None, "data trec 1.0.0 train: 100 examples"),
    ],
)
def test_the_balance_of_classes_is_shown(fathom, regression, tmp_path, class_counts, line):
    directory = tmp_path / "run"
    shutil.copytree(regression[0], directory)
    info = read_info(directory)
    info["data"] = {
        "name": "trec",
        "version": "1.0.0",
        "split": "train",
        "examples": 100,
        "class_counts": class_counts,
    }
    (directory / "run.json").write_text(json.dumps(info))

    result = fathom("show", str(directory))

    assert line in result.out.splitlines()


@pytest.fixture
def photos(workplace):
    """A folder of 40 images of two classes."""
    generator = np.random.default_rng(0)
    for label in ("a", "b"):
        folder = workplace / "photos" / label
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(256, size=(4, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return workplace / "photos"


STREAMED = ["data=folder", "data.in_memory_limit=0", "train.batch_size=8"]


@pytest.mark.slow
def test_an_image_that_breaks_while_it_is_streamed_is_named_in_one_line(
    fathom, photos, workplace, monkeypatch
):
    write_rows = RunWriter.write_rows

    def write_rows_and_damage_images(writer, *rest):
        write_rows(writer, *rest)
        for file in photos.rglob("*.png"):
            file.write_bytes(b"half")

    monkeypatch.setattr(RunWriter, "write_rows", write_rows_and_damage_images)

    settings = ["model.depth=2", "model.width=8", "train.steps=400", f"data.path={photos}"]
    result = fathom("train", *settings, *STREAMED, "tracker=none", "name=x")

    assert result.code == 1
    lines = [line for line in result.err.splitlines() if ": step " not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"fathom: {photos}/")
    assert ".png is not an image, or it is damaged" in lines[0]
    (file,) = workplace.glob("outputs/x/*/run.json")
    assert read_info(file.parent)["status"] == "failed"
    assert ".png is not an image" in read_info(file.parent)["error"]
