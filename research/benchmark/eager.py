"""The PyTorch rows of the performance table: the same network trained eagerly, the same gauges beside it.

Twice: with hooks as its documentation shows them (one a layer and gauge, every number read out, the default SGD),
and tuned within eager mode (statistics stay tensors and are stacked once a step, the parameters' gradient norms come
from one call, the optimizer is the fused one). Inputs are standardised beforehand; norms are plain sums of squares.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # an extra
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]  # an extra
from torch.linalg import vector_norm  # pyright: ignore[reportMissingImports]  # an extra

from research.benchmark.networks import Network, network
from research.benchmark.rows import Steps, best_served
from research.benchmark.table import Measured, Tick, side_by_side
from research.runner.run_setup import RunSetup

TOLERANCE = 1e-3  # relative: two ways of rounding 50 layers forward and backward in float32
SGD = ("lr", "momentum")
GAUGES = ("grad_norm", "activation_rms", "activation_mean", "signal_grad", "layer_grad_norm")


class Trainer:
    """Trains a network step by step and keeps what each step measured; with ``gauges``, of every layer."""

    def __init__(self, network: Network, numbers: Mapping[str, Any], *, gauges: bool):
        self.network = network
        self.counts = [
            len(list(layer.parameters()))
            for layer in (network.embed, *network.blocks, network.head)
        ]
        self.parameters = list(self.network.parameters())
        rate, momentum = (
            float(numbers[f"optimizer.{name}"][0]) for name in ("learning_rate", "momentum")
        )
        self.optimizer = torch.optim.SGD(self.parameters, rate, momentum, fused=True)
        self.gauges = gauges
        self.forward: list[Tensor] = []
        self.backward: list[Tensor] = []
        self.kept: list[tuple[Tensor, ...]] = []
        if gauges:
            for layer in (self.network.embed, *self.network.blocks):
                layer.register_forward_hook(self._watch)

    def _watch(self, layer: nn.Module, inputs: tuple, h: Tensor) -> None:
        detached = h.detach()
        self.forward += [vector_norm(detached) / detached.numel() ** 0.5, detached.mean()]
        h.register_hook(lambda gradient: self.backward.append(vector_norm(gradient)))

    def step(self, x: Tensor, y: Tensor) -> None:
        """One update on the batch ``x`` [B, inputs], ``y`` [B]."""
        logits = self.network(x)
        loss = nn.functional.cross_entropy(logits, y)
        self.optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            accuracy = (logits.argmax(1) == y).float().mean()
            self.kept.append((loss.detach(), accuracy, *self._profile(x)))
        self.optimizer.step()

    def _profile(self, x: Tensor) -> tuple[Tensor, ...]:
        if not self.gauges:
            return ()
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norms = torch.stack(torch._foreach_norm(grads))  # pyright: ignore[reportPrivateImportUsage]
        layers = torch.stack([vector_norm(layer) for layer in norms.split(self.counts)])
        forward = torch.stack(self.forward).view(-1, 2)
        signal = torch.stack(self.backward).flip(0)
        self.forward = []
        self.backward = []
        return vector_norm(layers), forward[:, 0], forward[:, 1], signal, layers[1:-1]

    def last(self) -> dict[str, np.ndarray]:
        """What the last step measured, by name."""
        names = ("train_loss", "train_accuracy", *GAUGES)
        return {name: value.numpy() for name, value in zip(names, self.kept[-1], strict=False)}


class Hooked(Trainer):
    """Trains with a hook a layer and gauge, each of which reads its number out."""

    def __init__(self, network: Network, numbers: Mapping[str, Any]):
        super().__init__(network, numbers, gauges=False)
        self.optimizer = torch.optim.SGD(
            self.parameters, **{name: self.optimizer.defaults[name] for name in SGD}
        )
        self.seen: dict[str, list[float]] = {name: [] for name in ("rms", "mean", "signal")}
        self.norms = [0.0] * len(self.parameters)
        for layer in (self.network.embed, *self.network.blocks):
            layer.register_forward_hook(self._forward)
        self.order = {id(parameter): n for n, parameter in enumerate(self.parameters)}
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._parameter)

    def _forward(self, layer: nn.Module, inputs: tuple, h: Tensor) -> None:
        h.register_hook(lambda gradient: self._note("signal", gradient.norm()))
        self._note("rms", h.detach().square().mean().sqrt())
        self._note("mean", h.detach().mean())

    def _parameter(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self.norms[self.order[id(parameter)]] = parameter.grad.norm().item()

    def _note(self, name: str, value: Tensor) -> None:
        self.seen[name].append(value.item())

    def _profile(self, x: Tensor) -> tuple[Tensor, ...]:
        """As ``GAUGES`` orders them; backward hooks run from the last layer to the first."""
        seen = {name: torch.tensor(values) for name, values in self.seen.items()}
        self.seen = {name: [] for name in self.seen}
        layers = torch.stack(
            [vector_norm(layer) for layer in torch.tensor(self.norms).split(self.counts)]
        )
        return vector_norm(layers), seen["rms"], seen["mean"], seen["signal"].flip(0), layers[1:-1]


STYLES = {
    "hooks": Hooked,
    "tuned": functools.partial(Trainer, gauges=True),
    "bare": functools.partial(Trainer, gauges=False),
}


class EagerSteps:
    """PyTorch's train step on the data of ``job``, from the weights ``params`` of ours, in one of ``STYLES``."""

    def __init__(self, job: RunSetup, params: Any, *, style: str):
        self.job = job
        self.params = params
        self.style = style
        rows, scale, offset = (
            np.asarray(job.data[name], np.float32) for name in ("x", "scale", "offset")
        )
        self.x = torch.from_numpy((rows - offset) * scale)
        self.y = torch.from_numpy(np.asarray(job.data["y"], np.int64))
        self.batch = job.spec.batch_size

    def trainer(self) -> Trainer:
        """A trainer at the initial weights."""
        return STYLES[self.style](network(self.job, self.params), self.job.hp)

    def time(self, steps: int) -> float:
        """Trains so many steps from the initial weights; returns seconds a step."""
        trainer = self.trainer()
        start = time.perf_counter()
        per_epoch = len(self.x) // self.batch
        for step in range(steps):
            position = step % per_epoch
            if position == 0:
                order = torch.randperm(len(self.x))
            chosen = order[position * self.batch : (position + 1) * self.batch]
            trainer.step(self.x[chosen], self.y[chosen])
        return (time.perf_counter() - start) / steps

    def first_step(self) -> dict[str, np.ndarray]:
        """What the first step measures on the first examples."""
        trainer = self.trainer()
        trainer.step(self.x[: self.batch], self.y[: self.batch])
        return trainer.last()


def against_ours(
    tick: Tick, sizes: Sequence[str], *, style: str, steps: int, repetitions: int
) -> Measured:
    """PyTorch's step / ours, both measuring all gauges or none; refuses to compare what measures different numbers."""
    worst = max(disagreement(name, *sizes) for name in ("hooks", "tuned"))
    if not worst < TOLERANCE:
        raise RuntimeError(
            f"PyTorch and Fathom measure different numbers from the same weights, by {worst:.2g}"
        )
    ours = Steps(*sizes, "measure=off" if style == "bare" else "measure=norms", steps=steps)
    theirs = functools.partial(EagerSteps(ours.job, ours.initial().params, style=style).time, steps)
    threads = best_served(theirs, torch.set_num_threads)
    return side_by_side(theirs, ours.time, repetitions, tick, f", PyTorch threads: {threads}")


def disagreement(style: str, *overrides: str) -> float:
    """The greatest relative difference between what PyTorch and we measure on the first step, over all gauges.

    On a training set of one batch, so that its order does not matter. A mean is compared on the scale of its RMS.
    """
    ours = Steps(*overrides, "measure=norms", "train.batch_size=128", "data.limit=128", steps=1)
    theirs = EagerSteps(ours.job, ours.initial().params, style=style).first_step()
    seen = ours.first_step()
    scales = seen | {"activation_mean": seen["activation_rms"]}
    return float(
        max(np.max(np.abs(seen[name] - value) / scales[name]) for name, value in theirs.items())
    )
