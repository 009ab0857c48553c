"""PyTorch's counterparts of our networks, with our initial weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # an extra
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]  # an extra

from research.benchmark import torch_loop
from research.config.options import ModelKind, Transformer
from research.runner.run_setup import RunSetup

LAYER_NORM_EPSILON = 1e-6  # that of Flax; PyTorch's default is 1e-5
Params = dict[str, Any]  # our parameters: nested by name, the leaves are arrays


class Network(nn.Module):
    """embed → blocks → head; ``parameters()`` yields them in this order."""

    def __init__(
        self,
        embed: nn.Module,
        blocks: Sequence[nn.Module],
        head: nn.Module,
    ):
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """The logits [B, classes] of ``x`` [B, inputs]."""
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.head(h)


def make_network(setup: RunSetup, params: Any) -> Network:
    """The PyTorch network with the weights of the first run.

    Args:
        setup: The runs, of the model ``mlp``, ``resnet_cifar`` or ``transformer``; the transformer
            as an encoder that reads numbers, with its default settings.
        params: Our parameters, with a leading axis M over runs.
    """
    params_of_first_run = _select_first_run(params)
    match setup.program_config.architecture.model.kind:
        case ModelKind.resnet_cifar:
            return _make_resnet(setup, params_of_first_run)
        case ModelKind.transformer:
            return _make_transformer(setup, params_of_first_run)
    return _make_mlp(params_of_first_run)


def _select_first_run(params: Any) -> Params:
    selected = {}
    for key, value in params.items():
        if hasattr(value, "items"):
            selected[key] = _select_first_run(value)
        else:
            selected[key] = np.asarray(value[...])[0]
    return selected


def _select_layer(stacked: Params, layer: int) -> Params:
    """The parameters of one layer, from parameters that are stacked on a leading layer axis."""
    selected = {}
    for key, value in stacked.items():
        if isinstance(value, dict):
            selected[key] = _select_layer(value, layer)
        else:
            selected[key] = value[layer]
    return selected


def _make_mlp(params: Params) -> Network:
    """The blocks are h ← W relu(h) + b."""
    stacked = params["stages"][0]["branch"]["weights"][0]
    blocks = []
    for layer in range(len(stacked["kernel"])):
        linear = _make_linear(_select_layer(stacked, layer))
        blocks.append(nn.Sequential(nn.ReLU(), linear))
    embed = _make_linear(params["embed"])
    head = nn.Sequential(nn.ReLU(), _make_linear(params["head"]))
    return Network(embed, blocks, head)


def copy_weights(params: Any, *, to: torch_loop.Network) -> None:
    """Gives a network of the PyTorch loop the weights of the first run.

    Args:
        params: Our parameters of the model ``mlp``, with a leading axis M over runs.
        to: A network of the same size.
    """
    params_of_first_run = _select_first_run(params)
    stacked = params_of_first_run["stages"][0]["branch"]["weights"][0]
    layers = [params_of_first_run["embed"]]
    for layer in range(len(stacked["kernel"])):
        layers.append(_select_layer(stacked, layer))
    layers.append(params_of_first_run["head"])
    for linear, layer_params in zip(to.linears(), layers, strict=True):
        _copy_linear(layer_params, to=linear)


def _make_linear(params: Params) -> nn.Linear:
    layer = nn.Linear(*params["kernel"].shape)
    _copy_linear(params, to=layer)
    return layer


def _copy_linear(params: Params, *, to: nn.Linear) -> None:
    _copy(params["kernel"].T, to=to.weight)
    _copy(params["bias"], to=to.bias)


def _copy(values: np.ndarray, *, to: Tensor) -> None:
    contiguous = values.copy()
    with torch.no_grad():
        to.copy_(torch.from_numpy(contiguous))


def _make_resnet(setup: RunSetup, params: Params) -> Network:
    """The original residual network for CIFAR (He et al. 2016), with shortcuts of option A."""
    architecture = setup.program_config.architecture
    height, width, channels = architecture.shape
    embed = nn.Sequential(
        nn.Unflatten(1, (height, width, channels)),
        ChannelsFirst(),
        _make_conv(params["embed"]["conv"]["kernel"], 1),
        _make_norm(params["embed"]["norm"]),
        nn.ReLU(),
    )
    blocks = []
    stacks = params["stages"].values()
    for stage, stacked in zip(architecture.plan, stacks, strict=True):
        for part in stage.parts:
            for layer in range(stage.blocks):
                layer_params = _select_layer(stacked, layer)
                blocks.append(ResidualBlock(layer_params, part.stride))
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        _make_linear(params["head"]),
    )
    return Network(embed, blocks, head)


class ChannelsFirst(nn.Module):
    """Moves the channels of images to where PyTorch's convolutions expect them."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] → [B, C, H, W]."""
        return x.permute(0, 3, 1, 2).contiguous()


class ResidualBlock(nn.Module):
    """relu(shortcut(h) + norm(conv(relu(norm(conv(h))))))."""

    def __init__(self, params: Params, stride: int):
        super().__init__()
        weights = params["branch"]["weights"]
        self.stride = stride
        self.first_conv = _make_conv(weights[0]["kernel"], stride)
        self.second_conv = _make_conv(weights[1]["kernel"], 1)
        self.first_norm = _make_norm(params["branch"]["norms"][1])
        self.second_norm = _make_norm(params["norm"])

    def forward(self, h: Tensor) -> Tensor:
        """The block's output [B, C', H / stride, W / stride] for ``h`` [B, C, H, W]."""
        branch = torch.relu(self.first_norm(self.first_conv(h)))
        branch = self.second_norm(self.second_conv(branch))
        return torch.relu(self._shortcut(h) + branch)

    def _shortcut(self, h: Tensor) -> Tensor:
        """Option A: subsamples the image and pads the new channels with zeros."""
        new_channels = self.first_conv.out_channels - self.first_conv.in_channels
        if not new_channels:
            return h
        stride = self.stride
        subsampled = h[:, :, ::stride, ::stride]
        padding = (0, 0, 0, 0, 0, new_channels)  # of width, height and channels
        return nn.functional.pad(subsampled, padding)


def _make_conv(kernel: np.ndarray, stride: int) -> nn.Conv2d:
    _, _, inputs, outputs = kernel.shape
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    _copy(kernel.transpose(3, 2, 0, 1), to=layer.weight)
    return layer


def _make_norm(params: Params) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(len(params["scale"]))


def _make_transformer(setup: RunSetup, params: Params) -> Network:
    """An encoder that normalises in front of each branch; attention and feed-forward are layers."""
    architecture = setup.program_config.architecture
    assert isinstance(architecture.model, Transformer)
    attention_stack = params["stages"][0]
    feed_forward_stack = params["stages"][1]
    blocks = []
    for block in range(architecture.model.depth):
        layer_params = _select_layer(attention_stack, block)
        attention = Attention(layer_params["branch"], architecture.model.heads)
        blocks.append(ResidualLayer(_make_layer_norm(layer_params["norm"]), attention))
        layer_params = _select_layer(feed_forward_stack, block)
        feed_forward = _make_feed_forward(layer_params["branch"])
        blocks.append(ResidualLayer(_make_layer_norm(layer_params["norm"]), feed_forward))
    embed = SequenceEmbedding(params["embed"])
    head = nn.Sequential(
        _make_layer_norm(params["norm"]),
        MeanOverPositions(),
        _make_linear(params["head"]),
    )
    return Network(embed, blocks, head)


class SequenceEmbedding(nn.Module):
    """A vector for each position of a sequence of numbers, plus a learned one for the position."""

    def __init__(self, params: Params):
        super().__init__()
        self.linear = _make_linear(params["linear"])
        self.positions = nn.Parameter(torch.empty(params["positions"].shape))
        _copy(params["positions"], to=self.positions)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T·P] → [B, T, D]."""
        length = len(self.positions)
        vectors = x.unflatten(1, (length, -1))
        return self.linear(vectors) + self.positions


class ResidualLayer(nn.Module):
    """h + branch(norm(h))."""

    def __init__(self, norm: nn.Module, branch: nn.Module):
        super().__init__()
        self.norm = norm
        self.branch = branch

    def forward(self, h: Tensor) -> Tensor:
        """[B, T, D] → [B, T, D]."""
        return h + self.branch(self.norm(h))


class Attention(nn.Module):
    """Multi-head attention with PyTorch's fused kernel."""

    def __init__(self, params: Params, heads: int):
        super().__init__()
        self.heads = heads
        self.query = _make_linear(params["query"])
        self.key = _make_linear(params["key"])
        self.value = _make_linear(params["value"])
        self.out = _make_linear(params["out"])

    def forward(self, z: Tensor) -> Tensor:
        """[B, T, D] → [B, T, D]."""
        query = self._split_heads(self.query(z))
        key = self._split_heads(self.key(z))
        value = self._split_heads(self.value(z))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        concatenated = mixed.transpose(1, 2).flatten(2)
        return self.out(concatenated)

    def _split_heads(self, x: Tensor) -> Tensor:
        """[B, T, D] → [B, H, T, K]."""
        by_head = x.unflatten(-1, (self.heads, -1))
        return by_head.transpose(1, 2)


class MeanOverPositions(nn.Module):
    """The mean of a sequence's vectors."""

    def forward(self, h: Tensor) -> Tensor:
        """[B, T, D] → [B, D]."""
        return h.mean(1)


def _make_feed_forward(params: Params) -> nn.Module:
    weights = params["weights"]
    first = _make_linear(weights[0])
    second = _make_linear(weights[1])
    return nn.Sequential(first, nn.GELU(), second)


def _make_layer_norm(params: Params) -> nn.LayerNorm:
    return nn.LayerNorm(len(params["scale"]), eps=LAYER_NORM_EPSILON)
