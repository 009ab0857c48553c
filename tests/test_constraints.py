"""``constraints.txt`` serves every Python that ``pyproject.toml`` admits."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11.7", "3.12.1", "3.13.0")


def pinned_versions(python):
    """The version of each package for a Python."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        requirement = Requirement(line)
        environment = {"python_full_version": python, "sys_platform": "linux"}
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        assert requirement.name not in pins, line
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        pins[requirement.name] = specifier.version
    return pins


def requirements():
    """What the package needs, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {}
    for line in project["dependencies"]:
        requirement = Requirement(line)
        needed[requirement.name.replace("_", "-").lower()] = requirement.specifier
    return needed


@pytest.mark.parametrize("python", PYTHONS)
def test_each_python_has_one_version_of_every_package_that_is_needed(python):
    pins = pinned_versions(python)
    for name, specifier in requirements().items():
        assert specifier.contains(pins[name]), name
    assert pins["jax"] == pins["jaxlib"]


@pytest.mark.parametrize("name", ["jax", "flax"])
def test_the_oldest_version_that_is_accepted_is_tested(name):
    oldest = pinned_versions(PYTHONS[0])[name]
    assert str(requirements()[name]) == f">={oldest}"
