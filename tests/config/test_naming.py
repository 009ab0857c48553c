import itertools

import pytest

from research.config.naming import LONGEST, run_name

SETTINGS = ["seed=1", "model.depth=64", "skip=none", "optimizer.learning_rate=0.001", "norm=batch"]
MANY = [f"data.shape=[{','.join('8' * n)}]" for n in range(1, 60)]


def test_the_order_of_the_settings_makes_no_difference():
    names = {run_name(order) for order in itertools.permutations(SETTINGS)}
    assert names == {"model.depth=64,norm=batch,optimizer.learning_rate=0.001,seed=1,skip=none"}


def test_how_a_setting_was_added_makes_no_difference():
    assert (
        run_name(["+model.depth=2"]) == run_name(["++model.depth=2"]) == run_name(["model.depth=2"])
    )


@pytest.mark.parametrize(
    "shared", ["name=x", "experiment=x", "tracker=none", "tracker.every=3", "+experiment=x"]
)
def test_what_all_runs_of_a_folder_share_is_left_out(shared):
    assert run_name([shared, "seed=1"]) == "seed=1"
    assert run_name([shared]) == run_name([]) == "default"


def test_settings_that_only_begin_like_a_shared_one_are_kept():
    assert run_name(["names=1", "trackers=2"]) == "names=1,trackers=2"


@pytest.mark.parametrize(
    "settings", [MANY, [f"data.split={'é' * 100}"], [f"model.depth={'1' * 300}", "seed=0"]]
)
def test_no_name_is_longer_than_every_file_system_takes(settings):
    assert len(run_name(settings).encode()) <= LONGEST <= 80
    assert run_name(settings).encode().decode() == run_name(settings)


def test_different_settings_have_different_names():
    short = [
        [f"model.depth={depth}", f"seed={seed}"] for depth in range(1, 30) for seed in range(30)
    ]
    long = [[*MANY[:n], f"seed={seed}"] for n in (3, 30) for seed in range(200)]
    names = [run_name(settings) for settings in short + long]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("one", "other"), [("train/a", "train_a"), ("train[5%]", "train[5:]")])
def test_characters_that_no_folder_takes_do_not_make_different_settings_one(one, other):
    assert run_name([f"data.split={one}"]) != run_name([f"data.split={other}"])


@pytest.mark.parametrize(
    "value", ["../../x", "a/b", "a b", "a\nb", "a\\b", "'a:b'", "$(x)", "{a:1}", "\0"]
)
def test_a_name_is_one_harmless_folder(value):
    name = run_name([f"data.split={value}"])
    assert name.startswith("data.split=") and not set(name) & set("/\\ \n\0:'\"$(){}")
