"""The report: one page that needs no network and shows every name as text."""

import json
import re

import numpy as np
import pytest

from research.records.runs import Run, find_runs
from research.reporting.page_data import MAX_LAYERS, detail_for, make_details, make_index
from research.reporting.report import make_page, read_plotly, write_report

from ..browser import find_chromium, open_browser, open_page
from .recorded import EVERY, STEPS, record_run

CHROMIUM = find_chromium()
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
ATTACK = "<img src=x onerror=alert(1)>"
CLAIM = {
    "statement": "The gradient </script> vanishes",
    "source": "nobody 1999",
    "expected": "< 1",
    "measured": 0.5,
    "interval": [0.4, 0.6],
    "n": 3,
    "holds": True,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of six runs, one of which has a name that is HTML, with a claim."""
    root = tmp_path_factory.mktemp("outputs")
    for depth in (2, 4, 8):
        record_run(root / "study" / f"depth={depth}", {"model.depth": depth}, layers=depth)
    record_run(root / "study" / "seed=1", {"seed": 1, "model.depth": 4}, layers=4)
    record_run(root / "study" / ATTACK, {"model.depth": 16}, layers=16, notes=ATTACK)
    record_run(root / "study" / "broken", {"seed": 3}, status="failed", error="OSError: no space")
    (root / "study" / "claims.json").write_text(json.dumps([CLAIM]))
    return root


@pytest.fixture(scope="module")
def report(study):
    """The report of the study, as a file."""
    path = study / "study" / "report.html"
    write_report(find_runs(study), path, title=f"study {ATTACK}", root=study)
    return path


def read_data(report):
    (data,) = re.findall(r'id="data">(.*?)</script>', report.read_text(), re.DOTALL)
    return json.loads(data)


def test_the_page_holds_the_numbers_of_the_records(study, report):
    data = read_data(report)
    assert len(data["runs"]) == 6
    row = next(row for row in data["runs"] if row["name"] == "seed=1")
    assert row["values"]["model.depth"] == 4
    assert row["values"]["eval_accuracy"] == pytest.approx(0.89)
    assert row["sentence"].startswith("vanishing: ")
    details = data["details"][row["id"]]
    run = Run(study / "study" / "seed=1")
    curves = details["curves"]
    losses = run.metrics["train_loss"]
    assert curves["train_loss"]["x"] == list(range(STEPS))
    assert curves["train_loss"]["y"] == pytest.approx(losses, rel=1e-3)
    assert curves["eval_loss"]["x"] == [9, 19, 29, 39]
    profiles = details["profiles"]
    assert profiles["steps"] == list(range(0, STEPS, EVERY))
    kept = np.array(profiles["gauges"]["signal_grad"]["values"])
    np.testing.assert_allclose(kept, run.profiles["signal_grad"], rtol=1e-2)
    assert data["claims"][0]["statement"] == CLAIM["statement"]


def test_the_page_has_the_means_over_seeds(sweep):
    index = make_index(find_runs(sweep), sweep)

    means = index["means"]
    assert means["headings"] == ["skip", "depth 4", "depth 16", "depth 64"]
    plain, residual = means["rows"]
    assert plain["cells"][0] == "none"
    assert residual["cells"][1].startswith("0.93 ± ")
    assert residual["best"] == [False, True, False, True]


def test_runs_of_one_seed_have_no_means(tmp_path):
    directory = record_run(tmp_path / "study" / "run")

    index = make_index([Run(directory)], tmp_path)

    assert index["means"] is None


def test_nothing_of_a_record_can_end_the_data_or_load_anything(report):
    page = report.read_text()
    assert ATTACK not in page
    assert page.count("</script>") == 3 + read_plotly().count("</script>")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert "script-src 'sha256-" in policy[1]
    assert "connect-src 'none'" in policy[1]


def test_a_page_of_a_hundred_runs_is_small_enough(tmp_path):
    directory = record_run(tmp_path / "study" / "run", layers=1000)
    detail = detail_for(100)
    details = json.dumps(make_details(Run(directory), detail), separators=(",", ":"))
    curves = 2 * detail.points * 9
    profiles = detail.gauges * detail.steps * detail.layers
    assert 100 * (curves + profiles) < 600_000
    assert len(details) < 50_000
    assert detail_for(1).layers == MAX_LAYERS


def test_a_run_without_tables_has_a_row_all_the_same(tmp_path):
    directory = record_run(tmp_path / "study" / "run")
    for file in directory.glob("*.parquet"):
        file.unlink()
    index = make_index([Run(directory)], tmp_path)
    (row,) = index["runs"]
    details = make_details(Run(directory), detail_for(1))
    assert row["values"]["steps"] == STEPS
    assert details == {"curves": {}, "profiles": {}}


def test_the_command_writes_it_beside_the_runs(fathom, study, workplace):
    (workplace / "outputs").symlink_to(study)
    said = fathom("report", "study", "depth=4,8", "--out", "mine.html")
    assert said.code == 0, said.err
    assert said.out.startswith("report: mine.html   3 runs, ")
    assert len(read_data(workplace / "mine.html")["runs"]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.pdf"], "--out must be an HTML file such as report.html, got x.pdf"),
        (["skipp=none"], "skipp is not a setting; did you mean skip?"),
        (["nothing-like-it"], "none of the 6 runs under"),
        (["--ou", "x.html"], "--ou is no option of fathom report"),
    ],
)
def test_a_mistake_is_one_line(fathom, study, workplace, words, message):
    (workplace / "outputs").symlink_to(study)
    said = fathom("report", *words)
    assert said.code == 2
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert not list(workplace.glob("*.html"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    assert CHROMIUM is not None
    with open_browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as connection:
        yield connection


@pytest.fixture
def page(browser, report):
    opened = open_page(browser)
    opened.open(report.as_uri())
    return opened


def first_column(page):
    return [text.strip() for text in page.texts("#runs-table tbody td:nth-child(2)")]


@needs_browser
def test_the_report_works_in_a_browser(page):
    assert ATTACK in page.texts("h1")[0]
    assert ATTACK in first_column(page)
    assert page.evaluate("document.querySelectorAll('main img').length") == 0
    assert "1 of 1 claims hold." in page.texts("#claims-count")
    assert "seeds" in page.texts("#means-title")[0]
    assert len(page.texts("#means-table tbody tr")) >= 2
    page.click("#verdicts summary")
    assert "vanishing: the first layer receives little" in page.texts("#verdicts")[0]
    assert "Half the units are dead. try activation=elu." in page.texts("#verdicts")[0]

    page.click("#runs-table button[data-key='model.depth']")
    page.click("#runs-table button[data-key='model.depth']")
    depths = page.texts("#runs-table tbody td:nth-child(4)")
    assert [int(depth) for depth in depths] == [16, 16, 8, 4, 4, 2]

    page.type_text("#filter", "depth>=8 status=done")
    assert sorted(first_column(page)) == sorted([ATTACK, "depth=8"])
    page.type_text("#filter", "nonsense=3")
    assert "no column is called nonsense" in page.texts("#count")[0]
    page.type_text("#filter", "depth=8")
    page.click("#select-shown")
    page.wait_for("document.querySelectorAll('tr.marked').length === 1")

    assert page.texts("#step-shown") == [str(STEPS - EVERY)]
    drawn = "JSON.stringify(document.getElementById('profile-plot').data[1].y)"
    last_profile = page.evaluate(drawn)
    for _ in range(3):
        page.press("#step", "ArrowLeft")
    assert page.texts("#step-shown") == [str(STEPS - 4 * EVERY)]
    assert page.evaluate(drawn) != last_profile
    heat_map = page.evaluate("document.getElementById('heat-map-plot').data[0].z.length")
    assert heat_map == 9

    assert page.errors == []
    schemes = {request.partition(":")[0] for request in page.requests}
    assert schemes <= {"file", "data", "blob"}
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 1, () => 0)") == 0


def test_a_live_page_may_ask_its_own_server_alone():
    page = make_page("title", {"runs": []}, connect="'self'")
    assert "connect-src 'self';" in page
