"""Descriptions of prepared datasets, and a user's own small data, for checks of the settings."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

IMAGE = {"pythonClassName": "features.Image", "image": {"shape": {"dimensions": ["32", "32", "3"]}}}
TEXT = {"pythonClassName": "features.Text"}
LABEL = {"pythonClassName": "features.ClassLabel", "classLabel": {"numClasses": "10"}}
IMAGE_SETS = (
    "mnist",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "svhn_cropped",
    "imagenette/160px-v2",
    "imagenet2012",
    "kmnist",
)
LABELS_OF_TEXTS = {
    "tiny_shakespeare": (),
    "imdb_reviews/plain_text": ("label",),
    "trec": ("label-fine", "label-coarse"),
}
SPLITS = ("train", "test", "validation")


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """An empty TFDS directory with descriptions of datasets, and photos/ and mine.npz to work on.

    A check reads only the descriptions, except for texts without a label.
    """
    for name in IMAGE_SETS:
        _describe(tmp_path / name, {"image": IMAGE, "label": LABEL})
    for name, labels in LABELS_OF_TEXTS.items():
        _describe(tmp_path / name, {"text": TEXT} | dict.fromkeys(labels, LABEL))
    _write_text(tmp_path / "tiny_shakespeare")
    _write_photos(tmp_path / "photos")
    np.savez(tmp_path / "mine.npz", x=np.eye(200, 3), y=np.arange(200) % 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))


def _describe(dataset: Path, features: dict[str, Any]) -> None:
    """Writes the description of a prepared dataset with 1000 examples in each split."""
    splits = [{"name": split, "shardLengths": ["1000"]} for split in SPLITS]
    info = {"fileFormat": "array_record", "version": "1.0.0", "splits": splits}
    folder = dataset / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))


def _write_text(dataset: Path) -> None:
    """Writes the decoded text of each split."""
    text = np.frombuffer(b"to be or not to be" * 1000, np.uint8)
    for split in SPLITS:
        file = dataset / "1.0.0" / f"decoded-{split}-text.npz"
        np.savez(file, text=text, ends=[len(text)], y=np.zeros(1, np.int32))


def _write_photos(folder: Path) -> None:
    """Writes two classes of grey images for training and evaluation."""
    for split, name in itertools.product(("train", "test"), ("cats", "dogs")):
        class_folder = folder / split / name
        class_folder.mkdir(parents=True)
        for number in range(64):
            Image.new("L", (8, 8)).save(class_folder / f"{number}.png")
