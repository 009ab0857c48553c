"""Prepared datasets of the TFDS catalogue."""

import shutil
from pathlib import Path

import pytest

from .sample_datasets import SHAPES, write_image_dataset, write_play, write_questions


@pytest.fixture(scope="session")
def all_prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    for name in SHAPES:
        write_image_dataset(name, folder)
    write_questions(folder)
    write_play(folder)
    return folder


@pytest.fixture
def prepared(all_prepared, tmp_path, monkeypatch):
    """A folder of prepared datasets that a test may change."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return Path(shutil.copytree(all_prepared, tmp_path, dirs_exist_ok=True))
