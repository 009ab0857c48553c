"""``fathom train -m … --wandb-sweep``: a configuration for ``wandb sweep`` instead of training."""

import pytest
import yaml

WORDS = [
    "model.depth=4,16",
    "skip=none,inv_sqrt_depth",
    "optimizer.learning_rate=tag(log,interval(0.001,0.3))",
    "model.width=8",
    "hydra/launcher=grouped",
    "name=search",
]


@pytest.fixture
def described(fathom, workplace):
    """The configuration that a command line gives."""

    def describe(*words):
        code, out, err = fathom("train", "-m", *words)
        assert (code, err) == (0, "")
        file = workplace / "outputs" / "search" / "wandb_sweep.yaml"
        assert f"wandb sweep {file.relative_to(workplace)}" in out
        assert [path.name for path in file.parent.iterdir()] == [file.name]  # nothing is trained
        return yaml.safe_load(file.read_text())

    return describe


def test_values_and_ranges_are_parameters_and_the_rest_is_the_command(described):
    sweep = described(*WORDS, "--wandb-sweep", "--hyperband")
    assert sweep == {
        "project": "fathom",
        "name": "search",
        "method": "bayes",
        "metric": {"name": "eval/loss", "goal": "minimize"},
        "early_terminate": {"type": "hyperband", "min_iter": 3},
        "parameters": {
            "model.depth": {"values": [4, 16]},
            "skip": {"values": ["none", "inv_sqrt_depth"]},
            "optimizer.learning_rate": {
                "distribution": "log_uniform_values",
                "min": 0.001,
                "max": 0.3,
            },
        },
        "command": [
            "${env}",
            "fathom",
            "train",
            "model.width=8",
            "name=search",
            "${args_no_hyphens}",
        ],
    }


@pytest.mark.parametrize(
    ("words", "method", "values"),
    [
        (["seed=range(0,3)", "--wandb-sweep"], "grid", {"values": [0, 1, 2]}),
        (["seed=0,1", "--wandb-sweep=random"], "random", {"values": [0, 1]}),
        (
            ["seed=int(interval(2,64))", "--wandb-sweep=random"],
            "random",
            {"distribution": "int_uniform", "min": 2, "max": 64},
        ),
    ],
)
def test_the_method_follows_from_the_values_unless_it_is_given(described, words, method, values):
    sweep = described("name=search", *words)
    assert sweep["method"] == method
    assert sweep["parameters"] == {"seed": values}
    assert "early_terminate" not in sweep


def test_a_trial_of_an_experiment_is_one_run(described):
    sweep = described("experiment=he_init", "name=search", "seed=0,1", "--wandb-sweep")
    assert sweep["command"][-2:] == ["hydra.mode=RUN", "${args_no_hyphens}"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=0,1", "--wandb-sweep", "name=x"], "needs -m: fathom train -m … --wandb-sweep"),
        (["-m", "seed=0,1", "--hyperband", "name=x"], "--hyperband needs --wandb-sweep"),
        (["-m", "seed=0,1", "--wandb-sweep"], "needs name=…"),
        (["-m", "name=x", "--wandb-sweep"], "needs a setting with several values"),
        (["-m", "seed=0,1", "name=x", "tracker=none", "--wandb-sweep"], "needs tracker=wandb"),
        (
            ["-m", "seed=0,1", "name=x", "--wandb-sweep=gird"],
            "one of grid, random, bayes, got gird",
        ),
        (["-m", "seed=0,1", "name=x", "--wandb-sweep", "--hyperband=0"], "of at least 1, got 0"),
        (
            ["-m", "optimizer.learning_rate=interval(0.1,1)", "name=x", "--wandb-sweep=grid"],
            "=grid needs values, not the range optimizer.learning_rate=interval(0.1,1)",
        ),
        (
            ["-m", "optimizer.learning_rate=interval(-1,1)", "name=x", "--wandb-sweep"],
            "optimizer.learning_rate must be",
        ),
    ],
)
def test_what_cannot_be_a_wandb_sweep_is_one_line(fathom, workplace, words, message):
    code, out, err = fathom("train", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(workplace.iterdir()) == []
