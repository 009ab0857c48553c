import pytest

from research.config.errors import explain, nearest, unknown_setting
from research.config.schema import setting_paths

MISTAKES = [  # what is typed, and what the line must hold
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
    (["skp=none"], ["skp is not a setting", "did you mean skip"]),
    (["+foo=1"], ["foo is not a setting"]),
    (["hydra.rn.dir=x"], ["hydra.rn"]),
    (
        ["optimizer.lr=0.1"],
        ["optimizer.lr is not a setting", "did you mean optimizer.learning_rate?"],
    ),
    (["layers=3"], ["layers is not a setting", "did you mean model.depth?"]),
    (["model=lstm"], ["model=lstm", "did you mean rnn?"]),
    (["model.positions=rope"], ["model.positions", "did you mean rotary?"]),
    (["skip=[none,identity]"], ["skip must be one option", "-m skip="]),
    (["-m", "data=[digits,mnist],noise"], ["data must be one option", "-m data="]),
    (
        ["model=linear", "activation=relu"],
        ["model must be mlp (linear is an mlp without activation)", "and relu"],
    ),
    (["--model.depth=3"], ["--model.depth=3 is no option", "did you mean model.depth=3?"]),
    (["--gpu"], ["--gpu is no option", "--help"]),
    (["model.depth=3", "--cfg", "jobs"], ["--cfg", "'jobs'", "'job'"]),
    (["model.depth=ten"], ["model.depth must be a whole number ≥ 1, got ten"]),
    (["model.depth=-1"], ["model.depth must be a whole number ≥ 1, got -1"]),
    (["model.depth=2.5"], ["model.depth must be a whole number ≥ 1, got 2.5"]),
    (["model.depth=null"], ["model.depth must be a whole number ≥ 1"]),
    (["optimizer.learning_rate=-1"], ["optimizer.learning_rate must be a number ≥ 0, got -1"]),
    (["optimizer.learning_rate=nan"], ["optimizer.learning_rate must be finite"]),
    (["model.bias=ja"], ["model.bias must be true or false, got ja"]),
    (["data.shape=8"], ["data.shape must be a list"]),
    (["skip.kind=null"], ["skip.kind must be one of none, identity"]),
    (["skip"], ["skip", "="]),
    (["name='x y"], ["name='x y"]),
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
        ["data.flip must be left out (function holds no images)"],
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
        ["norm.groups must be < model.width=8 (norm=group takes from a single", "8"],
    ),
    (["model=transformer", "skip=fixup"], ["skip must be rezero or deepnorm", "got fixup"]),
    (
        ["measure.inspect=sharpness"],
        ["measure.inspect must be a list of some of sharpness, jac", "in brackets"],
    ),
    (
        ["measure.inspect=[balance]", "skip=identity"],
        ["skip must be none (balance is of units", "got identity"],
    ),
    (
        ["measure.inspect=[scale_derivative]", "model=rnn"],
        ["model must be mlp or cnn", "of their own), got rnn"],
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
    (["data.resized_crop=true"], ["data.resized_crop must be false (digits is read whole)"]),
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
        ["model.depth must be 6n+2 for resnet_cifar: 50 or 56, say, got 55"],
    ),
    (
        ["model=transformer", "model.heads=5"],
        ["model.heads must be a divisor of model.width=64: 1, 2, 4", "got 5"],
    ),
    (
        ["skip=deepnorm", "norm=none"],
        ["model must be transformer (skip=deepnorm is defined for one), got mlp"],
    ),
    (["data=python_docs"], ["model must be transformer or rnn (python_docs holds text), got mlp"]),
    (["precision=float12"], ["precision=float12", "did you mean float32?", "mixed_float16"]),
    (
        ["precision.loss_scale=0"],
        ["precision.loss_scale must be a number > 1e-38 and < 1e+38, got 0"],
    ),
    (
        ["precision.loss_scaling=static", "precision.loss_scale=1e300"],
        ["precision.loss_scale must be", "got 1e+300"],
    ),
    (
        ["precision.growth_interval=3000000000"],
        ["precision.growth_interval must be a whole number", "got 3000000000"],
    ),
    (
        ["precision=float16", "precision.loss_scale=1024"],
        ["precision.loss_scaling must be static or dynamic", "1024"],
    ),
    (
        ["precision=float16", "precision.loss_scaling=dynamic", "precision.growth_factor=0.5"],
        ["precision.growth_factor must be a number > 1, got 0.5"],
    ),
    (
        ["precision.backoff_factor=2"],
        ["precision.backoff_factor must be a number > 0 and < 1, got 2"],
    ),
    (["precision.loss_scaling=dinamic"], ["precision.loss_scaling", "did you mean dynamic?"]),
    (
        ["precision.stochastic_rounding=true"],
        ["must be false (float32 stores no weights in bfloat16), got true"],
    ),
    (
        ["precision=float16", "precision.tensor_scale=true"],
        ["must be false (float16 rounds nothing to 8 bits)"],
    ),
    (["hydra.run.dir=/proc/nope/x"], ["/proc/nope"]),
    (["hydra.run.dir=a_file/x"], ["a_file/x"]),
    (["-m", "seed=0,1", "hydra.sweep.dir=a_file/x"], ["a_file/x"]),
    (["-m", "seed=0,1", "model.depth=2,-1"], ["model.depth must be a whole number ≥ 1, got -1"]),
    (["-m", "skip=none,residul"], ["skip=residul", "did you mean identity?"]),
    (["-m", "model.dpeth=2,3"], ["model.dpeth is not a setting", "did you mean model.depth?"]),
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


@pytest.mark.parametrize(
    ("words", "parts"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES]
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(fathom, workplace, words, parts):
    (workplace / "a_file").touch()
    said = fathom("train", *words, "tracker.wandb=false", "train.steps=1", "name=x")
    assert said.code == 2
    assert said.err.startswith("fathom: ") and said.err.count("\n") == 1, said.err
    assert not [part for part in parts if part not in said.err], said.err
    assert said.out == ""
    assert [path.name for path in workplace.iterdir()] == ["a_file"]


@pytest.fixture
def kept(workplace):
    """Files of the user's own in the folder that a run is sent to."""
    files = [
        workplace / "mine" / "thesis.tex",
        workplace / "mine" / ".hydra" / "notes",
        workplace / "mine" / "a" / "b",
    ]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("kept")
    yield
    assert [file.exists() and file.read_text() for file in files] == ["kept"] * 3


MINE = [["hydra.run.dir=mine"], ["-m", "hydra.sweep.dir=mine", "hydra.sweep.subdir=."]]


@pytest.mark.parametrize(
    "words", [["train.batch_size=5000"], ["data.split=trian"], ["model.depth=-1"]], ids=str
)
@pytest.mark.parametrize("mode", MINE, ids=str)
def test_a_mistake_costs_no_file_that_was_there_before(fathom, kept, mode, words):
    assert fathom("train", *mode, *words, "tracker.wandb=false", "train.steps=1").code == 2


@pytest.mark.parametrize("mode", MINE, ids=str)
def test_a_run_that_cannot_begin_costs_no_file_that_was_there_before(
    fathom, kept, monkeypatch, mode
):
    def fails(*_, **__):
        raise ValueError("the data cannot be read")

    monkeypatch.setattr("research.runner.loop.make_run_setup", fails)
    assert fathom("train", *mode, "tracker.wandb=false").code != 0


COMMANDS = [
    (["show", "nix"], ["there is no run nix", "outputs"]),
    (["show"], ["which run"]),
    (["runs"], ["there are no runs", "outputs"]),
    (["reproduce", "vanishing_gradient"], ["did you mean vanishing_gradients?"]),
    (["figure", "nix"], ["there is no experiment nix"]),
    (["reproduce"], ["vanishing_gradients"]),
    (["figure", "seed=1"], ["figure of what?"]),
    (["figure", "vanishing_gradients"], ["lacks the run", "fathom reproduce vanishing_gradients"]),
]


@pytest.mark.parametrize(
    ("words", "parts"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS]
)
def test_a_mistake_in_any_command_is_one_line(fathom, workplace, words, parts):
    said = fathom(*words)
    assert said.code == 2
    assert said.err.startswith("fathom: ") and said.err.count("\n") == 1, said.err
    assert not [part for part in parts if part not in said.err], said.err
    assert not list(workplace.iterdir())


TELLS_OF_JAX = "import atexit, sys; atexit.register(lambda: print('jax' in sys.modules)); import research.cli.main; research.cli.main.main()"


@pytest.mark.parametrize(
    "words",
    [["skip=residul"], ["hydra.run.dir=/proc/nope/x"], ["-m", "seed=0,1", "model.depth=2,-1"]],
    ids=str,
)
def test_a_real_process_refuses_before_it_imports_jax(workplace, process, words):
    ended = process("-c", TELLS_OF_JAX, "train", *words)
    out, err = ended.communicate()
    assert ended.returncode == 2
    assert err.startswith("fathom: ") and err.count("\n") == 1, err
    assert out == "False\n"
    assert not list(workplace.iterdir())


def test_a_dataset_that_is_not_prepared_is_refused_before_anything_large_is_imported(
    workplace, process
):
    tells = TELLS_OF_JAX.replace(
        "'jax' in sys.modules", "{'jax', 'tensorflow', 'tensorflow_datasets'} & {*sys.modules}"
    )
    ended = process("-c", tells, "train", "data=cifar10", TFDS_DATA_DIR=str(workplace / "nowhere"))
    out, err = ended.communicate()
    assert ended.returncode == 2 and out == "set()\n" and err.count("\n") == 1
    assert (
        err.startswith("fathom: data=cifar10 is not prepared")
        and "offline there are digits, python_docs" in err
    )
    assert not list(workplace.iterdir())


def test_the_traceback_is_there_for_who_asks(workplace, process):
    _, err = process(
        "-m", "research", "train", "model.depth=-1", HYDRA_FULL_ERROR="1"
    ).communicate()
    assert "Traceback" in err and "model.depth must be" in err


def test_a_mistake_is_one_line_also_behind_a_command_that_trained(listen, workplace):
    """What one call sets in its process must not reach the next one."""
    from research.cli import main as cli

    def both():
        with pytest.raises(SystemExit):
            cli.run(["train", "skip=residul"])
        return cli.run(["figure", "vanishing_gradients"])

    said = listen(both)
    assert said.code == 2 and said.err.count("\n") == 2 and "lacks the run" in said.err


def test_a_defect_of_ours_keeps_its_traceback(fathom, workplace, monkeypatch):
    def broken(*_, **__):
        raise KeyError("oops")

    monkeypatch.setattr("research.runner.loop.make_run_setup", broken)
    with pytest.raises(KeyError, match="oops"):
        fathom("train", "tracker=none", "name=x")
    assert explain(KeyError("oops")) is None


@pytest.mark.parametrize("path", list(setting_paths()))
def test_a_letter_left_out_leads_back_to_the_setting(path):
    typed = path[:-2] + path[-1]
    assert f"did you mean {path}?" in unknown_setting(typed)


def test_nothing_is_suggested_for_a_word_like_no_other():
    assert nearest("qqqq", ["identity", "none"]) == "" == nearest("identity", [])


def test_other_words_for_an_option_lead_to_it_only_where_it_exists():
    assert nearest("residual", ["none", "identity"]) == "; did you mean identity?"
    assert "identity" not in nearest("residual", ["none", "scaled"])
