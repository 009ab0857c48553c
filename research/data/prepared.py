"""Prepared datasets of the TFDS catalogue, as their descriptions on disk define them.

Every dataset with images and class labels, or with texts, can be used. None is known by name.
"""

import contextlib
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from research.config.data_options import CatalogData
from research.data.dataset import Shape
from research.data.prepare import ensure_prepared
from research.data.tfds_directory import (
    data_dir,
    find_prepared_folder,
    not_permitted,
    read_dataset_info,
)


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedDataset:
    """A prepared dataset and the features that are used.

    Attributes:
        folder: Its folder, which is named by the version.
        splits: Number of examples in each split.
        image: Name of the image feature; empty if there is none.
        shape: Height, width and channels of an image; 0 where images differ.
        text: Name of the text feature; empty if there is none or images are used.
        label: Name of the label feature; empty if there is none.
        classes: Number of classes; 0 if there is no label.
        in_source_order: Whether the examples are in the order of the source, which may be that of
            the classes. TFDS shuffles most datasets when it prepares them.
    """

    folder: Path
    splits: dict[str, int]
    image: str
    shape: Shape
    text: str
    label: str
    classes: int
    in_source_order: bool

    @property
    def version(self) -> str:
        """The version; ``configuration/version`` if the dataset has configurations."""
        _, *parts = self.folder.relative_to(data_dir()).parts
        return "/".join(parts)

    def make_builder(self) -> Any:
        """The TFDS builder that reads the files without TensorFlow."""
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self.folder, file_format="array_record")


@dataclasses.dataclass(frozen=True)
class Feature:
    """A feature of a dataset: its kind, the shape of an image, and the classes of a label."""

    kind: str
    shape: Shape
    classes: int


def dataset_name(data: CatalogData) -> str:
    """The name in the catalogue, with a slash and the configuration if one is selected.

    Raises:
        ValueError: ``data=tfds`` is given without a name.
    """
    if data.name.name == "tfds" and not data.dataset:
        raise ValueError(
            "data.dataset must be a name of the TFDS catalogue for data=tfds, such as kmnist, "
            "got none"
        )
    return data.dataset or data.name.name


def find_or_prepare(data: CatalogData) -> PreparedDataset:
    """The newest prepared version of a dataset. Prepares the dataset if there is none.

    Raises:
        ValueError: The dataset cannot be prepared, or it holds nothing to train on.
    """
    name = dataset_name(data)
    folder = find_prepared_folder(name) or ensure_prepared(data, name)
    modified_ns = (folder / "dataset_info.json").stat().st_mtime_ns
    return _read_prepared_dataset(folder, modified_ns, name, data.label)


@functools.lru_cache(maxsize=32)
def _read_prepared_dataset(
    folder: Path,
    modified_ns: int,
    name: str,
    label: str | None,
) -> PreparedDataset:
    """Read which features to use.

    Args:
        folder: Folder of the prepared version.
        modified_ns: When the description was last written: part of the cache key.
        name: Name of the dataset, for error messages.
        label: Name of the label feature to use; None selects one.

    Raises:
        ValueError: There is no such label, or the dataset holds nothing to train on.
    """
    features = _read_features(folder)
    images = _names_of_kind(features, "Image")
    texts = _names_of_kind(features, "Text")
    labels = _names_of_kind(features, "ClassLabel")
    if label is not None and not labels:
        raise ValueError(
            f"data.label must be left out for {name}, which has no class labels, got {label}"
        )
    if label is not None and label not in labels:
        raise ValueError(f"data.label must be one of {', '.join(labels)} for {name}, got {label}")
    target = label or _default_label(labels)
    if not texts and not (images and target):
        raise ValueError(
            f"data={name} must have images with class labels, or texts, "
            f"got the features {', '.join(features)}"
        )
    image = images[0] if images else ""
    return PreparedDataset(
        folder=folder,
        splits=_read_split_sizes(folder),
        image=image,
        shape=features[image].shape if image else (),
        text="" if image else texts[0],
        label=target,
        classes=features[target].classes if target else 0,
        in_source_order=read_dataset_info(folder).get("disableShuffling", False),
    )


def _read_split_sizes(folder: Path) -> dict[str, int]:
    """The number of examples of each split.

    Raises:
        ValueError: The description is damaged, or there are no splits.
    """
    sizes = {}
    with contextlib.suppress(KeyError, TypeError, ValueError):
        for split in read_dataset_info(folder)["splits"]:
            sizes[split["name"]] = sum(map(int, split["shardLengths"]))
        if sizes:
            return sizes
    file = folder / "dataset_info.json"
    raise ValueError(f"{file} is damaged; remove {folder} and prepare it again")


def _names_of_kind(features: dict[str, Feature], kind: str) -> list[str]:
    return [name for name, feature in features.items() if feature.kind == kind]


def _default_label(labels: list[str]) -> str:
    """``label`` if the dataset has it, else its first label; empty if it has none."""
    if "label" in labels:
        return "label"
    return labels[0] if labels else ""


def _read_features(folder: Path) -> dict[str, Feature]:
    """The features by name.

    Raises:
        ValueError: The description is missing or cut short.
    """
    file = folder / "features.json"
    try:
        described = json.loads(file.read_text(encoding="utf-8"))["featuresDict"]["features"]
    except PermissionError as error:
        raise not_permitted(error, file) from None
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{file} is damaged; remove {folder} and prepare it again") from None
    return {name: _parse_feature(feature) for name, feature in described.items()}


def _parse_feature(described: dict[str, Any]) -> Feature:
    _, _, kind = described["pythonClassName"].rpartition(".")
    image = described.get("image", {})
    dimensions = image.get("shape", {}).get("dimensions", [])
    label = described.get("classLabel", {})
    return Feature(
        kind=kind,
        # TFDS writes -1 for a size that differs between images.
        shape=tuple(max(0, int(size)) for size in dimensions),
        classes=int(label.get("numClasses", 0)),
    )
