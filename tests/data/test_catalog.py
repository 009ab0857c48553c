import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from research.config.data_options import Data, Unit
from research.config.schema import Config, DataKind
from research.config.validation import check
from research.data.catalog import describe, load_catalog
from research.data.dataset import standardised

from .conftest import PLAY, QUESTIONS, SHAPES, SIZES, drawn


def load_images(name, split, eval_split, limit):
    return load_catalog(Data(name=DataKind[name], split=split, eval_split=eval_split, limit=limit))


def splits(name):
    return describe(Data(name=DataKind[name])).splits


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
    assert splits(name) == SIZES
    check(chosen(name))


def test_an_image_set_is_standardised_over_its_training_elements(prepared):
    read = load_images("cifar10", "train", "test", 20)
    inputs = (read.x.astype(float) - read.offset) * read.scale
    assert inputs.mean() == pytest.approx(0, abs=1e-12) and inputs.std() == pytest.approx(
        1, rel=1e-12
    )
    assert read.mean_square == pytest.approx(1, rel=1e-12)
    whole = load_images("cifar10", "train", "test", None)
    assert np.array_equal(read.x, whole.x[:20]) and np.array_equal(read.eval_x, whole.eval_x)
    assert read.scale != whole.scale


def test_the_deviation_of_many_rows_is_that_of_all_at_once():
    """More elements than are looked at at a time."""
    rows = np.random.default_rng(0).integers(256, size=(1700, 3072), dtype=np.uint8)
    offset, scale = standardised(rows)
    assert offset == pytest.approx(rows.mean(), rel=1e-12) and 1 / scale == pytest.approx(
        rows.std(), rel=1e-12
    )


READS = """
import sys
from research.data.catalog import load_catalog
from research.config.data_options import Data, DataKind
print(load_catalog(Data(name=DataKind.mnist)).fingerprint())
print(*(module in sys.modules for module in ("tensorflow", "tensorflow_datasets")))
"""


def test_reading_needs_no_tensorflow_and_the_second_time_no_tfds(prepared, process):
    first, second = (
        process("-c", READS, TFDS_DATA_DIR=str(prepared)).communicate() for _ in range(2)
    )
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
    with pytest.raises(
        ValueError, match=f"data=mnist: .*{prepared / 'mnist' / '3.0.1'} are damaged"
    ) as refused:
        load_images("mnist", "train", "test", None)
    assert "\n" not in str(refused.value)


def test_images_of_another_size_are_refused(prepared):
    shutil.copy(prepared / "cifar10" / "3.0.1" / "features.json", prepared / "mnist" / "3.0.1")
    np.savez(
        prepared / "mnist" / "3.0.1" / "decoded-train.npz",
        x=np.zeros((30, 784), np.uint8),
        y=np.zeros(30, int),
    )
    with pytest.raises(ValueError, match="^mnist in .* must hold images of 3072 numbers, got 784$"):
        load_images("mnist", "train", "test", None)


@pytest.mark.parametrize("left", [None, "", '{"name": "mni', "incomplete"])
def test_what_is_not_prepared_is_named_with_what_is_there_without(tmp_path, monkeypatch, left):
    """Nothing there, an empty or half a description, or what a preparation that was killed has left."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = tmp_path / "mnist" / ("incomplete.8CCFZ9_3.0.1" if left == "incomplete" else "3.0.1")
    if left is not None:
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text(
            '{"fileFormat": "array_record"}' if left == "incomplete" else left
        )
    with pytest.raises(ValueError) as refused:
        check(chosen("mnist"))
    said = str(refused.value)
    assert (
        said.startswith(f"data=mnist is not prepared in {tmp_path / 'mnist'}, ")
        and "\n" not in said
    )
    assert (
        "fathom-gradients[catalog]" in said
        and "offline there are digits, python_docs, function" in said
    )


def test_another_format_is_not_taken_for_one_that_can_be_read(prepared):
    description = prepared / "mnist" / "3.0.1" / "dataset_info.json"
    info = json.loads(description.read_text())
    description.write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="^data=mnist is in .*, but not as array_record: "):
        check(chosen("mnist"))
    description.write_text(
        json.dumps(info | {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]})
    )
    check(chosen("mnist"))


def test_the_newest_version_is_read(prepared):
    for version in ("3.0.2", "3.0.10", "1.9.9"):
        (prepared / "mnist" / version).mkdir()
        description = json.loads((prepared / "mnist" / "3.0.1" / "dataset_info.json").read_text())
        shutil.copy(prepared / "mnist" / "3.0.1" / "features.json", prepared / "mnist" / version)
        few = {"name": "train", "shardLengths": [version.rpartition(".")[2]]}
        (prepared / "mnist" / version / "dataset_info.json").write_text(
            json.dumps(description | {"splits": [few]})
        )
    assert splits("mnist") == {"train": 10}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"split": "validation"}, "data.split must be one of train, test, got validation"),
        (
            {"eval_split": "[1:"},
            "data.eval_split must be one of train, test or a slice such as train[:10%], got [1:",
        ),
        ({"split": "train[9:9]"}, "data.split must hold examples: train has 30, got train[9:9]"),
    ],
)
def test_a_split_that_an_image_set_lacks_is_refused_by_name(prepared, changes, said):
    with pytest.raises(ValueError) as refused:
        check(chosen("mnist", **changes))
    assert str(refused.value) == said


def test_a_batch_is_no_larger_than_the_split(prepared):
    config = chosen("mnist", split="test")
    config.train.batch_size = 21
    with pytest.raises(
        ValueError, match="train.batch_size must be ≤ 20, the examples of mnist, got 21"
    ):
        check(config)


def test_a_description_without_image_or_text_is_refused_with_what_it_has(prepared):
    features = prepared / "mnist" / "3.0.1" / "features.json"
    described = json.loads(features.read_text())
    del described["featuresDict"]["features"]["image"]
    features.write_text(json.dumps(described))
    with pytest.raises(
        ValueError, match="data=mnist has label: what is trained on is an image with"
    ):
        splits("mnist")


def test_slices_are_those_of_the_whole_split(prepared):
    whole = load_images("mnist", "train", "test", None)
    part = load_images("mnist", "train[:50%]", "train[50%:]", None)
    assert np.array_equal(np.vstack([part.x, part.eval_x]), whole.x)
    assert np.array_equal(np.concatenate([part.y, part.eval_y]), whole.y)


def test_any_other_name_is_read_by_its_features_and_needs_no_name_of_ours(prepared):
    shutil.move(prepared / "cifar10", prepared / "somebodys_images")
    data = Data(name=DataKind["tfds"], dataset="somebodys_images")
    read = load_catalog(data)
    assert (read.name, read.shape, read.classes, len(read.x)) == (
        "somebodys_images",
        SHAPES["cifar10"],
        10,
        30,
    )
    with pytest.raises(ValueError, match="^data.dataset must be a name of the TFDS catalogue"):
        describe(Data(name=DataKind["tfds"]))


def test_one_of_several_configurations_must_be_chosen(prepared):
    for name in ("small", "large"):
        shutil.copytree(prepared / "mnist" / "3.0.1", prepared / "sized" / name / "3.0.1")
    data = Data(name=DataKind["tfds"], dataset="sized")
    with pytest.raises(ValueError, match="data.dataset must be one of sized/large, sized/small"):
        describe(data)
    data.dataset = "sized/small"
    assert load_catalog(data).version == "small/3.0.1"


def question_data(**changes):
    return Data(
        name=DataKind["trec"],
        **{"label": "label-coarse", "unit": Unit.words, "length": 6} | changes,
    )


def test_questions_are_padded_words_and_their_class(prepared):
    read = load_catalog(question_data())
    rows = {
        " ".join(read.symbols[token - 1] for token in row if token): label
        for row, label in zip(read.x, read.y, strict=True)
    }
    unknown = read.symbols[0]
    assert rows == {
        "who wrote it ?": 1, f"{unknown} is it {unknown} {unknown} who": 0, unknown: 1, "who is it ?": 1,
    }  # fmt: skip
    assert read.padded and not read.language and read.classes == 3 and read.shape == (6,)
    assert (read.x != 0).all(1).sum() == 1 and len(read.eval_x) == len(QUESTIONS["test"])
    assert not (np.diff((read.x != 0).astype(int)) > 0).any()  # no token behind padding


def test_another_label_is_another_target_and_an_unknown_one_is_refused(prepared):
    assert set(load_catalog(question_data(label="label-fine")).y) == {2}
    with pytest.raises(
        ValueError, match="data.label must be one of label-.*, label-.* for trec, got topic"
    ):
        describe(question_data(label="topic"))


def test_the_play_is_windows_of_its_own_splits(prepared):
    data = Data(name=DataKind["tiny_shakespeare"], length=16)
    read = load_catalog(data)
    assert "".join(read.symbols[token] for token in read.x.ravel()) == PLAY["train"][: read.x.size]
    assert read.language and read.y[0, :-1].tolist() == read.x[0, 1:].tolist()
    assert describe(data).splits == {split: (len(text) - 1) // 16 for split, text in PLAY.items()}
