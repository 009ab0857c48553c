"""``research.train`` and ``research.sweep`` in this process, and the trained network."""

import dataclasses
import logging
import os
import shutil
import signal
import sys
import threading
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hydra import compose, initialize
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import ChoiceSweep

import fathom
import research
from research.config import schema
from research.config.data_options import Scaling
from research.config.errors import UsageError
from research.config.override_checks import parse_overrides
from research.data.sources import load as load_data
from research.interface import model as trained_model
from research.models.architecture import ForwardContext
from research.reporting.collection import Runs
from research.runner.kept import KeptRun, read_config
from research.runner.run_setup import make_run_setup
from research.training.objective import make_model

from ..reporting.recorded import record_run

UNTYPED: Any = research  # for calls that a type checker refuses
RUNS: Any = Runs([])
ARRAY = np.arange(12.0).reshape(4, 3)
SMALL = {"model.depth": 2, "model.width": 8, "train.steps": 5, "tracker": "none"}


@pytest.fixture
def process_state(monkeypatch):
    """What a call must leave as it was, with a handler of the user's own."""

    def handler(*_):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, handler)

    def state():
        root = logging.getLogger()
        return (
            signal.getsignal(signal.SIGTERM),
            signal.getsignal(signal.SIGINT),
            list(sys.argv),
            os.getcwd(),
            GlobalHydra.instance().hydra,
            os.environ.get("HYDRA_FULL_ERROR"),
            list(root.handlers),
            root.level,
        )

    yield state
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("quickly_compiled")
def test_train_returns_the_run_and_leaves_the_process_as_it_was(workplace, process_state, capsys):
    (workplace / "mine").mkdir()
    (workplace / "mine" / "config.yaml").write_text("a: 1\n")
    with initialize(version_base=None, config_path=None):
        before = process_state()

        run = research.train(SMALL, "name=one", ["skip=identity"])

        assert process_state() == before
        assert compose() == {}
    assert capsys.readouterr().out == ""
    assert run.status == "done"
    assert run["skip.kind"] == "identity"
    assert run.directory.parent.name == "one"


def test_a_trained_network_reads_examples_as_they_were_before_they_were_standardised(monkeypatch):
    config = schema.Config(
        model=schema.make_option("model", "mlp", depth=1, width=4),
        data=schema.make_option("data", "noise", scaling=Scaling.per_feature),
    )
    setup = make_run_setup(config)
    hp = jax.tree.map(lambda values: values[0], setup.hp)
    module = make_model(setup.program_config.architecture, hp, jax.random.key(0))
    state: Any = TrainedState(nnx.state(module, nnx.Param), nnx.state(module, nnx.Not(nnx.Param)))
    kept = KeptRun(config, setup, state, hp)
    monkeypatch.setattr(trained_model, "read_config", lambda directory: config)
    monkeypatch.setattr(trained_model, "load_kept_run", lambda directory: kept)
    examples = setup.dataset.eval_x[:8]

    outputs = trained_model.load_model(Path())(examples)

    rows = setup.dataset.x
    inputs = (examples - np.mean(rows, axis=0)) / np.std(rows, axis=0)
    expected, _ = module(jnp.asarray(inputs, jnp.float32), {}, ForwardContext(hp, train=False))
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


@dataclasses.dataclass
class TrainedState:
    params: nnx.State
    model_state: nnx.State


@pytest.mark.slow
@pytest.mark.usefixtures("quickly_compiled")
def test_the_model_of_a_run_is_its_trained_network(workplace):
    run = research.train(SMALL, "name=one", "checkpoint.keep=true")

    check_model(run)

    shutil.rmtree(run.directory / "checkpoints")
    with pytest.raises(
        ValueError,
        match="kept no checkpoint: `fathom rm .* checkpoint.keep=true",
    ):
        run.model()


def check_model(run):
    """The network gives the recorded accuracy on the evaluation split."""
    model = run.model()
    data = load_data(read_config(run.directory).data)
    outputs = model(np.asarray(data.eval_x))
    accuracy = np.mean(np.argmax(outputs, axis=-1) == np.asarray(data.eval_y))
    assert accuracy == pytest.approx(run.info["final"]["eval_accuracy"], abs=1e-6)
    assert isinstance(model.module, nnx.Module)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model.module, nnx.Param)))
    assert num_parameters == run.info["parameters"]
    with pytest.raises(ValueError, match="an example must have 64 numbers, got 3"):
        model(np.zeros((2, 3)))


@pytest.mark.slow
@pytest.mark.usefixtures("quickly_compiled")
def test_sweep_returns_every_run_of_the_grid(workplace, capsys):
    runs = research.sweep({"seed": range(2), "skip": ["none", "identity"]}, SMALL, "name=grid")

    assert capsys.readouterr().out == ""
    found = [(run["seed"], run["skip.kind"]) for run in runs]
    assert found == [(0, "none"), (0, "identity"), (1, "none"), (1, "identity")]
    assert all(run.status == "done" for run in runs)
    again = research.sweep({"seed": range(2), "skip": ["none", "identity"]}, SMALL, "name=grid")
    assert [run.directory for run in again] == [run.directory for run in runs]


def test_a_sweep_with_the_launcher_of_hydra_returns_each_run_once(workplace, monkeypatch):
    def record_group(run_specs, session, **_):
        (run_spec,) = run_specs
        directory = workplace / run_spec.directory
        shutil.rmtree(directory)  # with the files of Hydra
        record_run(directory, {"seed": run_spec.config.seed})
        return [{"directory": str(directory), "status": "done", "final": {"eval_loss": 0.6}}]

    monkeypatch.setattr("research.cli.train.train_group", record_group)

    runs = research.sweep({"seed": [1, 0]}, SMALL, "name=basic", "hydra/launcher=basic")

    assert [run["seed"] for run in runs] == [1, 0]


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: research.train("model.dpeth=3"), "did you mean model.depth"),
        (lambda: research.train("--nonsense"), "--nonsense is no option"),
        (lambda: research.sweep({"seed": [0]}, "-m"), "-m is no option: a call takes settings"),
        (lambda: research.train("experiment=he_init"), r"he_init is a sweep: fathom\.sweep\({}, "),
        (lambda: research.train({"model.depth": 0}), "model.depth must be"),
        (lambda: research.train({"optimizer.clip": 1}), "optimizer.clip must be one of none"),
        (lambda: research.load("depth=3"), 'filters follow it, as in fathom.load."outputs", "d'),
        (lambda: research.sweep({"model.dpeth": [2, 3]}), "did you mean model.depth"),
        (lambda: research.sweep({"seed": []}), "seed must have a value, got an empty list"),
        (
            lambda: research.sweep({"seed": range(10**9)}),
            "at most 10000 runs, got more values of s",
        ),
        (lambda: research.train("seed=1,2"), r'fathom\.sweep\({"seed": '),
        (lambda: research.train({"model": {"depth": 2}}), "model must have a value, got a dict"),
        (lambda: research.sweep({"model": {"depth": [1, 2]}}), r"name model\.SETTING instead"),
        (lambda: research.sweep({"tags": [{"a": 1}]}), r"name tags\.SETTING instead"),
        (lambda: research.train({"model.depth": [2, 3]}), r"must have one value, .*fathom\.sweep"),
        (lambda: research.train({"model.depth": np.arange(2)}), r"one value, .*fathom\.sweep"),
    ],
)
def test_a_mistake_raises_the_message_of_the_command_line(workplace, capfd, call, part):
    with pytest.raises(ValueError, match=part):
        call()

    assert capfd.readouterr().err == ""
    assert not list(workplace.glob("outputs/*"))


@pytest.mark.parametrize(
    "call",
    [
        lambda: UNTYPED.train(3),
        lambda: UNTYPED.train(None),
        lambda: UNTYPED.train(["seed=1", 3]),
        lambda: UNTYPED.sweep("seed=1,2"),
        lambda: UNTYPED.sweep({"seed": [1]}, 3),
    ],
)
def test_an_argument_of_another_type_is_told_what_is_valid(workplace, call):
    with pytest.raises(
        TypeError, match=r'such as .*"model.depth".*, got .* \((int|str|NoneType)\)$'
    ):
        call()

    assert not list(workplace.glob("outputs/*"))


@pytest.mark.slow
@pytest.mark.usefixtures("quickly_compiled")
def test_training_works_outside_the_main_thread(workplace):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(research.train(SMALL, "name=thread")))
    thread.start()
    thread.join()

    assert runs[0].status == "done"


@pytest.mark.slow
@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize("text", ["a, b=c {x}", 'say "ä"', "C:\\data\\ü\\", "plain"])
def test_a_text_arrives_as_it_is(workplace, text):
    run = research.train(SMALL, {"notes": text})
    assert run.config["notes"] == text


@pytest.fixture
def words(monkeypatch):
    """The words of the command line that a call makes of its arguments, in place of training."""
    kept = []

    def keep_words(given, _):
        kept.extend(given)
        raise UsageError(2)

    monkeypatch.setattr("research.cli.train.main", keep_words)
    return kept


@pytest.mark.parametrize("text", ["1e3", "1_000", "0.10", "true", "a, b", "it is; fine (really)"])
def test_a_text_in_a_dictionary_is_recorded_as_it_is(words, text):
    with pytest.raises(ValueError, match="exit code 2"):
        research.train({"notes": text, "tags": [text]})

    notes, tags = [override.value() for override in parse_overrides(words)]
    assert notes == text
    assert tags == [text]


FILES = [
    "müller/x.npz",
    "my data/x.npz",
    "lr=0.1/x.npz",
    "a,b/x.npz",
    "data (1)/x.npz",
    "[old]/x.npz",
    "it's/x.npz",
    'say "hi"/x.npz',
    "2024",
    "C:\\data\\",
]


@pytest.mark.parametrize("kind", [PurePosixPath, np.str_, np.array])
@pytest.mark.parametrize("file", FILES)
def test_a_path_is_taken_as_its_text(words, kind, file):
    with pytest.raises(ValueError, match="exit code 2"):
        UNTYPED.train({"data.path": kind(file), "tags": [kind(file), "b"]})

    path, tags = [override.value() for override in parse_overrides(words)]
    assert path == file
    assert tags == [file, "b"]


@pytest.mark.parametrize("file", FILES)
def test_the_folder_of_a_run_may_be_a_path(words, file):
    with pytest.raises(ValueError, match="exit code 2"):
        research.train({"hydra.run.dir": PurePosixPath(file)})

    (folder,) = parse_overrides(words)
    assert folder.value() == file


@pytest.mark.parametrize("file", FILES)
def test_paths_are_values_of_a_sweep(words, file):
    with pytest.raises(ValueError, match="exit code 2"):
        research.sweep({"data.path": [PurePosixPath(file), PurePosixPath("b")]})

    assert words[0] == "-m"
    paths = parse_overrides(words[1:])[0].value()
    assert isinstance(paths, ChoiceSweep)
    texts = [getattr(each, "text", each) for each in paths.list]
    assert texts == [file, "b"]


def test_an_array_of_a_setting_that_takes_a_list_is_that_list(words):
    with pytest.raises(ValueError, match="exit code 2"):
        research.train({"data.shape": np.array([4, 4]), "tags": np.array(["a", "b, c"])})

    assert words == ["data.shape=[4,4]", 'tags=[a,"b, c"]']


def test_an_array_of_one_number_is_one_value_of_a_sweep(words):
    with pytest.raises(ValueError, match="exit code 2"):
        research.sweep({"seed": np.array(3), "model.depth": np.array([2, 4])})

    assert words[1:3] == ["seed=3", "model.depth=2,4"]


def test_a_path_with_commas_leads_to_a_dictionary():
    with pytest.raises(ValueError, match="stands in a dictionary: {'data.path': 'a,b/x.npz'}$"):
        research.train("data.path=a,b/x.npz")


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: UNTYPED.load(3), "root must be a folder such as 'outputs', got 3"),
        (lambda: UNTYPED.watch(3), "select must be 'auto', 'all', a glob"),
        (lambda: UNTYPED.watch(depth="2"), "depth must be a whole number or None, got '2'"),
        (lambda: UNTYPED.Monitor(3), "directory must be a folder such as outputs/STUDY/RUN"),
        (lambda: UNTYPED.train({3: 4}), "a setting must be a text"),
        (lambda: UNTYPED.sweep({3: [4]}), "a setting must be a text"),
        (lambda: UNTYPED.load("outputs", ["a"]), r"filters must be texts, .* got \['a'\] \(list\)"),
        (lambda: UNTYPED.load("outputs", None), r"filters must be texts, .* got None \(NoneType\)"),
        (lambda: RUNS.compare(3), r"other must be a run or runs, .* got 3 \(int\)"),
        (lambda: RUNS.compare(["a"]), "other must be a run or runs"),
        (lambda: RUNS.select(3), r"filters must be texts, .* got 3 \(int\)"),
        (lambda: RUNS.metrics(["train_loss"]), "metrics must be texts"),
        (lambda: RUNS.profiles(None), "gauges must be texts"),
        (lambda: RUNS.array(3), "names must be texts"),
        (lambda: RUNS.summary(3), "values must be texts"),
        (lambda: RUNS.plot(y=["train_loss"]), "kind, x, y, color, facet and log must be texts"),
        (
            lambda: UNTYPED.Monitor("a", 3),
            r"watch must be what fathom.watch returns, or None, got 3",
        ),
        (
            lambda: UNTYPED.Monitor("a", settings=[1]),
            r"settings must be a dictionary such as .* \(l",
        ),
        (lambda: UNTYPED.Monitor("a", tags=3), "tags must be a list of texts, got 3"),
        (lambda: UNTYPED.preflight(3, {}, {}), r"loss_fn must be a function, got 3 \(int\)"),
        (lambda: UNTYPED.watch().value_and_grad(3), r"fun must be a function, got 3 \(int\)"),
        (lambda: UNTYPED.watch().layers(3, {}), r"fun must be a function, got 3 \(int\)"),
        (lambda: UNTYPED.tap("x", "a"), "tap 'a' expects a floating-point array, got str"),
        (lambda: UNTYPED.tap(np.ones(2), 3), "the name of a tap must be a text such as"),
    ],
)
def test_an_argument_of_another_type_is_named(workplace, call, part):
    with pytest.raises(TypeError, match=part):
        call()

    assert not list(workplace.iterdir())


def loss(params, batch):
    return np.mean(params * batch)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0, 0, "a", True])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("chance_loss", lambda number: preflight(chance_loss=number)),
        ("epsilon", lambda number: preflight(epsilon=number)),
        ("chance_loss", lambda number: UNTYPED.Monitor("a", chance_loss=number)),
    ],
)
def test_a_number_that_must_be_positive_is_refused_otherwise(workplace, name, call, number):
    with pytest.raises(ValueError, match=f"{name} must be a positive number, such as .*, got "):
        call(number)

    assert not list(workplace.iterdir())


def preflight(**numbers):
    return UNTYPED.preflight(loss, np.ones(2), np.ones((4, 2)), **numbers)


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: preflight(steps=0), "steps must be a whole number of at least 1, got 0"),
        (lambda: preflight(steps=2.5), "steps must be a whole number of at least 1, got 2.5"),
        (lambda: preflight(trial_steps=-1), "trial_steps must be a whole number of at least 0"),
        (lambda: UNTYPED.Monitor("a", every=0), "every must be a whole number of at least 1"),
        (lambda: UNTYPED.watch(depth=0), "depth must be a whole number of at least 1, got 0"),
        (
            lambda: UNTYPED.watch().value_and_grad(loss, loss_scale=float("nan")),
            "loss_scale must be a positive number, such as 1024, got nan",
        ),
    ],
)
def test_a_number_outside_its_range_is_refused(call, part):
    with pytest.raises(ValueError, match=part):
        call()


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: UNTYPED.train({"data.path": ARRAY}), "must be the path of a file, .*npz reads"),
        (
            lambda: UNTYPED.train({"data.path": {"x": ARRAY}}),
            "must be the path of a file, .* reads",
        ),
        (lambda: UNTYPED.sweep({"data.path": ARRAY[0]}), r"must be the path of .*numpy\.savez"),
        (lambda: UNTYPED.train({"data.x": ARRAY}), r"data.x cannot hold arrays, .*numpy\.savez"),
        (lambda: UNTYPED.train({"data": (ARRAY, ARRAY)}), r"data cannot hold .*numpy\.savez"),
        (lambda: UNTYPED.train({"data": {"x": ARRAY}}), r"data cannot hold .*numpy\.savez"),
        (lambda: UNTYPED.train({"data.shape": ARRAY}), "data.shape must have a list as its value"),
        (lambda: UNTYPED.train({"data.limit": ARRAY}), r"must have one value, .*fathom\.sweep"),
        (
            lambda: UNTYPED.sweep({"seed": [ARRAY]}),
            r"seed must have .*got array\(.* \(ndarray\)$",
        ),
        (
            lambda: UNTYPED.train({"notes": object()}),
            r"^notes must have a number, a text or a list as its value, got .* \(object\)$",
        ),
        (
            lambda: UNTYPED.sweep({"activation": [len]}),
            r"^activation must have a number, a text or a list .* \(builtin_function_or_method\)$",
        ),
        (lambda: UNTYPED.load(ARRAY), "root must be a folder such as 'outputs', got array"),
        (lambda: UNTYPED.watch(ARRAY), "select must be 'auto', .*, got array"),
        (lambda: UNTYPED.Monitor(ARRAY), "directory must be a folder such as .*, got array"),
        (lambda: preflight(steps=ARRAY), "steps must be a whole number of at least 1, got array"),
        (lambda: UNTYPED.preflight(loss, np.ones(2), None), "batch must hold arrays with a leadi"),
    ],
)
def test_an_array_or_nothing_in_the_wrong_place_is_refused_in_one_line(workplace, call, part):
    with pytest.raises((TypeError, ValueError), match=part) as refused:
        call()

    assert len(str(refused.value).splitlines()) == 1
    assert not list(workplace.iterdir())


def test_a_monitor_is_due_at_steps_alone(tmp_path):
    monitor = UNTYPED.Monitor(tmp_path / "a", every=2)

    with pytest.raises(ValueError, match="step must be a whole number from 0 to .*, got 'x'"):
        monitor.due("x")

    assert [monitor.due(step) for step in (0, np.int64(1), 2)] == [True, False, True]
    monitor.close()


def test_a_setting_of_a_run_is_found_by_a_name_that_filters_know(tmp_path):
    directory = record_run(tmp_path / "a", {"model.depth": 6})
    (run,) = research.load(directory)

    assert run["depth"] == run["model.depth"] == 6
    assert run["skip"] == "none"
    with pytest.raises(KeyError, match=r"model.dept is not a setting; did you mean model\.depth"):
        run["model.dept"]


def test_a_figure_is_saved_in_formats_of_figures_alone(tmp_path):
    runs = research.load(record_run(tmp_path / "a"))
    drawing = runs.plot("curves")
    number: Any = 3

    with pytest.raises(
        ValueError, match=r"^target must end in \.png, \.svg, \.pdf or in none of t"
    ):
        drawing.save(tmp_path / "x.jpg")

    with pytest.raises(TypeError, match="target must be a file such as figure.pdf, got 3"):
        drawing.save(number)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_name_that_is_no_attribute_leads_to_one_that_is():
    misspelled = "trian"
    with pytest.raises(AttributeError, match=r"no attribute 'trian'; did you mean fathom\.train\?"):
        getattr(fathom, misspelled)
