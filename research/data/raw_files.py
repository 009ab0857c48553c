"""The files a dataset is prepared from: taken from a folder by their checksums, or downloaded where that can be."""

import contextlib
import hashlib
import os
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS_TO_ANSWER = 2.0
SECONDS_A_LINE = 10.0


@dataclass(frozen=True)
class Fetched:
    """A dataset's files by address, with the sizes and checksums that the catalogue has of them."""

    name: str
    infos: Mapping[str, Any]
    downloads: Path
    download: bool

    def place(self, url: str) -> Path:
        """Where TFDS looks for a file before it downloads it."""
        from tensorflow_datasets.core.download import resource

        folder = (
            self.downloads
            / self.name.partition("/")[0]
            / resource.Resource(url=url).relative_download_dir
        )
        return Path(folder) / resource.get_dl_fname(url, self.infos[url].checksum)

    def file_name(self, url: str) -> str:
        """The file's own name."""
        known = self.infos[url].filename if url in self.infos else None
        return known or os.path.basename(urllib.parse.urlparse(url).path)

    def refuse_unless_reachable(self, url: str) -> None:
        """Raises ValueError, saying how to do without, where a file may or can not be downloaded."""
        from research.data.prepare import offline

        host = urllib.parse.urlparse(url).hostname or url
        if self.download and is_reachable(url):
            return
        why = f"{host} cannot be reached" if self.download else "data.download=false"
        size = f" ({self.infos[url].size})" if url in self.infos else ""
        raise ValueError(
            f"data={self.name} is not prepared, and {why}: put {self.file_name(url)}{size} in a folder and give "
            f"data.raw_dir=FOLDER, or prepare it where there is a network; {offline()}"
        )

    @contextlib.contextmanager
    def watched(self, says: Any) -> Iterator[None]:
        """While TFDS prepares: each download asks first whether it can be, and a pipe hears how far they are."""
        from tensorflow_datasets.core.download import downloader

        fetch = downloader._Downloader._sync_download

        def ask_first(self_: Any, url: str, *rest: Any, **more: Any) -> Any:
            if url.startswith(("http", "ftp")):
                self.refuse_unless_reachable(url)
            return fetch(self_, url, *rest, **more)

        ended = threading.Event()
        reporter = threading.Thread(target=self._report, args=(says, ended), daemon=True)
        downloader._Downloader._sync_download = ask_first  # type: ignore[method-assign, assignment]
        if not says.isatty():
            reporter.start()
        try:
            yield
        finally:
            ended.set()
            downloader._Downloader._sync_download = fetch

    def _report(self, says: Any, ended: threading.Event) -> None:
        while not ended.wait(SECONDS_A_LINE):
            with contextlib.suppress(
                OSError
            ):  # a file may be renamed between being seen and being measured
                partial = [*self.downloads.glob("**/*.tmp.*/*")]
                arrived = sum(file.stat().st_size for file in partial) / 2**20
                print(
                    f"preparing {self.name}: {f'{arrived:.0f} MiB arrived' if partial else 'working'}",
                    file=says,
                )


def place_raw_files(fetched: Fetched, raw_dir: Path | None) -> list[str]:
    """Puts the files of ``raw_dir`` and its folders where TFDS looks for downloads; the addresses of those missing.

    A cached download whose content is damaged is taken away.

    Raises:
        ValueError: there is no such folder, or a file has the name but not the content that is expected.
    """
    if raw_dir is not None and not raw_dir.is_dir():
        raise ValueError(f"data.raw_dir must be a folder, got {raw_dir}")
    found = [file for file in sorted(raw_dir.rglob("*")) if file.is_file()] if raw_dir else []
    missing = []
    for url, info in fetched.infos.items():
        place = fetched.place(url)
        if place.exists() and is_whole(place, info):
            continue
        place.unlink(missing_ok=True)
        match = next((file for file in found if is_whole(file, info)), None)
        if match:
            _link(match, place, url, info, fetched)
            continue
        named = [file for file in found if file.name == fetched.file_name(url)]
        if named:
            raise ValueError(
                f"{named[0]} is damaged: data={fetched.name} needs {info.size} with SHA-256 {info.checksum}, "
                f"got {named[0].stat().st_size} bytes with {checksum(named[0])}"
            )
        missing.append(url)
    return missing


def _link(file: Path, place: Path, url: str, info: Any, fetched: Fetched) -> None:
    """Not copied: raw files can be larger than what is free. Several processes may do so at once."""
    from etils import epath
    from tensorflow_datasets.core.download import resource

    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f"{place.name}.{os.getpid()}")
    beside.symlink_to(file.absolute())
    os.replace(beside, place)
    bare = fetched.name.partition("/")[0]
    resource.write_info_file(
        url=url,
        path=epath.Path(place),
        dataset_name=bare,
        original_fname=fetched.file_name(url),
        url_info=info,
    )


def is_whole(file: Path, info: Any) -> bool:
    """Whether a file has the size and the content that the catalogue expects."""
    return file.stat().st_size == int(info.size) and checksum(file) == info.checksum


def checksum(file: Path) -> str:
    """The SHA-256 of a file's content."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def is_reachable(url: str) -> bool:
    """Whether the address's host, or the proxy before it, takes a connection within ``SECONDS_TO_ANSWER``."""
    address = urllib.parse.urlparse(url)
    proxy = urllib.request.getproxies().get(address.scheme)
    target = (
        urllib.parse.urlparse(proxy)
        if proxy and not urllib.request.proxy_bypass(address.netloc)
        else address
    )
    port = target.port or {"https": 443, "ftp": 21}.get(target.scheme, 80)
    answers: list[bool] = []

    def connect() -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((target.hostname, port), SECONDS_TO_ANSWER),
        ):
            answers.append(True)

    asking = threading.Thread(
        target=connect, daemon=True
    )  # looking a name up keeps to no time limit
    asking.start()
    asking.join(SECONDS_TO_ANSWER)
    return bool(answers)
