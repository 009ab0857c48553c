"""PyTorch's train step: the same network, trained eagerly and measured with the same gauges.

``HookTrainer`` uses hooks as PyTorch's documentation shows them: one for each layer and gauge, each
number read out at once, the default SGD. ``Trainer`` is tuned as far as eager mode allows:
statistics stay tensors and are stacked once a step, the norms of the parameters' gradients come
from one call, and the optimizer is the fused one. Inputs are standardised beforehand; norms are
plain sums of squares.
"""

import functools
import time
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # an extra
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]  # an extra
from torch.linalg import vector_norm  # pyright: ignore[reportMissingImports]  # an extra

from research.benchmark.steps import StepTimer
from research.benchmark.torch_networks import Network, make_network
from research.runner.run_setup import RunSetup


class Trainer:
    """Trains a network step by step and keeps what each step measured.

    Args:
        network: The network, which is trained in place.
        learning_rate: The optimizer's learning rate.
        momentum: The optimizer's momentum.
        gauges: Whether the gradients and activations of every layer are measured.
    """

    def __init__(
        self,
        network: Network,
        learning_rate: float,
        momentum: float,
        *,
        gauges: bool,
    ):
        self.network = network
        self.num_parameters = []  # of each layer
        for layer in (network.embed, *network.blocks, network.head):
            self.num_parameters.append(len(list(layer.parameters())))
        self.parameters = list(network.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, learning_rate, momentum, fused=True)
        self.gauges = gauges
        self.forward_statistics: list[Tensor] = []
        self.backward_statistics: list[Tensor] = []
        self.measured: list[dict[str, Tensor]] = []  # of each step, by name
        if gauges:
            for layer in (network.embed, *network.blocks):
                layer.register_forward_hook(self._measure_forward)

    def _measure_forward(
        self,
        layer: nn.Module,
        inputs: tuple,
        h: Tensor,
    ) -> None:
        detached = h.detach()
        rms = vector_norm(detached) / detached.numel() ** 0.5
        self.forward_statistics += [rms, detached.mean()]
        h.register_hook(self._measure_backward)

    def _measure_backward(self, gradient: Tensor) -> None:
        self.backward_statistics.append(vector_norm(gradient))

    def step(self, x: Tensor, y: Tensor) -> None:
        """One update on the batch ``x`` [B, inputs], ``y`` [B]."""
        logits = self.network(x)
        loss = nn.functional.cross_entropy(logits, y)
        self.optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            correct = logits.argmax(1) == y
            metrics = {"train_loss": loss.detach(), "train_accuracy": correct.float().mean()}
            self.measured.append(metrics | self.read_gauges())
        self.optimizer.step()

    def read_gauges(self) -> dict[str, Tensor]:
        """What this step has measured, by name; nothing without gauges."""
        if not self.gauges:
            return {}
        gradients = []
        for parameter in self.parameters:
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        norms = torch.stack(
            torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
        )
        layer_norms = _norms_of_layers(norms, self.num_parameters)
        forward = torch.stack(self.forward_statistics).view(-1, 2)
        # The backward pass goes from the last layer to the first.
        signal = torch.stack(self.backward_statistics).flip(0)
        self.forward_statistics = []
        self.backward_statistics = []
        return {
            "grad_norm": vector_norm(layer_norms),
            "activation_rms": forward[:, 0],
            "activation_mean": forward[:, 1],
            "signal_grad": signal,
            "layer_grad_norm": layer_norms[1:-1],
        }

    def last_step(self) -> dict[str, np.ndarray]:
        """What the last step measured, by name."""
        return {name: value.numpy() for name, value in self.measured[-1].items()}


class HookTrainer(Trainer):
    """Trains with a hook for each layer and gauge, each of which reads its number out."""

    def __init__(
        self,
        network: Network,
        learning_rate: float,
        momentum: float,
    ):
        super().__init__(network, learning_rate, momentum, gauges=False)
        self.optimizer = torch.optim.SGD(self.parameters, learning_rate, momentum)
        self._clear()
        self.parameter_norms = [0.0] * len(self.parameters)
        for layer in (network.embed, *network.blocks):
            layer.register_forward_hook(self._measure_forward)
        self.positions = {}
        for position, parameter in enumerate(self.parameters):
            self.positions[id(parameter)] = position
            parameter.register_post_accumulate_grad_hook(self._measure_parameter)

    def _clear(self) -> None:
        self.rms: list[float] = []
        self.mean: list[float] = []
        self.signal: list[float] = []

    def _measure_forward(
        self,
        layer: nn.Module,
        inputs: tuple,
        h: Tensor,
    ) -> None:
        h.register_hook(self._measure_backward)
        rms = h.detach().square().mean().sqrt()
        mean = h.detach().mean()
        self.rms.append(rms.item())
        self.mean.append(mean.item())

    def _measure_backward(self, gradient: Tensor) -> None:
        self.signal.append(gradient.norm().item())

    def _measure_parameter(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        position = self.positions[id(parameter)]
        self.parameter_norms[position] = parameter.grad.norm().item()

    def read_gauges(self) -> dict[str, Tensor]:
        """What this step has measured, by name."""
        norms = torch.tensor(self.parameter_norms)
        layer_norms = _norms_of_layers(norms, self.num_parameters)
        gauges = {
            "grad_norm": vector_norm(layer_norms),
            "activation_rms": torch.tensor(self.rms),
            "activation_mean": torch.tensor(self.mean),
            # The backward pass goes from the last layer to the first.
            "signal_grad": torch.tensor(self.signal).flip(0),
            "layer_grad_norm": layer_norms[1:-1],
        }
        self._clear()
        return gauges


def _norms_of_layers(parameter_norms: Tensor, num_parameters: list[int]) -> Tensor:
    """The norm of each layer [N] from the norms of its parameters [number of parameters]."""
    norms = [vector_norm(layer) for layer in parameter_norms.split(num_parameters)]
    return torch.stack(norms)


STYLES = {
    "hooks": HookTrainer,
    "tuned": functools.partial(Trainer, gauges=True),
    "bare": functools.partial(Trainer, gauges=False),
}


class TorchStepTimer:
    """PyTorch's train step, from our data and our initial weights.

    Args:
        setup: Our run, whose network and data are used.
        params: Our initial parameters.
        style: One of ``STYLES``.
    """

    def __init__(
        self,
        setup: RunSetup,
        params: Any,
        *,
        style: str,
    ):
        self.setup = setup
        self.params = params
        self.style = style
        data = setup.data
        rows = np.asarray(data["x"], np.float32)
        scale = np.asarray(data["scale"], np.float32)
        offset = np.asarray(data["offset"], np.float32)
        labels = np.asarray(data["y"], np.int64)
        self.x = torch.from_numpy((rows - offset) * scale)
        self.y = torch.from_numpy(labels)
        self.batch_size = setup.program_config.batch_size

    def make_trainer(self) -> Trainer:
        """A trainer with the initial weights."""
        network = make_network(self.setup, self.params)
        optimizer: Any = self.setup.hp.optimizer
        learning_rate = float(optimizer.learning_rate[0])
        momentum = float(optimizer.momentum[0])
        return STYLES[self.style](network, learning_rate, momentum)

    def time(self, steps: int) -> float:
        """Trains ``steps`` steps from the initial weights; returns the seconds of a step."""
        trainer = self.make_trainer()
        start = time.perf_counter()
        steps_per_epoch = len(self.x) // self.batch_size
        for step in range(steps):
            position = step % steps_per_epoch
            if position == 0:
                permutation = torch.randperm(len(self.x))
            first = position * self.batch_size
            batch = permutation[first : first + self.batch_size]
            trainer.step(self.x[batch], self.y[batch])
        return (time.perf_counter() - start) / steps

    def first_step(self) -> dict[str, np.ndarray]:
        """What the first step measures on the first examples."""
        trainer = self.make_trainer()
        x = self.x[: self.batch_size]
        y = self.y[: self.batch_size]
        trainer.step(x, y)
        return trainer.last_step()


def disagreement(style: str, *overrides: str) -> float:
    """The largest relative difference between PyTorch's and our gauges on the first step.

    The training set is one batch, so that its order does not matter. A mean is compared on the
    scale of its RMS.
    """
    one_batch = ("measure=norms", "train.batch_size=128", "data.limit=128")
    ours = StepTimer(*overrides, *one_batch, steps=1)
    theirs = TorchStepTimer(ours.setup, ours.initial_state().params, style=style)
    our_values = ours.first_step()
    scales = our_values | {"activation_mean": our_values["activation_rms"]}
    differences = []
    for name, their_value in theirs.first_step().items():
        difference = np.abs(our_values[name] - their_value) / scales[name]
        differences.append(np.max(difference))
    return float(max(differences))
