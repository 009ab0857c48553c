"""Reads the raw files of small catalogue datasets, so that preparing these needs no TensorFlow.

The prepared dataset is that of the catalogue's own builder: the same features, examples and order.
"""

import gzip
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research.data.raw_files import GZIP_MAGIC, Content

IDX_UNSIGNED_BYTES = 8  # the type in the header of an idx file
CIFAR_SHAPE = (3, 32, 32)  # channels first

Files = Mapping[str, Path]  # by their names in the catalogue
Example = tuple[str | int, dict[str, Any]]  # the key that TFDS shuffles by, and the features
Splits = dict[str, Iterator[Example]]

# The content of gzip files, by their SHA-256: idx files are accepted unpacked, too.
UNPACKED = {
    # mnist
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609": Content(
        47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c": Content(
        60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    ),
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6": Content(
        7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    ),
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6": Content(
        10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    ),
    # fashion_mnist
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84": Content(
        47040016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845": Content(
        60008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
    ),
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073": Content(
        7840016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    ),
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5": Content(
        10008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
    ),
}


def can_read_raw_files(dataset: str) -> bool:
    """Whether this module reads the raw files of a dataset of the catalogue."""
    return dataset in READERS


def make_raw_builder(
    dataset: str,
    files: Files,
    data_dir: Path,
) -> Any:
    """The catalogue's builder of a dataset, but with examples that are read here.

    Args:
        dataset: A name for which ``can_read_raw_files`` is true.
        files: The raw files by their names in the catalogue.
        data_dir: Where datasets are prepared.

    Raises:
        ValueError: A file is not in the expected format.
    """
    import tensorflow_datasets as tfds

    catalogue_class: Any = tfds.builder_cls(dataset)
    read = READERS[dataset]

    class RawBuilder(catalogue_class, skip_registration=True):  # type: ignore[call-arg]
        name = dataset
        pkg_dir_path: Path | None = catalogue_class.pkg_dir_path

        def _split_generators(self, dl_manager: Any) -> Splits:
            return read(files, self.info.features)

    return RawBuilder(data_dir=str(data_dir), file_format="array_record")


def _read_mnist(files: Files, features: Any) -> Splits:
    del features
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = _read_idx(files[f"{prefix}-images-idx3-ubyte.gz"])
        labels = _read_idx(files[f"{prefix}-labels-idx1-ubyte.gz"])
        splits[split] = _iter_labeled_images(images, labels)
    return splits


def _iter_labeled_images(images: np.ndarray, labels: np.ndarray) -> Iterator[Example]:
    from PIL import Image

    pairs = zip(images, labels, strict=True)
    for number, (pixels, label) in enumerate(pairs):
        yield number, {"image": Image.fromarray(pixels), "label": int(label)}


def _read_idx(file: Path) -> np.ndarray:
    """The unsigned bytes of an idx file, which begins with its type, dimensions and sizes."""
    content = _read_unpacked(file)
    header = np.frombuffer(content[:4], np.uint8)
    if len(header) < 4 or header[2] != IDX_UNSIGNED_BYTES:
        raise ValueError(f"{file} must be an idx file of unsigned bytes")
    num_dimensions = int(header[3])
    end = 4 + 4 * num_dimensions
    shape = np.frombuffer(content[4:end], ">u4").astype(int)
    numbers = np.frombuffer(content[end:], np.uint8)
    if numbers.size != shape.prod():
        expected = "×".join(map(str, shape))
        raise ValueError(f"{file} must hold {expected} bytes, got {numbers.size}")
    return numbers.reshape(shape)


def _read_unpacked(file: Path) -> bytes:
    """The content of a file, which may be compressed by gzip."""
    content = file.read_bytes()
    return gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content


def _read_cifar10(files: Files, features: Any) -> Splits:
    members = _read_archive(files["cifar-10-binary.tar.gz"])
    features["label"].names = members["batches.meta.txt"].decode().split()
    batches = [members[f"data_batch_{number}.bin"] for number in range(1, 6)]
    return {
        "train": _iter_cifar("train", b"".join(batches), ["label"]),
        "test": _iter_cifar("test", members["test_batch.bin"], ["label"]),
    }


def _read_cifar100(files: Files, features: Any) -> Splits:
    members = _read_archive(files["cifar-100-binary.tar.gz"])
    features["coarse_label"].names = members["coarse_label_names.txt"].decode().split()
    features["label"].names = members["fine_label_names.txt"].decode().split()
    labels = ["coarse_label", "label"]
    return {
        "train": _iter_cifar("train", members["train.bin"], labels),
        "test": _iter_cifar("test", members["test.bin"], labels),
    }


def _read_archive(file: Path) -> dict[str, bytes]:
    """The files of an archive by their names without a folder."""
    members = {}
    content = io.BytesIO(_read_unpacked(file))
    with tarfile.open(fileobj=content) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                members[Path(member.name).name] = stream.read()
    return members


def _iter_cifar(
    split: str,
    content: bytes,
    label_names: list[str],
) -> Iterator[Example]:
    """The images of CIFAR's binary format: for each of them its labels, then its pixels."""
    from PIL import Image

    num_labels = len(label_names)
    rows = np.frombuffer(content, np.uint8)
    rows = rows.reshape(-1, num_labels + int(np.prod(CIFAR_SHAPE)))
    for number, row in enumerate(rows):
        pixels = row[num_labels:].reshape(CIFAR_SHAPE).transpose(1, 2, 0)
        example: dict[str, Any] = {
            "id": f"{split}_{number:05d}",
            "image": Image.fromarray(np.ascontiguousarray(pixels)),
        }
        for name, label in zip(label_names, row[:num_labels], strict=True):
            example[name] = int(label)
        yield number, example


def _read_tiny_shakespeare(files: Files, features: Any) -> Splits:
    """Nine tenths of the characters for training, half of the rest for validation."""
    del features
    text = files["input.txt"].read_bytes().decode()
    train_end = int(len(text) * 0.9)
    validation_end = train_end + int((len(text) - train_end) * 0.5)
    texts = {
        "train": text[:train_end],
        "validation": text[train_end:validation_end],
        "test": text[validation_end:],
    }
    splits = {}
    for split, part in texts.items():
        splits[split] = iter([(split, {"text": part})])
    return splits


def _read_trec(files: Files, features: Any) -> Splits:
    del features
    return {
        "train": _iter_questions(files["train_5500.label"]),
        "test": _iter_questions(files["TREC_10.label"]),
    }


def _iter_questions(file: Path) -> Iterator[Example]:
    """Lines such as ``DESC:manner How did serfdom develop ?``."""
    lines = file.read_bytes().splitlines()
    for number, line in enumerate(lines):
        # One byte is not ASCII; the catalogue replaces it, too.
        label, _, text = line.replace(b"\xf0", b" ").strip().decode().partition(" ")
        coarse, _, fine = label.partition(":")
        yield number, {"label-coarse": coarse, "label-fine": fine, "text": text}


READERS: dict[str, Callable[[Files, Any], Splits]] = {
    "mnist": _read_mnist,
    "fashion_mnist": _read_mnist,
    "kmnist": _read_mnist,
    "cifar10": _read_cifar10,
    "cifar100": _read_cifar100,
    "tiny_shakespeare": _read_tiny_shakespeare,
    "trec": _read_trec,
}
