"""What the README and docs/ say is so: commands work, Python runs, tables are complete."""

import dataclasses
import importlib
import importlib.util
import re
import shutil
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml

import research
from hydra_plugins.fathom_grouped_launcher import GroupedLauncherConf
from research.benchmark.device_rows import FULL, make_rows
from research.benchmark.rows import ROWS
from research.cli.parser import COMMANDS
from research.config import options, schema
from research.diagnosis import findings, observed, training_findings, underflow
from research.gauges import table as gauge_table
from research.gauges.table import (
    DIAGNOSTICS,
    EXPONENT_GAUGES,
    GAUGES,
    METRICS,
    TRACKED_DIAGNOSTICS,
    Entries,
)
from research.reproduce.experiments import experiment_names, read_duration
from research.runner.run_spec import to_checked_config

from .described import own_data as own_data
from .docs_blocks import BLOCKS, COMMAND_LINES, PAGES, ROOT, CommandLine, compose_training

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TRAIN_LINES = [line for line in COMMAND_LINES if line.words[:2] == ["fathom", "train"]]
OTHER_LINES = [line for line in COMMAND_LINES if line not in TRAIN_LINES]
WANDB_COMMANDS = ("leet", "sweep", "agent")
TUTORIAL_SWEEP = next(
    line for line in TRAIN_LINES if line.page == "docs/tutorial.md" and "-m" in line.words
)
EXPERIMENT_GUIDE = "docs/guides/adding-an-experiment.md"
BENCHMARK_ROWS = {*ROWS, *make_rows(FULL)}
READING = (["fathom", "show"], ["fathom", "runs"], ["fathom", "table"])
DRAWING = ("plot", "table", "compare")
OWN_RUNS = "docs/guides/own-runs.md"
SLOW_PAGES = ("docs/guides/watch.md", "docs/guides/predict.md")  # whose Python compiles for a while
SMALL = ["train.steps=1", "model.width=8", "tracker=none"]


def page(name: str) -> str:
    return (ROOT / name).read_text()


def label(line: CommandLine) -> str:
    return f"{line.page}: {line.text}"


# Commands


@pytest.fixture
def data_of_the_pages(own_data, tmp_path):
    """The datasets and folders that the pages name, with a regression of the reader's own."""
    del own_data
    (tmp_path / "downloads").mkdir()
    np.savez(tmp_path / "regression.npz", x=np.eye(200, 3), y=np.linspace(0, 1, 200))


@pytest.mark.parametrize("line", TRAIN_LINES, ids=label)
@pytest.mark.usefixtures("data_of_the_pages")
def test_training_commands_compose_and_fit_their_data(line):
    assert isinstance(to_checked_config(compose_training(line)), schema.Config)


@pytest.mark.parametrize("line", OTHER_LINES, ids=label)
def test_every_other_command_exists(line):
    program, *words = line.words
    check = CHECKS.get(program)
    assert check, f"no test knows the program {program}"
    check(words)


def check_fathom(words):
    command = COMMANDS.get(words[0])
    assert command
    names = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    if words[0] in ("reproduce", "figure"):
        scale = names.pop() if "--scale" in words else ""
        known = [name.removeprefix("paper/") for name in experiment_names(scale)]
        assert set(names) <= {*known, "all", "lessons"}
    if words[0] == "bench":
        assert set(names) <= BENCHMARK_ROWS
    if words[0] == "runs":
        filters = [re.split("[=<>!]", word)[0] for word in words[1:] if re.search("[=<>]", word)]
        paths = schema.setting_paths()
        for path in filters:
            assert {path, f"{path}.kind", f"{path}.name"} & {*paths, "status", "verdict"}


def check_make(words):
    (target,) = words
    assert re.search(rf"^{target}:", page("Makefile"), re.M)


def check_pip(words):
    assert words[:3] == ["install", "-c", "constraints.txt"]
    assert words[3] == "-e"
    (extras,) = re.fullmatch(r"\.\[([\w,]+)\]", words[4]).groups()  # type: ignore[union-attr]
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def check_python(words):
    assert words[0] == "-m"
    module, *rest = words[1:]
    assert module == "venv" or importlib.util.find_spec(module)
    if module == "pytest":
        paths = [word for word in rest if word.startswith("tests")]
        for path in paths:
            assert (ROOT / path.partition("::")[0]).exists()


def check_wandb(words):
    assert words[0] in WANDB_COMMANDS
    if words[0] == "sweep":
        assert (ROOT / words[1]).exists()


def check_paths(words):
    for word in words:
        if "/" in word and not word.startswith((".venv", "-")):
            assert (ROOT / word).exists()


def check_anything(words):
    del words


CHECKS = {
    "fathom": check_fathom,
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "python3": check_python,
    "wandb": check_wandb,
    "ruff": check_paths,
    "pyright": check_paths,
    "mkdocs": check_anything,
    "pre-commit": check_anything,
    "source": check_anything,
    "git": check_anything,
}


def test_every_block_says_what_it_is():
    languages = {block.language for block in BLOCKS}
    assert languages == {"bash", "console", "python", "text", "yaml"}


def read_examples() -> list[tuple[str, str]]:
    """The commands of console blocks with what they print."""
    examples = []
    for block in BLOCKS:
        if block.language == "console":
            examples += re.findall(r"^\$ (fathom .*)\n((?:[^$].*\n)+)", block.text, re.M)
    return examples


@pytest.mark.parametrize(("command", "printed"), read_examples())
def test_a_mistake_gives_the_error_that_is_shown(fathom, workplace, command, printed):
    said = fathom(*command.split()[1:])
    assert said.code == 2
    assert said.err == printed


def test_the_search_of_wandb_sweeps_settings_that_exist():
    search = yaml.safe_load(page("docs/examples/wandb_sweep.yaml"))
    known = {*schema.setting_paths(), *schema.OPTIONS}
    assert set(search["parameters"]) <= known
    metric_keys = {metric.key for metric in METRICS}
    assert search["metric"]["name"] in metric_keys


def test_the_readme_says_how_long_the_demo_takes():
    (experiment,) = re.findall(r"fathom reproduce (\w+)", page("Makefile"))
    assert f"make demo    # {read_duration(experiment)}," in page("README.md")


# Python, really run


@pytest.fixture(scope="module")
def place_of_tutorial(fathom, tmp_path_factory) -> Path:
    """A directory with the runs of the tutorial, which here are small."""
    place = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("research.runner.run_setup.FAST_COMPILE_STEPS", 10**9)
        first = fathom("train", "model.depth=64", "activation=sigmoid", "name=first", *SMALL)
        assert first.code == 0, first.err
        sweep = fathom(*TUTORIAL_SWEEP.words[1:], *SMALL)
        assert sweep.code == 0, sweep.err
    return place


def run_python_of(name: str) -> int:
    """Runs the Python blocks of a page one after the other, and returns how many there are."""
    variables: dict = {}
    num_blocks = 0
    for block in BLOCKS:
        if block.page == name and block.language == "python" and not block.title:
            exec(compile(block.text, name, "exec"), variables)
            num_blocks += 1
    return num_blocks


def pages_with_python():
    blocks = [block for block in BLOCKS if block.language == "python" and not block.title]
    for name in sorted({block.page for block in blocks}):
        yield pytest.param(name, marks=pytest.mark.slow if name in SLOW_PAGES else ())


@pytest.mark.parametrize("name", list(pages_with_python()))
def test_python_of_a_page_runs(name, place_of_tutorial, monkeypatch):
    monkeypatch.chdir(place_of_tutorial)
    assert run_python_of(name) > 0


def test_the_tutorial_draws_its_figure(place_of_tutorial, monkeypatch):
    monkeypatch.chdir(place_of_tutorial)
    run_python_of("docs/tutorial.md")
    assert (place_of_tutorial / "depth.png").stat().st_size > 10_000


def test_the_gauge_of_the_recipe_measures_as_it_is_written():
    (block,) = [block for block in BLOCKS if block.title == "research/gauges/table.py"]
    names = dict(vars(gauge_table))

    exec(compile(textwrap.dedent(block.text), block.page, "exec"), names)

    gauge = names["ACTIVATION_SIZE"]
    half_filled = np.array([[-3.0, 1.0, 0.0, 0.0]], np.float32)
    assert gauge.measure(half_filled, 0.5) == 2.0


def read_reading_lines() -> list[CommandLine]:
    """The commands of the tutorial that read runs."""
    lines = []
    for line in OTHER_LINES:
        if line.page == "docs/tutorial.md" and line.words[:2] in READING:
            lines.append(line)
    return lines


@pytest.mark.parametrize("line", read_reading_lines(), ids=label)
def test_commands_of_the_tutorial_that_read_runs_run(line, fathom, place_of_tutorial, monkeypatch):
    monkeypatch.chdir(place_of_tutorial)
    said = fathom(*line.words[1:])
    assert said.code == 0, said.err
    assert said.out


OWN_RUNS_LINES = [
    line for line in OTHER_LINES if line.page == OWN_RUNS and line.words[1] in DRAWING
]


@pytest.mark.slow
@pytest.mark.parametrize("line", OWN_RUNS_LINES, ids=label)
def test_commands_of_your_own_runs_run(line, fathom, place_of_tutorial, monkeypatch):
    monkeypatch.chdir(place_of_tutorial)
    said = fathom(*line.words[1:])
    assert said.code == 0, said.err
    assert said.out


@pytest.mark.slow
def test_the_experiment_of_the_guide_is_reproduced(process, tmp_path, monkeypatch):
    ignored = shutil.ignore_patterns("*.png", "__pycache__")
    for name in ("conf", "experiments", "hydra_plugins", "research"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for block in BLOCKS:
        if block.page == EXPERIMENT_GUIDE and block.title:
            file = tmp_path / block.title
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text)
    monkeypatch.chdir(tmp_path)

    ended = process("-m", "research", "reproduce", "gain", "tracker=none", PYTHONPATH=str(tmp_path))
    out, err = ended.communicate()

    assert ended.returncode == 0, out + err
    for name in ("figure.png", "figure.svg", "figure.pdf", "claims.json"):
        assert (tmp_path / "outputs" / "gain" / name).stat().st_size > 100


# What the pages list


KINDS = {
    "model": options.ModelKind,
    "skip": options.SkipKind,
    "norm": options.NormKind,
    "activation": options.ActivationKind,
    "init": options.InitKind,
    "optimizer": options.OptimizerKind,
    "precision": options.PrecisionKind,
    "loss": options.LossKind,
    "mesh": options.MeshKind,
}
PAGE_OF_GROUP = {
    "precision": "docs/guides/number-formats.md",
    "mesh": "docs/guides/clusters.md",
}
ONE_ROW_EACH = ("model", "skip", "mesh")
ARCHITECTURES = "docs/guides/architectures.md"


@pytest.mark.parametrize("group", sorted(KINDS.keys() - set(ONE_ROW_EACH)))
def test_a_row_names_every_option_of_its_group(group):
    text = page(PAGE_OF_GROUP.get(group, ARCHITECTURES))
    row = re.search(rf"^\| `{group}` \| ([^;|]*)", text, re.M)
    assert row
    named = re.findall(r"`([a-z0-9_]+)`", row.group(1))
    assert named == [option.name for option in KINDS[group]]


@pytest.mark.parametrize("group", ONE_ROW_EACH)
def test_a_table_has_every_option_of_its_group(group):
    text = page(PAGE_OF_GROUP.get(group, ARCHITECTURES))
    table = re.search(rf"^\| `{group}` \|.*\n((?:\|.*\n)+)", text, re.M)
    assert table
    first_cells = [row.split("|")[1] for row in table.group(1).splitlines()]
    named = re.findall(r"`([a-z0-9_]+)`", " ".join(first_cells))
    assert set(named) - {"linear"} == {option.name for option in KINDS[group]}


def test_every_dataset_is_named():
    text = page("docs/guides/data.md") + page("docs/guides/own-data.md")
    for name in schema.OPTIONS["data"]:
        assert f"`{name}`" in text or f"data={name}" in text


@pytest.mark.parametrize(
    ("group", "name"), [("train", ARCHITECTURES), ("checkpoint", "docs/guides/resuming.md")]
)
def test_every_setting_of_a_group_without_options_is_named_with_its_default(group, name):
    text = page(name)
    option = getattr(schema.Config(), group)
    for item in dataclasses.fields(option):
        assert f"{group}.{item.name}" in text
    for setting, default in re.findall(rf"`{group}\.(\w+)`[^`;.]*?\((\d+)", text):
        assert getattr(option, setting) == float(default)


def test_a_table_has_every_kind_of_finding():
    text = page("docs/guides/measurements.md")
    for kind in findings.KINDS:
        assert f"| `{kind.name}` | {kind.severity.name} | {kind.meaning} |\n" in text
    for name in options.STOP_KINDS:
        assert f"`{name}`" in text.partition("`diagnose.stop` lists")[2]


@pytest.mark.parametrize(
    ("kinds", "numbers"),
    [
        ("`forward_underflow`", [underflow.NORMAL_INPUT]),
        ("`underflow`", [f"{underflow.NOTICED:.0%}", f"{underflow.NOTICED_ESTIMATE:.0%}"]),
        ("`overflow`", [f"{training_findings.MOSTLY_SKIPPED:.0%}"]),
        ("`vanishing`, `dead`", [f"{observed.FITTED:.0%}"]),
        ("`exploding`", [f"{observed.LEARNED:.0%}"]),
        (
            "`not_learning`",
            [f"{training_findings.AT_CHANCE:.0%}", training_findings.BETTER_THAN_CHANCE],
        ),
        (
            "`slow_divergence`",
            [
                training_findings.SPIKE_WINDOW,
                f"{observed.FORGOTTEN:.0%}",
                f"{training_findings.LOST_HALF:.0%}",
                f"{training_findings.CERTAIN_DEVIATIONS:g}",
            ],
        ),
        (
            "`spike`",
            [
                training_findings.SPIKE_RATIO,
                f"{training_findings.SPIKE_DEVIATIONS:g}",
                training_findings.DEVIATIONS_PER_MAD,
                f"{training_findings.SPIKE_SHARE:.0%}",
                f"{training_findings.LOST_AGAIN:g}",
                f"{training_findings.LOST_SHARE:.0%}",
                f"{training_findings.NEAR_CHANCE:.0%}",
            ],
        ),
        (
            "`dead_units`, `saturated`",
            [training_findings.MOSTLY_DEAD, training_findings.MOSTLY_SATURATED],
        ),
        (
            "`update_ratio`",
            [
                training_findings.LARGE_UPDATE,
                training_findings.SMALL_UPDATE,
                training_findings.USUAL_SHARE,
            ],
        ),
        ("`overfitting`", [training_findings.RISE_OF_HELD_OUT]),
        ("`fitted`", [f"{observed.FITTED:.0%}"]),
        ("`edge_of_stability`", [f"{training_findings.EDGE:.0%}"]),
    ],
)
def test_the_criteria_of_findings_have_the_numbers_of_the_code(kinds, numbers):
    text = page("docs/guides/measurements.md").partition("| finding | holds where |")[2]
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {kinds} |")]
    for number in numbers:
        words = str(number).replace("%", " %")
        assert re.search(rf"(?<![\d.]){re.escape(words)}(?![\d.]\d)", row), (words, row)


def test_every_gauge_and_inspection_is_explained():
    text = page("docs/guides/measurements.md")
    for gauge in GAUGES:
        assert f"`{gauge.name}`" in text
    for diagnostic in DIAGNOSTICS:
        assert f"`{diagnostic.name}`" in text
        assert f"| `{diagnostic.inspection}` |" in text
    for level in options.Level:
        assert f"`{level.name}`" in text


def test_the_gauges_with_an_entry_for_each_signal_are_listed():
    text = page("docs/guides/measurements.md")
    listed = re.search(r"Lists of N\+1 entries\s+\(([^)]*)\)", text)
    assert listed is not None
    expected = [gauge.name for gauge in GAUGES if gauge.entries is Entries.SIGNALS]
    assert re.findall(r"`(\w+)`", listed[1]) == expected


@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md", "docs/index.md"])
def test_no_page_counts_the_experiments_wrongly(name):
    number = len(list((ROOT / "experiments").glob("*/claims.py")))
    for counted in re.findall(r"\b(\d+) experiments\b", page(name)):
        assert int(counted) == number


def test_the_tutorial_counts_the_claims_of_its_experiment():
    table = page("experiments/vanishing_gradients/README.md")
    claims = re.findall(r"^\|.*\| (?:yes|no) \|$", table, re.M)
    words = dict(zip(["six", "seven", "eight", "nine", "ten"], range(6, 11), strict=True))
    counted = re.search(r"tests (\w+) claims", page("docs/tutorial.md"))
    assert counted is not None
    assert words[counted[1]] == len(claims)


@pytest.mark.parametrize("quantity", [*GAUGES, *TRACKED_DIAGNOSTICS], ids=lambda each: each.name)
def test_what_is_shown_alone_does_not_refer_to_another_row(quantity):
    """Pages and notes below figures show the meaning of one gauge without that of the others."""
    assert not re.match(r"(Its|Their|The same)\b", quantity.meaning)
    assert "that gradient" not in quantity.meaning


def test_every_gauge_of_a_number_format_is_explained():
    text = page("docs/guides/number-formats.md")
    for gauge in EXPONENT_GAUGES:
        _, separator, end = gauge.name.partition("_")
        suffix = separator + end
        assert f"`…{suffix}`" in text


def test_the_settings_of_the_grouped_launcher_are_named_with_their_defaults():
    text = page("docs/guides/sweeps.md")
    named = dict(re.findall(r"^\| `hydra\.launcher\.(\w+)=(\w+)` \|", text, re.M))
    expected = {}
    for item in dataclasses.fields(GroupedLauncherConf):
        if item.name != "_target_":
            default = getattr(item.default, "name", item.default)
            expected[item.name] = "null" if default is None else default
    assert named == expected


def test_the_experiments_named_are_the_ones_there_are():
    readme = page("README.md")
    assert set(re.findall(r"fathom reproduce ([a-z_]+)", readme)) <= set(experiment_names())
    named = re.findall(r"^\| \[`(\w+)`\]\(experiments/(\w+)/README.md\)", readme, re.M)
    assert sorted(named) == [(name, name) for name in experiment_names()]


def test_every_experiment_at_the_scale_of_its_paper_is_named():
    text = page(EXPERIMENT_GUIDE)
    for key in experiment_names("paper"):
        assert f"`{key.removeprefix('paper/')}`" in text


def benchmark_rows(name: str) -> dict[str, list[str]]:
    """What is compared, the number, the budget and whether it holds, by row of the benchmark."""
    rows = {}
    for line in page(name).splitlines():
        cells = re.split(r" *\| *", line)
        if len(cells) > 6 and cells[1] in BENCHMARK_ROWS:
            rows[cells[1]] = cells[2:6]
    return rows


def test_numbers_of_performance_are_those_of_the_benchmark():
    shown = benchmark_rows("docs/performance.md")
    measured = benchmark_rows("experiments/benchmark/README.md")
    assert len(shown) > 10
    for name, cells in shown.items():
        assert cells == measured[name]


# The pages themselves


def test_the_readme_is_short():
    assert len(page("README.md").splitlines()) <= 200


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_pages_outside_of_docs_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page(name)):
        if not target.startswith("https:"):
            assert (ROOT / target).exists(), target


EXAMPLES = ("conf/skip/mix.yaml", "conf/experiment/gain.yaml", "experiments/gain/")


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_files_that_a_page_names_exist(file):
    text = file.read_text()
    paths = re.findall(r"\b(?:research|conf|tests|docs|experiments|hydra_plugins)/[\w./-]*", text)
    for path in paths:
        path = path.rstrip(".")
        is_placeholder = re.search(r"\b(NAME|GROUP|OPTION)\b", path)
        if not is_placeholder and not path.startswith(EXAMPLES):
            assert (ROOT / path).exists(), path


def test_the_rooms_named_import_what_the_test_allows():
    from .test_rooms import MAY_IMPORT

    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|", page("docs/architecture.md"), re.M)
    named = {room: set(re.findall(r"`(\w+)`", cell)) for room, cell in rows}
    above = {"runner", "sweeps", "reproduce", "benchmark", "cli", "interface"}
    for room in MAY_IMPORT.keys() - above:
        assert named[room] == MAY_IMPORT[room], room


def test_the_glossary_is_short():
    _, _, glossary = page("docs/architecture.md").partition("## Glossary")
    words = re.findall(r"^\| (?!word|---)[^|]+ \|", glossary, re.M)
    assert 10 <= len(words) <= 25


def test_the_version_is_the_same_everywhere():
    assert PROJECT["version"] == research.__version__
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", page("CHANGELOG.md"), re.M)
    assert newest
    assert newest.group(1) == research.__version__


# The generated reference


@pytest.fixture(scope="module")
def reference():
    """The module that generates the reference."""
    file = ROOT / "docs" / "generate_reference.py"
    spec = importlib.util.spec_from_file_location("generate_reference", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_setting(reference):
    text = reference.settings_page()
    for declared in schema.iter_declared():
        if declared.declared is not None:
            assert f"| `{declared.path}` |" in text
            assert declared.declared.meaning.replace("|", "\\|") in text
    assert "`0.001` with `optimizer=adam`" in text


def test_the_reference_has_every_gauge_and_metric(reference):
    text = reference.gauges_page()
    for quantity in (*GAUGES, *METRICS, *EXPONENT_GAUGES, *DIAGNOSTICS):
        assert f"| `{quantity.name}` |" in text
        assert quantity.meaning.replace("|", "\\|") in text


def test_the_reference_has_every_command_with_its_help(reference):
    text = reference.commands_page()
    for name in COMMANDS:
        assert f"## fathom {name}\n" in text
        assert f"usage: fathom {name}" in text


def test_the_python_interface_of_the_reference_exists(reference):
    for names in reference.API.values():
        for name in names:
            assert can_import(name), name


def can_import(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a class or a function of a module
        module, _, attribute = name.rpartition(".")
        return hasattr(importlib.import_module(module), attribute)


def test_columns_that_are_empty_everywhere_are_left_out(reference):
    _, _, section = reference.settings_page().partition("## checkpoint")
    assert "| setting | default | takes | meaning |" in section
