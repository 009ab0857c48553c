"""Image sets of the TFDS catalogue, read where they lie prepared. Preparing them needs TensorFlow; reading does not."""

import json
import math
import re
from pathlib import Path
from typing import Any

from research.data.dataset import Dataset, standardised
from research.data.decoded import data_dir, read_rows

SHAPES = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}  # height, width, channels
CLASSES = 10


def load_images(name: str, split: str, eval_split: str, limit: int | None) -> Dataset:
    """A prepared image set, decoded on first use."""
    folder, info = _prepared(name)
    try:
        (x, y), (eval_x, eval_y) = (read_rows(folder, part, lambda: _builder(folder)) for part in (split, eval_split))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"data={name}: the files in {folder} are damaged; remove it and prepare it again") from error
    x, y = x[:limit], y[:limit]
    if x.shape[1] != math.prod(SHAPES[name]):
        raise ValueError(f"{name} in {folder} must hold images of {math.prod(SHAPES[name])} numbers, got {x.shape[1]}")
    offset, scale = standardised(x)
    return Dataset(name, info["version"], split, x, y, eval_x, eval_y, SHAPES[name], CLASSES, offset, scale)


def splits(name: str) -> dict[str, int]:
    """How many examples each split of a prepared image set has, from its description alone.

    Raises:
        ValueError: it is not prepared, or in a format that only TensorFlow reads.
    """
    _, info = _prepared(name)
    return {split["name"]: sum(map(int, split["shardLengths"])) for split in info["splits"]}


def _prepared(name: str) -> tuple[Path, dict[str, Any]]:
    """The folder of the newest prepared version, and its description."""
    place = data_dir() / name
    found = {folder: _description(folder) for folder in _versions(place)}
    for folder, info in found.items():
        if "array_record" in [info.get("fileFormat"), *info.get("alternativeFileFormats", [])]:
            return folder, info
    call = f"tfds.builder('{name}', file_format='array_record').download_and_prepare()"
    command = f'python -c "import tensorflow_datasets as tfds; {call}"'
    if any(found.values()):
        state = f"is in {place}, but not as array_record: move it away or set TFDS_DATA_DIR to another folder"
    else:
        state = f"is not prepared in {place}"
    raise ValueError(f"data={name} {state}; prepare it once, where TensorFlow is installed: {command}")


def _versions(place: Path) -> list[Path]:
    """The folders of versions, newest first; what is being prepared has another name."""
    folders = [folder for folder in place.glob("*") if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]
    return sorted(folders, key=lambda folder: [int(part) for part in folder.name.split(".")], reverse=True)


def _description(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "dataset_info.json").read_text())
    except (OSError, ValueError):  # not there, or cut short
        return {}


def _builder(folder: Path) -> Any:
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(folder, file_format="array_record")
