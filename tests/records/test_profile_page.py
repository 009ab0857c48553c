"""The interactive page of a run's profiles: one file that loads nothing."""

import base64
import json
import re
import shutil
import subprocess
import urllib.parse

import numpy as np
import pytest

from research.gauges.table import GAUGES
from research.records.trackers.profile_page import MAX_PAGE_STEPS, profile_page

FINDING = {
    "kind": "vanishing",
    "severity": "severe",
    "layers": [[0, 3], [5, 5]],
    "first_step": 10,
    "last_step": None,
    "sentence": "Vanishing: </script><script>alert(1)</script>",
    "advice": "try skip=identity.",
}


def make_page(num_steps=3, num_layers=6, smallest=1.0, **verdict):
    steps = np.arange(num_steps)
    profiles = {"step": steps}
    for gauge in GAUGES:
        shape = (num_steps, gauge.length(num_layers))
        profiles[gauge.name] = np.full(shape, smallest) * (1 + steps[:, np.newaxis])
    return profile_page(profiles, title="depth=6", verdict=verdict)


def read_data(html):
    return json.loads(re.findall('type="application/json">(.*?)</script>', html)[0])


def read_gauge(html, name):
    (gauge,) = (gauge for gauge in read_data(html)["gauges"] if gauge["name"] == name)
    values = np.frombuffer(base64.b64decode(gauge["values"]), f"<f{gauge['bits'] // 8}")
    return gauge, values.reshape(-1, len(gauge["layers"]))


@pytest.mark.parametrize("smallest", [1e-300, 1e-30, 1.0, 1e200])
def test_values_of_any_size_are_kept(smallest):
    _, values = read_gauge(make_page(smallest=smallest), "grad_norm")
    assert np.allclose(values, smallest * np.array([[1], [2], [3]]), rtol=1e-6, atol=0)


def test_theory_is_drawn_from_the_output_with_its_factor_on_the_square():
    gauge, values = read_gauge(make_page(theory=0.25), "signal_grad")
    assert gauge["theory"] == [values[0, -1] / 2**distance for distance in range(6, -1, -1)]
    assert "theory" not in read_gauge(make_page(theory=0.25), "grad_norm")[0]


def test_findings_are_in_words_and_cannot_end_the_script():
    html = make_page(findings=[FINDING, "no finding"], sentence="vanishing")
    (finding,) = read_data(html)["findings"]
    assert finding["layers"] == "0–3, 5"
    assert finding["steps"] == "from 10"
    assert finding["sentence"] == FINDING["sentence"]
    assert html.count("</script>") == 2


def test_a_page_of_a_deep_network_is_a_few_hundred_kilobytes():
    html = make_page(num_steps=MAX_PAGE_STEPS + 1, num_layers=1000, smallest=1e-100)
    assert len(html) < 500_000
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


PROBE = """
<script>
const seen = [];
function note() {
  const path = document.querySelector("path.now").getAttribute("d");
  seen.push([element("shown").textContent, element("meaning").textContent, path]);
}
function choose(id, value) {
  element(id).value = value;
  element(id).dispatchEvent(new Event("input"));
  note();
}
note();
choose("step", 0);
choose("gauge", 1);
document.body.dataset.seen = btoa(encodeURIComponent(JSON.stringify(seen)));
</script></body>
"""


@pytest.mark.slow
def test_menu_and_slider_work_in_a_browser(tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("there is no browser")
    profile = np.array([[1.0, 2, 3], [3.0, 2, 1]])
    profiles = {"step": np.array([0, 7]), "signal_grad": profile, "grad_norm": profile[:, 1:]}
    html = profile_page(profiles, title="x", verdict={"theory": 0.5})
    file = tmp_path / "page.html"
    file.write_text(html.replace("</body>", PROBE))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--disable-background-networking", "--disable-component-update"]
    command += [f"--user-data-dir={tmp_path / 'browser'}", file.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=100).stdout
    encoded = re.findall('data-seen="([^"]*)"', shown)[0]
    decoded = urllib.parse.unquote(base64.b64decode(encoded).decode())
    at_last_step, at_first_step, of_other_gauge = json.loads(decoded)
    assert at_last_step[0] == "7"
    assert at_first_step[0] == "0"
    assert at_last_step[2] != at_first_step[2]
    assert of_other_gauge[1] != at_first_step[1]
