"""Descriptions of prepared datasets and small data of a user's own: what a check of the settings reads."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

IMAGE = {"pythonClassName": "features.Image", "image": {"shape": {"dimensions": ["32", "32", "3"]}}}
TEXT = {"pythonClassName": "features.Text"}
LABEL = {"pythonClassName": "features.ClassLabel", "classLabel": {"numClasses": "10"}}
TEXTS = {
    "tiny_shakespeare": (),
    "imdb_reviews/plain_text": ("label",),
    "trec": ("label-fine", "label-coarse"),
}
IMAGE_SETS = (
    "mnist",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "svhn_cropped",
    "imagenette/160px-v2",
    "imagenet2012",
)


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """Descriptions of prepared datasets, which is all that a check reads of them but for texts without a label."""
    parts = [{"name": split, "shardLengths": ["1000"]} for split in ("train", "test", "validation")]
    info = {"fileFormat": "array_record", "version": "1.0.0", "splits": parts}
    features = {name: {"image": IMAGE, "label": LABEL} for name in (*IMAGE_SETS, "kmnist")}
    features |= {
        name: {"text": TEXT} | {label: LABEL for label in labels} for name, labels in TEXTS.items()
    }
    for name, described in features.items():
        folder = tmp_path / name / "1.0.0"
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text(json.dumps(info))
        (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": described}}))
    for part in ("train", "test", "validation"):
        text = np.frombuffer(b"to be or not to be" * 1000, np.uint8)
        file = tmp_path / "tiny_shakespeare" / "1.0.0" / f"decoded-{part}-text.npz"
        np.savez(file, text=text, ends=[len(text)], y=np.zeros(1, np.int32))
    for split, name in itertools.product(("train", "test"), ("cats", "dogs")):
        (tmp_path / "photos" / split / name).mkdir(parents=True)
        for number in range(64):
            Image.new("L", (8, 8)).save(tmp_path / "photos" / split / name / f"{number}.png")
    np.savez(tmp_path / "mine.npz", x=np.zeros((200, 3)), y=np.arange(200) % 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
