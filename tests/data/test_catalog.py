import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from research.checks import check
from research.config import Config, DataKind
from research.data.catalog import SHAPES, load_images, splits
from research.data.dataset import standardised

EXAMPLES = {"train": 30, "test": 20}


def drawn(name, split):
    """Random images [n, H, W, C] and labels [n], the same at every call."""
    generator = np.random.default_rng(sum(map(ord, name + split)))
    images = generator.integers(256, size=(EXAMPLES[split], *SHAPES[name]), dtype=np.uint8)
    return images, generator.integers(10, size=EXAMPLES[split])


def write(dataset, folder):
    """Prepares ``drawn`` as the catalogue's own builder would: PNGs in array records, without TensorFlow."""
    import tensorflow_datasets as tfds
    from PIL import Image

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version("3.0.1")
        pkg_dir_path: Path | None = Path(__file__).parent

        def _info(self):
            image, label = tfds.features.Image(shape=SHAPES[dataset]), tfds.features.ClassLabel(num_classes=10)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, description=dataset, features=features)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(*drawn(dataset, split)) for split in EXAMPLES}

        def _generate_examples(self, images, labels):
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield i, {"image": Image.fromarray(image.squeeze()), "label": int(label)}

    tfds.disable_progress_bar()
    Prepared(data_dir=str(folder), file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def all_prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    for name in SHAPES:
        write(name, folder)
    return folder


@pytest.fixture
def prepared(all_prepared, tmp_path, monkeypatch):
    """A folder of prepared image sets, to do with as a test likes."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return Path(shutil.copytree(all_prepared, tmp_path, dirs_exist_ok=True))


def chosen(name, **changes):
    """The default configuration with an image set."""
    config = Config()
    config.data.name = DataKind[name]
    config.train.batch_size = 8
    for path, value in changes.items():
        setattr(config.data, path, value)
    return config


def ordered(x, y):
    """Rows and labels side by side in an order of their own: TFDS shuffles what it prepares."""
    return sorted(row.tobytes() + bytes([label]) for row, label in zip(x, y, strict=True))


@pytest.mark.parametrize("name", SHAPES)
def test_what_was_prepared_is_what_is_read(prepared, name):
    read = load_images(name, "train", "test", None)
    assert ordered(read.x, read.y) == ordered(*drawn(name, "train"))
    assert ordered(read.eval_x, read.eval_y) == ordered(*drawn(name, "test"))
    assert (read.name, read.version, read.shape, read.classes) == (name, "3.0.1", SHAPES[name], 10)
    assert read.x.dtype == np.uint8 and read.y.dtype == np.int32 and read.vocabulary == 0
    assert splits(name) == EXAMPLES
    check(chosen(name))


def test_an_image_set_is_standardised_over_its_training_elements(prepared):
    read = load_images("cifar10", "train", "test", 20)
    inputs = (read.x.astype(float) - read.offset) * read.scale
    assert inputs.mean() == pytest.approx(0, abs=1e-12) and inputs.std() == pytest.approx(1, rel=1e-12)
    assert read.mean_square == pytest.approx(1, rel=1e-12)
    whole = load_images("cifar10", "train", "test", None)
    assert np.array_equal(read.x, whole.x[:20]) and np.array_equal(read.eval_x, whole.eval_x)
    assert read.scale != whole.scale


def test_the_deviation_of_many_rows_is_that_of_all_at_once():
    """More elements than are looked at at a time."""
    rows = np.random.default_rng(0).integers(256, size=(1700, 3072), dtype=np.uint8)
    offset, scale = standardised(rows)
    assert offset == pytest.approx(rows.mean(), rel=1e-12) and 1 / scale == pytest.approx(rows.std(), rel=1e-12)


READS = """
import sys
from research.data.catalog import load_images
print(load_images("mnist", "train", "test", None).fingerprint())
print(*(module in sys.modules for module in ("tensorflow", "tensorflow_datasets")))
"""


def test_reading_needs_no_tensorflow_and_the_second_time_no_tfds(prepared, process):
    first, second = (process("-c", READS, TFDS_DATA_DIR=str(prepared)).communicate() for _ in range(2))
    fingerprint = load_images("mnist", "train", "test", None).fingerprint()
    assert first == (f"{fingerprint}\nFalse True\n", "")
    assert second == (f"{fingerprint}\nFalse False\n", "")


def cut(file):
    """Leaves the first half of a file; its size before."""
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    return len(whole)


def test_decoded_rows_that_were_damaged_are_decoded_again(prepared):
    whole = load_images("mnist", "train", "test", None)
    kept = prepared / "mnist" / "3.0.1" / "decoded-train.npz"
    size = cut(kept)
    assert load_images("mnist", "train", "test", None).fingerprint() == whole.fingerprint()
    content = bytearray(kept.read_bytes())
    assert len(content) == size
    content[size // 2] ^= 1  # in the middle of the images
    kept.write_bytes(content)
    assert load_images("mnist", "train", "test", None).fingerprint() == whole.fingerprint()


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_prepared_files_that_were_damaged_are_named(prepared, damage):
    (records,) = prepared.glob("mnist/3.0.1/mnist-train.array_record*")
    damage(records)
    with pytest.raises(ValueError, match=f"data=mnist: .*{prepared / 'mnist' / '3.0.1'} are damaged") as refused:
        load_images("mnist", "train", "test", None)
    assert "\n" not in str(refused.value)


def test_images_of_another_size_are_refused(prepared):
    shutil.rmtree(prepared / "cifar10")
    shutil.move(prepared / "mnist", prepared / "cifar10")
    with pytest.raises(ValueError, match="^cifar10 in .* must hold images of 3072 numbers, got 784$"):
        load_images("cifar10", "train", "test", None)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("left", [None, "", '{"name": "mni', "incomplete"])
def test_what_is_not_prepared_is_named_with_the_folder_and_the_command(tmp_path, monkeypatch, name, left):
    """Nothing there, an empty or half a description, or what a preparation that was killed has left."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    folder = tmp_path / name / ("incomplete.8CCFZ9_3.0.1" if left == "incomplete" else "3.0.1")
    if left is not None:
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text('{"fileFormat": "array_record"}' if left == "incomplete" else left)
    with pytest.raises(ValueError) as refused:
        check(chosen(name))
    said = str(refused.value)
    assert said.startswith(f"data={name} is not prepared in {tmp_path / name}; ") and "\n" not in said
    assert f"tfds.builder('{name}', file_format='array_record').download_and_prepare()" in said


def test_another_format_is_not_taken_for_one_that_can_be_read(prepared):
    description = prepared / "mnist" / "3.0.1" / "dataset_info.json"
    info = json.loads(description.read_text())
    description.write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="^data=mnist is in .*, but not as array_record: "):
        check(chosen("mnist"))
    description.write_text(json.dumps(info | {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}))
    check(chosen("mnist"))


def test_the_newest_version_is_read(prepared):
    for version in ("3.0.2", "3.0.10", "1.9.9"):
        (prepared / "mnist" / version).mkdir()
        description = json.loads((prepared / "mnist" / "3.0.1" / "dataset_info.json").read_text())
        few = {"name": "train", "shardLengths": [version.rpartition(".")[2]]}
        (prepared / "mnist" / version / "dataset_info.json").write_text(json.dumps(description | {"splits": [few]}))
    assert splits("mnist") == {"train": 10}


@pytest.mark.parametrize("changes", [{"split": "validation"}, {"eval_split": "train[:10]"}])
def test_a_split_that_an_image_set_lacks_is_refused_by_name(prepared, changes):
    ((path, value),) = changes.items()
    with pytest.raises(ValueError) as refused:
        check(chosen("mnist", **changes))
    assert str(refused.value) == f"data.{path} must be one of train, test, got {value}"


def test_a_batch_is_no_larger_than_the_split(prepared):
    config = chosen("mnist", split="test")
    config.train.batch_size = 21
    with pytest.raises(ValueError, match="train.batch_size must be ≤ 20, the examples of mnist, got 21"):
        check(config)
