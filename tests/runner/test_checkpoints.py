"""A run that is taken up where its checkpoint left it is the run that nobody interrupted."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from research.records.runs import Run
from research.runner.run_writer import RunWriter
from research.training import checkpoint
from research.training.checkpoint import Checkpoints, Writer

SMALL = [
    "model.depth=2",
    "model.width=8",
    "train.steps=25",
    "train.eval_every=5",
    "tracker=none",
    "checkpoint.keep=true",
]
SLOW = [
    "optimizer=adam norm=batch model.dropout=0.2 train.input_noise=0.1 measure.every=2",
    "precision=bfloat16 precision.stochastic_rounding=true",
    "precision=mixed_float16 precision.loss_scaling=dynamic precision.growth_interval=3 measure=full measure.every=3 "
    "measure.exponents_every=7 measure.inspect=[sharpness] measure.inspect_every=6",
    "precision=float64 measure=full skip=identity init.gain=1e-20 model.depth=8",
    "optimizer=gd optimizer.schedule=linear measure=off",
    "model=cnn norm=batch optimizer=muon optimizer.schedule=step",
    "model=transformer data=python_docs optimizer=adamw",
    "data=folder data.path=photos data.in_memory_limit=0 train.batch_size=16 data.flip=true",
]
KINDS = ["", *(pytest.param(words, marks=pytest.mark.slow) for words in SLOW)]
TABLES = ("metrics", "profiles", "inspections")


@pytest.fixture(autouse=True, scope="module")
def _behind_every_chunk():
    """There is a checkpoint behind every chunk, and it is written before the next one."""
    write = Writer.write

    def at_once(writer, runs):
        write(writer, runs)
        writer.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "write", at_once)
        patch.setattr(checkpoint, "REST", 0)
        yield


def starter(fathom, place, monkeypatch):
    """Trains in a folder of that name, up to ``stop`` where it is interrupted without a word; the runs by seed."""
    take = RunWriter.take

    def start(folder, *words, stop=None, raised=KeyboardInterrupt):
        def dies(recording, start, *rest):
            if stop is not None and start >= stop and recording.config.seed == 0:
                raise raised
            take(recording, start, *rest)

        (place / folder).mkdir(exist_ok=True)
        with monkeypatch.context() as patch:
            patch.chdir(place / folder)
            patch.setattr(RunWriter, "take", dies)
            said = fathom("train", *SMALL, "checkpoint.every=1e-9", "name=study", *words)
            runs = [Run(file.parent.absolute()) for file in Path().glob("outputs/study/*/run.json")]
        return {run["seed"]: run for run in runs}, said

    return start


@pytest.fixture
def train(fathom, tmp_path, monkeypatch):
    return starter(fathom, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Random images of two classes; 64 in training: four batches of 16 an epoch."""
    place = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for name in ("train/cats", "train/dogs", "test/cats", "test/dogs"):
        (place / name).mkdir(parents=True)
        for number in range(35 if "train" in name else 5):
            Image.fromarray(draw.integers(256, size=(6, 6), dtype=np.uint8)).save(
                place / name / f"{number}.png"
            )
    return place


def parameters(run, ended=True):
    found = Checkpoints(run.directory).read(lambda: form(run))
    assert found is not None and (found.step == run.info["steps"] or not ended)
    return found.arrays


def form(run):
    """The arrays' own: nothing is known of the network here."""
    import orbax.checkpoint as ocp

    (place,) = (run.directory / "checkpoints").iterdir()
    with ocp.PyTreeCheckpointer() as orbax:
        return {path: (array.shape, array.dtype) for path, array in orbax.restore(place).items()}


def same_rows(run, other):
    files = [
        (run.directory / f"{table}.parquet", other.directory / f"{table}.parquet")
        for table in TABLES
    ]
    there = [(mine, its) for mine, its in files if mine.exists() or its.exists()]
    return all(pq.read_table(mine).equals(pq.read_table(its)) for mine, its in there)


def assert_same(run, other):
    """Bit for bit, but for seconds."""
    assert same_rows(run, other)
    for key in ("id", "status", "steps", "final", "verdict", "parameters", "data"):
        assert run.info[key] == other.info[key], key
    ours = parameters(run)
    theirs = parameters(other)
    assert list(ours) == list(theirs)
    assert all(ours[path].tobytes() == theirs[path].tobytes() for path in ours)


@pytest.mark.parametrize("words", KINDS)
def test_a_run_goes_on_as_if_nobody_had_interrupted_it(train, photos, words):
    words = words.replace("photos", str(photos)).split()
    whole = train("whole", *words)[0][0]
    cut, said = train("cut [1]", *words, stop=11)
    assert (
        said.code == 1
        and cut[0].info["status"] == "interrupted"
        and 11 <= cut[0].info["steps"] < 25
    )
    again, said = train("cut [1]", *words)
    (begun,) = again[0].info["resumed"]
    assert said.code == 0 and begun >= 11 and f"goes on from step {begun}/25" in said.err, said.err
    assert_same(again[0], whole)
    assert {file.name for file in again[0].directory.iterdir()} == {
        file.name for file in whole.directory.iterdir()
    }
    assert again[0].info["seconds"]["train"] > cut[0].info["seconds"]["train"] > 0


GROUPED = ["-m", "hydra/launcher=grouped"]


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_members_of_a_group_go_on_together_and_those_of_other_steps_apart(train, error):
    whole, _ = train("whole", "seed=0", "-m", "seed=0,1,2")
    cut, said = train("cut", *GROUPED, "seed=0,1,2", stop=11, raised=error)
    assert said.code == 1 and cut[0].info["status"] in ("interrupted", "failed")
    if error is KeyboardInterrupt:
        shutil.rmtree(cut[2].directory / "checkpoints")
    again, said = train("cut", *GROUPED, "seed=0,1,2")
    assert said.code == 0, said.err
    assert sorted(again) == sorted(whole) and all(
        same_rows(again[seed], whole[seed]) for seed in whole
    )
    together = [again[seed].info["together"] for seed in range(3)]
    assert together == ([2, 2, 1] if error is KeyboardInterrupt else [1, 3, 3])


@pytest.fixture(scope="module")
def interrupted(fathom, tmp_path_factory):
    """An interrupted run, and the same run whole; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        start = starter(fathom, tmp_path_factory.mktemp("interrupted"), patch)
        return start("cut", stop=11)[0][0], start("whole")[0][0]


def flip(run):
    """One bit of the numbers, wherever they lie: in some files are those of an earlier checkpoint, or none."""
    for file in (run.directory / "checkpoints").rglob("d/*"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


def rewrite(run, arrays=None, **notes):
    """A checkpoint of another origin in its place."""
    import orbax.checkpoint as ocp

    (place,) = (run.directory / "checkpoints").iterdir()
    with ocp.PyTreeCheckpointer() as orbax:
        arrays = arrays or orbax.restore(place)
        notes = dict(orbax.metadata(place).custom_metadata) | notes
        orbax.save(place, arrays, force=True, custom_metadata=notes)


def of_another_width(run):
    arrays = parameters(run, ended=False)
    arrays = {path: array[..., :1] if array.ndim else array for path, array in arrays.items()}
    rewrite(run, arrays, sum=checkpoint._sum(arrays))


def last_part(run):
    return sorted((run.directory / "profiles.parts").iterdir())[1]


DAMAGES = {
    "a flipped bit": flip,
    "a truncated file": lambda run: [
        f.write_bytes(b"") for f in (run.directory / "checkpoints").rglob("d/*")
    ],
    "no description": lambda run: next((run.directory / "checkpoints").rglob("_METADATA")).unlink(),
    "nothing of ours": lambda run: rewrite(run, {"a": np.zeros(3)}),
    "another network": of_another_width,
    "another run": lambda run: rewrite(run, id="another"),
    "other data": lambda run: rewrite(run, data="another"),
    "an empty folder": lambda run: [
        shutil.rmtree(f) or f.mkdir() for f in (run.directory / "checkpoints").iterdir()
    ],
    "a missing part": lambda run: last_part(run).unlink(),
    "a damaged part": lambda run: last_part(run).write_bytes(b"PAR1 half"),
}
ALWAYS = ("a flipped bit", "a missing part")


@pytest.mark.parametrize(
    "damage",
    [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in DAMAGES],
)
def test_a_run_whose_checkpoint_is_of_no_use_says_so_and_begins_anew(
    train, interrupted, tmp_path, damage
):
    cut, whole = interrupted
    shutil.copytree(cut.directory.parents[2], tmp_path / "cut")
    DAMAGES[damage](Run(tmp_path / "cut" / cut.directory.relative_to(cut.directory.parents[2])))
    again, said = train("cut")
    lines = [line for line in said.err.splitlines() if "begins anew" in line]
    assert said.code == 0 and len(lines) == 1 and lines[0].startswith("fathom: "), said.err
    assert "goes on" not in said.err and "Traceback" not in said.err and "WARNING" not in said.err
    assert "resumed" not in again[0].info
    assert_same(again[0], whole)


def test_a_disk_that_is_full_costs_the_checkpoint_and_not_the_run(train, interrupted, monkeypatch):
    """The one before stays, and nothing that is half written."""
    import orbax.checkpoint as ocp

    save = ocp.PyTreeCheckpointHandler.save
    seen = []

    def full(handler, directory, *arguments, **named):
        seen.append(
            sorted(place.name.partition(".")[0] for place in Path(directory).parent.iterdir())
        )
        save(handler, directory, *arguments, **named)
        if "10" in seen[-1]:
            raise OSError(28, "No space left on device", str(directory))

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "save", full)
    runs, said = train("full")
    assert (
        said.code == 0 and said.err.count("No space left") == 1 and "training goes on" in said.err
    ), said.err
    failed = next(n for n, places in enumerate(seen) if "10" in places)
    before = set(seen[failed]) - {"10"}
    behind = set(seen[failed + 1])
    assert len(before) == 1 and before < behind and len(behind) == 2 and "10" not in behind
    assert_same(runs[0], interrupted[1])
