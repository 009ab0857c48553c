"""Packages that only some settings and commands need, and the extras that install them."""

from importlib.util import find_spec

from research.config.options import Tracker

EXTRA_OF_PACKAGE = {
    "submitit": "cluster",
    "ray": "ray",
    "optuna": "search",
    "tensorflow": "catalog",
    "torch": "bench",
    "wandb_workspaces": "workspace",
    "tensorboardX": "tensorboard",
    "trackio": "trackio",
    "mlflow": "mlflow",
}
# Packages that come with Fathom, as they are imported.
REQUIRED_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "hydra", "omegaconf", "wandb", "tensorflow_datasets"),
    *("importlib_resources", "array_record", "orbax", "grain", "PIL", "sklearn", "numpy", "scipy"),
    *("joblib", "pyarrow", "matplotlib", "plotly", "rich", "jaxtyping"),
)
PACKAGE_OF_SWEEPER = {"optuna": "optuna"}
PACKAGE_OF_LAUNCHER = {"submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}
PACKAGE_OF_TRACKER = {"tensorboard": "tensorboardX", "trackio": "trackio", "mlflow": "mlflow"}


OWN_PACKAGES = ("research", "fathom", "hydra_plugins")


def describe_missing_package(name: str) -> str:
    """The line for a package that is not installed, with what installs it if Fathom needs it.

    Args:
        name: the name of the package or of a module in it.
    """
    package = name.partition(".")[0]
    if package in EXTRA_OF_PACKAGE:
        extra = EXTRA_OF_PACKAGE[package]
        return f"{package} is not installed: pip install 'fathom-gradients[{extra}]'"
    if package in REQUIRED_PACKAGES:
        return (
            f"{package} is not installed: pip install fathom-gradients installs what Fathom needs"
        )
    return f"the module {package} is not installed, and Fathom does not bring it"


def is_foreign(module: str | None) -> bool:
    """Whether a module is of another package than Fathom's own."""
    return module is not None and module.partition(".")[0] not in OWN_PACKAGES


def is_installed(name: str) -> bool:
    """Whether a package can be imported; it is not imported."""
    return find_spec(name) is not None


def describe_missing_sweeper(name: str) -> str | None:
    """The line for a sweeper that an extra brings; None if there is no such sweeper."""
    package = PACKAGE_OF_SWEEPER.get(name)
    return f"hydra/sweeper={name}: {describe_missing_package(package)}" if package else None


def check_launcher(name: str) -> None:
    """Checks that the package of a launcher is installed.

    Args:
        name: the option of ``hydra/launcher``.

    Raises:
        ValueError: it is not.
    """
    package = PACKAGE_OF_LAUNCHER.get(name)
    if package and not is_installed(package):
        raise ValueError(f"hydra/launcher={name}: {describe_missing_package(package)}")


def check_trackers(tracker: Tracker) -> None:
    """Checks that the packages of the trackers that are switched on are installed.

    Raises:
        ValueError: one is not.
    """
    for name, package in PACKAGE_OF_TRACKER.items():
        if getattr(tracker, name) and not is_installed(package):
            raise ValueError(f"tracker={name}: {describe_missing_package(package)}")
