"""Datasets of the TFDS catalogue, read from their prepared files."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from research.config.data_options import Unit
from research.config.schema import make_option
from research.data.catalog import describe, load_catalog
from research.data.compatibility import check_data
from research.data.standardize import fit_standardization

from .. import builders
from .sample_datasets import PLAY, QUESTIONS, SHAPES, SIZES, random_images


def load_images(name, split="train", eval_split="test", limit=None):
    data = make_option(
        "data",
        name,
        split=split,
        eval_split=eval_split,
        limit=limit,
    )
    return load_catalog(data)


def split_sizes(name):
    return describe(make_option("data", name)).splits


def make_config(name, **data_settings):
    """The default configuration with an image dataset."""
    changes = {"data": name, "train.batch_size": 8}
    for setting, value in data_settings.items():
        changes[f"data.{setting}"] = value
    return builders.make_config(changes)


def sorted_examples(images, labels):
    """The bytes of each image and its label, sorted: TFDS shuffles what it prepares."""
    examples = []
    for image, label in zip(images, labels, strict=True):
        examples.append(image.tobytes() + bytes([label]))
    return sorted(examples)


@pytest.mark.parametrize("name", SHAPES)
def test_what_was_prepared_is_what_is_read(prepared, name):
    dataset = load_images(name)
    train = sorted_examples(dataset.x, dataset.y)
    evaluation = sorted_examples(dataset.eval_x, dataset.eval_y)
    assert train == sorted_examples(*random_images(name, "train"))
    assert evaluation == sorted_examples(*random_images(name, "test"))


@pytest.mark.parametrize("name", SHAPES)
def test_an_image_dataset_is_described_by_its_files(prepared, name):
    dataset = load_images(name)
    assert dataset.name == name
    assert dataset.version == "3.0.1"
    assert dataset.shape == SHAPES[name]
    assert dataset.classes == 10
    assert dataset.vocabulary == 0
    assert dataset.x.dtype == np.uint8
    assert dataset.y.dtype == np.int32
    assert split_sizes(name) == SIZES
    check_data(make_config(name))


def test_an_image_dataset_is_standardized_over_its_training_elements(prepared):
    dataset = load_images("cifar10", limit=20)
    inputs = dataset.standardization.apply(dataset.x)
    assert inputs.mean() == pytest.approx(0, abs=1e-12)
    assert inputs.std() == pytest.approx(1, rel=1e-12)
    assert dataset.mean_square == pytest.approx(1, rel=1e-12)


def test_a_limit_keeps_the_first_training_images(prepared):
    few = load_images("cifar10", limit=20)
    whole = load_images("cifar10")
    assert_array_equal(few.x, whole.x[:20])
    assert_array_equal(few.eval_x, whole.eval_x)
    assert few.standardization != whole.standardization


def test_a_limit_is_cut_from_a_random_order_where_tfds_did_not_shuffle(prepared):
    description = prepared / "cifar10" / "3.0.1" / "dataset_info.json"
    update_json(description, disableShuffling=True)
    few = load_images("cifar10", limit=20)
    whole = load_images("cifar10")
    rows = [row.tobytes() for row in whole.x]
    positions = [rows.index(row.tobytes()) for row in few.x]
    assert len(set(positions)) == 20
    assert positions != sorted(positions)


def test_the_deviation_of_many_rows_is_that_of_all_at_once():
    """The rows have more elements than one block."""
    generator = np.random.default_rng(0)
    rows = generator.integers(256, size=(1700, 3072), dtype=np.uint8)
    standardization = fit_standardization(rows)
    assert standardization.offset == pytest.approx(rows.mean(), rel=1e-12)
    assert 1 / standardization.scale == pytest.approx(rows.std(), rel=1e-12)


READ = """
import sys
from research.data.catalog import load_catalog
from research.config.data_options import CatalogImages
print(load_catalog(CatalogImages()).fingerprint())
print("tensorflow" in sys.modules, "tensorflow_datasets" in sys.modules)
"""


def test_reading_needs_no_tensorflow_and_the_second_time_no_tfds(prepared, process):
    first = process("-c", READ, TFDS_DATA_DIR=str(prepared))
    first_said = first.communicate()
    second = process("-c", READ, TFDS_DATA_DIR=str(prepared))
    second_said = second.communicate()
    fingerprint = load_images("mnist").fingerprint()
    assert first_said == (f"{fingerprint}\nFalse True\n", "")
    assert second_said == (f"{fingerprint}\nFalse False\n", "")


def truncate(file):
    """Keep the first half of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flip_bit_in_the_middle(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_bit_in_the_middle])
def test_cached_rows_that_are_damaged_are_decoded_again(prepared, damage):
    expected = load_images("mnist").fingerprint()
    cache = prepared / "mnist" / "3.0.1" / "decoded-train.npz"
    size = cache.stat().st_size
    damage(cache)
    assert load_images("mnist").fingerprint() == expected
    assert cache.stat().st_size == size


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_prepared_files_that_are_damaged_are_named(prepared, damage):
    folder = prepared / "mnist" / "3.0.1"
    [records] = folder.glob("mnist-train.array_record*")
    damage(records)
    with pytest.raises(ValueError, match=f"data=mnist: .*{folder} are damaged") as refused:
        load_images("mnist")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "pattern",
    ["dataset_info.json", "features.json", "mnist-train.array_record*"],
)
def test_prepared_files_that_must_not_be_read_are_not_called_damaged(
    prepared,
    monkeypatch,
    pattern,
):
    [file] = (prepared / "mnist" / "3.0.1").glob(pattern)
    truncate(file)
    open_path = Path.open

    def refuse(path, *args, **kwargs):
        if path == file:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_path(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=f"^{file} cannot be read: Permission denied$"):
        load_images("mnist")


def test_a_label_of_a_dataset_without_labels_is_refused(prepared):
    data = make_option("data", "tiny_shakespeare", label="topic")
    message = "data.label must be left out for tiny_shakespeare, which has no class labels, got top"
    with pytest.raises(ValueError, match=message):
        describe(data)


def test_images_of_another_size_are_refused(prepared):
    folder = prepared / "mnist" / "3.0.1"
    shutil.copy(prepared / "cifar10" / "3.0.1" / "features.json", folder)
    rows = np.zeros((30, 784), np.uint8)
    labels = np.zeros(30, int)
    np.savez(folder / "decoded-train.npz", x=rows, y=labels)
    with pytest.raises(ValueError, match="^mnist in .* must hold images of 3072 numbers, got 784$"):
        load_images("mnist")


def leave_nothing(folder):
    pass


def leave_empty_description(folder):
    write_description(folder / "3.0.1", "")


def leave_half_a_description(folder):
    write_description(folder / "3.0.1", '{"name": "mni')


def leave_killed_preparation(folder):
    write_description(folder / "incomplete.8CCFZ9_3.0.1", '{"fileFormat": "array_record"}')


def write_description(folder, content):
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(content)


@pytest.mark.parametrize(
    "leave",
    [leave_nothing, leave_empty_description, leave_half_a_description, leave_killed_preparation],
)
def test_a_dataset_that_is_not_prepared_is_named_with_those_that_need_nothing(
    tmp_path, monkeypatch, leave
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    leave(tmp_path / "svhn_cropped")
    with pytest.raises(ValueError) as refused:
        check_data(make_config("svhn_cropped"))
    message = str(refused.value)
    folder = tmp_path / "svhn_cropped"
    assert message.startswith(f"data=svhn_cropped is not prepared in {folder}, ")
    assert "fathom-gradients[catalog]" in message
    assert "offline there are digits, python_docs, function" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "guess"),
    [("BEANS", "beans"), ("beens", "beans"), ("imdb", "imdb_reviews"), ("beans/tiny", None)],
)
def test_a_name_of_the_catalogue_is_suggested_also_without_tensorflow(
    tmp_path, monkeypatch, name, guess
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError) as refused:
        check_data(make_config("tfds", dataset=name))
    message = str(refused.value)
    assert message.startswith(f"data={name} is not prepared in {tmp_path / name}, and preparing")
    assert message.endswith(f"arrays; did you mean {guess}?" if guess else "arrays")


@pytest.mark.parametrize("description", ["{}", '{"splits": []}', '{"splits": [{"name": "a"}]}'])
def test_a_description_without_splits_is_refused_as_damaged(prepared, description):
    folder = prepared / "mnist" / "3.0.1"
    content = {"fileFormat": "array_record"} | json.loads(description)
    (folder / "dataset_info.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"dataset_info.json is damaged; remove {folder} and prep"):
        split_sizes("mnist")


def read_json(file):
    return json.loads(file.read_text())


def update_json(file, **changes):
    content = read_json(file)
    file.write_text(json.dumps(content | changes))


def test_another_file_format_is_refused(prepared):
    description = prepared / "mnist" / "3.0.1" / "dataset_info.json"
    update_json(description, fileFormat="tfrecord")
    with pytest.raises(ValueError, match="^data=mnist is in .*, but not as array_record: "):
        check_data(make_config("mnist"))


def test_an_alternative_file_format_is_accepted(prepared):
    description = prepared / "mnist" / "3.0.1" / "dataset_info.json"
    update_json(description, fileFormat="tfrecord", alternativeFileFormats=["array_record"])
    check_data(make_config("mnist"))


@pytest.fixture
def many_versions(prepared):
    """Versions of mnist whose training splits have different sizes."""
    folder = prepared / "mnist"
    sizes = {"3.0.2": 2, "3.0.10": 10, "1.9.9": 9}
    for version, size in sizes.items():
        (folder / version).mkdir()
        for file in ("dataset_info.json", "features.json"):
            shutil.copy(folder / "3.0.1" / file, folder / version)
        split = {"name": "train", "shardLengths": [str(size)]}
        update_json(folder / version / "dataset_info.json", splits=[split])


def test_the_newest_version_is_read(many_versions):
    assert split_sizes("mnist") == {"train": 10}


@pytest.mark.parametrize(
    ("setting", "split", "message"),
    [
        ("split", "validation", "data.split must be one of train, test, got validation"),
        (
            "eval_split",
            "[1:",
            "data.eval_split must be one of train, test or a slice such as train[:10%], got [1:",
        ),
        (
            "split",
            "train[9:9]",
            "data.split must hold examples: train has 30, got train[9:9]",
        ),
    ],
)
def test_a_split_that_an_image_dataset_lacks_is_refused_by_name(prepared, setting, split, message):
    with pytest.raises(ValueError) as refused:
        check_data(make_config("mnist", **{setting: split}))
    assert str(refused.value) == message


def test_a_batch_is_no_larger_than_the_split(prepared):
    changes = {"data": "mnist", "data.split": "test", "train.batch_size": 21}
    config = builders.make_config(changes)
    message = "train.batch_size must be ≤ 20, the training examples of mnist, got 21"
    with pytest.raises(ValueError, match=message):
        check_data(config)


def test_a_dataset_without_image_or_text_is_refused_with_its_features(prepared):
    file = prepared / "mnist" / "3.0.1" / "features.json"
    description = read_json(file)
    del description["featuresDict"]["features"]["image"]
    file.write_text(json.dumps(description))
    message = "data=mnist must have images with class labels, or texts, got the features label"
    with pytest.raises(ValueError, match=message):
        split_sizes("mnist")


def test_slices_are_those_of_the_whole_split(prepared):
    whole = load_images("mnist")
    halves = load_images("mnist", "train[:50%]", "train[50%:]")
    x = np.vstack([halves.x, halves.eval_x])
    y = np.concatenate([halves.y, halves.eval_y])
    assert_array_equal(x, whole.x)
    assert_array_equal(y, whole.y)


def test_any_other_name_is_read_by_its_features(prepared):
    shutil.move(prepared / "cifar10", prepared / "somebodys_images")
    dataset = load_catalog(make_option("data", "tfds", dataset="somebodys_images"))
    assert dataset.name == "somebodys_images"
    assert dataset.shape == SHAPES["cifar10"]
    assert dataset.classes == 10
    assert len(dataset.x) == 30


def test_any_other_dataset_needs_its_name(prepared):
    with pytest.raises(ValueError, match="^data.dataset must be a name of the TFDS catalogue"):
        describe(make_option("data", "tfds"))


@pytest.fixture
def configurations(prepared):
    """A dataset with two prepared configurations."""
    for name in ("small", "large"):
        shutil.copytree(prepared / "mnist" / "3.0.1", prepared / "sized" / name / "3.0.1")


def test_one_of_several_configurations_must_be_selected(configurations):
    with pytest.raises(ValueError, match="data.dataset must be one of sized/large, sized/small"):
        describe(make_option("data", "tfds", dataset="sized"))


def test_a_selected_configuration_is_read(configurations):
    dataset = load_catalog(make_option("data", "tfds", dataset="sized/small"))
    assert dataset.version == "small/3.0.1"


def question_settings(label="label-coarse"):
    return make_option(
        "data",
        "trec",
        label=label,
        unit=Unit.words,
        length=6,
    )


def decode_words(row, symbols):
    """The words of a padded row."""
    return " ".join(symbols[token - 1] for token in row if token)


def test_questions_are_padded_words_and_their_class(prepared):
    dataset = load_catalog(question_settings())
    labels = {}
    for row, label in zip(dataset.x, dataset.y, strict=True):
        labels[decode_words(row, dataset.symbols)] = label
    unknown = dataset.symbols[0]
    assert labels == {
        "who wrote it ?": 1,
        f"{unknown} is it {unknown} {unknown} who": 0,
        unknown: 1,
        "who is it ?": 1,
    }


def test_questions_are_a_padded_text_dataset(prepared):
    dataset = load_catalog(question_settings())
    assert dataset.padded
    assert not dataset.language
    assert dataset.classes == 3
    assert dataset.shape == (6,)
    assert len(dataset.eval_x) == len(QUESTIONS["test"])


def test_padding_comes_after_the_text_alone(prepared):
    dataset = load_catalog(question_settings())
    is_token = (dataset.x != 0).astype(int)
    fills_the_row = is_token.all(axis=1)
    assert fills_the_row.sum() == 1
    assert not (np.diff(is_token) > 0).any()


def test_another_label_is_another_target(prepared):
    dataset = load_catalog(question_settings(label="label-fine"))
    assert set(dataset.y) == {2}


def test_a_label_that_does_not_exist_is_refused_by_name(prepared):
    message = "data.label must be one of label-.*, label-.* for trec, got topic"
    with pytest.raises(ValueError, match=message):
        describe(question_settings(label="topic"))


def test_the_play_is_windows_of_its_splits(prepared):
    data = make_option("data", "tiny_shakespeare", length=16)
    dataset = load_catalog(data)
    characters = [dataset.symbols[token] for token in dataset.x.ravel()]
    assert "".join(characters) == PLAY["train"][: dataset.x.size]
    assert dataset.language
    assert_array_equal(dataset.y[0, :-1], dataset.x[0, 1:])


def test_the_play_has_as_many_windows_as_its_splits_hold(prepared):
    data = make_option("data", "tiny_shakespeare", length=16)
    sizes = describe(data).splits
    assert set(sizes) == set(PLAY)
    for split, text in PLAY.items():
        assert sizes[split] == (len(text) - 1) // 16


@pytest.mark.parametrize(
    ("dataset", "setting", "value", "reason"),
    [
        ("mnist", "unit", "words", "mnist holds no texts"),
        ("mnist", "length", 9, "mnist holds no texts"),
        ("mnist", "word_vectors", "one_hot", "mnist holds no texts"),
        ("trec", "size", 8, "trec holds no images"),
        ("trec", "in_memory_limit", 1.0, "trec holds no images"),
    ],
)
def test_a_setting_for_another_kind_of_data_is_refused(prepared, dataset, setting, value, reason):
    changes = {"dataset": dataset, setting: value}
    message = f"^data.{setting} must be left out .*{reason}"
    with pytest.raises(ValueError, match=message):
        check_data(make_config("tfds", **changes))
