"""A sweep in PyTorch as a user would write it: a loop over the runs, with hooks on every layer.

    python -m research.benchmark.torch_loop RUNS.json DIRECTORY --threads 2

trains the runs on the digits, one after the other, and writes one ``.npz`` file for each. It
imports PyTorch, NumPy and scikit-learn alone, so that it starts as such a program would.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # an extra
from sklearn.datasets import load_digits
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]  # an extra
from torch.linalg import vector_norm  # pyright: ignore[reportMissingImports]  # an extra

from research.benchmark.loop_settings import LoopRun, read_runs

TRAIN_EXAMPLES = 1400
PIXELS = 64
CLASSES = 10
ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


class Layer(nn.Module):
    """h ← F(h), or h + F(h)/√depth, with F(h) = W φ(h) + b."""

    def __init__(self, run: LoopRun):
        super().__init__()
        self.activation = ACTIVATIONS[run.activation]
        self.linear = nn.Linear(run.width, run.width)
        self.has_shortcut = run.skip == "inv_sqrt_depth"
        self.branch_scale = run.depth**-0.5

    def forward(self, h: Tensor) -> Tensor:
        """[B, D] → [B, D]."""
        branch = self.linear(self.activation(h))
        if not self.has_shortcut:
            return branch
        return torch.add(h, branch, alpha=self.branch_scale)


class Network(nn.Module):
    """embed → layers → head, with He initialisation."""

    def __init__(self, run: LoopRun):
        super().__init__()
        self.embed = nn.Linear(PIXELS, run.width)
        self.layers = nn.ModuleList([Layer(run) for _ in range(run.depth)])
        self.activation = ACTIVATIONS[run.activation]
        self.head = nn.Linear(run.width, CLASSES)
        for linear in self.linears():
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)

    def linears(self) -> list[nn.Linear]:
        """The linear maps from the input to the output."""
        return [self.embed, *[layer.linear for layer in self.layers], self.head]

    def forward(self, x: Tensor) -> Tensor:
        """The logits [B, C] of ``x`` [B, inputs]."""
        h = self.embed(x)
        for layer in self.layers:
            h = layer(h)
        return self.head(self.activation(h))


class Trainer:
    """Trains a network and measures every layer at every step.

    Args:
        network: The network, which is trained in place.
        run: How it is trained.

    The norms of gradients are summed in float64: in a deep network of sigmoids the squares of a
    gradient are less than float32 can hold.
    """

    def __init__(self, network: Network, run: LoopRun):
        self.network = network
        self.linears = network.linears()
        self.optimizer = torch.optim.SGD(
            network.parameters(),
            run.learning_rate,
            momentum=run.momentum,
        )
        self.activation_rms: list[Tensor] = []
        self.activation_mean: list[Tensor] = []
        self.signal_grad: list[Tensor] = []
        for module in (network.embed, *network.layers):
            module.register_forward_hook(self._measure_forward)

    def _measure_forward(
        self,
        module: nn.Module,
        inputs: tuple,
        h: Tensor,
    ) -> None:
        if not h.requires_grad:  # an evaluation
            return
        h.register_hook(self._measure_backward)
        detached = h.detach()
        self.activation_rms.append(vector_norm(detached) / detached.numel() ** 0.5)
        self.activation_mean.append(detached.mean())

    def _measure_backward(self, gradient: Tensor) -> None:
        self.signal_grad.append(vector_norm(gradient, dtype=torch.float64))

    def step(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """One update on the batch ``x`` [B, inputs], ``y`` [B]; returns what it measured."""
        logits = self.network(x)
        loss = nn.functional.cross_entropy(logits, y)
        self.optimizer.zero_grad()
        loss.backward()
        correct = logits.detach().argmax(1) == y
        measured = {
            "train_loss": loss.detach(),
            "train_accuracy": correct.float().mean(),
            **self._read_gauges(),
        }
        self.optimizer.step()
        return measured

    def _read_gauges(self) -> dict[str, Tensor]:
        norms = torch.stack([_gradient_norm(linear) for linear in self.linears])
        gauges = {
            "grad_norm": vector_norm(norms),
            "layer_grad_norm": norms[1:-1],  # without embedding and head
            "activation_rms": torch.stack(self.activation_rms),
            "activation_mean": torch.stack(self.activation_mean),
            # The backward pass goes from the last layer to the first.
            "signal_grad": torch.stack(self.signal_grad).flip(0),
        }
        self.activation_rms.clear()
        self.activation_mean.clear()
        self.signal_grad.clear()
        return gauges

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Loss and accuracy on examples that are not trained on."""
        with torch.no_grad():
            logits = self.network(x)
            loss = nn.functional.cross_entropy(logits, y)
            accuracy = (logits.argmax(1) == y).float().mean()
        return {"eval_loss": loss, "eval_accuracy": accuracy}


def _gradient_norm(linear: nn.Linear) -> Tensor:
    assert linear.weight.grad is not None
    assert linear.bias.grad is not None
    weight_norm = vector_norm(linear.weight.grad, dtype=torch.float64)
    bias_norm = vector_norm(linear.bias.grad, dtype=torch.float64)
    return torch.hypot(weight_norm, bias_norm)


@dataclass(frozen=True)
class Digits:
    """The standardised digits: ``x`` [examples, pixels] and ``y`` [examples] of both splits."""

    train_x: Tensor
    train_y: Tensor
    eval_x: Tensor
    eval_y: Tensor


def load_data() -> Digits:
    """The digits of scikit-learn in a random order, of which the last ones are not trained on."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x = torch.tensor(images[order], dtype=torch.float32)
    y = torch.tensor(labels[order], dtype=torch.int64)
    raw = x[:TRAIN_EXAMPLES]
    x = (x - raw.mean()) / raw.std()
    return Digits(
        train_x=x[:TRAIN_EXAMPLES],
        train_y=y[:TRAIN_EXAMPLES],
        eval_x=x[TRAIN_EXAMPLES:],
        eval_y=y[TRAIN_EXAMPLES:],
    )


def train(run: LoopRun, data: Digits) -> dict[str, np.ndarray]:
    """Trains a run; evaluates it once an epoch and at the end.

    Returns:
        What every step or evaluation measured, by name, with time as the first axis.
    """
    torch.manual_seed(run.seed)
    trainer = Trainer(Network(run), run)
    history = defaultdict(list)
    steps_per_epoch = TRAIN_EXAMPLES // run.batch_size
    for step in range(run.steps):
        position = step % steps_per_epoch
        if position == 0:
            permutation = torch.randperm(TRAIN_EXAMPLES)
        first = position * run.batch_size
        batch = permutation[first : first + run.batch_size]
        measured = trainer.step(data.train_x[batch], data.train_y[batch])
        if position == steps_per_epoch - 1 or step == run.steps - 1:
            measured |= trainer.evaluate(data.eval_x, data.eval_y)
        for name, value in measured.items():
            history[name].append(value)
    columns = {}
    for name, values in history.items():
        columns[name] = torch.stack(values).numpy()
    return columns


def main() -> None:
    """Trains the runs of a file one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, help="their settings, as JSON")
    parser.add_argument("directory", type=Path, help="where the results are written")
    parser.add_argument("--threads", type=int, required=True, help="threads of PyTorch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_data()
    for run in read_runs(arguments.runs):
        results = train(run, data)
        file = arguments.directory / f"{run.name}.npz"
        np.savez(file, allow_pickle=False, **results)


if __name__ == "__main__":
    main()
