"""A mistake in a configuration file is one line that names the file and the place."""

import os
import traceback

import pytest

from research.config.config_files import check_config_files
from research.config.hydra_config import resource_dir
from research.interface.training import train

from .mistakes import alias_bomb

HEADER = "# @package _global_\n"
SWEEPER = f"{HEADER}hydra:\n  sweeper:\n    "
MISTAKES = {
    "yaml": (f"{HEADER}model: [\n", ", line 3, column 1: expected the node content"),
    "tab": (f"{HEADER}model:\n\tdepth: 3\n", ", line 3, column 1: a tab, indent with blanks"),
    "duplicate": (f"{HEADER}seed: 1\nseed: 2\n", ", line 3, column 1: seed is there twice"),
    "nested duplicate": (
        f"{HEADER}model:\n  depth: 1\n  depth: 2\n",
        ", line 4, column 3: depth is there twice",
    ),
    "tag": (f"{HEADER}seed: !!python/object:os.system x\n", ", line 2, column 7: could not"),
    "number": (f"{HEADER}3\n", " must hold settings such as seed: 0, got 3"),
    "text": (f"{HEADER}some text\n", " must hold settings such as seed: 0, got some text"),
    "list": (f"{HEADER}- a\n- b\n", " must hold settings such as seed: 0, got a list"),
    "no header": ("seed: 1\n", " must begin with the line # @package _global_"),
    "empty": ("", " must begin with the line # @package _global_"),
    "another header": ("# @package model\nseed: 1\n", " must begin with the line"),
    "itself": (
        f"{HEADER}defaults:\n  - mine\n",
        "includes itself through its defaults: mine → mine",
    ),
    "itself by path": (f"{HEADER}defaults:\n  - /experiment: mine\n", "mine → mine"),
    "itself by another": (f"{HEADER}defaults:\n  - other\n", "mine → other → mine"),
    "anchor": (f"{HEADER}seed: &a [*a]\n", ", line 2, column 7: with its aliases it holds more"),
    "aliases": (HEADER + alias_bomb(), "with its aliases it holds more than 100,000 values"),
    "merged": (HEADER + alias_bomb("{{<<: [{}]}}"), "it holds more than 100,000 values"),
    "deep": (f"{HEADER}seed: {'[' * 20_000}\n", "must hold settings such as seed: 0"),
    "lost number": (
        f"{HEADER}optimizer:\n  learning_rate: 1e-400\n",
        ", line 3, column 18: 1e-400 is too small a number",
    ),
    "octal": (
        f"{HEADER}model:\n  depth: 010\n",
        ", line 3, column 10: 010 could be 8, as YAML reads it, or 10, write one of them",
    ),
    "octal in a list": (f"{HEADER}optimizer: {{boundaries: [1, 010]}}\n", "010 could be 8, as"),
    "octal in a grid": (f"{SWEEPER}params: {{seed: 010}}\n", "010 could be 8, as YAML reads it"),
    "minutes": (f"{HEADER}model: {{depth: 1:30}}\n", "1:30 is read as the number 90, write that"),
    "text of digits": (f"{HEADER}name: 1e3\n", "1e3 is read as the number 1000.0, write '1e3'"),
    "name": (f"{HEADER}name: no\n", ", line 2, column 7: no is read as false, write 'no' for"),
    "tags": (f"{HEADER}tags: [a, on]\n", ", line 2, column 11: on is read as true, write 'on'"),
    "option": (f"{HEADER}defaults:\n  - override /measure: off\n", "off is read as false, write"),
    "option in a grid": (f"{SWEEPER}params: {{measure: off}}\n", "off is read as false, write"),
    "option in an arm": (f"{SWEEPER}arms: {{a: {{measure: off}}}}\n", "off is read as false"),
    "group": (f"{HEADER}model: mlp\n", ": model must hold settings, got mlp; an option is chosen"),
    "group without settings": (f"{HEADER}model:\n", ": model must hold settings, got null"),
    "byte order mark": (f"\ufeff{HEADER}seed: 1\n", " must begin with its text, got a byte order"),
    "group of hydra": (
        f"{HEADER}defaults:\n  - override hydra/launcher: joblib\n",
        ": a group of Hydra needs a slash before it: - override /hydra/launcher: joblib",
    ),
    "hydra": (f"{HEADER}hydra: 3\n", ": hydra must hold settings, got 3"),
    "defaults": (f"{HEADER}defaults: 3\n", ": defaults must be a list"),
    "entry": (f"{HEADER}defaults:\n  - [a]\n", ": an entry of the defaults must be as in"),
    "params": (f"{SWEEPER}params: [seed=0]\n", ": hydra.sweeper.params must hold settings with"),
    "params text": (f"{SWEEPER}params: seed=0\n", "as in seed: 0,1, got seed=0"),
    "values": (f"{SWEEPER}params: {{seed: [0, 1]}}\n", "seed must be values between commas"),
    "arms": (f"{SWEEPER}arms: [a]\n", ": hydra.sweeper.arms must hold grids by name"),
    "arm": (f"{SWEEPER}arms: {{a: seed=0}}\n", ": hydra.sweeper.arms.a must hold settings"),
}


COMPOSED_MISTAKES = {  # what is wrong only where the file meets the others; its line, the message
    "nested": ("model: {depht: 4}\n", 2, "model.depht is not a setting; did you mean model.depth?"),
    "type": ("model:\n  depth: four\n", 3, "model.depth must be a whole number ≥ 1, got four"),
    "range": ("model:\n  depth: -4\n", 3, "model.depth must be a whole number ≥ 1, got -4"),
    "group": ("modle:\n  depth: 4\n", 3, "modle.depth is not a setting; did you mean"),
    "root": ("sed: 1\n", 2, "sed is not a setting; did you mean seed?"),
    "option": (
        "defaults:\n  - override /skip: nne\n",
        3,
        "there is no skip=nne; did you mean none?",
    ),
    "chosen group": ("defaults:\n  - override /skp: none\n", 3, "skp is not a setting; did you"),
    "other option": ("\nskip: {rate: 0.5}\n", 3, "skip.rate is not a setting of skip=none"),
    "list": ("measure: {inspect: [sharp]}\n", 2, "measure.inspect must hold some of"),
    "hydra": ("hydra:\n  swpr: 3\n", 3, "hydra.swpr is not a setting of Hydra here"),
    "interpolation": ("name: ${model.x}\n", 2, "name cannot be worked out"),
    "grid": (
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      model.depht: 2,3\n",
        6,
        "model.depht is not a setting",
    ),
    "arm": (
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    arms:\n      a:\n        model.depth: 2,x\n",
        7,
        "model.depth must be a whole number ≥ 1, got x",
    ),
}


@pytest.fixture
def write(tmp_path):
    """Writes ``experiment/mine.yaml``, and one that includes it."""
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "other.yaml").write_text(f"{HEADER}defaults:\n  - mine\n")

    def write(content):
        file = folder / "mine.yaml"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


@pytest.mark.parametrize(("content", "part"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_names_file_and_place(tmp_path, write, content, part):
    file = write(content)
    with pytest.raises(ValueError, match="mine") as raised:
        check_config_files(["experiment=mine"], [tmp_path])
    line = str(raised.value)
    assert line.startswith(str(file))
    assert part in line
    assert "\n" not in line


def test_a_file_that_is_no_text_is_refused(tmp_path, write):
    write(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="must be text in UTF-8"):
        check_config_files(["experiment=mine"], [tmp_path])


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=nope"],
        ["seed=3", "model.depth=mine", "experiment=[a]", "-m", "+experiment=", "a/../b=mine"],
    ],
)
def test_other_words_are_left_to_hydra(tmp_path, write, words):
    write("3")
    check_config_files(words, [tmp_path])


def test_every_file_that_fathom_has_is_right():
    conf = resource_dir("conf")
    words = []
    for file in conf.glob("*/**/*.yaml"):
        group, _, option = str(file.relative_to(conf).with_suffix("")).partition("/")
        words.append(f"{group}={option}")
    assert len(words) > 100
    check_config_files(words, [conf])


@pytest.mark.parametrize("mode", [[], ["-m"]], ids=["run", "sweep"])
@pytest.mark.parametrize("option", [["--config-dir", "{}"], ["hydra.searchpath=[{}]"]], ids=str)
def test_the_command_refuses_the_file_and_leaves_nothing(
    fathom, workplace, tmp_path_factory, mode, option
):
    folder = tmp_path_factory.mktemp("files") / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text(MISTAKES["arm"][0])
    place = [word.format(folder.parent) for word in option]
    said = fathom("train", *mode, *place, "experiment=mine")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"fathom: {folder}/mine.yaml: hydra.sweeper.arms.a must hold")
    assert os.listdir(workplace) == []


@pytest.mark.parametrize(
    ("content", "line", "part"), COMPOSED_MISTAKES.values(), ids=COMPOSED_MISTAKES
)
@pytest.mark.parametrize("name", ["mine", "other"])
def test_a_mistake_in_the_composed_settings_names_its_file_and_line(
    fathom, workplace, write, content, line, part, name
):
    write(HEADER + content)
    said = fathom("train", "--config-dir", ".", f"experiment={name}")
    assert said.err.startswith(f"fathom: experiment/mine.yaml, line {line}: {part}")
    assert said.err.count("\n") == 1
    assert said.code == 2
    assert os.listdir(workplace) == ["experiment"]


@pytest.mark.parametrize(
    "word", ["model.depth=x", "skip=nne", "model={depth: x}", "model.depth=2,x"]
)
def test_a_mistake_on_the_command_line_names_no_file(fathom, workplace, write, word):
    write(f"{HEADER}defaults:\n  - override /skip: none\nmodel:\n  depth: 4\n")
    said = fathom("train", "-m", "--config-dir", ".", "experiment=mine", word)
    assert said.err.startswith(("fathom: model.depth must be", "fathom: there is no skip=nne"))


def test_a_mistake_in_the_file_of_an_option_names_it(fathom, workplace):
    folder = workplace / "conf" / "optimizer"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("defaults:\n  - sgd\nlearnin_rate: 0.1\n")
    said = fathom("train", "--config-dir", "conf", "optimizer=mine")
    place = "fathom: conf/optimizer/mine.yaml, line 3: optimizer.learnin_rate is not a setting"
    assert said.err.startswith(place)


@pytest.mark.parametrize("command", ["train", "predict"])
def test_every_command_names_the_file(fathom, workplace, write, command):
    write(f"{HEADER}model:\n  depth: four\n")
    said = fathom(command, "experiment=mine", "hydra.searchpath=[.]")
    assert said.err.startswith("fathom: experiment/mine.yaml, line 3: model.depth must be")


def test_python_names_the_file_too(workplace, write):
    write(f"{HEADER}model:\n  depth: four\n")
    with pytest.raises(ValueError, match=r"^experiment/mine.yaml, line 3: model.depth must be"):
        train("experiment=mine", "hydra.searchpath=[.]")


@pytest.mark.parametrize("settings", [{"model.dpth": 4}, {"experiment": "nope"}], ids=str)
def test_a_mistake_in_python_has_no_chain_of_tracebacks(workplace, settings):
    with pytest.raises(
        ValueError, match="dpth is not a setting|there is no experiment=nope"
    ) as raised:
        train(settings)
    assert len(traceback.format_exception(raised.value)) < 12


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--config-name", "x"], "there is no configuration x in /"),
        (["--config-name=vanishing_gradients"], "did you mean experiment=vanishing_gradients?"),
        (["--config-path", "mine"], "--config-path must be the absolute path of a folder"),
        (["--config-path", "/"], "there is no configuration config in /; --config-dir FOLDER adds"),
    ],
    ids=str,
)
def test_another_configuration_that_does_not_exist_is_refused(fathom, workplace, words, part):
    said = fathom("train", *words)
    assert said.code == 2
    assert part in said.err
    assert said.err.count("\n") == 1
    assert "provider" not in said.err
