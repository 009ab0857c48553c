"""The 8×8 handwritten digits that ship with scikit-learn, as a TFDS builder that needs no TensorFlow."""

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from research.config.data_options import Data
from research.data.dataset import Dataset, Known, chosen, standardised
from research.data.decoded import data_dir, read_rows
from research.data.lock import lock

SPLITS = {"train": 1400, "test": 397}  # examples
CLASSES = 10


def describe(data: Data) -> Known:
    """What is known without reading them."""
    return Known(SPLITS, (8, 8, 1))


def load_digits(data: Data) -> Dataset:
    """The digits from the TFDS directory, prepared there on first use (seconds, no network)."""
    columns = chosen(data, SPLITS, _rows, CLASSES)
    return Dataset(
        "digits", "1.0.0", data.split, *columns, (8, 8, 1), CLASSES, *standardised(columns[0])
    )


def _rows(split: str) -> tuple[np.ndarray, np.ndarray]:
    """A split's images [n, 64] and labels [n]."""
    return read_rows(data_dir() / "fathom_digits" / "1.0.0", split, _prepared_builder)


def _prepared_builder() -> Any:
    builder = _builder()
    if builder.is_prepared():
        return builder
    with lock(Path(builder.data_dir).parent):
        builder = (
            _builder()
        )  # reads again what is there: another process may have prepared it meanwhile
        if not builder.is_prepared():
            import tensorflow_datasets as tfds

            tfds.disable_progress_bar()
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare()
    return builder


def _builder() -> Any:
    return _builder_class()(data_dir=str(data_dir()), file_format="array_record")


@functools.cache
def _builder_class() -> type:
    """The builder, defined once and on first use: TFDS takes most of a second to import, and a name only once."""
    import tensorflow_datasets as tfds

    class FathomDigits(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path: Path | None = Path(__file__).parent

        def _info(self) -> tfds.core.DatasetInfo:
            image = tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8)
            features = {"image": image, "label": tfds.features.ClassLabel(num_classes=CLASSES)}
            return tfds.core.DatasetInfo(
                builder=self,
                description="8×8 digits, 0..16.",
                features=tfds.features.FeaturesDict(features),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            from sklearn.datasets import load_digits

            digits: Any = load_digits()
            # The source is ordered by writer: a fixed shuffle makes both splits draws from one population.
            order = np.random.default_rng(0).permutation(len(digits.target))
            images = digits.images.astype(np.uint8)[order][..., None]
            labels = digits.target[order]
            parts = {"train": slice(None, SPLITS["train"]), "test": slice(SPLITS["train"], None)}
            return {
                name: self._generate_examples(images[part], labels[part])
                for name, part in parts.items()
            }

        def _generate_examples(
            self, images: np.ndarray, labels: np.ndarray
        ) -> Iterator[tuple[int, dict]]:
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield i, {"image": image, "label": int(label)}

    return FathomDigits
