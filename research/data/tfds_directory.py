"""What is prepared in the TFDS directory, and which datasets need no preparation."""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

from research.config.paths import expand_home, find_home

# Datasets that need neither the network nor TensorFlow. Each is a module of this package.
OFFLINE_DATASETS = ("digits", "python_docs", "function", "noise", "folder", "arrays")


def data_dir() -> Path:
    """The directory of all prepared datasets; the same one that TFDS uses.

    Raises:
        ValueError: The user has no home directory, and ``TFDS_DATA_DIR`` is not set.
    """
    configured = os.environ.get("TFDS_DATA_DIR")
    if configured:
        return expand_home(configured)
    home = find_home()
    if home is None:
        raise ValueError(
            "there is no home directory for the datasets of the catalogue: "
            "set TFDS_DATA_DIR to a folder for them"
        )
    return home / "tensorflow_datasets"


def find_prepared_folder(name: str) -> Path | None:
    """The folder of the newest prepared version that can be read without TensorFlow, or None.

    ``name`` is a catalogue name, optionally with ``/configuration``.

    Raises:
        ValueError: The dataset is prepared in another format, or in several configurations.
    """
    folder = data_dir() / name
    versions = _versions_with_info(folder)
    if not versions and "/" not in name:
        configuration = _single_configuration(folder)
        if configuration is not None:
            versions = _versions_with_info(configuration)
    for version in versions:
        if _is_array_record(version):
            return version
    if versions:
        raise ValueError(
            f"data={name} is in {folder}, but not as array_record: "
            "move it away or set TFDS_DATA_DIR to another folder"
        )
    return None


def read_dataset_info(folder: Path) -> dict[str, Any]:
    """The content of ``dataset_info.json``; empty if the file is missing or cut short.

    Raises:
        ValueError: The file must not be read.
    """
    file = folder / "dataset_info.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except PermissionError as error:
        raise not_permitted(error, file) from None
    except (OSError, ValueError):
        return {}


def not_permitted(error: PermissionError, file: Path) -> ValueError:
    """The error for a file or folder of a prepared dataset that must not be read."""
    return ValueError(f"{error.filename or file} cannot be read: {os.strerror(errno.EACCES)}")


def describe_offline_datasets() -> str:
    """Which datasets need no network, as part of an error message."""
    message = f"offline there are {', '.join(OFFLINE_DATASETS)}"
    prepared = ", ".join(_list_prepared_names())
    if prepared:
        message += f" and, prepared, {prepared}"
    return message


def _list_prepared_names() -> list[str]:
    """The names of datasets in the TFDS directory, without those of ``OFFLINE_DATASETS``."""
    try:
        folders = sorted(data_dir().glob("*"))
    except ValueError:  # there is no such directory
        return []
    names = []
    for folder in folders:
        # The digits are listed already, under their name without the prefix.
        if folder.name != "fathom_digits" and _is_prepared(folder.name):
            names.append(folder.name)
    return names


def _is_prepared(name: str) -> bool:
    try:
        return find_prepared_folder(name) is not None
    except ValueError:  # it is prepared in another format, or in several configurations
        return True


def _single_configuration(folder: Path) -> Path | None:
    """The folder of the only prepared configuration of a dataset, or None.

    Raises:
        ValueError: Several configurations are prepared.
    """
    configurations = []
    for candidate in sorted(folder.glob("*")):
        if candidate.is_dir() and _list_versions(candidate):
            configurations.append(candidate)
    if len(configurations) > 1:
        names = ", ".join(f"{folder.name}/{each.name}" for each in configurations)
        raise ValueError(f"data.dataset must be one of {names}: all are prepared in {folder}")
    return configurations[0] if configurations else None


def _versions_with_info(folder: Path) -> list[Path]:
    """The folders of versions that have a readable ``dataset_info.json``, newest first."""
    return [version for version in _list_versions(folder) if read_dataset_info(version)]


def _list_versions(folder: Path) -> list[Path]:
    """The folders of versions, newest first; TFDS names incomplete preparations differently.

    Raises:
        ValueError: The folder must not be read.
    """
    try:
        candidates = list(folder.iterdir())
    except PermissionError as error:
        raise not_permitted(error, folder) from None
    except OSError:  # there is no such folder
        return []
    versions = []
    for candidate in candidates:
        if re.fullmatch(r"\d+\.\d+\.\d+", candidate.name):
            versions.append(candidate)
    return sorted(versions, key=_version_number, reverse=True)


def _version_number(folder: Path) -> list[int]:
    return [int(part) for part in folder.name.split(".")]


def _is_array_record(folder: Path) -> bool:
    info = read_dataset_info(folder)
    alternatives = info.get("alternativeFileFormats", [])
    return "array_record" in (info.get("fileFormat"), *alternatives)
