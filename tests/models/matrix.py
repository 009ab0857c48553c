"""Every combination of model, cell, skip, norm and placement that is allowed, and how one is made ready."""

import functools
import itertools

from research.config import schema as config
from research.config.compatibility import check_compatibility
from research.runner import run_setup as job
from research.training.precision import scope

KINDS = [(kind.name, "elman") for kind in config.ModelKind] + [
    ("rnn", cell.name) for cell in config.Cell
][1:]
GROUPS = (
    KINDS,
    *(
        [option.name for option in group]
        for group in (config.SkipKind, config.NormKind, config.Placement)
    ),
)
DEPTHS = {"mlp": 3, "cnn": 3, "resnet_cifar": 8, "resnet": 18, "transformer": 2, "rnn": 4}
LAYERS = {
    "mlp": 3,
    "cnn": 3,
    "resnet_cifar": 3,
    "resnet": 4,
    "transformer": 4,
    "rnn": 4,
}  # resnet: with one block a stage
ALLOWED = {
    "mlp": 205,
    "cnn": 205,
    "resnet_cifar": 201,
    "resnet": 201,
    "transformer": 167,
    "rnn": 60 + 3 + 3,
}
INSIDE = {
    "grad_norm",
    "branch_grad",
    "skip_grad",
    "saturated",
    "dead",
    "weight_norm",
    "update_norm",
    "update_ratio",
}
SIGNALS = {"signal_grad", "activation_rms", "activation_mean"}


def configured(model, skip, norm, placement, *, depth=None, precision="float32"):
    """A small network of these options, everything measured."""
    kind, cell = model
    made = config.Config()
    made.model = config.Model(
        config.ModelKind[kind], depth or DEPTHS[kind], width=4, heads=2, expansion=2
    )
    made.model.cell = config.Cell[cell]
    made.skip = config.Skip(config.SkipKind[skip], branch_scale=0.7, shortcut_scale=0.9, growth=2)
    made.norm = config.Norm(config.NormKind[norm], groups=2, placement=config.Placement[placement])
    made.activation.kind = config.ActivationKind.tanh
    made.init.kind = config.InitKind.lecun
    made.init.sigma_b = 0.1
    made.optimizer = config.Optimizer(config.OptimizerKind.sgd, learning_rate=0.5)
    made.precision.kind = config.PrecisionKind[precision]
    made.data = config.Data(config.DataKind.noise, shape=[8, 8, 1], classes=3, examples=8)
    made.train = config.Train(steps=2, batch_size=4)
    made.measure.level = config.Level.full
    return made


def is_allowed(options):
    try:
        check_compatibility(configured(*options))
    except ValueError:
        return False
    return True


MATRIX = [options for options in itertools.product(*GROUPS) if is_allowed(options)]


@functools.cache
def prepared(options, **changes):
    """The program's description and the numbers of one run."""
    made = configured(*options, **changes)
    with scope(made.precision.kind.name):
        ready = job.make_run_setup(made)
        batch = ready.data["x"][:4].astype(ready.spec.architecture.dtype), ready.data["y"][:4]
        return ready.spec, {path: value[0] for path, value in ready.hp.items()}, batch
