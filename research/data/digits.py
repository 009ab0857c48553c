"""The 8×8 handwritten digits of scikit-learn, as a TFDS builder that needs no TensorFlow."""

import contextlib
import functools
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from research.config.data_options import ImageData
from research.data.dataset import (
    Dataset,
    DatasetInfo,
    LabeledArrays,
    make_standardized_dataset,
    select_splits,
)
from research.data.lock import lock_folder
from research.data.tfds_directory import data_dir
from research.data.tfds_reader import read_image_rows

SPLITS = {"train": 1400, "test": 397}  # examples
SHAPE = (8, 8, 1)
CLASSES = 10
NAME = "fathom_digits"  # of the dataset in the TFDS directory
DATASET_VERSION = "1.0.0"


def describe(data: ImageData) -> DatasetInfo:
    """What is known without reading the images."""
    return DatasetInfo(splits=SPLITS, shape=SHAPE)


def load_digits(data: ImageData) -> Dataset:
    """The digits from the TFDS directory, prepared there on first use (seconds, no network)."""
    return make_standardized_dataset(
        select_splits(data, SPLITS, _read_split, CLASSES),
        name="digits",
        version=DATASET_VERSION,
        split=data.split,
        shape=SHAPE,
        classes=CLASSES,
    )


def _read_split(split: str) -> LabeledArrays:
    folder = _find_data_dir() / NAME / DATASET_VERSION
    return read_image_rows(folder, split, _make_prepared_builder)


def _make_prepared_builder() -> Any:
    builder = _make_builder()
    if builder.is_prepared():
        return builder
    with lock_folder(Path(builder.data_dir).parent):
        # Another process may have prepared the digits in the meantime; a new builder sees that.
        builder = _make_builder()
        if not builder.is_prepared():
            _prepare(builder)
    return builder


def _prepare(builder: Any) -> None:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()


def _make_builder() -> Any:
    builder_class = _define_builder_class()
    return builder_class(data_dir=str(_find_data_dir()), file_format="array_record")


def _find_data_dir() -> Path:
    """The TFDS directory; a temporary one where the user's home cannot be written, or is missing.

    A directory that the user has named in ``TFDS_DATA_DIR`` is used in any case.
    """
    if os.environ.get("TFDS_DATA_DIR"):
        return data_dir()
    try:
        folder = data_dir()
        if (folder / NAME).exists():
            return folder
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError):
        return Path(_temporary_directory().name)
    return folder if os.access(folder, os.W_OK) else Path(_temporary_directory().name)


@functools.cache
def _temporary_directory() -> tempfile.TemporaryDirectory:
    """A directory that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="fathom-")


@functools.cache
def _define_builder_class() -> type:
    """The builder class, defined on first use.

    TFDS takes most of a second to import, and registers a name only once.
    """
    import tensorflow_datasets as tfds

    class FathomDigits(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version(DATASET_VERSION)
        pkg_dir_path: Path | None = Path(__file__).parent

        def _info(self) -> tfds.core.DatasetInfo:
            features = {
                "image": tfds.features.Tensor(shape=SHAPE, dtype=np.uint8),
                "label": tfds.features.ClassLabel(num_classes=CLASSES),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description="8×8 digits, 0..16.",
                features=tfds.features.FeaturesDict(features),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            from sklearn.datasets import load_digits

            digits: Any = load_digits()
            # The source is ordered by writer; a fixed shuffle gives both splits one distribution.
            order = np.random.default_rng(0).permutation(len(digits.target))
            images = digits.images.astype(np.uint8).reshape(-1, *SHAPE)
            images = images[order]
            labels = digits.target[order]
            end = SPLITS["train"]
            return {
                "train": self._generate_examples(images[:end], labels[:end]),
                "test": self._generate_examples(images[end:], labels[end:]),
            }

        def _generate_examples(
            self, images: np.ndarray, labels: np.ndarray
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            pairs = zip(images, labels, strict=True)
            for number, (image, label) in enumerate(pairs):
                yield number, {"image": image, "label": int(label)}

    return FathomDigits
