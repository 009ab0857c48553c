"""What does not go together has its reason in one line, and following that line ends at something that does."""

import itertools
import re

import pytest

from research.config import schema as config
from research.config.compatibility import check_compatibility
from research.config.validation import check

MODELS = [(kind.name, "elman") for kind in config.ModelKind] + [
    ("rnn", cell.name) for cell in config.Cell
][1:]
GROUPS = {"skip": config.SkipKind, "norm": config.NormKind, "norm.placement": config.Placement}
OPTIONS = {path: [option.name for option in group] for path, group in GROUPS.items()}
OPTIONS["model"] = [kind.name for kind in config.ModelKind]
DEPTHS = {"resnet_cifar": 8, "resnet": 18, "rnn": 4}
LINE = re.compile(r"(\S+) must be (.+?)(?: \((.+)\))?, got (.+)")


def configured(chosen):
    """A configuration of a model, cell, skip, norm and placement, on images of 8×8 pixels."""
    made = config.Config()
    made.model.kind = config.ModelKind[chosen["model"]]
    made.model.cell = config.Cell[chosen["cell"]]
    made.model.depth = DEPTHS.get(chosen["model"], 3)
    made.skip.kind = config.SkipKind[chosen["skip"]]
    made.norm.kind = config.NormKind[chosen["norm"]]
    made.norm.placement = config.Placement[chosen["norm.placement"]]
    return made


def complaint(chosen):
    """Path, valid values and value of the line that refuses; None where nothing does."""
    try:
        check_compatibility(configured(chosen))
    except ValueError as error:
        line = LINE.fullmatch(str(error))
        assert line, error
        path, valid, _, got = line.groups()
        return path, re.split(r", | or ", valid.removeprefix("one of ")), got
    return None


def product(model, cell):
    for skip, norm, placement in itertools.product(*(OPTIONS[path] for path in GROUPS)):
        yield {
            "model": model,
            "cell": cell,
            "skip": skip,
            "norm": norm,
            "norm.placement": placement,
        }


@pytest.mark.parametrize(("model", "cell"), MODELS)
def test_every_refusal_names_valid_values_that_lead_to_an_allowed_combination(model, cell):
    refused = 0
    for chosen in product(model, cell):
        first = chosen
        steps = 0
        while said := complaint(chosen):
            path, valid, got = said
            assert got == chosen[path], first
            assert set(valid) <= set(OPTIONS[path]) - {got}, first
            for option in valid:  # none of them is refused in its turn
                after = complaint(chosen | {path: option})
                assert after is None or (after[0], after[2]) != (path, option), (first, option)
            chosen = chosen | {path: valid[0]}
            steps = steps + 1
            assert steps <= 4, first
        refused += steps > 0
    assert refused == {
        "mlp": 47,
        "cnn": 47,
        "resnet_cifar": 51,
        "resnet": 51,
        "transformer": 85,
    }.get(model, 252 - (60 if cell == "elman" else 3))


WRONG = [  # what is set, and what the line says
    (
        ["model=resnet_cifar", "model.depth=55"],
        "model.depth must be 6n+2 for resnet_cifar: 50 or 56, say, got 55",
    ),
    (
        ["model=resnet_cifar", "model.depth=2"],
        "model.depth must be 6n+2 for resnet_cifar: 8 or 14, say, got 2",
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
        "model.heads must be one of 1, 2, 3, 6 (positions=rotary turns pairs of units), got 4",
    ),
    (
        ["model=transformer", "model.heads=3", "model.width=15", "model.positions=rotary"],
        "model.width must be even",
    ),
    (["norm=batch", "train.batch_size=1"], "train.batch_size must be ≥ 2"),
    (["model=rnn", "model.depth=5"], "a divisor of 64: 1, 2, 4, 8, 16, 32, 64"),
    (["model=rnn", "data=python_docs", "model.depth=16"], "model.depth must be data.length=64"),
    (["model=mlp", "model.tied=true"], "model.tied must be false"),
    (["model=transformer", "model.tied=true"], "model.tied must be false"),
    (["model=rnn", "model.dropout=0.1"], "model.dropout must be 0 (it stands"),
    (
        ["model=transformer", "data=python_docs", "train.input_noise=0.1"],
        "train.input_noise must be 0 (the tokens",
    ),
    (
        ["model=transformer", "data=python_docs", "data.scaling=per_feature"],
        "data.scaling must be jointly (the tokens",
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
        "skip must be none (a lstm has gates of its own), got identity",
    ),
    (["model=rnn", "model.cell=gru", "norm=layer"], "norm must be none"),
    (["model=rnn", "skip=highway"], "skip must be one of none, identity, scaled, inv_sqrt_depth"),
    (["model=resnet", "skip=dense"], "model must be mlp or cnn"),
    (["init=delta_orthogonal"], "init must be orthogonal"),
]


@pytest.mark.parametrize(("words", "line"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_what_makes_no_sense_is_one_line_and_exit_code_2(words, line, fathom, workplace):
    said = fathom("train", *words, "tracker.wandb=false", "train.steps=1")
    assert said.code == 2
    assert said.err.startswith("fathom: ") and said.err.count("\n") == 1, said.err
    assert line in said.err
    assert said.out == "" and not list(workplace.iterdir())


RIGHT = [  # the neighbours of what is wrong
    {"model": ("resnet_cifar", 56, 64)},
    {"model": ("resnet", 152, 64)},
    {"model": ("transformer", 3, 12), "heads": 6, "positions": "rotary"},
    {"model": ("transformer", 3, 12), "heads": 4, "positions": "learned"},
    {"model": ("transformer", 3, 64), "data": "python_docs", "tied": True},
    {"model": ("rnn", 64, 64), "data": "python_docs"},
    {"model": ("rnn", 32, 64)},
    {"model": ("cnn", 3, 64), "shape": [4, 5]},
]


@pytest.mark.parametrize("changes", RIGHT, ids=lambda changes: " ".join(map(str, changes.values())))
def test_what_makes_sense_passes(changes):
    made = config.Config()
    kind, made.model.depth, made.model.width = changes["model"]
    made.model.kind = config.ModelKind[kind]
    made.model.heads = changes.get("heads", 4)
    made.model.positions = config.Positions[changes.get("positions", "learned")]
    made.model.tied = changes.get("tied", False)
    made.data.name = config.DataKind[changes.get("data", "noise")]
    made.data.shape = changes.get("shape", [8, 8, 1])
    assert check(made) is None
