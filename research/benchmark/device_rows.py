"""The rows of ``fathom bench --device``: the performance table of one accelerator."""

import functools
import os
from dataclasses import dataclass, replace

from research.benchmark import processes, steps, torch_rows, watching
from research.benchmark.rows import Row
from research.benchmark.steps import StepTimer
from research.benchmark.timing import Measurement, ReportProgress, compare

GAUGES_BUDGET = 1.03
RUNS_BUDGET = 100
COLD_BUDGET = 4.0  # seconds
WARM_BUDGET = 2.5  # seconds


@dataclass(frozen=True)
class Network:
    """A network that the rows time.

    Attributes:
        name: The word of the rows' names.
        description: Its size, in words.
        overrides: The network and its data.
        steps: The number of steps in a timing.
    """

    name: str
    description: str
    overrides: tuple[str, ...]
    steps: int


@dataclass(frozen=True)
class Sizes:
    """How much the rows measure.

    Attributes:
        mlp: Many layers, each of which is less work than its launch.
        resnet: Convolutions.
        transformer: Large matrix products.
        watched_mlp: Somebody's own residual network.
        watched_transformer: Somebody's own transformer.
        runs: The number of runs that are trained as one program.
        pairs: The number of pairs of timings.
        torch_pairs: The same of the rows that compare with PyTorch.
        starts: How often a process is started.
        has_budgets: Whether the numbers of such sizes are compared with the budgets.
    """

    mlp: Network
    resnet: Network
    transformer: Network
    watched_mlp: watching.Case
    watched_transformer: watching.Case
    runs: int
    pairs: int
    torch_pairs: int
    starts: int
    has_budgets: bool


FULL = Sizes(
    mlp=Network(
        "mlp",
        "MLP of depth 50 and width 64, batch 128",
        steps.MLP,
        steps=60,
    ),
    resnet=Network(
        "resnet",
        "ResNet-20 on 32×32 pixels, batch 128",
        (
            "model=resnet_cifar",
            "model.depth=20",
            "data=noise",
            "data.shape=[32,32,3]",
            "data.examples=2560",
            "train.batch_size=128",
        ),
        steps=20,
    ),
    transformer=Network(
        "transformer",
        "transformer of 6 blocks and width 512 on 128 positions, batch 64",
        (
            "model=transformer",
            "model.depth=6",
            "model.width=512",
            "model.heads=8",
            "data=noise",
            "data.shape=[128,32]",
            "data.examples=1280",
            "train.batch_size=64",
        ),
        steps=20,
    ),
    watched_mlp=watching.Case(
        "12 residual blocks of width 1,024, batch 4,096",
        watching.Network(watching.FeedForward, depth=12, width=1024),
        (4096,),
        steps=20,
    ),
    watched_transformer=watching.Case(
        "6 blocks of width 512 on 64 × 128 tokens",
        watching.Network(watching.TransformerBlock, depth=6, width=512),
        (64, 128),
        steps=20,
    ),
    runs=512,
    pairs=20,
    torch_pairs=10,
    starts=3,
    has_budgets=True,
)
QUICK = Sizes(
    mlp=Network(
        "mlp",
        "MLP of depth 4 and width 8, batch 16",
        ("model.depth=4", "model.width=8", "data=noise", "train.batch_size=16"),
        steps=2,
    ),
    resnet=Network(
        "resnet",
        "ResNet-8 of 4 channels on 8×8 pixels, batch 16",
        (
            "model=resnet_cifar",
            "model.depth=8",
            "model.width=4",
            "data=noise",
            "data.shape=[8,8,3]",
            "train.batch_size=16",
        ),
        steps=2,
    ),
    transformer=Network(
        "transformer",
        "transformer of 2 blocks and width 16 on 6 positions, batch 16",
        (
            "model=transformer",
            "model.depth=2",
            "model.width=16",
            "data=noise",
            "data.shape=[6,5]",
            "train.batch_size=16",
        ),
        steps=2,
    ),
    watched_mlp=watching.Case(
        "2 residual blocks of width 8, batch 4",
        watching.Network(watching.FeedForward, depth=2, width=8),
        (4,),
    ),
    watched_transformer=watching.Case(
        "2 blocks of width 8 on 2 × 4 tokens",
        watching.Network(watching.TransformerBlock, depth=2, width=8),
        (2, 4),
    ),
    runs=3,
    pairs=2,
    torch_pairs=2,
    starts=1,
    has_budgets=False,
)


def make_rows(sizes: Sizes) -> dict[str, Row]:
    """The rows by name, in the table's order."""
    rows = []
    networks = (sizes.mlp, sizes.resnet, sizes.transformer)
    for network in networks:
        rows.append(_gauges_row(network, sizes))
    rows.append(_watch_row("mlp", sizes.watched_mlp, sizes))
    rows.append(_watch_row("transformer", sizes.watched_transformer, sizes))
    rows.append(_runs_row(sizes))
    for network in networks:
        rows.append(_torch_row(network, "hooks", sizes))
        rows.append(_torch_row(network, "tuned", sizes))
    rows.append(_bfloat16_row(sizes))
    rows += _first_step_rows(sizes)
    by_name = {}
    for row in rows:
        by_name[row.name] = row if sizes.has_budgets else replace(row, bound="", budget=0.0)
    return by_name


def _gauges_row(network: Network, sizes: Sizes) -> Row:
    return Row(
        f"device_gauges_{network.name}",
        f"{network.description}: step with the default gauges / bare step",
        functools.partial(
            steps.compare_steps,
            subject=("measure=norms",),
            baseline=("measure=off",),
            network=network.overrides,
            steps=network.steps,
            pairs=sizes.pairs,
        ),
        bound="≤",
        budget=GAUGES_BUDGET,
    )


def _watch_row(
    name: str,
    case: watching.Case,
    sizes: Sizes,
) -> Row:
    return Row(
        f"device_watch_{name}",
        f"{case.description}: step that fathom.watch measures / the same step without it",
        functools.partial(watching.compare_own_steps, case=case, pairs=sizes.pairs),
        bound="≤",
        budget=GAUGES_BUDGET,
    )


def _runs_row(sizes: Sizes) -> Row:
    return Row(
        "device_runs",
        f"default network, batch 128: {sizes.runs} times the step of one run / "
        f"the step of {sizes.runs} runs as one program",
        functools.partial(compare_runs, sizes=sizes),
        bound="≥",
        budget=RUNS_BUDGET,
    )


def compare_runs(report_progress: ReportProgress, *, sizes: Sizes) -> Measurement:
    """The steps of many runs, one after the other / as one program."""
    overrides = ("data=digits", "train.batch_size=128")
    one_run = StepTimer(*overrides, steps=sizes.mlp.steps)
    all_runs = StepTimer(*overrides, steps=sizes.mlp.steps, runs=sizes.runs)

    def time_one_after_the_other() -> float:
        return one_run.time() * sizes.runs

    return compare(time_one_after_the_other, all_runs.time, sizes.pairs, report_progress)


def _torch_row(
    network: Network,
    style: str,
    sizes: Sizes,
) -> Row:
    names = {"hooks": "", "tuned": "_tuned"}
    descriptions = {
        "hooks": "PyTorch eager with hooks that measure the same",
        "tuned": "the same, PyTorch tuned by hand",
    }
    return Row(
        f"device_torch_{network.name}{names[style]}",
        f"{network.description}: {descriptions[style]} / step with the default gauges",
        functools.partial(
            torch_rows.compare_torch_steps,
            style=style,
            overrides=network.overrides,
            steps=network.steps,
            repetitions=sizes.torch_pairs,
        ),
    )


def _bfloat16_row(sizes: Sizes) -> Row:
    network = sizes.transformer
    return Row(
        "device_bfloat16",
        f"{network.description}: step of mixed_bfloat16 with the default gauges / of float32",
        functools.partial(
            steps.compare_steps,
            subject=("precision=mixed_bfloat16",),
            baseline=("precision=float32",),
            network=network.overrides,
            steps=network.steps,
            pairs=sizes.pairs,
        ),
    )


def _first_step_rows(sizes: Sizes) -> list[Row]:
    cold = Row(
        "device_first_step_cold",
        "first step of the default run, nothing compiled before",
        functools.partial(processes.time_cold_start, repetitions=sizes.starts),
        bound="≤",
        budget=COLD_BUDGET,
        unit=" s",
    )
    warm = Row(
        "device_first_step_warm",
        "first step of the default run, compilation cache filled",
        functools.partial(processes.time_warm_start, repetitions=sizes.starts),
        bound="≤",
        budget=WARM_BUDGET,
        unit=" s",
    )
    return [cold, warm]


def prepare_device(*, quick: bool) -> None:
    """Lets JAX, PyTorch and processes that are timed share the accelerator's memory.

    It has to be called before JAX starts.

    Args:
        quick: Whether small rows are measured, which need no accelerator.

    Raises:
        ValueError: There is no accelerator.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    if jax.default_backend() == "cpu" and not quick:
        raise ValueError(
            "--device measures an accelerator, and JAX finds only a CPU: "
            "add --quick to try its rows in small, or leave --device out"
        )
