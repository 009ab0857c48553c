"""Prepared datasets as the catalogue's own builders would leave them, written without TensorFlow."""

import shutil
from pathlib import Path

import numpy as np
import pytest

SIZES = {"train": 30, "test": 20}
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
QUESTIONS = {
    "train": [
        ("Who wrote it ?", 1),
        ("Where is it , and who wrote it ?", 0),
        ("", 1),
        ("Who is it ?", 1),
    ],
    "test": [("Where is she ?", 0), ("Who ?", 1)],
}
PLAY = {
    "train": "to be, or not to be: " * 40,
    "validation": "to be or not " * 20,
    "test": "that is the question " * 20,
}


def drawn(name, split):
    """Random images [n, H, W, C] and labels [n], the same at every call."""
    generator = np.random.default_rng(sum(map(ord, name + split)))
    images = generator.integers(256, size=(SIZES[split], *SHAPES[name]), dtype=np.uint8)
    return images, generator.integers(10, size=SIZES[split])


def _write(dataset, folder, features, examples):
    import tensorflow_datasets as tfds

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version("3.0.1")
        pkg_dir_path: Path | None = Path(__file__).parent

        def _info(self):
            wanted = tfds.features.FeaturesDict(features(tfds.features))
            return tfds.core.DatasetInfo(builder=self, description=dataset, features=wanted)

        def _split_generators(self, dl_manager):
            return {split: enumerate(own) for split, own in examples.items()}

        def _generate_examples(self):
            raise NotImplementedError

    tfds.disable_progress_bar()
    Prepared(data_dir=str(folder), file_format="array_record").download_and_prepare()


def _pictures(name):
    from PIL import Image

    def own(split):
        images, labels = drawn(name, split)
        pairs = zip(images, labels, strict=True)
        return [
            {"image": Image.fromarray(image.squeeze()), "label": int(label)}
            for image, label in pairs
        ]

    return {split: own(split) for split in SIZES}


@pytest.fixture(scope="session")
def all_prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    for name, shape in SHAPES.items():

        def features(f, shape=shape):
            return {
                "image": f.Image(shape=shape),
                "label": f.ClassLabel(num_classes=10),
            }

        _write(name, folder, features, _pictures(name))
    labels = ("label-fine", "label-coarse")
    questions = {
        split: [{"text": text, "label-coarse": label, "label-fine": 2} for text, label in own]
        for split, own in QUESTIONS.items()
    }
    _write(
        "trec",
        folder,
        lambda f: {"text": f.Text()} | {n: f.ClassLabel(num_classes=3) for n in labels},
        questions,
    )
    _write(
        "tiny_shakespeare",
        folder,
        lambda f: {"text": f.Text()},
        {k: [{"text": v}] for k, v in PLAY.items()},
    )
    return folder


@pytest.fixture
def prepared(all_prepared, tmp_path, monkeypatch):
    """A folder of prepared datasets, to do with as a test likes."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return Path(shutil.copytree(all_prepared, tmp_path, dirs_exist_ok=True))
