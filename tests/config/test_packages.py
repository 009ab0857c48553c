"""What is said of packages that are not installed."""

import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from research.config.packages import REQUIRED_PACKAGES, describe_missing_package

PROJECT_FILE = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("torch.nn", "torch is not installed: pip install 'fathom-gradients[bench]'"),
        (
            "PIL.Image",
            "PIL is not installed: pip install fathom-gradients installs what Fathom needs",
        ),
        ("seaborn", "the module seaborn is not installed, and Fathom does not bring it"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(module, line):
    assert describe_missing_package(module) == line


def test_the_required_packages_are_those_of_the_project():
    project = tomllib.loads(PROJECT_FILE.read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^\w-]", each)[0].lower() for each in project["dependencies"]}
    modules = {}
    for module, distributions in packages_distributions().items():
        for distribution in distributions:
            modules.setdefault(distribution.lower(), set()).add(module)
    for name in names:
        assert modules[name] & set(REQUIRED_PACKAGES), name
