"""Preparing: files matched by their content, refusals in one line, and the catalogue's own builders without a network.

What needs TensorFlow and the raw files is slow; the files are looked for in FATHOM_RAW_DIR or ../shared/data.
"""

import gzip
import hashlib
import importlib.util
import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research.data import prepare, raw_files
from research.data.raw_files import Fetched, is_reachable, place_raw_files

RAW = Path(os.environ.get("FATHOM_RAW_DIR") or Path(__file__).parents[3] / "shared" / "data")
URLS = {"http://there.example/a.txt": b"first", "http://there.example/b.txt": b"second"}


@pytest.fixture
def fetched(tmp_path):
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.core.utils import Size

    infos = {
        url: UrlInfo(
            size=Size(len(content)), checksum=hashlib.sha256(content).hexdigest(), filename=None
        )
        for url, content in URLS.items()
    }
    return Fetched("somebodys/small", infos, tmp_path / "downloads", True)


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw" / "other").mkdir(parents=True)
    (tmp_path / "raw" / "renamed").write_bytes(b"first")
    (tmp_path / "raw" / "other" / "b.txt").write_bytes(b"second")
    return tmp_path / "raw"


def test_files_are_taken_by_their_content_whatever_their_name(fetched, raw):
    (raw / "a.txt").write_bytes(b"wrong")  # of another dataset, say: the right one is there too
    assert place_raw_files(fetched, raw) == []
    for url, content in URLS.items():
        assert (
            fetched.place(url).read_bytes() == content
            and Path(f"{fetched.place(url)}.INFO").exists()
        )
    assert place_raw_files(fetched, None) == []  # from now on they are there


def test_tfds_looks_where_the_files_are_put(fetched, raw):
    import tensorflow_datasets as tfds

    place_raw_files(fetched, raw)
    manager = tfds.download.DownloadManager(
        download_dir=str(fetched.downloads), url_infos=dict(fetched.infos), dataset_name="somebodys"
    )
    found: Any = manager.download(list(URLS))
    assert [Path(path).read_bytes() for path in found] == list(URLS.values())


def test_what_is_missing_is_named_and_what_is_damaged_is_refused_by_name(fetched, raw):
    (raw / "renamed").unlink()
    assert place_raw_files(fetched, raw) == ["http://there.example/a.txt"]
    (raw / "other" / "a.txt").write_bytes(b"frst")
    with pytest.raises(
        ValueError, match=f"^{raw / 'other' / 'a.txt'} is damaged: .* needs 5 bytes .*, got 4 bytes"
    ):
        place_raw_files(fetched, raw)
    with pytest.raises(ValueError, match="^data.raw_dir must be a folder, got "):
        place_raw_files(fetched, raw / "nowhere")


def test_a_cached_download_that_was_damaged_is_not_taken_for_whole(fetched, raw):
    place_raw_files(fetched, raw)
    (raw / "renamed").write_bytes(b"frist")
    assert place_raw_files(fetched, None) == ["http://there.example/a.txt"]


def test_a_host_is_probed_and_a_refusal_says_how_to_do_without(fetched, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        monkeypatch.setattr("urllib.request.getproxies", lambda: {})
        assert is_reachable(url)
    assert not is_reachable(url)
    monkeypatch.setattr(raw_files, "is_reachable", lambda url: False)
    with pytest.raises(ValueError) as refused:
        fetched.refuse_unless_reachable("http://there.example/a.txt")
    said = str(refused.value)
    assert said.startswith(
        "data=somebodys/small is not prepared, and there.example cannot be reached: put a.txt"
    )
    assert "data.raw_dir=" in said and "offline there are digits" in said and "\n" not in said


def test_nothing_is_downloaded_that_may_not_be(fetched, monkeypatch):
    monkeypatch.setattr(raw_files, "is_reachable", lambda url: True)
    fetched.refuse_unless_reachable("http://there.example/a.txt")
    forbidden = Fetched(fetched.name, fetched.infos, fetched.downloads, False)
    with pytest.raises(ValueError, match="data.download=false"):
        forbidden.refuse_unless_reachable("http://there.example/a.txt")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cifar_10", "the TFDS catalogue has no cifar_10; did you mean cifar10?"),
        ("imagenette/tiny", "data.dataset must name a configuration of imagenette: "),
        (
            "imagenet2012",
            "data=imagenet2012 is not prepared and its files are not for download: put them in a folder",
        ),
        ("kmnist", "data=kmnist is not prepared, and data.download=false: put "),
    ],
)
def test_the_other_process_answers_in_one_line(name, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    request = {"name": name, "raw_dir": None, "download": False}
    code, line = prepare._answered(request, None)
    assert code == 2 and line.startswith(said) and "\n" not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "no space left on the device"),
        (
            RuntimeError("Error while extracting a\nto b; No space left on device"),
            "no space left on the device",
        ),
        (PermissionError(13, "Permission denied", "/x"), "Permission denied"),
        (RuntimeError("first line\nsecond"), "RuntimeError: first line"),
    ],
)
def test_what_the_system_said_is_said_in_one_line(error, said, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))

    def fails(*_):
        raise error

    monkeypatch.setattr(prepare, "_prepare", fails)
    code, line = prepare._answered({"name": "mnist", "raw_dir": None, "download": True}, None)
    assert (code, line) == (2, f"data=mnist cannot be prepared in {tmp_path / 'mnist'}: {said}")


needs_tensorflow = pytest.mark.skipif(
    not (importlib.util.find_spec("tensorflow") and RAW.is_dir()),
    reason="needs TensorFlow and the raw files",
)
TRAINS = """
import atexit, sys
atexit.register(lambda: print("tensorflow" in sys.modules))
import research.cli.main
research.cli.main.main()
"""
FEW = ("tracker=none", "train.steps=2", "model.depth=2", "model.width=8")


@pytest.mark.slow
@needs_tensorflow
def test_three_processes_prepare_and_train_at_once_and_none_imports_tensorflow(workplace, process):
    words = ["train", "data=trec", f"data.raw_dir={RAW}", "model=transformer", *FEW]
    three = [
        process("-c", TRAINS, *words, f"name=n{n}", TFDS_DATA_DIR=str(workplace / "t"))
        for n in range(3)
    ]
    said = [one.communicate() for one in three]
    assert [
        (one.returncode, out.splitlines()[-1]) for one, (out, _) in zip(three, said, strict=True)
    ] == [(0, "False")] * 3, said
    runs = [json.loads(run.read_text())["data"] for run in workplace.glob("outputs/*/*/run.json")]
    assert len(runs) == 3 and len({run["fingerprint"] for run in runs}) == 1
    assert sum(runs[0]["class_counts"]) == runs[0]["examples"] == 5452


@pytest.mark.slow
@needs_tensorflow
def test_mnist_prepared_behind_fashion_mnist_is_mnist(workplace, process):
    for name in ("fashion_mnist", "mnist"):
        words = ["train", f"data={name}", f"data.raw_dir={RAW}", *FEW]
        ended = process("-c", TRAINS, *words, TFDS_DATA_DIR=str(workplace / "t"))
        out, err = ended.communicate()
        assert ended.returncode == 0 and out.splitlines()[-1] == "False", err
        with np.load(workplace / "t" / name / "3.0.1" / "decoded-train.npz") as kept:
            rows = sorted(row.tobytes() for row in kept["x"])
        pixels = gzip.decompress((RAW / name / "train-images-idx3-ubyte.gz").read_bytes())[16:]
        assert rows == sorted(
            row.tobytes() for row in np.frombuffer(pixels, np.uint8).reshape(-1, 784)
        )


@pytest.mark.slow
@needs_tensorflow
def test_what_a_killed_preparation_left_is_taken_away(workplace, process):
    left = workplace / "t" / "tiny_shakespeare" / "incomplete.ABC123_1.0.0"
    left.mkdir(parents=True)
    (left / "dataset_info.json").write_text("{}")
    words = ["train", "data=tiny_shakespeare", f"data.raw_dir={RAW}", "model=transformer", *FEW]
    ended = process("-c", TRAINS, *words, TFDS_DATA_DIR=str(workplace / "t"))
    out, err = ended.communicate()
    assert ended.returncode == 0 and out.splitlines()[-1] == "False", err
    assert sorted(part.name for part in left.parent.iterdir()) == [".lock", "1.0.0"]
