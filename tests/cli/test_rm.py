"""``fathom rm``: takes runs away with what W&B has of them, and asks before."""

import json
import shutil

import pytest

from research.records.record import Lock


@pytest.fixture
def recorded(workplace):
    """Makes outputs/NAME with an id and an offline W&B folder; gives both folders."""

    def record(name, identity):
        directory = workplace / "outputs" / name
        (directory / ".hydra").mkdir(parents=True)
        (directory / ".hydra" / "config.yaml").write_text("seed: 0\n")
        folder = workplace / "outputs" / "wandb" / f"offline-run-20260101_000000-{identity}"
        folder.mkdir(parents=True)
        info = {"id": identity, "status": "failed", "wandb": str(folder)}
        (directory / "run.json").write_text(json.dumps(info))
        return directory, folder

    return record


def test_a_run_goes_with_its_offline_folder_and_others_stay(fathom, recorded):
    directory, folder = recorded("study/seed=0", "aaaa")
    other, other_folder = recorded("study/seed=1", "bbbb")
    said = fathom("rm", "outputs/study/seed=0", "--yes")
    assert (said.code, said.out) == (0, "removed 1 run\n")
    assert "with 1 offline folder of W&B" in said.err
    assert not directory.exists()
    assert not folder.exists()
    assert other.exists()
    assert other_folder.exists()
    assert fathom("rm", "study", "--yes").code == 0
    assert not other.parent.exists()


def test_the_offline_folder_that_a_copy_of_a_run_has_too_stays(fathom, recorded, workplace):
    directory, folder = recorded("study/seed=0", "aaaa")
    copy = workplace / "outputs" / "copy" / "seed=0"
    shutil.copytree(directory, copy)
    said = fathom("rm", "copy", "--yes")
    assert said.code == 0
    assert "offline folder" not in said.err
    assert (copy.exists(), directory.exists(), folder.exists()) == (False, True, True)
    assert fathom("rm", "study", "--yes").code == 0
    assert not folder.exists()


def test_the_link_to_a_removed_folder_goes_too(fathom, recorded):
    _, folder = recorded("study/seed=0", "aaaa")
    _, other = recorded("study/seed=1", "bbbb")
    link = folder.parent / "latest-run"
    link.symlink_to(other.name)
    assert fathom("rm", "study/seed=0", "--yes").code == 0
    assert link.exists()
    assert fathom("rm", "study/seed=1", "--yes").code == 0
    assert not link.is_symlink()


def test_a_name_that_reads_like_a_condition_is_the_run(fathom, recorded):
    directory, _ = recorded("study/depth=2,skip=none", "aaaa")
    other, _ = recorded("study/depth=4,skip=none", "bbbb")
    said = fathom("rm", "depth=2,skip=none", "--yes")
    assert said.code == 0, said.err
    assert not directory.exists()
    assert other.exists()


def test_nothing_goes_without_an_answer(fathom, recorded, monkeypatch):
    directory, folder = recorded("study/seed=0", "aaaa")
    said = fathom("rm", "study/seed=0")
    assert said.code == 2
    assert "add --yes" in said.err

    class Terminal:
        def __init__(self, answer):
            self.answer = answer

        def isatty(self):
            return True

        def readline(self):
            return self.answer

    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    assert fathom("rm", "study/seed=0").code == 1
    assert directory.exists()
    assert folder.exists()
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert fathom("rm", "study/seed=0").code == 0
    assert not directory.exists()


def test_a_run_that_is_trained_is_not_removed(fathom, recorded):
    directory, folder = recorded("study/seed=0", "aaaa")
    lock = Lock(directory)
    try:
        said = fathom("rm", "study/seed=0", "--yes")
    finally:
        lock.release()
    assert said.code == 2
    assert "is being trained by another process" in said.err
    assert directory.exists()
    assert folder.exists()


def test_what_a_killed_removal_leaves_is_no_finished_run(fathom, recorded, monkeypatch):
    directory, _ = recorded("study/seed=0", "aaaa")

    def fail(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", fail)
    fathom("rm", "study/seed=0", "--yes")
    assert directory.exists()
    assert not (directory / "run.json").exists()


def test_a_damaged_run_goes_where_its_folder_is_named(fathom, recorded):
    directory, _ = recorded("study/seed=0", "aaaa")
    (directory / "run.json").write_text("{")
    assert fathom("rm", str(directory), "--yes").code == 0
    assert not directory.exists()


@pytest.mark.parametrize("words", [[], ["statsu=failed"], ["nothing-like-it"], ["stu"]])
def test_a_mistake_is_one_line(fathom, recorded, words):
    directory, _ = recorded("study/seed=0", "aaaa")
    said = fathom("rm", *words, "--yes")
    assert said.code == 2
    assert len(said.err.splitlines()) == 1
    assert directory.exists()
