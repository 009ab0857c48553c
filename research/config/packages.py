"""Packages that only some settings and commands need, and the extras that install them."""

from importlib.util import find_spec

from research.config.options import Tracker

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


def check_trackers(tracker: Tracker) -> None:
    """Checks that the packages of the trackers that are switched on are installed.

    Raises:
        ValueError: one is not.
    """
    for name, package in PACKAGE_OF_TRACKER.items():
        if getattr(tracker, name) and not is_installed(package):
            raise ValueError(f"tracker={name}: {describe_missing_package(package)}")
