"""Draws the configurations of this experiment and writes them as sweeps.

    python experiments/predict/design.py

writes ``conf/experiment/predict.yaml``, some of those that are held out. They were drawn before a
coefficient was fitted.

A *program* is what runs share that differ only in numbers which are arguments of the compiled code.
Programs are drawn first, then several runs of each. No program that is held out is one of those
that the coefficients are fitted to.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research.config.hydra_config import resource_dir
from research.config.schema import Config
from research.config.validation import check_config
from research.data.compatibility import check_data
from research.diagnosis.prediction import config_from_settings, with_change

SEEDS = {"fit": 20261, "held_out": 20262}
PROGRAMS = {"fit": 15, "held_out": 12}
RUNS_OF_PROGRAM = {"mlp": 20, "rnn": 12, "cnn": 9, "transformer": 9, "resnet_cifar": 8, "resnet": 6}
LEAST_RUNS = 3  # of a program that is kept
QUICK_PROGRAMS = (0, 1, 3)  # of those that are held out
QUICK_RUNS = 4  # of a program
COMMON = {"train.batch_size": "64", "measure": "off"}

# How often each model is drawn, and whether its programs have a skip connection with weights.
MODELS = ["mlp"] * 7 + ["rnn", "transformer", "transformer", "cnn", "resnet_cifar", "resnet"]
HAS_OTHER_SKIP = [True, False]
DEPTHS = {
    "mlp": [2, 4, 8, 16, 32, 64, 128, 256],
    "cnn": [2, 4, 8, 16],
    "resnet_cifar": [8, 14, 20],
    "resnet": [18],
    "transformer": [2, 4, 8, 12],
    "rnn": [4, 8, 16, 32],
}
WIDTHS = {"mlp": [16, 32, 64], "rnn": [16, 32], "transformer": [16, 32]}
AFFINE_SKIPS = ["none", "none", "none", "identity", "identity", "inv_sqrt_depth"]
OTHER_SKIPS = ["rezero", "skipinit", "fixup", "highway", "gated", "projection", "dropout"]
OTHER_SKIPS += ["stochastic_depth", "dense", "hyper", "mhc", "deepnorm"]
NORMS = ["none", "none", "none", "layer", "batch", "rms", "group", "dyt"]
PLACEMENTS = ["pre", "pre", "post", "branch", "peri"]
ACTIVATIONS = ["relu", "tanh", "sigmoid", "gelu", "silu", "elu", "selu", "softsign", "linear"]
INITS = ["he", "he", "glorot", "lecun", "orthogonal", "glorot_uniform", "old_uniform"]
GAINS = [0.5, 0.8, 1, 1, 1, 1, 1.5, 2.5]
OPTIMIZERS = ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop", "adagrad", "lion", "muon"]
PRECISIONS = ["float32", "float32", "float32", "mixed_bfloat16", "bfloat16", "float16"]
PRECISIONS += ["mixed_float16", "float8_e4m3", "float8_e5m2", "float64"]
SCALED = ["float16", "mixed_float16"]
# Four decades of learning rates; plain ones are sgd, momentum, nesterov.
RATES = {"plain": (-4, 0), "lion": (-6, -2), "other": (-5, -1)}
PLAIN = ["sgd", "momentum", "nesterov"]
STEPS = [100, 150, 200]
MAX_WORK = 256 * 150  # layers times steps of a run

# The other settings that the files of these options in ``conf/`` change.
SETTINGS = {
    "adagrad": {"optimizer.epsilon": "1e-16"},
    "adamw": {"optimizer.weight_decay": "0.01"},
    "lion": {"optimizer.beta2": "0.99", "optimizer.weight_decay": "0.1"},
    "muon": {"optimizer.momentum": "0.95", "optimizer.weight_decay": "0.01"},
    "rmsprop": {"optimizer.beta2": "0.9"},
    "resnet": {"model.transition": "projection"},
    "transformer": {"model.heads": "2"},
}

Arm = dict[str, str]


class Decks:
    """Lists of options that are drawn without replacement, so that each comes up about as often."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        self._left: dict[str, list[str]] = {}
        self._drawn: list[tuple[str, str]] = []

    def take(self, name: str, options: Sequence) -> Any:
        """The next option of a deck, which is shuffled whenever it is empty."""
        left = self._left.setdefault(name, [])
        if not left:
            left.extend(options)
            self._rng.shuffle(left)
        option = left.pop()
        self._drawn.append((name, option))
        return option

    def keep(self) -> None:
        """Leaves what was drawn since the last call out of the decks."""
        self._drawn.clear()

    def give_back(self) -> None:
        """Returns what was drawn since the last call of ``keep`` to the decks."""
        for name, option in self._drawn:
            left = self._left[name]
            left.insert(self._rng.randrange(len(left) + 1), option)
        self._drawn.clear()


def draw(purpose: str) -> list[list[Arm]]:
    """The runs of one purpose, program by program."""
    rng = random.Random(SEEDS[purpose])
    decks = Decks(rng)
    programs: list[list[Arm]] = []
    while len(programs) < PROGRAMS[purpose]:
        program = _draw_program(rng, decks)
        arms = []
        for _ in range(RUNS_OF_PROGRAM[program["model"]]):
            arm = _draw_run(rng, program)
            if arm is not None:
                arms.append(arm)
        if len(arms) >= LEAST_RUNS:
            programs.append(arms)
            decks.keep()
        else:
            decks.give_back()
    return programs


def _draw_program(rng: random.Random, decks: Decks) -> Arm:
    """What the runs of a program share."""
    model = decks.take("model", MODELS)
    program = {
        "model": model,
        "init": "orthogonal" if model == "rnn" else decks.take("init", INITS),
        "optimizer": decks.take("optimizer", OPTIMIZERS),
        "precision": decks.take("precision", PRECISIONS),
        "norm": decks.take("norm", NORMS),
        "model.width": str(rng.choice(WIDTHS.get(model, [8]))),
        "train.steps": str(rng.choice(STEPS)),
    }
    if program["norm"] != "none":
        program["norm.placement"] = rng.choice(PLACEMENTS)
    elif model in ("resnet", "resnet_cifar"):
        program["norm.placement"] = "branch"
    program |= SETTINGS.get(model, {})
    program |= SETTINGS.get(program["optimizer"], {})
    if program["precision"] in SCALED and rng.random() < 0.5:
        program["precision.loss_scaling"] = "dynamic"
    has_other_skip = model != "rnn" and decks.take("has_other_skip", HAS_OTHER_SKIP)
    if has_other_skip:
        program["skip"] = decks.take("skip", OTHER_SKIPS)
    else:
        program["skip"] = rng.choice(AFFINE_SKIPS)
    if model != "mlp" or has_other_skip:
        program["model.depth"] = str(rng.choice(DEPTHS[model]))
        program["activation"] = "tanh" if model == "rnn" else rng.choice(ACTIVATIONS)
    return program


def _draw_run(rng: random.Random, program: Arm) -> Arm | None:
    """A run of a program; None where its settings do not go together."""
    arm = dict(program)
    model = arm["model"]
    if "model.depth" not in arm:
        arm["model.depth"] = str(rng.choice(DEPTHS[model]))
        arm["activation"] = rng.choice(ACTIVATIONS)
        arm["skip"] = rng.choice(AFFINE_SKIPS)
    optimizer = arm["optimizer"]
    kind = optimizer if optimizer in RATES else "plain" if optimizer in PLAIN else "other"
    low, high = RATES[kind]
    arm["optimizer.learning_rate"] = f"{10 ** rng.uniform(low, high):.2g}"
    arm["init.gain"] = f"{rng.choice(GAINS):g}"
    arm["seed"] = str(rng.randrange(1000))
    if int(arm["model.depth"]) * int(arm["train.steps"]) > MAX_WORK:
        return None
    return arm if _is_valid(arm) else None


def _is_valid(arm: Arm) -> bool:
    try:
        to_config(arm)
    except (ValueError, KeyError):
        return False
    return True


def to_config(arm: Arm) -> Config:
    """The configuration of a run.

    Raises:
        ValueError: its settings do not go together.
    """
    words = []
    for path, value in (COMMON | arm).items():
        words.append(f"{path}={value}")
    settings = with_change({}, " ".join(words))
    for path in ("train.steps", "model.depth"):  # whose defaults say nothing of their type
        settings[path] = int(settings[path])
    config = config_from_settings(settings)
    check_config(config)
    check_data(config)
    return config


def write(file: Path, programs: Sequence[Sequence[Arm]]) -> None:
    """Writes the sweep, one line for each run, below what the file says already up to ``arms``."""
    head, _, _ = file.read_text(encoding="utf-8").partition("    arms:\n")
    lines = [f"{head}    arms:"]
    for number, arms in enumerate(programs):
        for place, arm in enumerate(arms):
            settings = []
            for path, value in arm.items():
                settings.append(f'{path}: "{value}"')
            lines.append(f"      p{number:02}_{place}: {{{', '.join(settings)}}}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Writes the sweep of the small sample."""
    programs = []
    held_out = draw("held_out")
    for number in QUICK_PROGRAMS:
        programs.append(held_out[number][:QUICK_RUNS])
    write(resource_dir("conf") / "experiment" / "predict.yaml", programs)


if __name__ == "__main__":
    main()
