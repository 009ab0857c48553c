"""Preparing a dataset of the TFDS catalogue, once: in a process of its own, so that no run ever imports TensorFlow.

In this order: what is prepared already wins; files in ``data.raw_dir`` are taken where their checksum is that of the
catalogue; what is missing is downloaded where the network answers. Another dataset is never taken for it.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.config.data_options import Data
from research.data.decoded import data_dir
from research.data.lock import lock
from research.data.raw_files import Fetched, place_raw_files

OFFLINE = ("digits", "python_docs", "function", "noise", "folder", "arrays")


def ensure_prepared(data: Data, name: str) -> Path:
    """Prepares a dataset that is not, with its progress on standard error; the folder it then lies in.

    Raises:
        ValueError: saying in one line what is missing, how to provide it, and what is there without.
    """
    if not importlib.util.find_spec("tensorflow"):
        raise ValueError(
            f"data={name} is not prepared in {data_dir() / name}, and preparing needs TensorFlow, once: "
            f"pip install 'fathom-gradients[catalog]'; {offline()}"
        )
    request = json.dumps({"name": name, "raw_dir": data.raw_dir, "download": data.download})
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "research.data.prepare", request]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | quiet)
    said = ended.stdout.strip().rpartition("\n")[2]
    if ended.returncode == 0:
        return Path(said)
    raise ValueError(
        said
        if ended.returncode == 2 and said
        else f"data={name}: preparing it was ended from outside"
    )


def offline() -> str:
    """Which datasets need no network, in words."""
    from research.data.prepared import prepared

    found = []
    for place in sorted(data_dir().glob("*")) if data_dir().is_dir() else ():
        try:
            found += [place.name] if prepared(place.name) else []
        except ValueError:  # there, but in a format of its own or in several configurations
            found.append(place.name)
    catalog = ", ".join(name for name in found if name != "fathom_digits")
    return (
        f"offline there are {', '.join(OFFLINE)}{f' and, prepared, {catalog}' if catalog else ''}"
    )


def main(argument: str) -> int:
    """The other process: writes the folder, or what was wrong in one line; 0 or 2."""
    request = json.loads(argument)
    out = os.dup(1)
    says = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)  # what TensorFlow's own code writes there is no progress
    sys.stderr = says if says.isatty() else sys.stderr
    code, line = _answered(request, says)
    os.write(out, f"{line}\n".encode())
    return code


def _answered(request: Mapping[str, Any], says: Any) -> tuple[int, str]:
    name = request["name"]
    try:
        return 0, str(_prepare(name, request["raw_dir"], request["download"], says))
    except KeyboardInterrupt:
        return 2, f"data={name}: interrupted; nothing of it is left behind"
    except ValueError as error:
        return 2, str(error).strip().split("\n")[0]
    except Exception as error:
        return 2, f"data={name} cannot be prepared in {data_dir() / name}: {_reason(error)}"


def _reason(error: Exception) -> str:
    """TFDS wraps what the system said in pages of its own."""
    if "No space left" in str(error):
        return "no space left on the device"
    return (
        getattr(error, "strerror", None)
        or f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]
    )


def _prepare(name: str, raw_dir: str | None, download: bool, says: Any) -> Path:
    from research.data.prepared import prepared

    kind = _builder_class(name)
    downloads = data_dir() / "downloads"
    instructions = (kind.MANUAL_DOWNLOAD_INSTRUCTIONS or "").strip()
    if instructions and not raw_dir:
        raise ValueError(
            f"data={name} is not prepared and its files are not for download: put them in a folder and give "
            f"data.raw_dir: {' '.join(instructions.split())}"
        )
    fetched = Fetched(name, dict(kind.url_infos), downloads, download)
    missing = (
        []
        if instructions
        else place_raw_files(fetched, Path(raw_dir).expanduser() if raw_dir else None)
    )
    if missing and len(missing) == len(fetched.infos):
        fetched.refuse_unless_reachable(
            missing[0]
        )  # before TensorFlow is imported, which takes seconds
    with lock(data_dir() / name.partition("/")[0]):
        folder = prepared(name)
        if folder:
            return folder
        return _built(name, fetched, raw_dir if instructions else None, says)


def _built(name: str, fetched: Fetched, manual: str | None, says: Any) -> Path:
    """Prepares with the builder of the catalogue; what killed attempts have left is taken away first."""
    import shutil

    import tensorflow_datasets as tfds
    from absl import logging

    place = data_dir() / name.partition("/")[0]
    extracted = (
        fetched.downloads / "extracted" / place.name
    )  # by dataset: TFDS extracts by bare file names
    for left in [*place.glob("**/incomplete.*"), *extracted.glob("incomplete.*")]:
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    logging.set_verbosity(logging.ERROR)
    if not says.isatty():
        tfds.disable_progress_bar()
    print(f"preparing {name} in {place}, once", file=says)
    began = time.monotonic()
    builder = tfds.builder(name, data_dir=str(data_dir()), file_format="array_record")
    config = tfds.download.DownloadConfig(
        extract_dir=str(extracted),
        manual_dir=manual,
        compute_stats=tfds.download.ComputeStatsMode.SKIP,
        verify_ssl=True,
    )
    with fetched.watched(says):
        builder.download_and_prepare(download_dir=str(fetched.downloads), download_config=config)
    print(f"prepared {name} in {time.monotonic() - began:.0f} s", file=says)
    return Path(builder.data_dir)


def _builder_class(name: str) -> Any:
    """The catalogue's builder.

    Raises:
        ValueError: there is none of that name; the nearest is named.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import gcs_utils

    gcs_utils._is_gcs_disabled = (
        True  # asks the network for descriptions, and waits where there is none
    )
    bare, _, configuration = name.partition("/")
    names = tfds.list_builders(with_community_datasets=False)
    if bare not in names:
        raise ValueError(f"the TFDS catalogue has no {bare}{_nearest(bare, names)}")
    kind = tfds.builder_cls(bare)
    configurations = list(getattr(kind, "builder_configs", None) or {})
    if configuration and configuration not in configurations:
        listed = ", ".join(configurations[:20]) or "none"
        raise ValueError(
            f"data.dataset must name a configuration of {bare}: {listed}; got {configuration}"
        )
    return kind


def _nearest(word: str, words: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
