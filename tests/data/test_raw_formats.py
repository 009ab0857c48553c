"""The raw formats of small catalogue datasets, read without TensorFlow.

Tiny files of each format are made here. Real ones are read if FATHOM_RAW_DIR has them.
"""

import gzip
import io
import tarfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from research.config.schema import make_option
from research.data.catalog import describe, load_catalog
from research.data.prepare import prepare_dataset
from research.data.raw_formats import make_raw_builder

from .raw_dir import RAW_DIR
from .sample_datasets import SIZES, random_images, write_image_dataset

IDX_HEADER = b"\0\0\x08"


def idx_bytes(array):
    sizes = np.array(array.shape, ">u4")
    return IDX_HEADER + bytes([array.ndim]) + sizes.tobytes() + array.astype(np.uint8).tobytes()


def write_idx_files(folder, compress=gzip.compress):
    """The images of the sample dataset as idx files, by their names in the catalogue."""
    files = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = random_images("mnist", split)
        contents = {"images-idx3": images.squeeze(-1), "labels-idx1": labels}
        for name, array in contents.items():
            file = folder / f"{prefix}-{name}-ubyte.gz"
            file.write_bytes(compress(idx_bytes(array)))
            files[file.name] = file
    return files


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """The folder of prepared datasets."""
    folder = tmp_path / "tfds"
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    return folder


def build(name, files, data_dir):
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP)
    make_raw_builder(name, files, data_dir).download_and_prepare(download_config=config)


@pytest.mark.parametrize("compress", [gzip.compress, bytes])
def test_idx_files_become_what_tfds_prepares_from_the_same_images(
    tmp_path, data_dir, compress, monkeypatch
):
    """In the same order, too, which follows from the number of each image."""
    build("mnist", write_idx_files(tmp_path, compress), data_dir)
    ours = load_catalog(make_option("data", "mnist"))

    expected_dir = tmp_path / "expected"
    write_image_dataset("mnist", expected_dir)
    monkeypatch.setenv("TFDS_DATA_DIR", str(expected_dir))
    expected = load_catalog(make_option("data", "mnist"))

    assert len(ours.x) == SIZES["train"]
    assert ours.version == "3.0.1"
    assert ours.fingerprint() == expected.fingerprint()
    assert_array_equal(ours.x, expected.x)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be an idx file of unsigned bytes"),
        (b"\0\0\x0d\1\0\0\0\1aaaa", "must be an idx file of unsigned bytes"),
        (IDX_HEADER + b"\1\0\0\0\2a", "must hold 2 bytes, got 1"),
    ],
)
def test_what_is_no_idx_file_is_refused_by_name(tmp_path, data_dir, content, message):
    files = write_idx_files(tmp_path)
    file = files["train-labels-idx1-ubyte.gz"]
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} {message}"):
        build("mnist", files, data_dir)


def write_archive(file, members):
    with tarfile.open(file, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"folder/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def cifar_bytes(images, *labels):
    """For each image its labels, then its channels one after the other."""
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    columns = [label[:, None] for label in labels]
    return np.hstack([*columns, rows]).astype(np.uint8).tobytes()


def example_set(images, labels):
    examples = set()
    for image, label in zip(images, labels, strict=True):
        examples.add((image.tobytes(), int(label)))
    return examples


def assert_holds(dataset, images, labels, eval_images, eval_labels):
    assert example_set(dataset.x, dataset.y) == example_set(images, labels)
    assert example_set(dataset.eval_x, dataset.eval_y) == example_set(eval_images, eval_labels)


def test_cifar10_is_the_images_of_all_batches(tmp_path, data_dir):
    images, labels = random_images("cifar10", "train")
    eval_images, eval_labels = random_images("cifar10", "test")
    members = {"batches.meta.txt": "\n".join(f"class{n}" for n in range(10)).encode() + b"\n\n"}
    for number in range(5):
        batch = slice(6 * number, 6 * number + 6)
        members[f"data_batch_{number + 1}.bin"] = cifar_bytes(images[batch], labels[batch])
    members["test_batch.bin"] = cifar_bytes(eval_images, eval_labels)
    archive = tmp_path / "archive"
    write_archive(archive, dict(sorted(members.items(), reverse=True)))

    build("cifar10", {"cifar-10-binary.tar.gz": archive}, data_dir)

    dataset = load_catalog(make_option("data", "cifar10"))
    assert dataset.shape == (32, 32, 3)
    assert dataset.classes == 10
    assert_holds(dataset, images, labels, eval_images, eval_labels)


@pytest.mark.parametrize(("label", "classes"), [(None, 100), ("coarse_label", 20)])
def test_cifar100_has_two_labels(tmp_path, data_dir, label, classes):
    images, coarse = random_images("cifar10", "train")
    eval_images, eval_coarse = random_images("cifar10", "test")
    members = {
        "coarse_label_names.txt": "\n".join(f"coarse{n}" for n in range(20)).encode(),
        "fine_label_names.txt": "\n".join(f"fine{n}" for n in range(100)).encode(),
        "train.bin": cifar_bytes(images, coarse, 99 - coarse),
        "test.bin": cifar_bytes(eval_images, eval_coarse, 99 - eval_coarse),
    }
    archive = tmp_path / "archive"
    write_archive(archive, members)

    build("cifar100", {"cifar-100-binary.tar.gz": archive}, data_dir)

    dataset = load_catalog(make_option("data", "cifar100", label=label))
    labels = coarse if label else 99 - coarse
    eval_labels = eval_coarse if label else 99 - eval_coarse
    assert dataset.classes == classes
    assert_holds(dataset, images, labels, eval_images, eval_labels)


def test_the_play_is_cut_into_nine_tenths_and_two_halves_of_the_rest(tmp_path, data_dir):
    text = "".join(chr(97 + n % 26) for n in range(1005))
    file = tmp_path / "input.txt"
    file.write_bytes(text.encode())
    build("tiny_shakespeare", {"input.txt": file}, data_dir)
    numbers_of_pairs = describe(make_option("data", "tiny_shakespeare", length=2)).splits
    assert numbers_of_pairs == {"train": 903 // 2, "validation": 49 // 2, "test": 50 // 2}
    dataset = load_catalog(make_option("data", "tiny_shakespeare", length=2))
    first_windows = [dataset.symbols[token] for token in dataset.x.ravel()]
    assert "".join(first_windows) == text[:902]


def test_questions_have_a_coarse_and_a_fine_label(tmp_path, data_dir):
    """One line has a byte that is not ASCII, which the catalogue replaces by a space."""
    lines = [b"DESC:manner How is it ?", b"NUM:dist How far is a sister\xf0city ?"] * 2
    for name in ("train_5500.label", "TREC_10.label"):
        (tmp_path / name).write_bytes(b"\n".join(lines) + b"\n")
    files = {name: tmp_path / name for name in ("train_5500.label", "TREC_10.label")}
    build("trec", files, data_dir)
    dataset = load_catalog(make_option("data", "trec", label="label-coarse", length=40))
    assert dataset.classes == 6
    assert sorted(dataset.y) == [0, 0, 4, 4]
    fine = load_catalog(make_option("data", "trec", label="label-fine", length=40))
    assert fine.classes == 47


# The fingerprints of what the catalogue's own builders prepared, with TensorFlow.
PREPARED_WITH_TENSORFLOW = {
    "trec": "ff6abe52ea575467",
    "tiny_shakespeare": "0dcc453fc0f8d4bf",
    "mnist": "bd58c4704eea5663",
    "fashion_mnist": "75ab27f0b83cfe1c",
}


@pytest.mark.parametrize(
    "name",
    [
        "trec",
        "tiny_shakespeare",
        pytest.param("mnist", marks=pytest.mark.slow),
        pytest.param("fashion_mnist", marks=pytest.mark.slow),
    ],
)
def test_real_files_become_what_was_prepared_with_tensorflow(name, data_dir):
    if not RAW_DIR.is_dir():
        pytest.skip("needs the raw files")
    prepare_dataset(name, str(RAW_DIR), download=False, progress=io.StringIO())
    dataset = load_catalog(make_option("data", name))
    assert dataset.fingerprint() == PREPARED_WITH_TENSORFLOW[name]
