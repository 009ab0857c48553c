"""A user's mistake is one line that says what is wrong, where, and what would be valid."""

import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from research.config.errors import explain, unknown_setting
from research.config.schema import setting_paths
from research.config.suggestions import format_suggestion

from ..compiling import one_in
from .mistakes import ARRAYS, COMMANDS, EXPERIMENT_ERRORS, EXPERIMENTS, RECORDS, TRAIN

SHORT_RUN = ["tracker.wandb=false", "train.steps=1"]
TRAIN_IDS = [" ".join(words)[:80] for words, _ in TRAIN]
SECONDS = 3  # of computing, before a mistake is answered


def assert_refused(result, parts):
    """The command wrote one line with these parts and ended with exit code 2."""
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("fathom: ")
    assert result.err.count("\n") == 1, result.err
    for part in parts:
        assert part in result.err


@pytest.mark.parametrize(("words", "parts"), one_in(3, TRAIN), ids=TRAIN_IDS)
def test_a_mistake_is_one_line_and_creates_no_file(fathom, workplace, words, parts):
    (workplace / "a_file").touch()
    given = [word.partition("=")[0] for word in words]
    short = [word for word in SHORT_RUN if word.partition("=")[0] not in given]
    start = time.process_time()
    result = fathom("train", *words, *short)
    assert time.process_time() - start < SECONDS
    assert_refused(result, parts)
    assert [path.name for path in workplace.iterdir()] == ["a_file"]


def test_rows_of_layers_have_no_interval_where_no_layer_is_measured(fathom, workplace):
    result = fathom("train", "tracker.every=3", "measure=off", "train.steps=1")
    assert_refused(result, ["tracker.every must be left out (measure=off measures no layer)"])
    assert not list(workplace.iterdir())


def test_the_list_of_mistakes_is_long():
    """Commands, options, settings, sweeps and files; each is answered in one line."""
    assert len(TRAIN) + len(COMMANDS) + len(EXPERIMENTS) + len(RECORDS) + len(ARRAYS) >= 300


RECORD_FILES = {
    "run.json": b'{"status": "done", "steps": 1, "final": {"train_loss": 1.0}}',
    ".hydra/config.yaml": b"seed: 0\nmodel: {depth: 1}\n",
    "metrics.parquet": {"step": [0], "train_loss": [1.0]},
    "profiles.parquet": {"step": [0], "signal_grad": [[1.0, 2.0]]},
}


def write_record(directory, files):
    for name, content in files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            pq.write_table(pa.table(content), file)
        elif content is not None:
            file.write_bytes(content)


def test_a_record_without_damage_is_shown(fathom, workplace):
    write_record(workplace / "outputs" / "x" / "y", RECORD_FILES)
    result = fathom("show", "outputs/x/y")
    assert result.code == 0
    assert result.err == ""


@pytest.mark.parametrize("case", RECORDS)
def test_a_damaged_record_is_one_line_that_names_the_file(fathom, workplace, case):
    name, content, part = RECORDS[case]
    write_record(workplace / "outputs" / "x" / "y", RECORD_FILES | {name: content})
    result = fathom("show", "outputs/x/y")
    assert result.code == 2
    assert result.err.startswith("fathom: ")
    assert result.err.count("\n") == 1, result.err
    assert part in result.err
    assert "outputs/x/y" in result.err


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_cannot_be_read_are_one_line_and_create_no_file(fathom, workplace, case):
    arrays, part = ARRAYS[case]
    np.savez(workplace / "a.npz", **arrays)
    result = fathom("train", "data=arrays", "data.path=a.npz", "train.batch_size=1", *SHORT_RUN)
    assert_refused(result, [part, "a.npz"])
    assert [path.name for path in workplace.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_mistake_in_an_experiment_file_is_one_line_and_creates_no_file(fathom, workplace, name):
    folder = workplace / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / f"{name}.yaml").write_text(EXPERIMENTS[name])
    start = time.process_time()
    result = fathom("train", "--config-dir", "mine", f"experiment={name}", "tracker.wandb=false")
    assert time.process_time() - start < SECONDS
    assert_refused(result, EXPERIMENT_ERRORS[name])
    assert [path.name for path in workplace.iterdir()] == ["mine"]


@pytest.fixture
def files_of_the_user(workplace):
    """Files of the user in the folder that a run is sent to; they must stay as they are."""
    files = [
        workplace / "mine" / "thesis.tex",
        workplace / "mine" / ".hydra" / "notes",
        workplace / "mine" / "a" / "b",
    ]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("unchanged")
    yield
    for file in files:
        assert file.read_text() == "unchanged"


INTO_THE_FOLDER = [["hydra.run.dir=mine"], ["-m", "hydra.sweep.dir=mine", "hydra.sweep.subdir=."]]
WRONG = ["train.batch_size=5000", "data.split=trian", "model.depth=-1"]


@pytest.mark.parametrize("mistake", WRONG)
@pytest.mark.parametrize("mode", INTO_THE_FOLDER, ids=str)
@pytest.mark.usefixtures("files_of_the_user")
def test_a_mistake_changes_no_file_that_was_there_before(fathom, mode, mistake):
    result = fathom("train", *mode, mistake, *SHORT_RUN)
    assert result.code == 2


@pytest.mark.parametrize("mode", INTO_THE_FOLDER, ids=str)
@pytest.mark.usefixtures("files_of_the_user")
def test_a_run_that_cannot_start_changes_no_file_that_was_there_before(fathom, monkeypatch, mode):
    def fail(*_, **__):
        raise ValueError("the data cannot be read")

    monkeypatch.setattr("research.runner.loop.make_run_setup", fail)
    result = fathom("train", *mode, "tracker=none")
    assert result.code != 0


COMMAND_IDS = [" ".join(words) for words, _ in COMMANDS]


@pytest.mark.parametrize(("words", "parts"), COMMANDS, ids=COMMAND_IDS)
def test_a_mistake_in_any_command_is_one_line(fathom, workplace, words, parts):
    result = fathom(*words)
    assert_refused(result, parts)
    assert not list(workplace.iterdir())


REPORT_IMPORTS = """
import atexit, sys
atexit.register(lambda: print({modules} & {{*sys.modules}}))
import research.cli.main
research.cli.main.main()
"""


@pytest.mark.parametrize(
    "words",
    [["skip=residul"], ["hydra.run.dir=/proc/nope/x"], ["-m", "seed=0,1", "model.depth=2,-1"]],
    ids=str,
)
def test_a_real_process_refuses_before_it_imports_jax(workplace, process, words):
    program = REPORT_IMPORTS.format(modules={"jax"})
    ended = process("-c", program, "train", *words)
    out, err = ended.communicate()
    assert ended.returncode == 2
    assert err.startswith("fathom: ")
    assert err.count("\n") == 1, err
    assert out == "set()\n"
    assert not list(workplace.iterdir())


def test_a_dataset_that_is_not_prepared_is_refused_before_anything_large_is_imported(
    workplace, process
):
    program = REPORT_IMPORTS.format(modules={"jax", "tensorflow", "tensorflow_datasets"})
    directory = str(workplace / "nowhere")
    ended = process("-c", program, "train", "data=cifar10", TFDS_DATA_DIR=directory)
    out, err = ended.communicate()
    assert ended.returncode == 2
    assert err.startswith("fathom: data=cifar10 is not prepared")
    assert err.count("\n") == 1
    assert "offline there are digits, python_docs" in err
    assert out == "set()\n"
    assert not list(workplace.iterdir())


@pytest.mark.usefixtures("workplace")
def test_hydra_full_error_shows_the_traceback(process):
    ended = process("-m", "research", "train", "model.depth=-1", HYDRA_FULL_ERROR="1")
    _, err = ended.communicate()
    assert "Traceback" in err
    assert "model.depth must be" in err


@pytest.mark.usefixtures("workplace")
def test_a_mistake_is_one_line_also_after_a_command_in_the_same_process(listen):
    """What one call sets in its process must not reach the next one."""
    from research.cli import main as cli

    def run_both():
        with pytest.raises(SystemExit):
            cli.run(["train", "skip=residul"])
        return cli.run(["figure", "vanishing_gradients"])

    result = listen(run_both)
    assert result.code == 2
    assert result.err.count("\n") == 2
    assert "lacks the run" in result.err


@pytest.mark.usefixtures("workplace")
def test_a_defect_of_ours_keeps_its_traceback(fathom, monkeypatch):
    def break_down(*_, **__):
        raise KeyError("oops")

    monkeypatch.setattr("research.runner.loop.make_run_setup", break_down)
    with pytest.raises(KeyError, match="oops"):
        fathom("train", "tracker=none", "name=x")
    assert explain(KeyError("oops")) is None


def test_an_error_that_led_to_itself_is_explained_like_any_other():
    first = ValueError("no such number")
    first.__context__ = KeyError("x")
    first.__context__.__context__ = first
    assert explain(first) == "no such number"


@pytest.mark.parametrize(("package", "extra"), [("submitit", "cluster"), ("ray", "ray")])
def test_a_package_of_an_extra_that_is_missing_is_explained(package, extra):
    line = explain(ModuleNotFoundError(f"No module named '{package}'", name=package))
    assert line == f"{package} is not installed: pip install 'fathom-gradients[{extra}]'"


def test_a_package_that_fathom_needs_is_named_and_a_module_of_its_own_is_a_defect():
    line = explain(ModuleNotFoundError("No module named 'plotly'", name="plotly.offline"))
    defect = ModuleNotFoundError("No module named 'research.x'", name="research.x")

    assert (
        line == "plotly is not installed: pip install fathom-gradients installs what Fathom needs"
    )
    assert explain(defect) is None


@pytest.mark.parametrize("path", setting_paths())
def test_a_letter_left_out_leads_back_to_the_setting(path):
    typed = path[:-2] + path[-1]
    assert f"did you mean {path}?" in unknown_setting(typed)


def test_nothing_is_suggested_for_a_word_that_resembles_no_other():
    assert format_suggestion("qqqq", ["identity", "none"]) == ""
    assert format_suggestion("identity", []) == ""


def test_another_word_for_an_option_leads_to_it_only_where_the_option_exists():
    assert format_suggestion("residual", ["none", "identity"]) == "; did you mean identity?"
    assert "identity" not in format_suggestion("residual", ["none", "scaled"])


def test_the_start_of_a_name_leads_to_it():
    assert format_suggestion("he", ["degradation", "he_init"]) == "; did you mean he_init?"
