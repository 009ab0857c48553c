"""What lies prepared in the TFDS directory, from the descriptions that TFDS writes beside the data.

Any dataset of the catalogue is understood that has images with a class, or texts; none is known by name.
"""

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

from research.config.data_options import Data
from research.data.decoded import data_dir


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedDataset:
    """A prepared dataset: its folder, its examples by split, and the features that are used."""

    folder: Path
    splits: dict[str, int]
    image: str  # "": none
    shape: tuple[int, ...]  # of an image; 0: not all alike
    text: str
    label: str
    classes: int

    @property
    def version(self) -> str:
        """The version, behind the name of the configuration where there is one."""
        parts = self.folder.relative_to(data_dir()).parts[1:]
        return "/".join(parts)

    def builder(self) -> Any:
        """What reads it, without TensorFlow."""
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self.folder, file_format="array_record")


def dataset_name(data: Data) -> str:
    """The name in the catalogue, with the configuration behind a slash where one is asked for.

    Raises:
        ValueError: ``data=tfds`` without a name.
    """
    if data.name.name == "tfds" and not data.dataset:
        raise ValueError(
            "data.dataset must be a name of the TFDS catalogue for data=tfds, such as kmnist, got none"
        )
    return data.dataset or data.name.name


def find(data: Data) -> PreparedDataset:
    """The newest prepared version; it is prepared where there is none.

    Raises:
        ValueError: it cannot be prepared, or holds nothing that can be trained on.
    """
    from research.data.prepare import ensure_prepared

    name = dataset_name(data)
    folder = prepared(name) or ensure_prepared(data, name)
    return _found(folder, (folder / "dataset_info.json").stat().st_mtime_ns, name, data.label)


@functools.lru_cache(maxsize=32)
def _found(folder: Path, changed: int, name: str, label: str | None) -> PreparedDataset:
    info = _description(folder)
    features = _features(folder)
    splits = {split["name"]: sum(map(int, split["shardLengths"])) for split in info["splits"]}
    images = [key for key, value in features.items() if value["kind"] == "Image"]
    texts = [key for key, value in features.items() if value["kind"] == "Text"]
    labels = [key for key, value in features.items() if value["kind"] == "ClassLabel"]
    if label is not None and label not in labels:
        raise ValueError(
            f"data.label must be one of {', '.join(labels) or 'none'} for {name}, got {label}"
        )
    target = label or ("label" if "label" in labels else (labels or [""])[0])
    if not (images and target) and not texts:
        raise ValueError(
            f"data={name} has {', '.join(features)}: what is trained on is an image with a class, or a text"
        )
    image = images[0] if images else ""
    shape = features[image]["shape"] if image else ()
    classes = features[target]["classes"] if target else 0
    return PreparedDataset(folder, splits, image, shape, "" if image else texts[0], target, classes)


def _features(folder: Path) -> dict[str, dict[str, Any]]:
    """The features' kinds, by name, with the shapes of images and the numbers of classes.

    Raises:
        ValueError: the description is cut short.
    """
    try:
        described = json.loads((folder / "features.json").read_text())["featuresDict"]["features"]
    except (OSError, ValueError, KeyError):
        raise ValueError(
            f"{folder / 'features.json'} is damaged; remove {folder} and prepare it again"
        ) from None
    return {name: _feature(feature) for name, feature in described.items()}


def _feature(feature: dict[str, Any]) -> dict[str, Any]:
    kind = feature["pythonClassName"].rpartition(".")[2]
    dimensions = feature.get("image", {}).get("shape", {}).get("dimensions", [])
    classes = int(feature.get("classLabel", {}).get("numClasses", 0))
    return {
        "kind": kind,
        "shape": tuple(max(0, int(side)) for side in dimensions),
        "classes": classes,
    }


def prepared(name: str) -> Path | None:
    """The folder of the newest prepared version that can be read without TensorFlow; None for none.

    Raises:
        ValueError: what is prepared is in another format, or one of several configurations must be chosen.
    """
    place = data_dir() / name
    whole = [folder for folder in _versions(place) if _description(folder)]
    if not whole and "/" not in name:
        inner = [
            folder for folder in sorted(place.glob("*")) if folder.is_dir() and _versions(folder)
        ]
        if len(inner) > 1:
            configurations = ", ".join(f"{name}/{folder.name}" for folder in inner)
            raise ValueError(
                f"data.dataset must be one of {configurations}: all are prepared in {place}"
            )
        whole = [folder for folder in _versions(inner[0]) if _description(folder)] if inner else []
    for folder in whole:
        info = _description(folder)
        if "array_record" in [info.get("fileFormat"), *info.get("alternativeFileFormats", [])]:
            return folder
    if whole:
        raise ValueError(
            f"data={name} is in {place}, but not as array_record: move it away or set TFDS_DATA_DIR to another folder"
        )
    return None


def _versions(place: Path) -> list[Path]:
    """The folders of versions, newest first; what is being prepared has another name."""
    folders = [folder for folder in place.glob("*") if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]
    return sorted(
        folders, key=lambda folder: [int(part) for part in folder.name.split(".")], reverse=True
    )


def _description(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "dataset_info.json").read_text())
    except (OSError, ValueError):  # not there, or cut short
        return {}
