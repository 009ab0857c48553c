"""The raw files of a dataset: found in a folder by their checksums, or downloaded."""

import contextlib
import errno
import gzip
import hashlib
import os
import socket
import threading
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from research.data.tfds_directory import describe_offline_datasets

CONNECT_SECONDS = 2.0
REPORT_SECONDS = 10.0
DEFAULT_PORTS = {"https": 443, "ftp": 21}
GZIP_MAGIC = b"\x1f\x8b"
GZIP_SIZE_BYTES = 4  # the end of a gzip file holds the size of its content


@dataclass(frozen=True)
class Content:
    """Size in bytes and SHA-256 of what a compressed file holds."""

    size: int
    checksum: str


@dataclass(frozen=True)
class RawFiles:
    """The raw files of a dataset.

    Attributes:
        dataset: Name of the dataset, with a slash and its configuration if it has one.
        url_infos: What the catalogue knows of each file by URL: size, checksum and name.
        download_dir: Where TFDS keeps downloads.
        may_download: Whether missing files may be downloaded.
        raw_dir: Folder with files that were downloaded before; None for none.
        unpacked: The content of compressed files, by their SHA-256, that may replace them.
    """

    dataset: str
    url_infos: Mapping[str, Any]
    download_dir: Path
    may_download: bool
    raw_dir: Path | None = None
    unpacked: Mapping[str, Content] = field(default_factory=dict)

    @property
    def base_name(self) -> str:
        """Name of the dataset without its configuration."""
        return self.dataset.partition("/")[0]

    def cache_path(self, url: str) -> Path:
        """Where TFDS looks for a file before it downloads it."""
        from tensorflow_datasets.core.download import resource

        source = resource.Resource(url=url)
        folder = self.download_dir / self.base_name / source.relative_download_dir
        info = self.url_infos[url]
        return folder / resource.get_dl_fname(url, info.checksum)

    def file_name(self, url: str) -> str:
        """The name of a file, from the catalogue or from its URL."""
        if url in self.url_infos and self.url_infos[url].filename:
            return self.url_infos[url].filename
        address = urllib.parse.urlparse(url)
        return os.path.basename(address.path)

    def check_can_download(self, urls: Sequence[str]) -> None:
        """Check that files may be downloaded and their hosts answer.

        Raises:
            ValueError: A file cannot be downloaded. The message names all of ``urls`` and says how
                to provide them.
        """
        reason = self._find_obstacle(urls)
        if not reason:
            return
        files = ", ".join(self._describe_file(url) for url in urls)
        place = f"in {self.raw_dir}" if self.raw_dir else "in a folder and give data.raw_dir=FOLDER"
        raise ValueError(
            f"data={self.dataset} is not prepared, and {reason}: put {files} {place}, "
            f"or prepare it where there is a network; {describe_offline_datasets()}"
        )

    def _find_obstacle(self, urls: Sequence[str]) -> str:
        """Why files cannot be downloaded; empty if they can."""
        if not self.may_download:
            return "data.download=false"
        url_of_host = {}
        for url in urls:
            url_of_host[urllib.parse.urlparse(url).hostname or url] = url
        for host, url in url_of_host.items():
            if not is_reachable(url):
                return f"{host} cannot be reached"
        return ""

    def _describe_file(self, url: str) -> str:
        size = f" ({self.url_infos[url].size})" if url in self.url_infos else ""
        return self.file_name(url) + size

    @contextlib.contextmanager
    def watch_downloads(self, progress: TextIO) -> Iterator[None]:
        """While TFDS prepares, check each file before its download and report progress.

        Args:
            progress: Where progress is written. On a terminal, TFDS shows its progress bar instead.
        """
        from tensorflow_datasets.core.download import downloader

        original = downloader._Downloader._sync_download

        def check_then_download(
            self_: Any,
            url: str,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            if url.startswith(("http", "ftp")):
                self.check_can_download([url])
            return original(self_, url, *args, **kwargs)

        finished = threading.Event()
        reporter = threading.Thread(
            target=self._report_progress, args=(progress, finished), daemon=True
        )
        downloader._Downloader._sync_download = check_then_download  # type: ignore[method-assign, assignment]
        if not progress.isatty():
            reporter.start()
        try:
            yield
        finally:
            finished.set()
            downloader._Downloader._sync_download = original

    def _report_progress(self, progress: TextIO, finished: threading.Event) -> None:
        while not finished.wait(REPORT_SECONDS):
            # A file may be renamed after it is found and before its size is read.
            with contextlib.suppress(OSError):
                status = self._format_progress()
                print(f"preparing {self.dataset}: {status}", file=progress)

    def _format_progress(self) -> str:
        partial_files = list(self.download_dir.glob("**/*.tmp.*/*"))
        if not partial_files:
            return "working"
        sizes = [file.stat().st_size for file in partial_files]
        mebibytes = sum(sizes) / 2**20
        return f"{mebibytes:.0f} MiB arrived"


def find_raw_files(raw_files: RawFiles) -> dict[str, Path]:
    """The raw files that are there, by URL: cached downloads, and files of ``raw_dir``.

    The folder is searched with its sub-folders. A cached download whose content is damaged is
    removed.

    Raises:
        ValueError: There is no such folder, or files have the right name but not the right content
            or cannot be read.
    """
    raw_dir = raw_files.raw_dir
    if raw_dir is not None and not raw_dir.is_dir():
        raise ValueError(f"data.raw_dir must be a folder, got {raw_dir}")
    if raw_dir is not None and not os.access(raw_dir, os.R_OK | os.X_OK):
        raise ValueError(f"data.raw_dir={raw_dir} cannot be read: {os.strerror(errno.EACCES)}")
    available = _list_files(raw_dir) if raw_dir is not None else []
    found = {}
    damaged = []
    for url, info in raw_files.url_infos.items():
        cached = raw_files.cache_path(url)
        if cached.exists() and is_intact(cached, info):
            found[url] = cached
            continue
        cached.unlink(missing_ok=True)
        match = _find_intact_file(available, info, raw_files.unpacked.get(info.checksum))
        if match is not None:
            found[url] = match
        else:
            damaged += _describe_damaged(raw_files, url, available)
    if damaged:
        missing = [raw_files.file_name(url) for url in raw_files.url_infos if url not in found]
        raise ValueError(
            f"data={raw_files.dataset} needs {', '.join(missing)}, but {'; '.join(damaged)}"
        )
    return found


def place_raw_files(raw_files: RawFiles) -> list[str]:
    """Put the raw files that are there where TFDS looks for downloads, as symbolic links.

    Returns:
        The URLs of the files that are still missing.

    Raises:
        ValueError: There is no such folder, or files have the right name but not the right content.
    """
    found = find_raw_files(raw_files)
    for url, file in found.items():
        if file != raw_files.cache_path(url):
            _link_file(raw_files, url, file)
    return [url for url in raw_files.url_infos if url not in found]


def download_raw_files(raw_files: RawFiles, urls: Sequence[str]) -> dict[str, Path]:
    """Download raw files to where TFDS keeps them, and check their checksums.

    Returns:
        The files by URL.
    """
    import tensorflow_datasets as tfds

    manager = tfds.download.DownloadManager(
        download_dir=str(raw_files.download_dir),
        url_infos=dict(raw_files.url_infos),
        dataset_name=raw_files.base_name,
    )
    paths: Any = manager.download({url: url for url in urls})
    return {url: Path(path) for url, path in paths.items()}


def is_intact(file: Path, info: Any) -> bool:
    """Whether a file has the size and the checksum that the catalogue expects."""
    has_expected_size = file.stat().st_size == int(info.size)
    return has_expected_size and checksum(file) == info.checksum


def checksum(file: Path) -> str:
    """The SHA-256 of a file's content."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def is_reachable(url: str) -> bool:
    """Whether the host of a URL, or the proxy in use, accepts a connection in time."""
    address = _address_to_connect(url)
    port = address.port or DEFAULT_PORTS.get(address.scheme, 80)
    connected = threading.Event()

    def connect() -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((address.hostname, port), CONNECT_SECONDS),
        ):
            connected.set()

    # The name lookup ignores the timeout of a connection; only a thread can be left waiting.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return connected.is_set()


def _address_to_connect(url: str) -> urllib.parse.ParseResult:
    """The address of a URL's host, or of the proxy that requests to it go through."""
    address = urllib.parse.urlparse(url)
    proxy = urllib.request.getproxies().get(address.scheme)
    if proxy and not urllib.request.proxy_bypass(address.netloc):
        return urllib.parse.urlparse(proxy)
    return address


def _list_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _find_intact_file(
    files: list[Path],
    info: Any,
    unpacked: Content | None,
) -> Path | None:
    for file in files:
        with contextlib.suppress(PermissionError):
            if is_intact(file, info) or (unpacked and _has_content(file, unpacked)):
                return file
    return None


def _has_content(file: Path, content: Content) -> bool:
    """Whether a file, or what it holds if it is compressed by gzip, is the expected content."""
    size_on_disk = file.stat().st_size
    if size_on_disk == content.size:
        return checksum(file) == content.checksum
    with open(file, "rb") as stream:
        if stream.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
            return False
        stream.seek(max(0, size_on_disk - GZIP_SIZE_BYTES))
        size = int.from_bytes(stream.read(), "little")
    if size != content.size:
        return False
    try:
        with gzip.open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == content.checksum
    except (OSError, EOFError, zlib.error):  # it is cut short or damaged
        return False


def _describe_damaged(
    raw_files: RawFiles,
    url: str,
    files: list[Path],
) -> list[str]:
    """What is wrong with each file that has the expected name but not the expected content."""
    info = raw_files.url_infos[url]
    descriptions = []
    for file in files:
        if _plain_name(file.name) != _plain_name(raw_files.file_name(url)):
            continue
        try:
            got = checksum(file)
        except PermissionError as error:
            descriptions.append(f"{file} cannot be read: {error.strerror}")
            continue
        descriptions.append(
            f"{file} is damaged or of another dataset: expected {int(info.size)} bytes "
            f"with SHA-256 {info.checksum}, got {file.stat().st_size} bytes with {got}"
        )
    return descriptions


def _plain_name(name: str) -> str:
    """The name of a file whether it is compressed or not, and whether a dot was replaced."""
    return name.removesuffix(".gz").replace(".", "-")


def _link_file(
    raw_files: RawFiles,
    url: str,
    file: Path,
) -> None:
    """Link a file to where TFDS looks for it. A copy of a large file might not fit on the disk."""
    from etils import epath
    from tensorflow_datasets.core.download import resource

    cached = raw_files.cache_path(url)
    cached.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may link the same file: each makes a link under its own name and renames it.
    temporary = cached.with_name(f"{cached.name}.{os.getpid()}")
    temporary.symlink_to(file.absolute())
    os.replace(temporary, cached)
    resource.write_info_file(
        url=url,
        path=epath.Path(cached),
        dataset_name=raw_files.base_name,
        original_fname=raw_files.file_name(url),
        url_info=raw_files.url_infos[url],
    )
