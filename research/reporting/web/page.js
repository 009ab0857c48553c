"use strict";

// The page of `fathom report` and `fathom dash`. All text of runs is set as textContent, or escaped
// for Plotly, which reads a few HTML tags in labels.

const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"];
const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30"];
const MOST_DRAWN = 40;
const MOST_COMPARED = 8;
const FIRST_DRAWN = 9;
const MOST_ROWS = 1000;
const LONGEST_LABEL = 90;
const LEAST_DECADES = 2; // of the colours of a logarithmic heat map
const KINDS_IN_ORDER = ["diverged", "failed", "dead", "exploding", "vanishing", "underflow", "healthy"];
const NOT_RESULTS = ["name", "study", "tags"];
const CONFIG = {
  responsive: true,
  displaylogo: false,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};
const CONDITION = /^([^<>=!]+)(!=|>=|<=|==|=|>|<)(.*)$/;

const data = JSON.parse(document.getElementById("data").textContent);
const details = new Map(Object.entries(data.details || {}));
const state = {
  marked: new Set(),
  sortKey: null,
  ascending: true,
  step: null,
};

function element(id) {
  return document.getElementById(id);
}

function make(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e5) return String(Number(value.toPrecision(4)));
  return value.toExponential(2);
}

// ---- rows: order, filter, marks -------------------------------------------------------------

function normalised(word) {
  return word.toLowerCase().replaceAll("_", " ").trim();
}

function findColumn(word) {
  const wanted = normalised(word);
  const exact = data.columns.find(
    (column) => normalised(column.key) === wanted || normalised(column.label) === wanted,
  );
  if (exact) return exact;
  return data.columns.find((column) => {
    const parts = column.key.replace(/\.(kind|name)$/, "").split(".");
    return normalised(parts[parts.length - 1]) === wanted;
  });
}

function parseFilter(text) {
  const conditions = [];
  for (const word of text.trim().split(/\s+/).filter(Boolean)) {
    const parts = CONDITION.exec(word);
    if (!parts) {
      conditions.push((row) => searchable(row).includes(word.toLowerCase()));
      continue;
    }
    const column = findColumn(parts[1]);
    if (!column) {
      const constant = findConstant(parts[1]);
      if (constant === undefined) throw new Error(`no column is called ${parts[1]}`);
      conditions.push(() => compare(constant, parts[2], parts[3]));
      continue;
    }
    conditions.push((row) => compare(row.values[column.key], parts[2], parts[3]));
  }
  return (row) => conditions.every((matches) => matches(row));
}

function findConstant(word) {
  const wanted = normalised(word);
  for (const [path, value] of Object.entries(data.constants)) {
    const short = path.replace(/\.(kind|name)$/, "");
    const last = short.split(".").pop();
    if ([path, short, last].some((name) => normalised(name) === wanted)) return value;
  }
  return undefined;
}

function searchable(row) {
  const values = Object.values(row.values).filter((value) => typeof value === "string");
  return [row.id, ...values].join("\n").toLowerCase();
}

function compare(value, comparison, text) {
  if ([">", ">=", "<", "<="].includes(comparison)) {
    const left = value === null ? NaN : Number(value);
    const right = Number(text);
    if (comparison === ">") return left > right;
    if (comparison === ">=") return left >= right;
    return comparison === "<" ? left < right : left <= right;
  }
  const isEqual = text.split(",").some((one) => equals(value, one));
  return comparison === "!=" ? !isEqual : isEqual;
}

function equals(value, text) {
  if (value === null || value === undefined) return text === "null" || text === "";
  if (String(value).toLowerCase() === text.toLowerCase()) return true;
  return text !== "" && typeof value === "number" && value === Number(text);
}

function shownRows() {
  const message = element("count");
  let matches;
  try {
    matches = parseFilter(element("filter").value);
  } catch (error) {
    message.textContent = error.message;
    return [];
  }
  const rows = data.runs.filter(matches);
  const more = rows.length > MOST_ROWS ? `; the first ${MOST_ROWS} are listed` : "";
  message.textContent = `${rows.length} of ${data.runs.length} runs, ${state.marked.size} marked${more}`;
  if (state.sortKey !== null) {
    const sign = state.ascending ? 1 : -1;
    rows.sort((one, other) => {
      const left = one.values[state.sortKey];
      const right = other.values[state.sortKey];
      if (isMissing(left) || isMissing(right)) return isMissing(left) - isMissing(right);
      return sign * order(left, right);
    });
  }
  return rows;
}

function isMissing(value) {
  return value === null || value === undefined;
}

function order(left, right) {
  if (typeof left === "number" && typeof right === "number") return left - right;
  if (typeof left === "number") return -1;
  if (typeof right === "number") return 1;
  return String(left).localeCompare(String(right), undefined, { numeric: true });
}

function markFirst() {
  let candidates = data.runs;
  const seeds = candidates.map((row) => row.values.seed).filter((seed) => typeof seed === "number");
  if (seeds.length) {
    const least = Math.min(...seeds);
    candidates = candidates.filter((row) => row.values.seed === least);
  }
  const kinds = new Set();
  for (const row of candidates) { // one of each verdict
    if (!kinds.has(row.values.verdict) && state.marked.size < FIRST_DRAWN) state.marked.add(row.id);
    kinds.add(row.values.verdict);
  }
  const others = candidates.filter((row) => !state.marked.has(row.id));
  const count = Math.min(FIRST_DRAWN - state.marked.size, others.length);
  for (let position = 0; position < count; position += 1) {
    const index = Math.floor(((position + 0.5) * others.length) / count);
    state.marked.add(others[index].id);
  }
}

function markedRows() {
  return data.runs.filter((row) => state.marked.has(row.id)).slice(0, MOST_DRAWN);
}

function colours() {
  const rows = markedRows();
  const chosen = new Map();
  rows.forEach((row, position) => {
    chosen.set(row.id, rows.length <= PALETTE.length ? PALETTE[position] : blend(position / (rows.length - 1)));
  });
  return chosen;
}

function blend(share) {
  const place = share * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const channels = [1, 3, 5].map((start) => {
    const from = parseInt(VIRIDIS[low].slice(start, start + 2), 16);
    const to = parseInt(VIRIDIS[low + 1].slice(start, start + 2), 16);
    return Math.round(from + (place - low) * (to - from));
  });
  return `rgb(${channels.join(",")})`;
}

// ---- text: header, summary, tables ----------------------------------------------------------

function showHeader() {
  element("title").textContent = data.title;
  const studies = new Set(data.runs.map((row) => row.values.study));
  const inStudies = studies.size > 1 ? ` in ${studies.size} studies` : "";
  const isLive = data.live ? "; updated while they train" : "";
  element("subtitle").textContent =
    `${data.runs.length} run${data.runs.length === 1 ? "" : "s"}${inStudies}, Fathom ${data.version}${isLive}`;
}

function kindOf(row) {
  if (row.values.verdict) return row.values.verdict;
  return row.values.status === "done" ? "no verdict" : row.values.status;
}

function showSummary() {
  const labels = labelsOf(data.runs);
  const groups = new Map();
  for (const row of data.runs) {
    const kind = kindOf(row);
    groups.set(kind, [...(groups.get(kind) || []), row]);
  }
  const kinds = [...groups.keys()].sort((one, other) => rank(one) - rank(other));
  const tiles = element("tiles");
  tiles.replaceChildren();
  for (const kind of kinds) {
    const tile = make("div", undefined, "tile");
    tile.append(make("strong", String(groups.get(kind).length)), make("span", kind));
    tiles.append(tile);
  }
  const best = bestRow();
  if (best) {
    const tile = make("div", undefined, "tile");
    const words = data.runs.length === 1 ? "eval accuracy" : `best eval accuracy: ${labels.get(best.id)}`;
    tile.append(make("strong", shown(best.values.eval_accuracy)), make("span", words));
    tiles.append(tile);
  }
  const open = new Set([...element("verdicts").querySelectorAll("details[open]")].map((node) => node.dataset.kind));
  const place = element("verdicts");
  place.replaceChildren();
  for (const kind of kinds) {
    const rows = groups.get(kind);
    const sentences = rows.filter((row) => row.sentence);
    if (!sentences.length) continue;
    const box = make("details");
    box.dataset.kind = kind;
    box.open = open.has(kind) || rows.length <= 3;
    const heading = make("summary");
    heading.append(badge(kind), ` ${rows.length} run${rows.length === 1 ? "" : "s"}`);
    const list = make("ul");
    for (const row of sentences) {
      const item = make("li");
      const others = row.findings.filter((finding) => !row.sentence.startsWith(finding.sentence));
      let sentence = row.sentence;
      for (const finding of others) sentence = sentence.replace(finding.sentence, "");
      item.append(make("strong", labels.get(row.id)), ` ${sentence}`);
      if (others.length) {
        const inner = make("ul");
        for (const finding of others) inner.append(make("li", `${finding.sentence} ${finding.advice}`.trim()));
        item.append(inner);
      }
      list.append(item);
    }
    box.append(heading, list);
    place.append(box);
  }
}

function rank(kind) {
  const place = KINDS_IN_ORDER.indexOf(kind);
  return place < 0 ? KINDS_IN_ORDER.length : place;
}

function bestRow() {
  let best = null;
  for (const row of data.runs) {
    const value = row.values.eval_accuracy;
    if (typeof value === "number" && (best === null || value > best.values.eval_accuracy)) best = row;
  }
  return best;
}

function badge(kind) {
  return make("span", kind, `badge ${KINDS_IN_ORDER.includes(kind) ? kind : ""}`.trim());
}

// What the runs of a list are called: the settings in which they differ, or else their names.
function labelsOf(rows) {
  const paths = Object.keys((rows[0] || { settings: {} }).settings).filter((path) =>
    rows.some((row) => row.settings[path] !== rows[0].settings[path]),
  );
  const words = rows.map((row) => paths.map((path) => `${columnLabel(path)}=${row.settings[path]}`).join(", "));
  const isClear = paths.length > 0 && new Set(words).size === rows.length;
  const labels = new Map();
  rows.forEach((row, position) => {
    const isShort = words[position].length <= LONGEST_LABEL;
    labels.set(row.id, isClear && isShort ? words[position] : row.name);
  });
  return labels;
}

function columnLabel(path) {
  const column = data.columns.find((one) => one.key === path);
  return column ? column.label : path;
}

function showMeans() {
  const means = data.means;
  element("means").hidden = !means;
  if (!means) return;
  element("means-title").textContent = means.title;
  element("means-notes").textContent = means.notes.join("; ");
  const best = new Map(means.rows.map((row) => [row.cells, row.best]));
  const rows = means.rows.map((row) => row.cells);
  fillTable(element("means-table"), means.headings, rows, (cell, row, column) => {
    if (best.get(row)[column]) cell.className = "best";
  });
}

function showClaims() {
  const claims = data.claims || [];
  element("claims").hidden = element("claims-link").hidden = !claims.length;
  if (!claims.length) return;
  const held = claims.filter((claim) => claim.holds).length;
  element("claims-count").textContent = `${held} of ${claims.length} claims hold.`;
  element("claims-list").open = new Set(claims.map((claim) => claim.study)).size === 1;
  const rows = claims.map((claim) => {
    const range = (claim.interval || []).map(shown).join(" to ");
    const holds = claim.holds ? "yes" : "NO";
    return [claim.statement, claim.source, claim.expected, `${shown(claim.measured)} (${range})`, claim.n, holds];
  });
  const headings = ["claim", "source", "expected", "measured (range)", "n", "holds"];
  fillTable(element("claims-table"), headings, rows, (cell, row, column) => {
    if (column < 3) cell.className = "wrap";
    if (column === 5 && row[5] === "NO") cell.className = "differs";
  });
}

function fillTable(table, headings, rows, decorate) {
  table.replaceChildren();
  const head = table.createTHead().insertRow();
  for (const heading of headings) head.append(make("th", heading));
  const body = table.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    row.forEach((value, column) => {
      const cell = make("td", value === null || value === undefined ? "–" : String(value));
      if (decorate) decorate(cell, row, column);
      line.append(cell);
    });
  }
}

function showRuns() {
  const rows = shownRows();
  const table = element("runs-table");
  const chosen = colours();
  const head = make("tr");
  head.append(make("th", ""));
  for (const column of data.columns) head.append(headingOf(column));
  const body = make("tbody");
  for (const row of rows.slice(0, MOST_ROWS)) {
    const line = make("tr");
    line.dataset.id = row.id;
    line.title = row.id;
    const isMarked = state.marked.has(row.id);
    line.className = isMarked ? "marked" : "";
    const first = make("td");
    const box = make("input");
    box.type = "checkbox";
    box.checked = isMarked;
    box.setAttribute("aria-label", `draw ${row.name}`);
    const swatch = make("span", undefined, chosen.has(row.id) ? "swatch" : "swatch empty");
    if (chosen.has(row.id)) swatch.style.background = chosen.get(row.id);
    first.append(box, " ", swatch);
    line.append(first);
    for (const column of data.columns) line.append(cellOf(row, column));
    body.append(line);
  }
  const header = make("thead");
  header.append(head);
  table.replaceChildren(header, body);
}

function headingOf(column) {
  const cell = make("th", undefined, isNumeric(column) ? "number" : "");
  const isSorted = state.sortKey === column.key;
  const arrow = isSorted ? (state.ascending ? " ↑" : " ↓") : "";
  const button = make("button", column.label + arrow);
  button.type = "button";
  button.dataset.key = column.key;
  cell.append(button);
  if (isSorted) cell.setAttribute("aria-sort", state.ascending ? "ascending" : "descending");
  return cell;
}

function cellOf(row, column) {
  const value = row.values[column.key];
  if (column.key === "verdict" && value) {
    const cell = make("td");
    cell.append(badge(value));
    return cell;
  }
  const cell = make("td", shown(value));
  if (column.key === "name") cell.className = "name";
  if (isNumeric(column)) cell.className = "number";
  return cell;
}

function isNumeric(column) {
  return data.runs.some((row) => typeof row.values[column.key] === "number");
}

function showSettings() {
  const rows = markedRows().slice(0, MOST_COMPARED);
  const labels = labelsOf(rows);
  const paths = data.columns.filter((column) => column.isSetting).map((column) => column.key);
  const results = data.columns.filter((column) => !column.isSetting && !NOT_RESULTS.includes(column.key));
  const lines = paths.map((path) => [path, ...rows.map((row) => row.settings[path])]);
  if (rows.some((row) => row.notes)) lines.push(["notes", ...rows.map((row) => row.notes)]);
  for (const column of results) lines.push([column.label, ...rows.map((row) => shown(row.values[column.key]))]);
  fillTable(element("differing-table"), ["setting or result", ...rows.map((row) => labels.get(row.id))], lines, (cell, line, column) => {
    const isDifferent = new Set(line.slice(1)).size > 1;
    if (column > 0 && isDifferent) cell.className = "differs";
  });
  fillTable(element("constants-table"), ["setting", "value"], Object.entries(data.constants));
}

// ---- plots ----------------------------------------------------------------------------------

function layout(xTitle, yTitle, isLog) {
  return {
    margin: { l: 80, r: 20, t: 20, b: 50 },
    height: 440,
    font: { size: 13 },
    hovermode: "closest",
    legend: { font: { size: 11 } },
    xaxis: { title: { text: plain(xTitle) }, gridcolor: "#e8ebee", zeroline: false },
    yaxis: {
      title: { text: plain(yTitle), standoff: 12 }, automargin: true, type: isLog ? "log" : "linear", exponentformat: "power",
      gridcolor: "#e8ebee", zeroline: false,
    },
  };
}

function drawCurves() {
  const metric = element("metric").value;
  const chosen = colours();
  const rows = markedRows();
  const labels = labelsOf(rows);
  const traces = [];
  for (const row of rows) {
    const curve = curvesOf(row)[metric];
    if (!curve) continue;
    traces.push({
      x: curve.x, y: curve.y, name: plain(labels.get(row.id)), mode: curve.x.length > 1 ? "lines" : "markers",
      line: { color: chosen.get(row.id), width: 1.8 }, marker: { color: chosen.get(row.id) },
    });
  }
  element("metric-meaning").textContent = data.metrics[metric] || "";
  Plotly.react("curves-plot", traces, layout("step", metric.replaceAll("_", " "), element("metric-log").checked), CONFIG);
}

function curvesOf(row) {
  return (details.get(row.id) || {}).curves || {};
}

function profilesOf(row) {
  const profiles = (details.get(row.id) || {}).profiles || {};
  return { steps: profiles.steps || [], gauges: profiles.gauges || {} };
}

function profileSteps() {
  const gauge = element("gauge").value;
  const steps = new Set();
  for (const row of markedRows()) {
    const profiles = profilesOf(row);
    if (profiles.gauges[gauge]) profiles.steps.forEach((step) => steps.add(step));
  }
  return [...steps].sort((one, other) => one - other);
}

function showSlider() {
  const steps = profileSteps();
  const slider = element("step");
  const wasAtEnd = state.step === null;
  slider.max = String(Math.max(0, steps.length - 1));
  let position = steps.length - 1;
  if (!wasAtEnd) position = steps.findLastIndex((step) => step <= state.step);
  slider.value = String(Math.max(0, position));
  showStep(steps);
}

function showStep(steps) {
  const step = steps[Number(element("step").value)];
  element("step-shown").textContent = step === undefined ? "none" : String(step);
  return step;
}

function drawProfile() {
  const gauge = element("gauge").value;
  const chosen = colours();
  const rows = markedRows();
  const labels = labelsOf(rows);
  const step = showStep(profileSteps());
  const traces = [];
  for (const row of rows) {
    const { steps, gauges } = profilesOf(row);
    if (!gauges[gauge] || !steps.length) continue;
    const position = Math.max(0, steps.findLastIndex((one) => one <= step));
    const common = { x: gauges[gauge].layers, legendgroup: row.id, line: { color: chosen.get(row.id) } };
    const name = plain(labels.get(row.id));
    traces.push({
      ...common, y: gauges[gauge].values[0], name, showlegend: false, hoverinfo: "skip", mode: "lines",
      opacity: 0.8, line: { color: chosen.get(row.id), width: 1.3, dash: "dash" },
    });
    traces.push({ ...common, y: gauges[gauge].values[position], name, mode: "lines" });
  }
  element("gauge-meaning").textContent = data.gauges[gauge]
    ? `${data.gauges[gauge]} Dashed lines: the first step.` : "The marked runs recorded no profile.";
  const words = gauge.replaceAll("_", " ");
  Plotly.react("profile-plot", traces, layout("layer (−1: the input of layer 0)", words, element("gauge-log").checked), CONFIG);
}

function drawHeatMap() {
  const gauge = element("gauge").value;
  const row = data.runs.find((one) => one.id === element("heat-map-run").value);
  const { steps, gauges } = row ? profilesOf(row) : { steps: [], gauges: {} };
  const isLog = element("gauge-log").checked;
  const traces = [];
  if (gauges[gauge]) {
    const values = gauges[gauge].values;
    const layers = gauges[gauge].layers;
    const z = layers.map((_, layer) => values.map((profile) => {
      const value = profile[layer];
      if (!isLog || value === null) return value;
      return value > 0 ? Math.log10(value) : null;
    }));
    const words = plain(gauge.replaceAll("_", " "));
    traces.push({
      type: "heatmap", x: steps, y: layers, z, colorscale: "Viridis", ...colourRange(z, isLog),
      colorbar: { title: { text: isLog ? `log₁₀ ${words}` : words, side: "right" } },
    });
  }
  Plotly.react("heat-map-plot", traces, layout("step", "layer (−1: input)", false), CONFIG);
}

// Colours span at least two decades, so that fluctuations do not look like trends.
function colourRange(z, isLog) {
  const values = z.flat().filter((value) => !isMissing(value));
  if (!isLog || !values.length) return {};
  const low = values.reduce((least, value) => Math.min(least, value));
  const high = values.reduce((greatest, value) => Math.max(greatest, value));
  const missing = Math.max(0, LEAST_DECADES - (high - low)) / 2;
  return { zmin: low - missing, zmax: high + missing };
}

// ---- choices, and what follows from them ----------------------------------------------------

function fillSelect(select, entries) {
  const before = select.value;
  select.replaceChildren();
  for (const [value, text] of entries) {
    const option = make("option", text);
    option.value = value;
    select.append(option);
  }
  if (entries.some(([value]) => value === before)) select.value = before;
}

function fillChoices() {
  const rows = markedRows();
  const metrics = new Set();
  const gauges = new Set();
  for (const row of rows) {
    Object.keys(curvesOf(row)).forEach((name) => metrics.add(name));
    Object.keys(profilesOf(row).gauges).forEach((name) => gauges.add(name));
  }
  const asEntries = (names) => [...names].map((name) => [name, name.replaceAll("_", " ")]);
  fillSelect(element("metric"), asEntries(inOrder(metrics, data.metrics)));
  fillSelect(element("gauge"), asEntries(inOrder(gauges, data.gauges)));
  const labels = labelsOf(rows);
  const byVerdict = [...rows].sort((one, other) => severity(one) - severity(other));
  fillSelect(element("heat-map-run"), byVerdict.map((row) => [row.id, labels.get(row.id)]));
}

function severity(row) {
  const position = KINDS_IN_ORDER.indexOf(row.values.verdict);
  return position < 0 ? KINDS_IN_ORDER.length : position;
}

function inOrder(names, declared) {
  const known = Object.keys(declared).filter((name) => names.has(name));
  return [...known, ...[...names].filter((name) => !(name in declared))];
}

function drawAll() {
  fillChoices();
  showSlider();
  drawCurves();
  drawProfile();
  drawHeatMap();
  showSettings();
}

async function update() {
  showRuns();
  await loadDetails();
  drawAll();
}

// ---- the dashboard: details on demand, and changes while runs train ---------------------------

async function loadDetails() {
  if (!data.live) return;
  const missing = markedRows().filter((row) => (details.get(row.id) || {}).version !== row.version);
  await Promise.all(missing.map(async (row) => {
    const answer = await fetch(`api/run?id=${encodeURIComponent(row.id)}`);
    if (answer.ok) details.set(row.id, { ...(await answer.json()), version: row.version });
  }));
}

async function poll() {
  try {
    const answer = await fetch(`api/index?version=${encodeURIComponent(data.indexVersion)}`);
    if (answer.status === 200) {
      const before = data.indexVersion;
      Object.assign(data, await answer.json());
      if (data.indexVersion !== before) {
        showHeader();
        showSummary();
        showMeans();
        showClaims();
        await update();
      }
    }
    element("connection")?.remove();
  } catch {
    if (!element("connection")) {
      const line = make("p", "The dashboard has ended; start fathom dash again.", "hint");
      line.id = "connection";
      document.querySelector("header").append(line);
    }
  }
  setTimeout(poll, data.live.milliseconds);
}

function listen() {
  element("filter").addEventListener("input", showRuns);
  element("runs-table").addEventListener("click", (event) => {
    const button = event.target.closest("button[data-key]");
    if (button) {
      state.ascending = state.sortKey === button.dataset.key ? !state.ascending : true;
      state.sortKey = button.dataset.key;
      showRuns();
      return;
    }
    const line = event.target.closest("tbody tr");
    if (!line) return;
    if (!state.marked.delete(line.dataset.id)) state.marked.add(line.dataset.id);
    update();
  });
  element("select-shown").addEventListener("click", () => {
    state.marked = new Set(shownRows().slice(0, MOST_DRAWN).map((row) => row.id));
    update();
  });
  element("select-none").addEventListener("click", () => {
    state.marked.clear();
    update();
  });
  for (const id of ["metric", "metric-log"]) element(id).addEventListener("change", drawCurves);
  for (const id of ["gauge", "gauge-log"]) {
    element(id).addEventListener("change", () => {
      showSlider();
      drawProfile();
      drawHeatMap();
    });
  }
  element("step").addEventListener("input", () => {
    const steps = profileSteps();
    const position = Number(element("step").value);
    state.step = position === steps.length - 1 ? null : steps[position];
    drawProfile();
  });
  element("heat-map-run").addEventListener("change", drawHeatMap);
}

async function start() {
  markFirst();
  showHeader();
  showSummary();
  showMeans();
  showClaims();
  listen();
  await update();
  document.body.dataset.ready = "true";
  if (data.live) setTimeout(poll, data.live.milliseconds);
}

start();
