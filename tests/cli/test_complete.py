"""What the shell offers after a Tab, and the scripts that ask for it."""

import os
import shutil
import subprocess
import sys

import pytest

from research.cli.complete import find_candidates
from research.cli.parser import COMMANDS
from research.config.schema import OPTIONS, setting_paths


def words(line):
    return [candidate.word for candidate in find_candidates(line)]


def test_the_first_word_is_a_command():
    assert set(COMMANDS) <= set(words("fathom "))
    assert words("fathom rep") == ["reproduce", "report", "replay"]
    assert words("fathom nothing-like-it ") == []


def test_every_setting_and_every_option_of_a_group_is_offered():
    offered = words("fathom train ")
    selectors = {f"{group}.{field}" for group in OPTIONS for field in ("kind", "name", "level")}
    for path in setting_paths():
        assert path in selectors or f"{path}=" in offered
    for group, options in OPTIONS.items():
        assert f"{group}=" in offered
        assert {f"{group}={option}" for option in options} <= set(words(f"fathom train {group}="))
    assert len(offered) == len(set(offered))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("fathom train model.de", ["model.depth="]),
        ("fathom train -m skip=none,ident", ["skip=none,identity"]),
        ("fathom train model.bias=", ["model.bias=true", "model.bias=false"]),
        ("fathom train model.depth=64 optimizer.clip=g", ["optimizer.clip=global_norm"]),
        ("fathom train --mul", ["--multirun"]),
        ("fathom reproduce vani", ["vanishing_gradients"]),
        ("fathom report --o", ["--out"]),
        ("fathom completion f", ["fish"]),
        ("fathom show skip=hig", ["skip=highway"]),
        ("fathom show 'skip=hig", []),
    ],
)
def test_a_word_is_completed(line, expected):
    assert words(line) == expected


def test_studies_and_their_runs_are_offered(workplace):
    for name in ("depth/depth=16", "depth/depth=4", "other/seed=0", "wandb/offline-run-1"):
        (workplace / "outputs" / name).mkdir(parents=True)
    assert words("fathom show de") == ["depth"]
    assert words("fathom show depth/") == ["depth/depth=4", "depth/depth=16"]
    assert words("fathom report outputs/o") == []
    assert words("fathom report outputs/depth/") == [
        "outputs/depth/depth=4",
        "outputs/depth/depth=16",
    ]
    assert "wandb" not in words("fathom runs ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_and_its_shell_can_read_it(fathom, shell):
    said = fathom("completion", shell)
    assert said.code == 0
    assert "fathom complete" in said.out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=said.out, text=True, check=True)


def test_another_shell_is_a_mistake_in_one_line(fathom):
    assert "did you mean zsh?" in fathom("completion", "zh").err
    assert fathom("completion").code == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_the_part_after_the_last_equals_sign(fathom, tmp_path):
    (tmp_path / "fathom").write_text(f'#!/bin/sh\nexec {sys.executable} -m research "$@"\n')
    (tmp_path / "fathom").chmod(0o755)
    line = "fathom train -m skip=none,ident"
    script = f"""{fathom("completion", "bash").out}
        COMP_LINE={line!r} COMP_POINT={len(line)}
        _fathom
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert ended.stdout == "none,identity\n"
