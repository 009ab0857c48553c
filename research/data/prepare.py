"""Prepares a dataset of the TFDS catalogue in a separate process, so no run imports TensorFlow.

The builders of the catalogue need TensorFlow, except for those that ``raw_formats`` replaces. A
dataset that is already prepared is used as it is. Otherwise, files in ``data.raw_dir`` are used
if their checksums are those of the catalogue, and missing files are downloaded. No other dataset
is ever used instead.
"""

import difflib
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from research.config.data_options import CatalogData
from research.config.paths import expand_home
from research.data.lock import lock_folder
from research.data.raw_files import (
    RawFiles,
    download_raw_files,
    find_raw_files,
    place_raw_files,
)
from research.data.raw_formats import UNPACKED, can_read_raw_files, make_raw_builder
from research.data.tfds_directory import (
    data_dir,
    describe_offline_datasets,
    find_prepared_folder,
)

STDOUT = 1
STDERR = 2
MAX_LISTED_CONFIGURATIONS = 20


def ensure_prepared(data: CatalogData, name: str) -> Path:
    """Prepare a dataset in a separate process, with its progress on standard error.

    Args:
        data: The settings; ``raw_dir`` and ``download`` are used.
        name: Name of the dataset, with a slash and its configuration if it has one.

    Returns:
        The folder of the prepared version.

    Raises:
        ValueError: The dataset cannot be prepared. The message says in one line what is missing,
            how to provide it, and which datasets are available offline.
    """
    if not can_read_raw_files(name) and not importlib.util.find_spec("tensorflow"):
        base_name, _, _ = name.partition("/")
        # Without TensorFlow, some datasets of the catalogue are not listed.
        known_names = _list_names()
        suggestion = "" if base_name in known_names else _suggest_name(base_name, known_names)
        raise ValueError(
            f"data={name} is not prepared in {data_dir() / name}, "
            "and preparing needs TensorFlow, once: pip install 'fathom-gradients[catalog]'; "
            f"{describe_offline_datasets()}{suggestion}"
        )
    request = {
        "name": name,
        "raw_dir": data.raw_dir,
        "download": data.download,
    }
    changes = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONIOENCODING": "utf-8:surrogateescape",
    }
    process = subprocess.run(
        [sys.executable, "-m", "research.data.prepare", json.dumps(request)],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
        env=os.environ | changes,
    )
    _, _, answer = process.stdout.strip().rpartition("\n")
    if process.returncode == 0:
        return Path(answer)
    if process.returncode == 2 and answer:
        raise ValueError(answer)
    raise ValueError(f"data={name}: the process that prepares it was killed")


def main(argument: str) -> int:
    """Answer one request in the separate process; the answer is the last line on standard output.

    Args:
        argument: The request as JSON.

    Returns:
        The exit code: 0, or 2 after an error.
    """
    request = json.loads(argument)
    answer_stream = os.dup(STDOUT)
    progress = os.fdopen(os.dup(STDERR), "w", buffering=1, encoding="utf-8")
    # Native code of TensorFlow writes to both streams; that is neither the answer nor progress.
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    os.dup2(STDOUT, STDERR)
    if progress.isatty():
        sys.stderr = progress
    code, answer = answer_request(request, progress)
    os.write(answer_stream, f"{answer}\n".encode())
    return code


def answer_request(request: Mapping[str, Any], progress: TextIO) -> tuple[int, str]:
    """Prepare a dataset and turn every error into one line.

    Args:
        request: ``name``, ``raw_dir`` and ``download``.
        progress: Where progress is written.

    Returns:
        The exit code, and the folder of the prepared version or the error.
    """
    name = request["name"]
    try:
        folder = prepare_dataset(name, request["raw_dir"], request["download"], progress)
    except KeyboardInterrupt:
        return 2, f"data={name}: interrupted; no partial files remain"
    except ValueError as error:
        return 2, _first_line(str(error))
    except Exception as error:
        reason = _describe_error(error)
        return 2, f"data={name} cannot be prepared in {data_dir() / name}: {reason}"
    return 0, str(folder)


def _describe_error(error: Exception) -> str:
    """The reason in one line. TFDS wraps messages of the operating system in long ones."""
    if "No space left" in str(error):
        return "no space left on the device"
    system_message = getattr(error, "strerror", None)
    return system_message or _first_line(f"{type(error).__name__}: {str(error).strip()}")


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0]


def prepare_dataset(
    name: str,
    raw_dir: str | None,
    download: bool,
    progress: TextIO,
) -> Path:
    """Prepare a dataset in this process.

    Args:
        name: Name of the dataset, with a slash and its configuration if it has one.
        raw_dir: Folder with raw files; None for none.
        download: Whether missing files may be downloaded.
        progress: Where progress is written.

    Returns:
        The folder of the prepared version.

    Raises:
        ValueError: There is no such dataset, or its files are missing or damaged.
    """
    builder_class = _find_builder_class(name)
    raw_files = RawFiles(
        dataset=name,
        url_infos=dict(builder_class.url_infos),
        download_dir=data_dir() / "downloads",
        may_download=download,
        raw_dir=expand_home(raw_dir) if raw_dir else None,
        unpacked=UNPACKED if can_read_raw_files(name) else {},
    )
    if can_read_raw_files(name):
        files = _collect_files(raw_files, progress)
        build = functools.partial(_build_from_files, raw_files, files)
    else:
        manual_dir = _place_files(raw_files, builder_class)
        build = functools.partial(_build_with_tensorflow, raw_files, manual_dir, progress)
    with lock_folder(data_dir() / raw_files.base_name):
        # Another process may have prepared the dataset while this one waited for the lock.
        prepared = find_prepared_folder(name)
        if prepared:
            return prepared
        return _build_dataset(name, build, progress)


def _collect_files(raw_files: RawFiles, progress: TextIO) -> dict[str, Path]:
    """All raw files by their names in the catalogue; missing ones are downloaded."""
    files = find_raw_files(raw_files)
    missing = [url for url in raw_files.url_infos if url not in files]
    if missing:
        raw_files.check_can_download(missing)
        lock = lock_folder(raw_files.download_dir / raw_files.base_name)
        with lock, raw_files.watch_downloads(progress):
            files |= download_raw_files(raw_files, missing)
    return {raw_files.file_name(url): file for url, file in files.items()}


def _place_files(raw_files: RawFiles, builder_class: Any) -> str | None:
    """Put raw files where the catalogue's builder looks for them.

    Returns:
        Folder with files that cannot be downloaded automatically; None for none.
    """
    instructions = builder_class.MANUAL_DOWNLOAD_INSTRUCTIONS or ""
    instructions = " ".join(instructions.split())
    if instructions:
        if not raw_files.raw_dir:
            raise ValueError(
                f"data={raw_files.dataset} is not prepared and its files cannot be downloaded "
                f"automatically: put them in a folder and give data.raw_dir: {instructions}"
            )
        return str(raw_files.raw_dir)
    missing = place_raw_files(raw_files)
    # Of the files of several configurations, only some are needed.
    has_configurations = bool(getattr(builder_class, "builder_configs", None))
    if has_configurations and len(missing) == len(raw_files.url_infos):
        missing = missing[:1]
    elif has_configurations:
        missing = []
    if missing:
        # TensorFlow takes seconds to import: find out first whether a download can start.
        raw_files.check_can_download(missing)
    return None


def _build_dataset(
    name: str,
    build: Callable[[], Any],
    progress: TextIO,
) -> Path:
    """Run a builder.

    Args:
        name: Name of the dataset, with a slash and its configuration if it has one.
        build: Prepares the dataset and returns its builder.
        progress: Where progress is written.

    Returns:
        The folder of the prepared version.
    """
    import tensorflow_datasets as tfds
    from absl import logging

    folder = data_dir() / name.partition("/")[0]
    _remove_incomplete(folder.glob("**/incomplete.*"))
    logging.set_verbosity(logging.ERROR)
    if not progress.isatty():
        tfds.disable_progress_bar()
    print(f"preparing {name} in {folder}, once", file=progress)
    start = time.monotonic()
    builder = build()
    seconds = time.monotonic() - start
    print(f"prepared {name} in {seconds:.0f} s", file=progress)
    return Path(builder.data_dir)


def _build_from_files(raw_files: RawFiles, files: Mapping[str, Path]) -> Any:
    """Prepare a dataset whose files are read without TensorFlow; returns its builder."""
    import tensorflow_datasets as tfds

    builder = make_raw_builder(raw_files.dataset, files, data_dir())
    config = tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP)
    builder.download_and_prepare(download_config=config)
    return builder


def _build_with_tensorflow(
    raw_files: RawFiles,
    manual_dir: str | None,
    progress: TextIO,
) -> Any:
    """Run the builder of the catalogue.

    Args:
        raw_files: The raw files of the dataset.
        manual_dir: Folder with files that cannot be downloaded automatically; None for none.
        progress: Where progress is written.

    Returns:
        The builder.
    """
    import tensorflow_datasets as tfds

    # TFDS names extracted files by the archive alone, and datasets share such names.
    extract_dir = raw_files.download_dir / "extracted" / raw_files.base_name
    _remove_incomplete(extract_dir.glob("incomplete.*"))
    builder = tfds.builder(raw_files.dataset, data_dir=str(data_dir()), file_format="array_record")
    config = tfds.download.DownloadConfig(
        extract_dir=str(extract_dir),
        manual_dir=manual_dir,
        compute_stats=tfds.download.ComputeStatsMode.SKIP,
        verify_ssl=True,
    )
    with raw_files.watch_downloads(progress):
        builder.download_and_prepare(
            download_dir=str(raw_files.download_dir), download_config=config
        )
    return builder


def _remove_incomplete(paths: Iterable[Path]) -> None:
    """Remove what a preparation left that was killed."""
    for path in list(paths):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _find_builder_class(name: str) -> Any:
    """The builder class of the catalogue.

    Raises:
        ValueError: There is no dataset or configuration of this name; similar names are suggested.
    """
    import tensorflow_datasets as tfds

    base_name, _, configuration = name.partition("/")
    known_names = _list_names()
    if base_name not in known_names:
        suggestion = _suggest_name(base_name, known_names)
        raise ValueError(f"the TFDS catalogue has no {base_name}{suggestion}")
    builder_class = tfds.builder_cls(base_name)
    configurations = list(getattr(builder_class, "builder_configs", None) or {})
    if configuration and configuration not in configurations:
        listed = ", ".join(configurations[:MAX_LISTED_CONFIGURATIONS]) or "none"
        raise ValueError(
            f"data.dataset must name a configuration of {base_name}: {listed}; got {configuration}"
        )
    return builder_class


def _list_names() -> list[str]:
    """The names of the datasets of the catalogue."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import gcs_utils

    # Otherwise TFDS asks the network for descriptions, and waits if there is none.
    gcs_utils._is_gcs_disabled = True
    return tfds.list_builders(with_community_datasets=False)


def _suggest_name(name: str, known_names: list[str]) -> str:
    """The name that begins in the same way, or the most similar one, as a question."""
    lower_name = name.lower()
    matches = [known for known in known_names if known.startswith(lower_name)]
    matches += difflib.get_close_matches(lower_name, known_names, n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
