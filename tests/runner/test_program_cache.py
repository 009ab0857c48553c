"""Compiled programs on disk: damaged entries are removed, and a disk that is full is no warning."""

import warnings
import zlib

import jax
import pytest

from research.runner.program_cache import (
    find_folder,
    handle_warnings,
    remove_damaged,
    use_program_cache,
)

READING = "Error reading persistent compilation cache entry for 'jit_step': error: Error -5"
WRITING = "Error writing persistent compilation cache entry for 'jit_step': OSError: full"
WHOLE = zlib.compress(b"a program" * 100)


@pytest.fixture
def cache(tmp_path):
    """A cache with one whole entry, three damaged ones, and one of another program."""
    entries = {"1": WHOLE, "2": WHOLE[:-4], "3": b"", "4": b"no program"}
    for name, content in entries.items():
        (tmp_path / f"jit_step-{name}-cache").write_bytes(content)
    (tmp_path / "jit_init-5-cache").write_bytes(b"")
    return tmp_path


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_damaged_entries_of_a_program_are_removed(cache):
    assert remove_damaged(cache, "jit_step") == 3
    assert names(cache) == ["jit_init-5-cache", "jit_step-1-cache"]


def test_a_warning_about_a_damaged_entry_becomes_one_line(cache, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handle_warnings(cache)
        for _ in range(2):
            warnings.warn(READING, stacklevel=1)
        warnings.warn(WRITING, stacklevel=1)
        with pytest.raises(UserWarning, match="anything else"):
            warnings.warn("anything else", stacklevel=1)
    err = capsys.readouterr().err
    assert err == f"fathom: a compiled program in {cache} was damaged; it is compiled again\n"
    assert names(cache) == ["jit_init-5-cache", "jit_step-1-cache"]


def test_the_cache_lies_among_those_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_folder() == tmp_path / "fathom" / "xla"


def test_where_nothing_can_be_written_there_is_no_cache(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert find_folder() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("os.access", lambda *_: False)
    assert find_folder() is None


@pytest.fixture
def chosen_cache():
    """Sets the folder that the user has chosen, until the test ends."""
    before = getattr(jax.config, "jax_compilation_cache_dir", None)

    def choose(folder):
        jax.config.update("jax_compilation_cache_dir", folder and str(folder))

    yield choose
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("name", ["file", "file/inside"])
def test_a_chosen_folder_that_cannot_be_used_is_one_line(tmp_path, chosen_cache, capsys, name):
    (tmp_path / "file").touch()
    chosen_cache(tmp_path / name)

    use_program_cache()

    assert getattr(jax.config, "jax_compilation_cache_dir", None) is None
    assert capsys.readouterr().err == (
        f"fathom: JAX_COMPILATION_CACHE_DIR={tmp_path / name} cannot be used (Not a directory), "
        "so compiled programs are not kept\n"
    )


@pytest.fixture
def no_cache(chosen_cache):
    """As in a new process: no folder is chosen."""
    chosen_cache(None)


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_a_cache_of_the_user_that_cannot_be_used_is_one_line(
    tmp_path, no_cache, capsys, monkeypatch, variable
):
    (tmp_path / "file").touch()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    places = {
        "XDG_CACHE_HOME": f"XDG_CACHE_HOME={tmp_path / 'file'}",
        "HOME": str(tmp_path / "file" / ".cache" / "fathom" / "xla"),
    }

    for _ in range(2):
        use_program_cache()

    assert capsys.readouterr().err == (
        f"fathom: {places[variable]} cannot be used (Not a directory), "
        "so compiled programs are not kept\n"
    )


@pytest.mark.parametrize("name", ["new", "gs://bucket/programs"])
def test_a_chosen_folder_stays_chosen(tmp_path, chosen_cache, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    chosen_cache(name)
    with warnings.catch_warnings():
        use_program_cache()
    assert getattr(jax.config, "jax_compilation_cache_dir", None) == name
    assert capsys.readouterr().err == ""


CUT_OFF = """
import sys
from pathlib import Path
from research.runner.session import prepare_jax
prepare_jax()
import jax

def step(x):
    return x * 3 + 1

jax.jit(step)(1.0)
(entry,) = Path(sys.argv[1]).glob("fathom/xla/jit_step-*")
content = entry.read_bytes()
entry.write_bytes(content[:-10])
jax.clear_caches()
jax.jit(step)(1.0)
assert entry.read_bytes()[:-10] != content[:-10] or len(entry.read_bytes()) == len(content)
jax.clear_caches()
jax.jit(step)(1.0)
"""


def test_an_entry_that_was_cut_off_is_written_again(process, tmp_path):
    """JAX's warning has the expected form, and JAX writes an entry that is not there any more."""
    ended = process("-W", "error", "-c", CUT_OFF, tmp_path, XDG_CACHE_HOME=str(tmp_path))
    _, err = ended.communicate(timeout=60)
    assert ended.returncode == 0, err
    assert err.count("\n") == 1, err
    assert err.startswith("fathom: a compiled program in ")
