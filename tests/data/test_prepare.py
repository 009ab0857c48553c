"""Preparing: raw files found by their content, errors in one line, and builders without a network.

Tests that prepare whole datasets are slow and need their raw files, which lie in FATHOM_RAW_DIR.
"""

import errno
import functools
import gzip
import hashlib
import http.server
import io
import json
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from research.data import prepare, raw_files
from research.data.raw_files import (
    GZIP_MAGIC,
    Content,
    RawFiles,
    checksum,
    download_raw_files,
    find_raw_files,
    is_reachable,
    place_raw_files,
)

from .raw_dir import RAW_DIR

URL_A = "http://there.example/a.txt"
URL_B = "http://there.example/b.txt"
CONTENTS = {URL_A: b"first", URL_B: b"second"}


def make_url_infos(contents):
    """What a catalogue would know of files with these contents, by URL."""
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.core.utils import Size

    url_infos = {}
    for url, content in contents.items():
        checksum = hashlib.sha256(content).hexdigest()
        size = Size(len(content))
        url_infos[url] = UrlInfo(size=size, checksum=checksum, filename=None)
    return url_infos


def make_raw_files(
    download_dir,
    *,
    may_download=True,
    raw_dir=None,
    unpacked=None,
):
    return RawFiles(
        "somebodys/small",
        make_url_infos(CONTENTS),
        download_dir,
        may_download,
        raw_dir,
        unpacked or {},
    )


@pytest.fixture
def raw_dir(tmp_path):
    """A folder with both files, one of them under another name."""
    folder = tmp_path / "raw"
    (folder / "other").mkdir(parents=True)
    (folder / "renamed").write_bytes(CONTENTS[URL_A])
    (folder / "other" / "b.txt").write_bytes(CONTENTS[URL_B])
    return folder


@pytest.fixture
def needed(tmp_path, raw_dir):
    """The raw files that a dataset needs, and the folder that has them."""
    return make_raw_files(tmp_path / "downloads", raw_dir=raw_dir)


@pytest.fixture
def needed_later(tmp_path):
    """The same raw files without the folder."""
    return make_raw_files(tmp_path / "downloads")


def test_files_are_found_by_their_content_whatever_their_name(needed, raw_dir):
    (raw_dir / "a.txt").write_bytes(b"wrong")  # for example, of another dataset
    assert place_raw_files(needed) == []
    for url, content in CONTENTS.items():
        cached = needed.cache_path(url)
        assert cached.read_bytes() == content
        assert Path(f"{cached}.INFO").exists()


def test_files_that_were_placed_are_not_missing_later(needed, needed_later):
    place_raw_files(needed)
    assert place_raw_files(needed_later) == []


def test_tfds_looks_where_the_files_are_placed(needed):
    place_raw_files(needed)
    paths = download_raw_files(needed, list(CONTENTS))
    contents = {url: path.read_bytes() for url, path in paths.items()}
    assert contents == CONTENTS


def test_a_missing_file_is_named(needed, raw_dir):
    (raw_dir / "renamed").unlink()
    assert place_raw_files(needed) == [URL_A]


def test_raw_files_that_must_not_be_read_are_named(needed, raw_dir, monkeypatch):
    refused = raw_dir / "other" / "a.txt"
    (raw_dir / "renamed").rename(refused)

    def refuse(file):
        if file == refused:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return checksum(file)

    monkeypatch.setattr("research.data.raw_files.checksum", refuse)
    message = f"^data=somebodys/small needs a.txt, but {refused} cannot be read: Permission denied$"
    with pytest.raises(ValueError, match=message):
        place_raw_files(needed)


def test_a_folder_of_raw_files_that_must_not_be_read_is_named(needed, raw_dir, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: path != raw_dir)
    with pytest.raises(ValueError, match=f"^data.raw_dir={raw_dir} cannot be read: Permission den"):
        place_raw_files(needed)


def test_damaged_files_are_refused_by_name_together_with_missing_ones(needed, raw_dir):
    (raw_dir / "renamed").unlink()
    (raw_dir / "other" / "b.txt").unlink()
    damaged = raw_dir / "other" / "a.txt"
    damaged.write_bytes(b"frst")
    message = (
        f"^data=somebodys/small needs a.txt, b.txt, but {damaged} is damaged or of another "
        "dataset: expected 5 bytes .*, got 4 bytes with [0-9a-f]*$"
    )
    with pytest.raises(ValueError, match=message):
        place_raw_files(needed)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    needed = make_raw_files(tmp_path, raw_dir=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="^data.raw_dir must be a folder, got "):
        place_raw_files(needed)


def test_a_cached_download_that_is_damaged_counts_as_missing(needed, needed_later, raw_dir):
    place_raw_files(needed)
    (raw_dir / "renamed").write_bytes(b"frist")
    assert place_raw_files(needed_later) == [URL_A]


UNPACKED = {
    hashlib.sha256(CONTENTS[URL_A]).hexdigest(): Content(
        len(b"content"), hashlib.sha256(b"content").hexdigest()
    )
}


@pytest.mark.parametrize(
    ("content", "is_found"),
    [
        (b"content", True),
        (gzip.compress(b"content", 1, mtime=0), True),
        (gzip.compress(b"contend", mtime=0), False),
        (gzip.compress(b"content", mtime=0)[:12] + b"\7\0\0\0", False),
        (GZIP_MAGIC, False),
        (b"", False),
    ],
)
def test_what_a_file_holds_may_replace_it(tmp_path, content, is_found):
    """The catalogue knows a file by its packed content, here ``first``."""
    needed = make_raw_files(tmp_path / "downloads", raw_dir=tmp_path / "raw", unpacked=UNPACKED)
    (tmp_path / "raw").mkdir()
    file = tmp_path / "raw" / "anything"
    file.write_bytes(content)
    found = find_raw_files(needed)
    assert found == ({URL_A: file} if is_found else {})


def test_a_host_is_reachable_while_it_listens(monkeypatch):
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        _, port = server.getsockname()
        url = f"http://127.0.0.1:{port}/x"
        assert is_reachable(url)
    assert not is_reachable(url)


def test_without_a_network_the_error_names_all_files_and_says_what_to_do(needed_later, monkeypatch):
    monkeypatch.setattr(raw_files, "is_reachable", lambda url: False)
    with pytest.raises(ValueError) as refused:
        needed_later.check_can_download([URL_A, URL_B])
    message = str(refused.value)
    assert message.startswith(
        "data=somebodys/small is not prepared, and there.example cannot be reached: "
        "put a.txt (5 bytes), b.txt (6 bytes) in a folder and give data.raw_dir=FOLDER, "
    )
    assert "offline there are digits" in message
    assert "\n" not in message


def test_files_that_are_missing_in_the_given_folder_are_wanted_there(needed, raw_dir, monkeypatch):
    monkeypatch.setattr(raw_files, "is_reachable", lambda url: False)
    with pytest.raises(ValueError, match=f"put a.txt .*, b.txt .* in {raw_dir}, or prepare it"):
        needed.check_can_download([URL_A, URL_B])


def test_nothing_is_downloaded_if_the_setting_forbids_it(needed, monkeypatch):
    monkeypatch.setattr(raw_files, "is_reachable", lambda url: True)
    needed.check_can_download([URL_A])
    forbidden = make_raw_files(needed.download_dir, may_download=False)
    with pytest.raises(ValueError, match="data.download=false"):
        forbidden.check_can_download([URL_A])


@pytest.fixture
def server(raw_dir):
    """A server of the files in a folder, and its address."""
    handler = functools.partial(QuietHandler, directory=str(raw_dir))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.parametrize("is_intact", [True, False])
def test_a_missing_file_is_downloaded_and_its_checksum_is_checked(tmp_path, server, is_intact):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    tfds.disable_progress_bar()
    url = f"{server}/renamed"
    content = CONTENTS[URL_A] if is_intact else b"frist"
    needed = RawFiles("small", make_url_infos({url: content}), tmp_path / "downloads", True)
    if is_intact:
        [file] = download_raw_files(needed, [url]).values()
        assert file.read_bytes() == content
        assert find_raw_files(needed) == {url: file}
    else:
        with pytest.raises(NonMatchingChecksumError):
            download_raw_files(needed, [url])
        assert find_raw_files(needed) == {}


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """An empty TFDS directory."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar_10", "the TFDS catalogue has no cifar_10; did you mean cifar10?"),
        ("imagenette/tiny", "data.dataset must name a configuration of imagenette: "),
        (
            "imagenet2012",
            "data=imagenet2012 is not prepared and its files cannot be downloaded automatically: "
            "put them in a folder",
        ),
        ("svhn_cropped", "data=svhn_cropped is not prepared, and data.download=false: put "),
    ],
)
def test_the_separate_process_answers_in_one_line(name, message, data_dir, capsys):
    request = {"name": name, "raw_dir": None, "download": False}
    code, line = prepare.answer_request(request, io.StringIO())
    assert code == 2
    assert line.startswith(message)
    assert "\n" not in line
    assert not list(data_dir.iterdir())


FILES = {
    "mnist": [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    ],
    "cifar10": ["cifar-10-binary.tar.gz"],
    "cifar100": ["cifar-100-binary.tar.gz"],
    "tiny_shakespeare": ["input.txt"],
    "trec": ["train_5500.label", "TREC_10.label"],
}
FILES["fashion_mnist"] = FILES["kmnist"] = FILES["mnist"]


@pytest.mark.parametrize("name", FILES)
def test_all_missing_files_are_named_at_once(name, data_dir, tmp_path):
    raw_dir = tmp_path / "raw"
    raw_dir.mkdir()
    request = {"name": name, "raw_dir": str(raw_dir), "download": False}
    code, line = prepare.answer_request(request, io.StringIO())
    assert code == 2
    assert line.startswith(f"data={name} is not prepared, and data.download=false: put ")
    assert f" in {raw_dir}, or prepare it where there is a network" in line
    for file_name in FILES[name]:
        assert f"{file_name} (" in line


@pytest.mark.parametrize(
    ("error", "reason"),
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
def test_an_error_of_the_system_is_given_in_one_line(error, reason, data_dir, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(prepare, "prepare_dataset", fail)
    request = {"name": "mnist", "raw_dir": None, "download": True}
    code, line = prepare.answer_request(request, io.StringIO())
    assert code == 2
    assert line == f"data=mnist cannot be prepared in {data_dir / 'mnist'}: {reason}"


needs_raw_files = pytest.mark.skipif(not RAW_DIR.is_dir(), reason="needs the raw files")
TRAIN = """
import atexit, sys
atexit.register(lambda: print("tensorflow" in sys.modules))
import research.cli.main
research.cli.main.main()
"""
SMALL = ["tracker=none", "train.steps=2", "model.depth=2", "model.width=8"]


@pytest.fixture
def start_training(workplace, process):
    """Starts a process that prepares a dataset and trains on it."""

    def start(data, *overrides):
        settings = [f"data={data}", f"data.raw_dir={RAW_DIR}", *SMALL, *overrides]
        data_dir = str(workplace / "tfds")
        return process("-c", TRAIN, "train", *settings, TFDS_DATA_DIR=data_dir)

    return start


def assert_trained_without_tensorflow(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == "False"


@pytest.mark.slow
@needs_raw_files
def test_three_processes_prepare_and_train_at_once_and_none_imports_tensorflow(
    workplace, start_training
):
    processes = []
    for number in range(3):
        processes.append(start_training("trec", "model=transformer", f"name=n{number}"))
    for each in processes:
        assert_trained_without_tensorflow(each)
    fingerprints = set()
    files = list(workplace.glob("outputs/*/*/run.json"))
    for file in files:
        record = json.loads(file.read_text())["data"]
        fingerprints.add(record["fingerprint"])
        assert sum(record["class_counts"]) == record["examples"] == 5452
    assert len(files) == 3
    assert len(fingerprints) == 1


@pytest.mark.slow
@needs_raw_files
def test_mnist_prepared_after_fashion_mnist_is_mnist(workplace, start_training):
    for name in ("fashion_mnist", "mnist"):
        assert_trained_without_tensorflow(start_training(name))
        with np.load(workplace / "tfds" / name / "3.0.1" / "decoded-train.npz") as cached:
            rows = sorted(row.tobytes() for row in cached["x"])
        assert rows == sorted(row.tobytes() for row in read_raw_images(name))


def read_raw_images(name):
    """The training images [n, 784] of the raw file, whose header has 16 bytes."""
    compressed = (RAW_DIR / name / "train-images-idx3-ubyte.gz").read_bytes()
    pixels = gzip.decompress(compressed)[16:]
    return np.frombuffer(pixels, np.uint8).reshape(-1, 784)


@pytest.mark.slow
@needs_raw_files
def test_what_a_killed_preparation_left_is_removed(workplace, start_training):
    folder = workplace / "tfds" / "tiny_shakespeare"
    incomplete = folder / "incomplete.ABC123_1.0.0"
    incomplete.mkdir(parents=True)
    (incomplete / "dataset_info.json").write_text("{}")
    process = start_training("tiny_shakespeare", "model=transformer")
    assert_trained_without_tensorflow(process)
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "1.0.0"]
