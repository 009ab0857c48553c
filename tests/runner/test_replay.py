"""``fathom replay`` on runs with an injected fault: it names the step, the layer and the batch."""

import json

import numpy as np
import pytest

from research.records.replayed import read_replayed
from research.records.runs import Run
from research.reporting.replays import describe_replayed
from research.runner.replay import replay_run

from .faults import (
    DEPTHS,
    NETWORKS,
    STEPS,
    bad_rate,
    is_named,
    nan_weight,
    overflow,
    spoiled_batch,
    spoiled_examples,
    train_with_fault,
)

FAULTS = [  # those that share most of their steps with others are slow
    pytest.param(nan_weight("relu", 12, 3), marks=pytest.mark.slow, id="weight"),
    pytest.param(spoiled_batch("relu", 24, spoiled=1), marks=pytest.mark.slow, id="batch"),
    pytest.param(overflow("relu", 4, 2), id="overflow"),
    pytest.param(bad_rate("relu", 15), marks=pytest.mark.slow, id="rate"),
]
NAMED_SHARE = 0.95


def many_faults(network):
    """20 faults: four kinds, five of each at other steps and in other layers."""
    generator = np.random.default_rng(sorted(NETWORKS).index(network))
    faults = []
    for seed in range(5):
        layers = generator.integers(0, DEPTHS[network], 2).tolist()
        steps = generator.integers(2, STEPS - 6, 4).tolist()
        faults += [
            nan_weight(network, steps[0], layers[0], seed),
            overflow(network, steps[1], layers[1], seed),
            spoiled_batch(network, 22 + steps[2] % 9, seed),
            bad_rate(network, max(steps[3], 6), seed),
        ]
    return faults


@pytest.fixture(scope="module")
def replayed(fathom, tmp_path_factory):
    """Trains a run with a fault and replays it; returns the run, what was found, the command."""

    def replay(fault, *options):
        place = tmp_path_factory.mktemp(fault.name)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            run = train_with_fault(fathom, place, fault)
            result = fathom("replay", str(run.directory), *options)
            assert result.code == 0, result.err
            run = Run(run.directory.absolute())
        found = read_replayed(run.directory)
        assert found is not None
        return run, found, result

    return replay


@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_replay_names_what_was_injected(replayed, fault):
    options = [] if fault.kind == "overflow" else ["--no-search"]
    run, found, result = replayed(fault, *options)
    assert is_named(fault, found), result.out
    assert found.first_difference is None
    assert describe_replayed(found) in result.out
    assert "equal the record bit for bit" in result.out
    if fault.kind == "batch":
        assert found.suspects == spoiled_examples(fault)
    if fault.kind == "overflow":
        prevention = found.prevention
        assert prevention is not None, result.out
        assert (prevention.first_layer, prevention.last_layer) == (fault.layer, fault.layer + 1)


@pytest.mark.slow
@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize("network", NETWORKS)
def test_nearly_all_of_20_faults_are_named(replayed, network):
    missed = []
    faults = many_faults(network)
    for fault in faults:
        _, found, result = replayed(fault, "--no-search")
        print(fault.name, is_named(fault, found), describe_replayed(found))
        if not is_named(fault, found) or found.first_difference is not None:
            missed.append(f"{fault}\n{result.out}")
    share = 1 - len(missed) / len(faults)
    assert len(faults) == 20
    assert share >= NAMED_SHARE, "\n".join(missed)


@pytest.mark.slow
def test_under_other_settings_of_jax_nothing_is_replayed(finished, monkeypatch):
    """The steps would not be those of the run."""
    directory, _ = finished
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    with pytest.raises(ValueError, match="XLA_FLAGS was .*is .*fast_math.*: set them as they were"):
        replay_run(Run(directory), to=3)


def test_json_and_show_hold_what_was_found(replayed, fathom):
    run, found, result = replayed(overflow("relu", 4, 2), "--json")
    (printed,) = json.loads(result.out)
    assert printed["origin"]["layer"] == 2
    assert printed["prevention"]["number_format"] == found.prevention.number_format
    assert printed["headline"] in fathom("show", str(run.directory)).out
