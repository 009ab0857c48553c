"""Names of run directories: one for each set of settings, and safe on every file system."""

import itertools

import pytest

from research.config.naming import (
    MAX_BYTES,
    MAX_BYTES_OF_VARYING,
    run_name,
    run_names,
    short_key,
    varying_settings,
)
from research.config.schema import OPTIONS, setting_paths

SETTINGS = ["seed=1", "model.depth=64", "skip=none", "optimizer.learning_rate=0.001", "norm=batch"]
LONG_SETTINGS = [f"data.shape=[{','.join('8' * n)}]" for n in range(1, 60)]


def test_the_order_of_the_settings_makes_no_difference():
    names = {run_name(order) for order in itertools.permutations(SETTINGS)}
    assert names == {"depth=64,skip=none,norm=batch,learning_rate=0.001,seed=1"}


@pytest.mark.parametrize("prefix", ["+", "++"])
def test_how_a_setting_was_added_makes_no_difference(prefix):
    assert run_name([f"{prefix}model.depth=2"]) == run_name(["model.depth=2"])


@pytest.mark.parametrize("number", ["0.01", "1e-2", "0.010", "1E-2"])
def test_how_a_number_is_written_makes_no_difference(number):
    assert run_name([f"optimizer.learning_rate={number}"]) == "learning_rate=0.01"


@pytest.mark.parametrize("number", ["1", "1.0", "1e0", "1.00"])
def test_a_whole_number_is_no_other_value_of_a_setting_that_takes_any(number):
    assert run_name([f"skip.branch_scale={number}"]) == "branch_scale=1.0"


@pytest.mark.parametrize("value", ["none", "[1,2]", "null", "64"])
def test_other_values_stay(value):
    assert run_name([f"model.depth={value}"]) == f"depth={value}"
    if value != "64":
        assert run_name([f"skip.branch_scale={value}"]) == f"branch_scale={value}"


@pytest.mark.parametrize(
    "setting",
    [
        "name=x",
        "experiment=x",
        "tracker=none",
        "tracker.every=3",
        "+experiment=x",
        "hydra.verbose=true",
    ],
)
def test_what_all_runs_of_a_folder_have_in_common_is_left_out(setting):
    assert run_name([setting, "seed=1"]) == "seed=1"
    assert run_name([setting]) == "default"
    assert run_name([]) == "default"


def test_settings_whose_names_only_start_alike_are_kept():
    assert run_name(["names=1", "trackers=2"]) == "names=1,trackers=2"


@pytest.mark.parametrize(
    "settings",
    [LONG_SETTINGS, [f"data.split={'é' * 100}"], [f"model.depth={'1' * 300}", "seed=0"]],
    ids=["many settings", "characters of two bytes", "a long value"],
)
def test_no_name_is_longer_than_every_file_system_takes(settings):
    name = run_name(settings)
    assert len(name.encode()) <= MAX_BYTES <= 80


def test_different_settings_have_different_names():
    many_settings = []
    for depth, seed in itertools.product(range(1, 30), range(30)):
        many_settings.append([f"model.depth={depth}", f"seed={seed}"])
    for length, seed in itertools.product((3, 30), range(200)):
        many_settings.append([*LONG_SETTINGS[:length], f"seed={seed}"])
    names = [run_name(settings) for settings in many_settings]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("one", "other"), [("train/a", "train_a"), ("train[5%]", "train[5:]")])
def test_replaced_characters_do_not_give_different_settings_one_name(one, other):
    assert run_name([f"data.split={one}"]) != run_name([f"data.split={other}"])


@pytest.mark.parametrize(
    "value", ["../../x", "a/b", "a b", "a\nb", "a\\b", "'a:b'", "$(x)", "{a:1}", "\0"]
)
def test_a_name_is_one_harmless_folder(value):
    name = run_name([f"data.split={value}"])
    assert name.startswith("split=")
    assert not set(name) & set("/\\ \n\0:'\"$(){}")


def test_no_two_settings_have_the_same_key():
    paths = [*setting_paths(), *OPTIONS]
    keys = [short_key(path) for path in paths]
    assert len(set(keys)) == len(keys)
    assert short_key("measure.every") == "measure.every"
    assert short_key("tracker.every") == "tracker.every"


def make_jobs(grid, *constants):
    jobs = []
    for values in itertools.product(*grid.values()):
        words = [f"{path}={value}" for path, value in zip(grid, values, strict=True)]
        jobs.append([*constants, *words])
    return jobs


GRID = {"seed": (0, 1), "skip": ("none", "identity"), "model.depth": (4, 64)}
CONSTANTS = ["model.width=12", "experiment=x", "train.steps=500", "optimizer.learning_rate=0.05"]


def test_the_runs_of_a_sweep_are_named_by_what_varies():
    names = run_names(make_jobs(GRID, *CONSTANTS))
    assert names[:2] == ["depth=4,skip=none,seed=0", "depth=64,skip=none,seed=0"]
    assert len(set(names)) == 8


def test_a_setting_that_follows_from_others_such_as_a_constant_of_an_arm_is_not_named():
    shallow = make_jobs({"seed": (0, 1)}, "model.depth=10", "model.width=256", "train.steps=1")
    deep = make_jobs({"seed": (0, 1), "skip": ("none", "identity")}, "model.depth=64")

    assert run_names([*shallow, *deep]) == [
        "depth=10,seed=0",
        "depth=10,seed=1",
        "depth=64,skip=none,seed=0",
        "depth=64,skip=identity,seed=0",
        "depth=64,skip=none,seed=1",
        "depth=64,skip=identity,seed=1",
    ]


def test_a_sweep_of_one_run_has_the_name_of_the_run_alone():
    (job,) = make_jobs({"seed": [3]}, "model.depth=4")
    assert run_names([job]) == [run_name(job)] == ["depth=4,seed=3"]


def test_what_varies_comes_first_and_is_never_cut_off():
    jobs = make_jobs(GRID, *CONSTANTS, "activation=sigmoid", "data.split=train[:1000]")
    name = run_name(jobs[0], varying_settings(jobs))
    assert name.startswith("depth=4,skip=none,seed=0,")
    assert len(name.encode()) <= MAX_BYTES


def test_a_long_name_holds_all_that_varies():
    grid = {"data.split": (f"train{80 * 'x'}", "train"), **GRID}
    for name in run_names(make_jobs(grid)):
        assert name.count("=") == 4
        assert "seed=" in name[-7:]  # nothing follows
        assert len(name.encode()) <= MAX_BYTES_OF_VARYING
