"""What does not go together is refused in one line, and its advice leads to what does."""

import itertools
import re
from dataclasses import dataclass

import pytest

from research.config import options
from research.config.compatibility import check_compatibility
from research.config.validation import check_config
from research.data.compatibility import check_data, choose_depth

from ..builders import make_config

MODELS = [(kind.name, "elman") for kind in options.ModelKind]
MODELS += [("rnn", "gru"), ("rnn", "lstm")]
GROUPS = {
    "skip": options.SkipKind,
    "norm": options.NormKind,
    "norm.placement": options.Placement,
}
NAMES = {path: list(kinds.__members__) for path, kinds in GROUPS.items()}
NAMES["model"] = list(options.ModelKind.__members__)
DEPTHS = {"resnet_cifar": 8, "resnet": 18, "rnn": 4}
LINE = re.compile(r"(?P<path>\S+) must be (?P<valid>.+?)(?: \(.+\))?, got (?P<got>.+)")


def make_chosen(chosen):
    """A configuration of a model, cell, skip, norm and placement."""
    changes = dict(chosen)
    cell = changes.pop("cell")
    changes["model.depth"] = DEPTHS.get(chosen["model"], 3)
    if chosen["model"] == "rnn":
        changes["model.cell"] = cell
        changes["activation"] = "tanh"
    return make_config(changes)


@dataclass
class Line:
    """A line that refuses a combination."""

    path: str
    valid: list[str]
    got: str


def complaint(chosen) -> Line | None:
    """The line that refuses a combination; None where it is allowed."""
    try:
        check_compatibility(make_chosen(chosen))
    except ValueError as error:
        match = LINE.fullmatch(str(error))
        assert match, error
        valid = match["valid"].removeprefix("one of ")
        return Line(match["path"], re.split(r", | or ", valid), match["got"])
    return None


def combinations(model, cell):
    names = [NAMES[path] for path in GROUPS]
    for skip, norm, placement in itertools.product(*names):
        yield {
            "model": model,
            "cell": cell,
            "skip": skip,
            "norm": norm,
            "norm.placement": placement,
        }


# Of 16 skips × 6 norms × 4 placements, less what tests/models/test_architectures.py counts. Without
# a norm, a placement other than pre is refused except for ResNets, which have no peri.
ALL = 16 * 6 * 4
REFUSED = {
    ("mlp", "elman"): ALL - 266,
    ("cnn", "elman"): ALL - 266,
    ("resnet_cifar", "elman"): ALL - 201,
    ("resnet", "elman"): ALL - 201,
    ("transformer", "elman"): ALL - 215,
    ("rnn", "elman"): ALL - 68,
    ("rnn", "gru"): ALL - 1,
    ("rnn", "lstm"): ALL - 1,
}


def follow_advice(first):
    """Sets the first valid value of each line until nothing is refused; returns the line count."""
    chosen = first
    num_lines = 0
    while line := complaint(chosen):
        assert line.got == chosen[line.path], first
        assert set(line.valid) <= set(NAMES[line.path]) - {line.got}, first
        for name in line.valid:
            after = complaint(chosen | {line.path: name})
            refused_again = after is not None and (after.path, after.got) == (line.path, name)
            assert not refused_again, (first, name)
        chosen = chosen | {line.path: line.valid[0]}
        num_lines += 1
        assert num_lines <= 4, first
    return num_lines


@pytest.mark.parametrize(("model", "cell"), MODELS)
def test_every_refusal_names_valid_values_that_lead_to_an_allowed_combination(model, cell):
    lines = [follow_advice(chosen) for chosen in combinations(model, cell)]
    refused = sum(count > 0 for count in lines)
    assert refused == REFUSED[model, cell]


WRONG = [  # what is set, and what the line says
    (
        ["model=resnet_cifar", "model.depth=55"],
        "model.depth must be 6n+2 for resnet_cifar, such as 50 or 56, got 55",
    ),
    (
        ["model=resnet_cifar", "model.depth=2"],
        "model.depth must be 6n+2 for resnet_cifar, such as 8 or 14, got 2",
    ),
    (
        ["model=resnet", "model.depth=20"],
        "model.depth must be one of 18, 34, 50, 101, 152 for resnet, got 20",
    ),
    (
        ["model=transformer", "model.heads=5", "model.width=64"],
        "model.heads must be a divisor of model.width=64: 1, 2, 4, 8, 16, 32, 64, got 5",
    ),
    (
        ["model=transformer", "model.heads=4", "model.width=12", "model.positions=rotary"],
        "model.heads must be one of 1, 2, 3, 6 (model.positions=rotary rotates pairs",
    ),
    (
        ["model=transformer", "model.heads=3", "model.width=15", "model.positions=rotary"],
        "model.width must be even",
    ),
    (["norm=batch", "train.batch_size=1"], "train.batch_size must be ≥ 2"),
    (
        ["model.parametrization=mup", "optimizer=sgd"],
        "optimizer must be adam or adamw (model.parametrization=mup changes the learning rates",
    ),
    (
        ["model.parametrization=complete_p", "optimizer=adam", "skip=rezero"],
        "skip must be identity (model.parametrization=complete_p multiplies the branch itself)",
    ),
    (
        ["model.depth=4", "init.layer=4"],
        "init.layer must be < 4 (the network has 4 layers), got 4",
    ),
    (
        ["model=rnn", "optimizer.frozen_layer=0"],
        "optimizer.frozen_layer must be null (all layers of rnn share their weights), got 0",
    ),
    (
        ["measure.inspect=[quantization_noise]"],
        "precision must be float8_e4m3 or float8_e5m2 or float4_e2m1 (quantization_noise compares",
    ),
    (
        ["model.branch_weights=2", "skip=dense"],
        "model.branch_weights must be 1 (skip=dense widens the signal after each weight matrix)",
    ),
    (
        ["model=rnn", "norm=layer", "norm.scale=inv_sqrt_layer"],
        "norm.scale must be one (norm.scale counts blocks of one shape, which rnn has not)",
    ),
    (
        ["measure.inspect=[stream_mixing]"],
        "skip must be hyper or mhc (stream_mixing needs several residual streams), got none",
    ),
    (
        ["measure.inspect=[preconditioned_sharpness]"],
        "optimizer must be adam or adamw or rmsprop or adagrad (preconditioned_sharpness needs",
    ),
    (["model=rnn", "model.depth=5"], "a divisor of 64: 1, 2, 4, 8, 16, 32, 64"),
    (["model=rnn", "data=python_docs", "model.depth=16"], "model.depth must be data.length=64"),
    (["model=transformer", "model.tied=true"], "model.tied must be false"),
    (
        ["model=transformer", "data=python_docs", "train.input_noise=0.1"],
        "train.input_noise must be 0 (the tokens",
    ),
    (["model=cnn", "data=python_docs"], "model must be transformer or rnn"),
    (
        ["model=cnn", "data=noise", "data.shape=[64]"],
        "data.shape must be height, width and channels",
    ),
    (
        ["model=resnet", "data=noise", "data.shape=[2,2,2,2]"],
        "data.shape must be height, width and channels",
    ),
    (
        ["norm=group", "norm.groups=7"],
        "norm.groups must be a divisor of model.width=64: 1, 2, 4, 8, 16, 32, 64, got 7",
    ),
    (["skip=deepnorm"], "model must be transformer"),
    (["model=transformer", "skip=deepnorm", "norm=none"], "norm must be layer or rms"),
    (["model=transformer", "skip=deepnorm"], "norm.placement must be post"),
    (["model=transformer", "norm=batch"], "norm must be none, layer, rms, group or dyt"),
    (["skip=fixup", "norm=layer"], "norm must be none"),
    (
        ["model=rnn", "model.cell=lstm", "skip=identity"],
        "skip must be none (model.cell=lstm has gates already), got identity",
    ),
    (["model=rnn", "model.cell=gru", "norm=layer"], "norm must be none"),
    (["model=rnn", "skip=highway"], "skip must be one of none, identity, scaled, inv_sqrt_depth"),
    (["model=resnet", "skip=dense"], "model must be mlp or cnn"),
    (["init=delta_orthogonal"], "init must be orthogonal"),
    (
        ["norm.placement=post"],
        "norm.placement must be pre (without a norm it has an effect only on ResNets), got post",
    ),
    (
        ["optimizer=gd", "train.batch_size=32"],
        "train.batch_size must be left out (optimizer=gd uses all training examples in every step)",
    ),
    (
        ["model.bias=false", "init.sigma_b=0.1"],
        "init.sigma_b must be 0 (with model.bias=false there",
    ),
]


WRONG_IDS = [" ".join(words) for words, _ in WRONG]


@pytest.mark.parametrize(("words", "line"), WRONG, ids=WRONG_IDS)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(words, line, fathom, workplace):
    result = fathom("train", *words, "tracker.wandb=false", "train.steps=1")
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("fathom: ")
    assert result.err.count("\n") == 1, result.err
    assert line in result.err
    assert not list(workplace.iterdir())


RIGHT = [  # the neighbours of what is wrong
    {"model": "resnet_cifar", "model.depth": 56},
    {"model": "resnet", "model.depth": 152},
    {
        "model": "transformer",
        "model.depth": 3,
        "model.width": 12,
        "model.heads": 6,
        "model.positions": "rotary",
    },
    {"model": "transformer", "model.depth": 3, "model.width": 12, "model.heads": 4},
    {"model": "transformer", "model.depth": 3, "data": "python_docs", "model.tied": True},
    {"model": "rnn", "model.depth": 64, "data": "python_docs"},
    {"model": "rnn", "model.depth": 32},
    {"model": "cnn", "model.depth": 3, "data": "noise", "data.shape": (4, 5)},
    {"model": "resnet_cifar", "model.depth": 8, "norm.placement": "post"},
    {"optimizer": "gd"},
]


@pytest.mark.parametrize("changes", RIGHT, ids=str)
def test_what_makes_sense_is_accepted(changes):
    config = make_config(changes)
    check_config(config)
    check_data(config)


TIME_STEPS = [  # data, and the depth of a recurrent network that was given none
    ({"data": "python_docs", "data.length": 40}, 40),
    ({"data": "digits"}, 16),
    ({"data": "noise", "data.shape": (10,)}, 10),
    ({"data": "noise", "data.shape": (34,)}, 2),
    ({"data": "noise", "data.shape": (6, 5)}, 15),
]


@pytest.mark.parametrize(("data", "depth"), TIME_STEPS, ids=str)
def test_a_recurrent_network_without_a_depth_fits_its_data(data, depth):
    config = choose_depth(make_config({"model": "rnn", "activation": "tanh", **data}))
    assert config.model.depth == depth
    check_config(config)
    check_data(config)


def test_a_depth_that_is_given_stays():
    config = make_config({"model": "rnn", "model.depth": 8})
    assert choose_depth(config) is config
