"""A user's mistake is one line that says what is wrong, where, and what would be valid."""

import pytest

from research.config.errors import explain, unknown_setting
from research.config.schema import setting_paths
from research.config.suggestions import format_suggestion

SHORT_RUN = ["tracker.wandb=false", "train.steps=1"]
MISTAKES = [  # what the user types, and what the line must hold
    (
        ["skip=residul"],
        ["skip=residul", "did you mean identity?", "valid: deepnorm, dense, dropout"],
    ),
    (["init=xavier"], ["init=xavier", "did you mean glorot?"]),
    (["data=digitz"], ["data=digitz", "did you mean digits?"]),
    (["tracker=wand"], ["did you mean wandb?"]),
    (["experiment=vanishing_gradient"], ["did you mean vanishing_gradients?"]),
    (["precision.kind=fp16"], ["precision.kind", "did you mean float16?"]),
    (
        ["optimizer.schedule=cosine"],
        ["optimizer.schedule", "did you mean warmup_cosine?", "constant"],
    ),
    (["model.dpeth=3"], ["model.dpeth is not a setting", "did you mean model.depth?"]),
    (["+model.dpeth=3"], ["model.dpeth is not a setting", "did you mean model.depth?"]),
    (["model={dpeth:3}"], ["model.dpeth is not a setting", "did you mean model.depth?"]),
    (["depth=3"], ["depth is not a setting", "did you mean model.depth?"]),
    (["skp=none"], ["skp is not a setting", "did you mean skip?"]),
    (["+foo=1"], ["foo is not a setting"]),
    (["hydra.rn.dir=x"], ["hydra.rn.dir is not a setting of Hydra"]),
    (
        ["optimizer.lr=0.1"],
        ["optimizer.lr is not a setting", "did you mean optimizer.learning_rate?"],
    ),
    (["layers=3"], ["layers is not a setting", "did you mean model.depth?"]),
    (["model=lstm"], ["model=lstm", "did you mean rnn?"]),
    (
        ["model=transformer", "model.positions=rope"],
        ["model.positions must be one of learned", "got rope; did you mean rotary?"],
    ),
    (["model.positions=rotary"], ["is not a setting of model=mlp, only of model=transformer"]),
    (["skip=identity", "skip.branch_scale=2"], ["skip=identity, only of skip=scaled and skip=ski"]),
    (["skip.kind=scaled"], ["skip.kind cannot be set to scaled directly", "write skip=scaled"]),
    (["optimizer.warmup_steps=5"], ["optimizer.warmup_steps=5 has no effect", "got constant"]),
    (["~skip"], ["skip cannot be deleted"]),
    (["~model.depth"], ["model.depth cannot be deleted"]),
    (["+skip=identity"], ["write skip=… without +"]),
    (["skip=3"], ["a group takes the name of one of its options"]),
    (["train=3"], ["train is a group of settings", "set train.steps, "]),
    (["skip=none,identity"], ["a sweep: fathom train -m skip=none,identity"]),
    (["experiment=he"], ["there is no experiment=he; did you mean he_init?"]),
    (["seed=1.5"], ["seed must be a whole number ≥ 0 and < 4294967296, got 1.5"]),
    (["model.depth="], ["model.depth must be a whole number ≥ 1, got an empty value"]),
    (["MODEL=mlp"], ["MODEL is not a setting; did you mean model?"]),
    (["skip=[none,identity]"], ["skip must be one option", "-m skip="]),
    (["-m", "data=[digits,mnist],noise"], ["data must be one option", "-m data="]),
    (
        ["model=linear", "activation=relu"],
        ["model must be mlp with activation=relu (model=linear is an mlp", "got linear"],
    ),
    (["--model.depth=3"], ["--model.depth=3 is no option", "did you mean model.depth=3?"]),
    (["--gpu"], ["--gpu is no option", "--help"]),
    (["model.depth=3", "--cfg", "jobs"], ["--cfg", "'jobs'", "'job'"]),
    (["model.depth=ten"], ["model.depth must be a whole number ≥ 1, got ten"]),
    (["model.depth=-1"], ["model.depth must be a whole number ≥ 1, got -1"]),
    (["model.depth=2.5"], ["model.depth must be a whole number ≥ 1, got 2.5"]),
    (["model.depth=null"], ["model.depth must be a whole number ≥ 1, got null"]),
    (["optimizer.learning_rate=-1"], ["optimizer.learning_rate must be a number ≥ 0, got -1"]),
    (["optimizer.learning_rate=nan"], ["optimizer.learning_rate must be finite"]),
    (["model.bias=ja"], ["model.bias must be true or false, got ja"]),
    (["data=noise", "data.shape=8"], ["data.shape must be a list in brackets", "got 8"]),
    (["data=noise", "data.shape=[8,x]"], ["data.shape must be a list in brackets", "got x"]),
    (["skip.kind=null"], ["skip.kind must be one of none, identity"]),
    (["skip"], ["skip cannot be parsed: write setting=value"]),
    (["name='x y"], ["name='x y cannot be parsed", "quotes"]),
    (["name=x y"], ["name must be the name of a folder", "got x y"]),
    (["data=noise", "data.limit=4"], ["train.batch_size must be ≤ 4", "got 128"]),
    (["train.batch_size=5000"], ["train.batch_size must be ≤ 1400", "got 5000"]),
    (["data.split=trian"], ["data.split must be", "train", "got trian"]),
    (["data.eval_split=tset"], ["data.eval_split must be", "test", "got tset"]),
    (
        ["data.split=train[:10%]", "train.batch_size=141"],
        ["train.batch_size must be ≤ 140", "got 141"],
    ),
    (
        ["data.split=train[5%:5%]"],
        ["data.split must hold examples: train has 1400, got train[5%:5%]"],
    ),
    (["data=function"], ["loss must be mse (the targets of function are numbers, not classes)"]),
    (
        ["data=function", "loss=mse", "data.flip=true"],
        ["data.flip is not a setting of data=function, only of data=digits, data=folder"],
    ),
    (
        ["data=noise", "data.flip=true"],
        ["data.flip must be left out (noise holds no images), got true"],
    ),
    (
        ["data=function", "loss=mse", "model=cnn"],
        ["model must be mlp, transformer or rnn (function holds no", "cnn"],
    ),
    (
        ["data=noise", "model=cnn"],
        ["data.shape must be height, width and channels (cnn reads images), got [64]"],
    ),
    (
        ["norm=group", "model.width=8"],
        ["norm.groups must be < model.width=8 (norm=group subtracts the mean", "8"],
    ),
    (["model=transformer", "skip=fixup"], ["skip must be rezero or deepnorm", "got fixup"]),
    (
        ["measure.inspect=sharpness"],
        ["measure.inspect must be a list in brackets of some of sharpness, jac", "got sharpness"],
    ),
    (
        ["measure.inspect=[sharpnes]"],
        ["measure.inspect must hold some of", "got sharpnes; did you mean sharpness?"],
    ),
    (
        ["measure.inspect=[balance]", "skip=identity"],
        ["skip must be none (balance needs units", "got identity"],
    ),
    (
        ["measure.inspect=[scale_derivative]", "model=rnn"],
        ["model must be mlp or cnn", "do not share weights), got rnn"],
    ),
    (
        [
            "data=function",
            "loss=mse",
            "data.function=surface",
            "data.grid=true",
            "data.examples=1000",
        ],
        ["data.examples must be n^2 if data.grid is true, got 1000 (nearest: 961 and 1024)"],
    ),
    (["data.resized_crop=true"], ["data.resized_crop is not a setting of data=digits, only of"]),
    (["data=arrays"], ["data.path must be a .npz file with x and y", "got none"]),
    (["data=folder", "data.path=nowhere"], ["data.path must be a folder", "got nowhere"]),
    (["data=tfds"], ["data.dataset must be a name of the TFDS catalogue"]),
    (["data=kmnist"], ["there is no data=kmnist", "data=tfds data.dataset=kmnist"]),
    (["data=fasion_mnist"], ["data=fasion_mnist", "did you mean fashion_mnist?"]),
    (["data=python_docs", "data.length=1"], ["data.length must be a whole number ≥ 2, got 1"]),
    (
        ["data=python_docs", "model=transformer", "data.length=1000000"],
        ["data.length must be ≤ ", "got 1000000"],
    ),
    (
        ["data=python_docs", "model=transformer", "data.split=valid"],
        ["data.split must be one of train, test, got valid"],
    ),
    (
        ["model=resnet_cifar", "model.depth=55"],
        ["model.depth must be 6n+2 for resnet_cifar, such as 50 or 56, got 55"],
    ),
    (
        ["model=transformer", "model.heads=5"],
        ["model.heads must be a divisor of model.width=64: 1, 2, 4", "got 5"],
    ),
    (
        ["skip=deepnorm", "norm=none"],
        ["model must be transformer (skip=deepnorm is defined only for transformers), got mlp"],
    ),
    (["data=python_docs"], ["model must be transformer or rnn (python_docs holds text), got mlp"]),
    (["precision=float12"], ["precision=float12", "did you mean float32?", "mixed_float16"]),
    (
        ["precision.loss_scaling=static", "precision.loss_scale=0"],
        ["precision.loss_scale must be a number > 1e-38 and < 1e+38, got 0"],
    ),
    (
        ["precision.loss_scaling=static", "precision.loss_scale=1e300"],
        ["precision.loss_scale must be", "got 1e+300"],
    ),
    (
        ["precision.loss_scaling=dynamic", "precision.growth_interval=3000000000"],
        ["precision.growth_interval must be a whole number", "got 3000000000"],
    ),
    (
        ["precision=float16", "precision.loss_scale=1024"],
        ["loss_scale=1024.0 has no effect: it needs precision.loss_scaling=static or dynamic"],
    ),
    (
        ["precision=float16", "precision.loss_scaling=dynamic", "precision.growth_factor=0.5"],
        ["precision.growth_factor must be a number > 1, got 0.5"],
    ),
    (
        ["precision.loss_scaling=dynamic", "precision.backoff_factor=2"],
        ["precision.backoff_factor must be a number > 0 and < 1, got 2"],
    ),
    (["precision.loss_scaling=dinamic"], ["precision.loss_scaling", "did you mean dynamic?"]),
    (
        ["precision.stochastic_rounding=true"],
        ["not a setting of precision=float32, only of precision=bfloat16"],
    ),
    (
        ["precision=float16", "precision.tensor_scale=true"],
        ["precision=float16, only of precision=float8_e4m3 and precision=float8_e5m2"],
    ),
    (["hydra.run.dir=/proc/nope/x"], ["/proc/nope"]),
    (["hydra.run.dir=a_file/x"], ["a_file/x"]),
    (["-m", "seed=0,1", "hydra.sweep.dir=a_file/x"], ["a_file/x"]),
    (["-m", "seed=0,1", "model.depth=2,-1"], ["model.depth must be a whole number ≥ 1, got -1"]),
    (["-m", "skip=none,residul"], ["skip=residul", "did you mean identity?"]),
    (["-m", "model.dpeth=2,3"], ["model.dpeth is not a setting", "did you mean model.depth?"]),
    (
        ["hydra/launcher=grouped", "hydra.launcher.map_mode=side"],
        ["hydra.launcher.map_mode must be one of auto, map, vmap, got side"],
    ),
    (["mesh=data_paralel"], ["did you mean data_parallel?"]),
    (["mesh=distributed", "mesh.process=0"], ["mesh.coordinator must be given too"]),
    (
        ["mesh=distributed", "mesh.coordinator=h", "mesh.processes=2", "mesh.process=0"],
        ["host:port", "got h"],
    ),
    (
        ["mesh=distributed", "mesh.coordinator=h:1", "mesh.processes=2", "mesh.process=2"],
        ["must be < ", "got 2"],
    ),
    (
        ["-m", "data=noise", "train.batch_size=8,5000"],
        ["train.batch_size must be ≤ 1024", "got 5000"],
    ),
]


MISTAKE_IDS = [" ".join(words) for words, _ in MISTAKES]


def assert_refused(result, parts):
    """The command wrote one line with these parts and ended with exit code 2."""
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("fathom: ")
    assert result.err.count("\n") == 1, result.err
    for part in parts:
        assert part in result.err


@pytest.mark.parametrize(("words", "parts"), MISTAKES, ids=MISTAKE_IDS)
def test_a_mistake_is_one_line_and_creates_no_file(fathom, workplace, words, parts):
    (workplace / "a_file").touch()
    result = fathom("train", *words, *SHORT_RUN)
    assert_refused(result, parts)
    assert [path.name for path in workplace.iterdir()] == ["a_file"]


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


COMMANDS = [  # other commands, and what the line must hold
    (["show", "nix"], ["there is no run nix", "outputs"]),
    (["show"], ["which run"]),
    (["runs"], ["there are no runs", "outputs"]),
    (["reproduce", "vanishing_gradient"], ["did you mean vanishing_gradients?"]),
    (["figure", "nix"], ["there is no experiment nix"]),
    (["reproduce"], ["vanishing_gradients"]),
    (["figure", "seed=1"], ["figure of what?"]),
    (["figure", "vanishing_gradients"], ["lacks the run", "fathom reproduce vanishing_gradients"]),
]
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
