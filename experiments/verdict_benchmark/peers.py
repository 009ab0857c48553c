"""What PyTorch's diagnostic tools say of the same networks: ``peers.csv``.

    python experiments/verdict_benchmark/peers.py

needs the extra ``peers``. The plain networks among the test runs are written in PyTorch, with the
same initialisation, data, batch size and optimizer, and trained under all tools at once.
"""

import csv
import logging
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # an extra
from sklearn.datasets import load_digits
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]  # an extra
from torchmortem import Autopsy  # pyright: ignore[reportMissingImports]  # an extra
from trainscope import TrainScope  # pyright: ignore[reportMissingImports]  # an extra
from trainscope.core.config import (  # pyright: ignore[reportMissingImports]  # an extra
    TrainScopeConfig,
)
from traintools import GradientHealthMonitor  # pyright: ignore[reportMissingImports]  # an extra

from research.reproduce.experiments import expected_runs, load_module

LABELS = load_module("verdict_benchmark", "labels")
FILE = "peers.csv"
COLUMNS: Sequence[str] = (
    "run",
    "train_loss",
    "torchmortem",
    "torchmortem_warnings",
    "trainscope",
    "traintools",
)
# Kinds of traintools' warnings, by words of their sentences.
WARNINGS = {
    "not_finite": "non-finite",
    "vanished": "appears vanished",
    "large": "is very large",
    "high_ratio": "ratio is high",
    "tiny_ratio": "ratio is tiny",
}
DEEPEST = 30
RUNS_OF_FAMILY = 2
TRAIN_EXAMPLES = 1400
PIXELS = 64
CLASSES = 10
LAST_STEPS = 30  # most of which have a warning of traintools that counts
ACTIVATIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": nn.functional.elu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "softsign": nn.functional.softsign,
}
SKIPS = ("none", "identity", "inv_sqrt_depth", "scaled")
OPTIMIZERS = ("momentum", "sgd", "adam")
PLAIN = {
    "model.kind": ("mlp",),
    "skip.kind": SKIPS,
    "norm.kind": ("none",),
    "init.kind": ("he", "zeros"),
    "optimizer.kind": OPTIMIZERS,
    "optimizer.schedule": ("constant", "linear", "step"),
    "precision.kind": ("float32",),
    "loss.kind": ("cross_entropy",),
    "data.label_noise": (0.0,),
    "optimizer.weight_decay": (0.0,),
}
Settings = Mapping[str, Any]


def is_plain(settings: Settings) -> bool:
    """Whether this module can write the network of a run."""
    if settings["model.depth"] > DEEPEST:
        return False
    return all(settings[path] in values for path, values in PLAIN.items())


class Nonlinearity(nn.Module):
    """An activation as a module, so that tools can watch it."""

    def __init__(self, kind: str):
        super().__init__()
        self.function = ACTIVATIONS[kind]

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] → [B, D]."""
        return self.function(x)


def make_activation(kind: str) -> nn.Module:
    """PyTorch's own module where tools look for it by its class."""
    modules = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
    return modules[kind]() if kind in modules else Nonlinearity(kind)


class Layer(nn.Module):
    """h ← s·h + a·(W φ(h) + b)."""

    def __init__(self, settings: Settings):
        super().__init__()
        width = settings["model.width"]
        self.activation = make_activation(settings["activation.kind"])
        self.linear = nn.Linear(width, width)
        kind = settings["skip.kind"]
        self.shortcut = 0.0 if kind == "none" else settings.get("skip.shortcut_scale", 1.0)
        depth_scale = settings["model.depth"] ** -0.5
        default = depth_scale if kind == "inv_sqrt_depth" else 1.0
        self.branch = settings.get("skip.branch_scale", default)

    def forward(self, h: Tensor) -> Tensor:
        """[B, D] → [B, D]."""
        branch = self.linear(self.activation(h))
        return self.shortcut * h + self.branch * branch if self.shortcut else branch


class Network(nn.Module):
    """embed → layers → head, as ``model=mlp``."""

    def __init__(self, settings: Settings):
        super().__init__()
        width = settings["model.width"]
        self.embed = nn.Linear(PIXELS, width)
        self.layers = nn.ModuleList([Layer(settings) for _ in range(settings["model.depth"])])
        self.activation = make_activation(settings["activation.kind"])
        self.head = nn.Linear(width, CLASSES)
        gain = settings.get("init.gain", 1.0)
        for linear in (self.embed, *[layer.linear for layer in self.layers], self.head):
            if settings["init.kind"] == "zeros":
                nn.init.zeros_(linear.weight)
            else:
                nn.init.normal_(linear.weight, std=gain * math.sqrt(2 / linear.in_features))
            nn.init.normal_(linear.bias, std=settings["init.sigma_b"])

    def forward(self, x: Tensor) -> Tensor:
        """The logits [B, C] of ``x`` [B, inputs]."""
        h = self.embed(x)
        for layer in self.layers:
            h = layer(h)
        return self.head(self.activation(h))


def make_optimizer(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimizer of a run."""
    rate = settings["optimizer.learning_rate"]
    if settings["optimizer.kind"] == "adam":
        epsilon = settings["optimizer.epsilon"]
        return torch.optim.Adam(network.parameters(), rate, eps=epsilon)
    momentum = settings.get("optimizer.momentum", 0.0)
    return torch.optim.SGD(network.parameters(), rate, momentum=momentum)


def rate_at(step: int, settings: Settings) -> float:
    """The learning rate of a step."""
    rate = settings["optimizer.learning_rate"]
    kind = settings["optimizer.schedule"]
    if kind == "linear":
        share = step / settings["train.steps"]
        return rate + share * (settings["optimizer.end_value"] - rate)
    if kind == "step" and step >= settings["optimizer.boundaries"][0]:
        return rate * settings["optimizer.decay_factor"]
    return rate


def load_data() -> tuple[Tensor, Tensor]:
    """The training digits, standardised as ours."""
    images, classes = load_digits(return_X_y=True)
    x = np.asarray(images[:TRAIN_EXAMPLES])
    x = (x - x.mean()) / x.std()
    return torch.tensor(x, dtype=torch.float32), torch.tensor(classes[:TRAIN_EXAMPLES])


def examine(settings: Settings, folder: Path) -> dict[str, str]:
    """Trains one network and returns what each tool finds, with the final training loss.

    Of torchmortem its critical findings and its warnings, of trainscope the first spikes upwards
    and downwards, of traintools' gradient monitor the warnings that most of the last steps have, or
    the last step of a loss that is not finite.

    Args:
        settings: the configuration of the run.
        folder: for what the tools write.
    """
    torch.manual_seed(settings["seed"])
    x, y = load_data()
    network = Network(settings)
    optimizer = make_optimizer(network, settings)
    scope_config = TrainScopeConfig(run_dir=str(folder), run_name="run")
    scope = TrainScope(network, optimizer, config=scope_config).attach()
    health = GradientHealthMonitor()
    autopsy = Autopsy(network, optimizer=optimizer)
    autopsy.attach()
    spikes = {}
    warned = []
    losses = []
    steps = settings["train.steps"]
    size = settings["train.batch_size"]
    order = torch.randperm(len(x))
    for step in range(steps):
        first = step * size % (len(x) - size + 1)
        batch = order[first : first + size]
        optimizer.param_groups[0]["lr"] = rate_at(step, settings)
        loss = nn.functional.cross_entropy(network(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        report = health.inspect(network, step=step, lr=optimizer.param_groups[0]["lr"])
        warned.append(name_warnings(report.warnings))
        losses.append(loss.item())
        spike = scope.step(loss.item(), batch_index=step)
        if spike:
            direction = "rise" if spike["spike_score"] > 0 else "fall"
            spikes.setdefault(direction, step)
        optimizer.step()
        autopsy.step(loss=loss.item())
        if not math.isfinite(loss.item()):
            break
    scope.detach()
    autopsy.detach()
    is_finite = math.isfinite(losses[-1])
    last_steps = LAST_STEPS if is_finite else 1
    found = autopsy.get_report().findings
    directions = [f"{direction}:{step}" for direction, step in spikes.items()]
    return {
        "train_loss": f"{np.mean(losses[-LABELS.END :]):.4g}",
        "torchmortem": " ".join(find_categories(found, "CRITICAL")),
        "torchmortem_warnings": " ".join(find_categories(found, "WARNING")),
        "trainscope": " ".join(directions),
        "traintools": " ".join(find_lasting(warned[-last_steps:])),
    }


def name_warnings(sentences: Sequence[str]) -> set[str]:
    """The kinds of traintools' warnings of one step."""
    names = set()
    for name, words in WARNINGS.items():
        if any(words in sentence for sentence in sentences):
            names.add(name)
    return names


def find_lasting(warned: Sequence[set[str]]) -> list[str]:
    """The kinds of warnings that more than half of some steps have."""
    lasting = []
    for name in WARNINGS:
        is_warned = [name in names for names in warned]
        if np.mean(is_warned) > 0.5:
            lasting.append(name)
    return lasting


def find_categories(found: Sequence[Any], severity: str) -> list[str]:
    """The categories of torchmortem's findings of a severity."""
    return sorted({finding.category for finding in found if finding.severity.name == severity})


def find_plain_runs() -> dict[str, Settings]:
    """The first plain network of each family of the test split, then the second of each, by name.

    Names and order are those of the sweep.
    """
    by_family: dict[str, list[str]] = {}
    everything = expected_runs("verdict_benchmark")
    for name, label in zip(everything, LABELS.frozen_labels(), strict=True):
        settings = everything[name]
        is_scored = label.is_unhealthy is not None
        is_first = settings["seed"] == LABELS.FIRST_TEST_SEED
        if is_scored and is_first and is_plain(settings):
            by_family.setdefault(label.family, []).append(name)
    plain = {}
    for number in range(RUNS_OF_FAMILY):
        for names in by_family.values():
            for name in names[number : number + 1]:
                plain[name] = everything[name]
    return plain


def read_rows(file: Path) -> dict[str, dict[str, str]]:
    """The rows of a table that an earlier call has written, by the name of the run."""
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        rows = {row["run"]: row for row in reader}
        return rows if reader.fieldnames == list(COLUMNS) else {}


def main() -> None:
    """Examines the plain networks of the test split that ``peers.csv`` lacks, and adds them."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    file = Path(__file__).parent / FILE
    examined = read_rows(file)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(examined.values())
        stream.flush()
        for name, settings in find_plain_runs().items():
            if name in examined:
                continue
            with tempfile.TemporaryDirectory() as folder:
                found = examine(settings, Path(folder))
            writer.writerow({"run": name, **found})
            stream.flush()
            print(name, found, flush=True)


if __name__ == "__main__":
    main()
