"""Small datasets in the form in which TFDS builders leave them, written without TensorFlow."""

from pathlib import Path

import numpy as np

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


def random_images(name, split):
    """Random images [n, H, W, C] and labels [n], the same at every call."""
    seed = sum(map(ord, name + split))
    generator = np.random.default_rng(seed)
    shape = (SIZES[split], *SHAPES[name])
    images = generator.integers(256, size=shape, dtype=np.uint8)
    labels = generator.integers(10, size=SIZES[split])
    return images, labels


def write_image_dataset(name, folder):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=SHAPES[name]),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    examples = {split: _image_examples(name, split) for split in SIZES}
    _write_dataset(name, folder, features, examples)


def write_questions(folder):
    """Texts with two labels, as in ``trec``."""
    import tensorflow_datasets as tfds

    features = {
        "text": tfds.features.Text(),
        "label-fine": tfds.features.ClassLabel(num_classes=3),
        "label-coarse": tfds.features.ClassLabel(num_classes=3),
    }
    examples = {}
    for split, questions in QUESTIONS.items():
        examples[split] = []
        for text, label in questions:
            example = {"text": text, "label-coarse": label, "label-fine": 2}
            examples[split].append(example)
    _write_dataset("trec", folder, features, examples)


def write_play(folder):
    """Texts without a label, as in ``tiny_shakespeare``."""
    import tensorflow_datasets as tfds

    features = {"text": tfds.features.Text()}
    examples = {split: [{"text": text}] for split, text in PLAY.items()}
    _write_dataset("tiny_shakespeare", folder, features, examples)


TINY_SIZE = 24  # examples of each split
TINY_SPLITS = ("train", "test", "validation")


def write_tiny_images(name, folder, seed):
    """Images of 8×8 pixels with two labels of three classes."""
    import tensorflow_datasets as tfds
    from PIL import Image

    generator = np.random.default_rng(seed)
    features = {
        "image": tfds.features.Image(shape=(8, 8, 1)),
        "label": tfds.features.ClassLabel(num_classes=3),
        "other": tfds.features.ClassLabel(num_classes=3),
    }
    examples = {}
    for split in TINY_SPLITS:
        examples[split] = []
        for number in range(TINY_SIZE):
            pixels = generator.integers(256, size=(8, 8), dtype=np.uint8)
            image = Image.fromarray(pixels)
            example = {"image": image, "label": number % 3, "other": number % 2}
            examples[split].append(example)
    _write_dataset(name, folder, features, examples)


def write_tiny_texts(name, folder, seed):
    """Random words with two labels of three classes."""
    import tensorflow_datasets as tfds

    generator = np.random.default_rng(seed)
    features = {
        "text": tfds.features.Text(),
        "label": tfds.features.ClassLabel(num_classes=3),
        "other": tfds.features.ClassLabel(num_classes=3),
    }
    examples = {}
    for split in TINY_SPLITS:
        examples[split] = []
        for number in range(TINY_SIZE):
            words = generator.choice(["to", "be", "or", "not", "né"], size=9)
            example = {"text": " ".join(words), "label": number % 3, "other": number % 2}
            examples[split].append(example)
    _write_dataset(name, folder, features, examples)


def _image_examples(name, split):
    from PIL import Image

    images, labels = random_images(name, split)
    examples = []
    for image, label in zip(images, labels, strict=True):
        picture = Image.fromarray(image.squeeze())
        examples.append({"image": picture, "label": int(label)})
    return examples


def _write_dataset(dataset, folder, features, examples):
    import tensorflow_datasets as tfds

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version("3.0.1")
        pkg_dir_path: Path | None = Path(__file__).parent

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description=dataset,
                features=tfds.features.FeaturesDict(features),
            )

        def _split_generators(self, dl_manager):
            return {split: enumerate(part) for split, part in examples.items()}

        def _generate_examples(self):
            raise NotImplementedError

    tfds.disable_progress_bar()
    builder = Prepared(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
