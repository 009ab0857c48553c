"""``fathom train --help``: what can be set, from the declarations."""

import pytest

from research.cli.help import WIDTH, train_help, wants_help
from research.config.reference import setting_groups


def test_the_help_names_every_option_and_every_setting_with_its_default():
    text = train_help()
    for group in setting_groups():
        for option in group.options:
            assert f" {option.name} " in text
        for row in group.settings:
            assert f"  {row.path}={row.default}" in text


def test_the_help_has_meaning_range_mark_and_options_of_a_setting():
    lines = train_help().splitlines()
    start = lines.index("  skip.gate_bias=-2.0")
    text = " ".join(line.strip() for line in lines[start + 1 : start + 4])
    assert text == (
        "Initial bias of the gate; the more negative, the more the shortcut passes. "
        "Takes a number; traced. Exists for skip: highway, gated."
    )


def test_the_help_has_defaults_of_options_and_conditions():
    text = train_help()
    assert "Default 10 with measure=full." in text
    assert "Has an effect only with optimizer.schedule=step." in text


def test_the_help_marks_the_default_option():
    lines = train_help().splitlines()
    assert any(line.startswith("* skip=none ") for line in lines)
    assert any(line.startswith("  skip=identity ") for line in lines)


def test_no_line_of_the_help_is_too_long():
    assert max(map(len, train_help().splitlines())) <= WIDTH


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["skip=residul", "--help"]])
def test_help_is_recognised_anywhere(words):
    assert wants_help(words)


def test_other_words_are_no_request_for_help():
    assert not wants_help(["skip=none", "-m", "--hydra-help"])


def test_the_command_prints_it_and_trains_nothing(fathom, workplace):
    said = fathom("train", "skip=residul", "--help")
    assert said.code == 0
    assert said.out == train_help() + "\n"
    assert said.err == ""
    assert not list(workplace.iterdir())


def test_the_help_is_printed_without_importing_jax(process):
    program = (
        "import sys; from research.cli.main import run; run(['train', '--help']); "
        "print(sorted({'jax', 'flax', 'optax', 'wandb', 'numpy'} & set(sys.modules)))"
    )
    out, err = process("-c", program).communicate()
    assert out.splitlines()[-1] == "[]", err


def test_a_closed_pipe_is_not_an_error(process):
    ended = process("-m", "research", "train", "--help")
    ended.stdout.close()
    assert ended.wait() == 0
    assert ended.stderr.read() == ""
    ended.stderr.close()
