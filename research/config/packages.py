"""Packages that only some settings and commands need, and the extras that install them."""

from importlib.util import find_spec

EXTRA_OF_PACKAGE = {
    "submitit": "cluster",
    "ray": "ray",
    "wandb_workspaces": "workspace",
    "tensorboardX": "tensorboard",
    "trackio": "trackio",
    "mlflow": "mlflow",
}
PACKAGE_OF_TRACKER = {"tensorboard": "tensorboardX", "trackio": "trackio", "mlflow": "mlflow"}


def describe_missing_package(name: str) -> str:
    """The line for a package of an extra that is not installed."""
    return f"{name} is not installed: pip install 'fathom-gradients[{EXTRA_OF_PACKAGE[name]}]'"


def is_installed(name: str) -> bool:
    """Whether a package can be imported; it is not imported."""
    return find_spec(name) is not None
