"""PyTorch's train step: the same network, trained eagerly and measured with the same gauges.

``HookTrainer`` uses hooks as PyTorch's documentation shows them: one for each layer and gauge, each
number read out at once, the default SGD. ``Trainer`` is tuned as far as eager mode allows:
statistics stay tensors and are stacked once a step, the norms of the parameters' gradients come
from one call, and the optimizer is the fused one. Inputs are standardised beforehand; norms are
plain sums of squares.
"""

import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # an extra
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]  # an extra
from torch.linalg import vector_norm  # pyright: ignore[reportMissingImports]  # an extra

from research.benchmark import torch_loop
from research.benchmark.loop_settings import LoopRun
from research.benchmark.steps import StepTimer
from research.benchmark.torch_networks import Network, copy_weights, make_network
from research.config.options import Adam, Momentum, Optimizer
from research.runner.run_setup import RunSetup

ONE_BATCH = ("measure=norms", "train.batch_size=128", "data.limit=128")


class Trainer:
    """Trains a network step by step and keeps what each step measured.

    Args:
        network: The network, which is trained in place.
        optimizer: Our optimizer: ``momentum`` or ``adamw``, with a leading axis M over runs.
        gauges: Whether the gradients and activations of every layer are measured.
    """

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer,
        *,
        gauges: bool,
    ):
        self.network = network
        self.num_parameters = []  # of each layer
        for layer in (network.embed, *network.blocks, network.head):
            self.num_parameters.append(len(list(layer.parameters())))
        self.parameters = list(network.parameters())
        self.optimizer = make_optimizer(self.parameters, optimizer, fused=True)
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
        last = self.measured[-1]
        return {name: value.cpu().numpy() for name, value in last.items()}


class HookTrainer(Trainer):
    """Trains with a hook for each layer and gauge, each of which reads its number out."""

    def __init__(self, network: Network, optimizer: Optimizer):
        super().__init__(network, optimizer, gauges=False)
        self.optimizer = make_optimizer(self.parameters, optimizer)
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


def make_optimizer(
    parameters: list[nn.Parameter],
    optimizer: Optimizer,
    **options: bool,
) -> torch.optim.Optimizer:
    """PyTorch's counterpart of our optimizer.

    Args:
        parameters: What it updates.
        optimizer: Our optimizer: ``momentum`` or ``adamw``, with a leading axis M over runs.
        **options: How PyTorch computes it: ``fused``.

    Raises:
        ValueError: PyTorch's side has no such optimizer.
    """
    learning_rate = _first(optimizer.learning_rate)
    weight_decay = _first(optimizer.weight_decay)
    match optimizer:
        case Momentum():
            return torch.optim.SGD(
                parameters,
                learning_rate,
                momentum=_first(optimizer.momentum),
                weight_decay=weight_decay,
                **options,
            )
        case Adam():
            return torch.optim.AdamW(
                parameters,
                learning_rate,
                betas=(_first(optimizer.beta1), _first(optimizer.beta2)),
                eps=_first(optimizer.epsilon),
                weight_decay=weight_decay,
                **options,
            )
    raise ValueError(f"optimizer must be momentum or adamw, got {optimizer.kind.name}")


def _first(values: Any) -> float:
    """The number of the first run."""
    return float(values[0])


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
        device: Where PyTorch computes.
    """

    def __init__(
        self,
        setup: RunSetup,
        params: Any,
        *,
        style: str,
        device: str = "cpu",
    ):
        self.setup = setup
        self.params = params
        self.style = style
        self.device = device
        data = setup.data
        rows = np.asarray(data["x"], np.float32)
        scale = np.asarray(data["scale"], np.float32)
        offset = np.asarray(data["offset"], np.float32)
        labels = np.asarray(data["y"], np.int64)
        self.x = torch.from_numpy((rows - offset) * scale).to(device)
        self.y = torch.from_numpy(labels).to(device)
        self.batch_size = setup.program_config.batch_size

    def make_trainer(self) -> Trainer:
        """A trainer with the initial weights."""
        network = make_network(self.setup, self.params).to(self.device)
        return STYLES[self.style](network, self.setup.hp.optimizer)

    def time(self, steps: int) -> float:
        """Trains ``steps`` steps from the initial weights; returns the seconds of a step."""
        trainer = self.make_trainer()
        self._wait_for_device()
        start = time.perf_counter()
        steps_per_epoch = len(self.x) // self.batch_size
        for step in range(steps):
            position = step % steps_per_epoch
            if position == 0:
                permutation = torch.randperm(len(self.x), device=self.device)
            first = position * self.batch_size
            batch = permutation[first : first + self.batch_size]
            trainer.step(self.x[batch], self.y[batch])
        self._wait_for_device()
        return (time.perf_counter() - start) / steps

    def _wait_for_device(self) -> None:
        """An accelerator computes while Python goes on."""
        if self.device != "cpu":
            torch.accelerator.synchronize()

    def first_step(self) -> dict[str, np.ndarray]:
        """What the first step measures on the first examples."""
        trainer = self.make_trainer()
        x = self.x[: self.batch_size]
        y = self.y[: self.batch_size]
        trainer.step(x, y)
        return trainer.last_step()


def find_device() -> str:
    """PyTorch's name of the kind of device on which JAX computes.

    Raises:
        ValueError: JAX computes on an accelerator, and PyTorch finds none.
    """
    if jax.default_backend() == "cpu":
        return "cpu"
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        raise ValueError("JAX computes on an accelerator, and PyTorch finds none")
    return accelerator.type


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Multiplies float32 matrices with this precision on GPUs, in PyTorch and in JAX.

    Args:
        precision: ``tf32`` rounds the factors to 10 bits, as JAX does by default; ``ieee`` does
            not.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = precision
    # JAX's default is not set, because that would compile the same programs again.
    jax_precision = (
        jax.default_matmul_precision("float32") if precision == "ieee" else nullcontext()
    )
    try:
        with jax_precision:
            yield
    finally:
        for backend, precision_before in zip(backends, before, strict=True):
            backend.fp32_precision = precision_before


def disagreement(style: str, *overrides: str) -> float:
    """The largest relative difference between PyTorch's and our gauges on the first step.

    The training set is one batch, so that its order does not matter. A mean is compared on the
    scale of its RMS. Neither side rounds the factors of matrix products.
    """
    with matmul_precision("ieee"):
        ours = StepTimer(*overrides, *ONE_BATCH, steps=1)
        params = ours.initial_state().params
        theirs = TorchStepTimer(ours.setup, params, style=style, device=find_device())
        our_values = ours.first_step()
        their_values = theirs.first_step()
    return _largest_difference(our_values, their_values)


def loop_disagreement(run: LoopRun, *overrides: str) -> float:
    """The same between the gauges of the PyTorch loop and ours.

    Args:
        run: The network.
        *overrides: Further settings of ours, from which the initial weights come.
    """
    with matmul_precision("ieee"):
        ours = StepTimer(*ONE_BATCH, *_our_overrides(run), *overrides, steps=1)
        params = ours.initial_state().params
        our_values = ours.first_step()
    network = torch_loop.Network(run)
    copy_weights(params, to=network)
    data = TorchStepTimer(ours.setup, params, style="hooks")
    trainer = torch_loop.Trainer(network, run)
    measured = trainer.step(data.x, data.y)
    their_values = {name: value.numpy() for name, value in measured.items()}
    return _largest_difference(our_values, their_values)


def _our_overrides(run: LoopRun) -> list[str]:
    return [
        f"activation={run.activation}",
        f"skip={run.skip}",
        f"model.depth={run.depth}",
        f"model.width={run.width}",
        f"seed={run.seed}",
    ]


def _largest_difference(
    our_values: Mapping[str, np.ndarray],
    their_values: Mapping[str, np.ndarray],
) -> float:
    """The largest relative difference of what both sides measured, by name."""
    scales = {**our_values, "activation_mean": our_values["activation_rms"]}
    differences = []
    for name, their_value in their_values.items():
        difference = np.abs(our_values[name] - their_value) / scales[name]
        differences.append(np.max(difference))
    return float(max(differences))
