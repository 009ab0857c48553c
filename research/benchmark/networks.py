"""PyTorch's counterparts of our networks, with our initial weights: what the performance table compares with."""

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # an extra
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]  # an extra

from research.runner.run_setup import RunSetup


class Network(nn.Module):
    """embed → blocks → head. Modules are set in this order, so that ``parameters()`` goes from first to last."""

    def __init__(self, embed: nn.Module, blocks: list[nn.Module], head: nn.Module):
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """The logits of ``x`` [B, inputs]."""
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.head(h)


def network(job: RunSetup, params: Any) -> Network:
    """The counterpart of the job's network (``mlp`` or ``resnet_cifar``) with its parameters of one run (M = 1)."""
    return {"mlp": _mlp, "resnet_cifar": _resnet}[job.spec.architecture.kind](
        job, _of_first_run(params)
    )


def _of_first_run(params: Any) -> dict[str, Any]:
    return {
        key: _of_first_run(value) if hasattr(value, "items") else np.asarray(value[...])[0]
        for key, value in params.items()
    }


def _mlp(_: RunSetup, params: dict[str, Any]) -> Network:
    """Blocks h ← W relu(h) + b."""
    stacked = params["stages"][0]["branch"]["weights"][0]
    blocks = [
        _linear({name: leaf[n] for name, leaf in stacked.items()})
        for n in range(len(stacked["kernel"]))
    ]
    return Network(
        _linear(params["embed"]),
        [nn.Sequential(nn.ReLU(), block) for block in blocks],
        nn.Sequential(nn.ReLU(), _linear(params["head"])),
    )


def _linear(ours: dict[str, np.ndarray]) -> nn.Linear:
    layer = nn.Linear(*ours["kernel"].shape)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(ours["kernel"].T.copy()))
        layer.bias.copy_(torch.from_numpy(ours["bias"].copy()))
    return layer


def _resnet(job: RunSetup, params: dict[str, Any]) -> Network:
    """The original order (He et al. 2016): convolutions and batch norms with shortcuts of option A."""
    height, width, channels = job.spec.architecture.shape
    image = nn.Unflatten(1, (height, width, channels))
    stem = [_conv(params["embed"]["conv"]["kernel"], 1), _norm(params["embed"]["norm"]), nn.ReLU()]
    blocks: list[nn.Module] = [
        Block(_row(stack, n), part.stride)
        for stage, stack in zip(job.spec.architecture.plan, params["stages"].values(), strict=True)
        for part in stage.parts
        for n in range(stage.blocks)
    ]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), _linear(params["head"]))
    return Network(nn.Sequential(image, Permuted(), *stem), blocks, head)


class Permuted(nn.Module):
    """Images with their channels in front, as PyTorch convolves them."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] → [B, C, H, W]."""
        return x.permute(0, 3, 1, 2).contiguous()


class Block(nn.Module):
    """relu(shortcut(h) + norm(conv(relu(norm(conv(h))))))."""

    def __init__(self, ours: dict[str, Any], stride: int):
        super().__init__()
        weights = ours["branch"]["weights"]
        self.first = _conv(weights[0]["kernel"], stride)
        self.second = _conv(weights[1]["kernel"], 1)
        self.inner = _norm(ours["branch"]["norms"][1])
        self.outer = _norm(ours["norm"])

    def forward(self, h: Tensor) -> Tensor:
        """The block's output."""
        stride = self.first.stride[0]
        wider = self.first.out_channels - self.first.in_channels
        shortcut = (
            nn.functional.pad(h[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, wider)) if wider else h
        )
        return torch.relu(shortcut + self.outer(self.second(torch.relu(self.inner(self.first(h))))))


def _row(stack: dict[str, Any], n: int) -> dict[str, Any]:
    return {
        key: _row(value, n) if isinstance(value, dict) else value[n] for key, value in stack.items()
    }


def _conv(kernel: np.ndarray, stride: int) -> nn.Conv2d:
    _, _, inputs, outputs = kernel.shape
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
    return layer


def _norm(ours: dict[str, np.ndarray]) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(len(ours["scale"]))
