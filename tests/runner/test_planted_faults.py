"""The verdict on trained runs names the layer in which a fault was planted by its setting."""

import pytest

DEPTH = 6


@pytest.mark.slow
@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize("layer", [0, 3, DEPTH - 1])
@pytest.mark.parametrize(
    ("changes", "kind", "code"),
    [
        (["init.layer_gain=0"], "dead", 0),
        (["init.layer_gain=1e-4"], "vanishing", 0),
        (["init.layer_gain=1e6", "optimizer.learning_rate=0"], "exploding", 0),
        (["init.layer_gain=1e38"], "diverged", 1),
        (["precision=float16", "init.layer_gain=1e-12"], "forward_underflow", 0),
        (["precision=float16", "init.layer_gain=1e7"], "diverged", 1),
    ],
)
def test_a_layer_with_other_initial_weights_is_named(trained, changes, kind, code, layer):
    run, result = trained(
        f"model.depth={DEPTH}",
        "norm=none",
        "skip=none",
        f"init.layer={layer}",
        "train.steps=3",
        *changes,
        code=code,
    )

    (finding, *_) = run.info["verdict"]["findings"]
    assert finding["kind"] == kind, result.out
    named = finding["layers"][0][0] if kind == "forward_underflow" else finding["origin"]
    assert named == layer, finding["sentence"]
    if kind != "forward_underflow":
        assert f"layer {layer}" in finding["sentence"]
        assert "init.layer_gain=1" in finding["advice"]


@pytest.mark.slow
@pytest.mark.parametrize("layer", [0, 3, DEPTH - 1])
def test_a_layer_that_is_frozen_is_named(trained, layer):
    run, result = trained(
        f"model.depth={DEPTH}",
        "measure=full",
        f"optimizer.frozen_layer={layer}",
        "train.steps=12",
    )

    origins = {each["kind"]: each["origin"] for each in run.info["verdict"]["findings"]}
    assert origins.get("update_ratio") == layer, result.out


@pytest.mark.slow
@pytest.mark.parametrize("end_value", [0.5, 0.7])
def test_a_loss_that_a_rising_rate_loses_is_found_and_the_first_advice_helps(trained, end_value):
    rate = ["optimizer.schedule=linear", "optimizer.learning_rate=0.01"]
    network = [
        "activation=tanh",
        "norm=none",
        "skip=none",
        "optimizer=momentum",
        "model.depth=4",
        "model.width=32",
        "train.batch_size=32",
        "train.steps=1200",
    ]

    run, result = trained(*network, *rate, f"optimizer.end_value={end_value}")
    found = {each["kind"]: each for each in run.info["verdict"]["findings"]}
    assert "slow_divergence" in found, result.out
    finding = found["slow_divergence"]
    first = finding["remedies"][0]["change"].split()
    mended, _ = trained(*network, *first)

    assert finding["severity"] == "severe", result.out
    assert 100 < finding["first_step"] < 1000
    assert "The learning rate was" in finding["advice"]
    assert not any("optimizer=" in remedy["change"] for remedy in finding["remedies"])
    assert run.info["final"]["train_loss"] > 2
    assert mended.info["final"]["train_loss"] < 0.1
