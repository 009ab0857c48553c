"""Settings that an earlier version recorded, read as the present version understands them."""

import dataclasses
import random
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from research.config.earlier_settings import complete_settings, to_present_config
from research.config.hydra_config import read_recorded_config
from research.config.schema import OPTIONS, Config, flatten, is_group, selector_of
from research.records.runs import flatten_dict

from ..described import own_data as own_data
from .test_conf import NEEDED, OPTION_FILES, compose, composed

SHARE_KEPT = 0.7


def recorded_settings(group, name):
    """The settings of a run with an option, as Hydra records them."""
    words = (f"{group}={name}", *NEEDED.get((group, name), ()))
    config = composed(*words)
    node = compose(*words)
    node.model.depth = config.model.depth
    settings: Any = OmegaConf.to_container(node, enum_to_str=True)
    return settings


def drop_some(tree, seed):
    """The settings that a version with fewer of them would have recorded."""
    chance = random.Random(seed)
    kept = {}
    for group, values in tree.items():
        if not isinstance(values, dict):
            kept[group] = values
            continue
        names = (selector_of(group), "path", "dataset", "depth", "placement")
        inside = {}
        for name, value in values.items():
            if name in names or chance.random() < SHARE_KEPT:
                inside[name] = value
        kept[group] = inside
    return kept


@pytest.mark.parametrize(("group", "name"), OPTION_FILES)
@pytest.mark.usefixtures("own_data")
def test_every_option_is_read_as_omegaconf_reads_it(tmp_path, group, name):
    recorded = drop_some(recorded_settings(group, name), seed=f"{group}={name}")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(recorded))

    config = to_present_config(flatten_dict(recorded))

    assert config is not None
    assert flatten(config) == flatten(read_recorded_config(file))


@pytest.mark.parametrize(("group", "name"), OPTION_FILES)
@pytest.mark.usefixtures("own_data")
def test_a_record_of_today_is_complete(group, name):
    recorded = flatten_dict(recorded_settings(group, name))
    assert complete_settings(recorded) == recorded


def test_a_setting_of_another_option_did_nothing():
    config = to_present_config({"model.kind": "mlp", "model.heads": 4, "skip.growth": 12})
    assert config == Config()


@pytest.mark.parametrize(
    "recorded",
    [{"model.swirl": 1}, {"swirl": 1}, {"model.kind": "swirl"}, {"skip.kind": "swirl"}],
    ids=str,
)
def test_what_there_is_no_longer_stays_as_it_was_recorded(recorded):
    assert to_present_config(recorded) is None
    assert complete_settings(recorded) == recorded


def test_groups_that_a_record_lacks_are_at_their_defaults():
    settings = complete_settings({"seed": 3, "name": 2026})
    assert settings["seed"] == 3
    assert settings["name"] == "2026"
    groups = {path.partition(".")[0] for path in settings if "." in path}
    fields = dataclasses.fields(Config)
    assert groups == {item.name for item in fields if is_group(item.default)}
    assert groups >= set(OPTIONS)
