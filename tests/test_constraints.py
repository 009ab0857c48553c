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
        if not is_for(python, requirement):
            continue
        assert requirement.name not in pins, line
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        pins[requirement.name] = specifier.version
    return pins


def is_for(python, requirement):
    """Whether a requirement counts for a Python."""
    environment = {"python_full_version": python, "sys_platform": "linux"}
    return not requirement.marker or requirement.marker.evaluate(environment)


def requirements(python):
    """What the package needs with a Python, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {}
    for line in project["dependencies"]:
        requirement = Requirement(line)
        if not is_for(python, requirement):
            continue
        needed[requirement.name.replace("_", "-").lower()] = requirement.specifier
    return needed


@pytest.mark.parametrize("python", PYTHONS)
def test_each_python_has_one_version_of_every_package_that_is_needed(python):
    pins = pinned_versions(python)
    for name, specifier in requirements(python).items():
        assert specifier.contains(pins[name]), name
    assert pins["jax"] == pins["jaxlib"]


@pytest.mark.parametrize("name", ["jax", "flax"])
def test_the_oldest_version_that_is_accepted_is_tested(name):
    oldest = pinned_versions(PYTHONS[0])[name]
    assert str(requirements(PYTHONS[0])[name]) == f">={oldest}"


@pytest.mark.parametrize("python", PYTHONS)
def test_no_flax_is_accepted_that_the_newest_jax_has_outgrown(python):
    """Flax 0.12.8 admits JAX 0.12 and cannot be imported with it."""
    assert str(requirements(python)["flax"]) == f">={pinned_versions(python)['flax']}"
