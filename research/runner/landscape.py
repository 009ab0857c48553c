"""The loss around, before and between finished runs, from the checkpoints that they kept."""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from research.runner.kept import load_snapshot, read_config
from research.training.inspections import (
    INTERPOLATION_COORDINATES,
    inspect_snapshot,
    landscape_loss,
    num_landscape_examples,
)
from research.training.landscape import difference, losses_on_line
from research.training.precision import precision_context

PLANE_MARGIN = 0.25  # how far a plane goes on beyond the path, as a share of its extent
PLANE_POINTS = 25  # a side


@dataclass(frozen=True)
class Landscape:
    """The loss around a trained network.

    Attributes:
        coordinates: of the surface, in units of each filter's norm [A].
        surface: the loss on a plane of two filter-normalised directions, in nats [A, A].
        lines: the loss along four more directions [4, A].
        interpolation: the loss on the line from the initial weights to the final ones [26].
        num_examples: how many training examples, the first in stored order, the loss is that of.
        between: the loss on the line to the weights of another run [26]; None without one.
    """

    coordinates: np.ndarray
    surface: np.ndarray
    lines: np.ndarray
    interpolation: np.ndarray
    num_examples: int
    between: np.ndarray | None = None


@dataclass(frozen=True)
class PathPlane:
    """The loss on the plane in which a path of training lies best, in weight space.

    Attributes:
        path: the coordinates of each point of the path; the last one is 0, 0 [S, 2].
        shares: the share of the path's variance along each axis [2].
        first: the coordinates of the grid along the first axis [25].
        second: the coordinates of the grid along the second axis [25].
        losses: the loss at the points of the grid, in nats [25, 25].
    """

    path: np.ndarray
    shares: np.ndarray
    first: np.ndarray
    second: np.ndarray
    losses: np.ndarray


def measure_landscape(directory: Path, other: Path | None = None) -> Landscape:
    """Measures the loss around the final weights of a run.

    Cost: about 400 forward passes of 512 examples.

    Args:
        directory: the run.
        other: another run of the same network, whose weights the line ``between`` leads to.

    Raises:
        ValueError: a run kept no checkpoint, or the networks differ.
    """
    # First, because it refuses another network before anything long is measured.
    between = None if other is None else losses_between(directory, other)
    with precision_context(read_config(directory).precision.kind.name):
        snapshot = load_snapshot(directory)
        inspect = jax.jit(lambda: inspect_snapshot(snapshot, ("loss_surface", "interpolation")))
        measured = jax.device_get(inspect())
    return Landscape(
        coordinates=measured["surface_coordinate"],
        surface=measured["surface_loss"],
        lines=measured["line_loss"],
        interpolation=measured["interpolation_loss"],
        num_examples=num_landscape_examples(snapshot),
        between=between,
    )


def losses_between(start: Path, end: Path) -> np.ndarray:
    """The training loss on the straight line between the final weights of two runs [26], in nats.

    Args:
        start: the run at coordinate 0, whose training examples are used.
        end: the run at coordinate 1.

    Raises:
        ValueError: a run kept no checkpoint, or the networks differ.
    """
    with precision_context(read_config(start).precision.kind.name):
        first = load_snapshot(start)
        last = load_snapshot(end)
        shapes = [jax.tree.map(jnp.shape, each.state.params) for each in (first, last)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{start} and {end} must be networks of the same shape")
        params = first.state.params
        direction = difference(last.state.params, params)
        loss = landscape_loss(first)
        coordinates = jnp.asarray(INTERPOLATION_COORDINATES, ravel_pytree(params)[0].dtype)
        on_line = jax.jit(lambda: losses_on_line(loss, params, direction, coordinates))
        return np.asarray(on_line())


def losses_along_path(directory: Path, path: np.ndarray) -> PathPlane:
    """The training loss around the path of a run, on the plane of its two principal components.

    The plane goes through the end of the path. Cost: 625 forward passes of 512 examples.

    Args:
        directory: the run, which kept its checkpoint.
        path: the weights at several steps [S, P], as ``measure.inspect=[parameters]`` records them.

    Raises:
        ValueError: the run kept no checkpoint.

    References:
        Li et al., Visualizing the loss landscape of neural nets, 2018, §7.
    """
    points = path - path[-1]
    _, values, axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    coordinates = points @ axes[:2].T
    first = _grid(coordinates[:, 0])
    second = _grid(coordinates[:, 1])
    with precision_context(read_config(directory).precision.kind.name):
        snapshot = load_snapshot(directory)
        loss = landscape_loss(snapshot)
        flat, restore = ravel_pytree(snapshot.state.params)

        def loss_at(point: jax.Array) -> jax.Array:
            return loss(restore(flat + (point @ axes[:2]).astype(flat.dtype)))

        grid = np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1)
        on_grid = jax.jit(lambda points: jax.lax.map(loss_at, points))
        losses = on_grid(jnp.asarray(grid.reshape(-1, 2), flat.dtype))
    return PathPlane(
        path=coordinates,
        shares=values[:2] ** 2 / np.sum(values**2),
        first=first,
        second=second,
        losses=np.asarray(losses).reshape(len(first), len(second)),
    )


def _grid(coordinates: np.ndarray) -> np.ndarray:
    """Evenly spaced coordinates from a little before the least to a little after the greatest."""
    low = float(coordinates.min())
    high = float(coordinates.max())
    margin = PLANE_MARGIN * (high - low)
    return np.linspace(low - margin, high + margin, PLANE_POINTS)
