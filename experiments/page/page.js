"use strict";
// The page's charts, sortable tables, browser of errors and download, all from the JSON in it. Charts are uPlot's.
const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#1f5fa8", "#c0392b", "#2e8b57", "#c77700", "#7d3c98", "#117a8b", "#8d6e63", "#d81b60", "#5b6573", "#6b8e23"];
const charts = []; // for whoever wants to look at them from the console

const percent = (value) => (value == null ? "–" : (100 * value).toFixed(2) + " %");
const plain = (value) => (value == null ? "–" : Number(value.toPrecision(4)).toString());

/** An element with attributes, and children or text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** A column of a row's epochs, the mean over its seeds as far as all of them went. */
function meanColumn(row, key) {
  const columns = row.seeds.map((seed) => seed.columns[key]);
  if (columns.some((column) => !column)) return null;
  const epochs = Math.min(...columns.map((column) => column.length));
  return Array.from({ length: epochs }, (_, place) => mean(columns.map((column) => column[place])));
}

/**
 * Charts over the same epochs, with one epoch marked in all, one zoom for all, and one table that says the values there.
 * panels: title, fraction, series {line label: values}; lines: label -> colour and dash.
 */
class Board {
  constructor(place, panels, lines, mark = null) {
    this.panels = panels;
    this.lines = lines;
    const lengths = panels.flatMap((panel) => Object.values(panel.series).map((values) => values.length)).filter(Boolean);
    this.last = Math.max(...lengths);
    this.range = [1, this.last];
    this.epoch = mark ?? Math.min(...lengths); // the last one that every line has
    this.charts = [];
    this.key = `board${charts.length}`;
    place.append(this.controls(), (this.grid = make("div", { class: "charts" })), this.table());
    for (const panel of panels) this.charts.push(this.chart(panel, mark));
    charts.push(...this.charts);
    new ResizeObserver(() => this.charts.forEach((chart) => this.resize(chart))).observe(this.grid);
    this.show(this.epoch);
  }

  chart(panel, mark) {
    const holder = make("figure", { role: "img", "aria-label": `${panel.title} over the epochs; the table below has the values` });
    holder.append(make("figcaption", {}, panel.title));
    this.grid.append(holder);
    const labels = Object.keys(this.lines);
    const x = Array.from({ length: this.last }, (_, place) => place + 1);
    const columns = labels.map((label) => x.map((_, place) => panel.series[label]?.[place] ?? null));
    const axis = { stroke: "#5b6573", grid: { stroke: "#e6e9ee" }, ticks: { stroke: "#e6e9ee" } };
    const options = {
      width: 320, height: 230,
      legend: { show: false },
      scales: { x: { time: false, range: (_, low, high) => [low, Math.max(high, low + 1)] } },
      axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100] },
        { ...axis, size: 56, values: (_, splits) => splits.map((value) => (panel.fraction ? `${+(100 * value).toFixed(1)} %` : `${value}`)) }],
      series: [{}, ...labels.map((label) => ({
        label, stroke: this.lines[label].colour, dash: this.lines[label].dash, width: 1.6, points: { show: this.last < 12, size: 4 } }))],
      cursor: { sync: { key: this.key, setSeries: false }, drag: { x: true, y: false }, points: { size: 7 } },
      hooks: {
        setCursor: [(chart) => { if (chart.cursor.idx != null && chart.cursor.left >= 0) this.say(chart.cursor.idx + 1); }],
        setScale: [(chart, key) => { if (key === "x") this.zoomed(chart.scales.x.min, chart.scales.x.max); }],
        draw: [(chart) => this.mark(chart, mark)],
      },
    };
    const chart = new uPlot(options, [x, ...columns], holder);
    return chart;
  }

  /** A line at the epoch that was chosen on validation data. */
  mark(chart, epoch) {
    if (epoch == null || epoch < chart.scales.x.min || epoch > chart.scales.x.max) return;
    const x = Math.round(chart.valToPos(epoch, "x", true));
    chart.ctx.save();
    chart.ctx.strokeStyle = "#5b6573";
    chart.ctx.setLineDash([2, 4]);
    chart.ctx.beginPath();
    chart.ctx.moveTo(x, chart.bbox.top);
    chart.ctx.lineTo(x, chart.bbox.top + chart.bbox.height);
    chart.ctx.stroke();
    chart.ctx.restore();
  }

  resize(chart) {
    const width = chart.root.parentElement.clientWidth;
    if (width && width !== chart.width) chart.setSize({ width, height: 230 });
  }

  controls() {
    this.slider = make("input", { type: "range", min: 1, max: this.last, value: this.epoch, "aria-label": "epoch",
      oninput: () => this.show(Number(this.slider.value)) });
    const bound = (which, label) => make("input", { type: "number", min: 1, max: this.last, value: this.range[which], "aria-label": label,
      onchange: (event) => { const range = [...this.range]; range[which] = Number(event.target.value); this.zoom(...range); } });
    this.bounds = [bound(0, "first epoch shown"), bound(1, "last epoch shown")];
    return make("div", { class: "controls" }, make("label", {}, "epoch ", this.slider), make("output", {}),
      make("span", {}, "shown ", this.bounds[0], " to ", this.bounds[1]),
      make("button", { type: "button", onclick: () => this.zoom(1, this.last) }, "all epochs"));
  }

  /** Lines by name, to switch on and off, and what each panel has at the epoch. */
  table() {
    const head = make("tr", {}, make("th", {}, "line"), ...this.panels.map((panel) => make("th", {}, panel.title)));
    this.cells = {};
    const rows = Object.entries(this.lines).map(([label, line]) => {
      const box = make("input", { type: "checkbox", checked: true, onchange: () => this.toggle(label, box.checked) });
      const swatch = make("span", { class: "swatch", style: `border-color:${line.colour};border-style:${line.dash ? "dashed" : "solid"}` });
      this.cells[label] = this.panels.map(() => make("td", {}, "–"));
      return make("tr", {}, make("td", {}, make("label", {}, box, swatch, label)), ...this.cells[label]);
    });
    return make("table", { class: "values" }, make("thead", {}, head), make("tbody", {}, ...rows));
  }

  toggle(label, show) {
    const place = 1 + Object.keys(this.lines).indexOf(label);
    for (const chart of this.charts) chart.setSeries(place, { show });
  }

  /** Marks an epoch in all charts. */
  show(epoch) {
    for (const chart of this.charts) {
      const left = chart.valToPos(epoch, "x");
      if (left >= 0 && left <= chart.over.clientWidth) chart.setCursor({ left, top: chart.over.clientHeight / 2 }, false);
    }
    this.say(epoch);
  }

  /** The values at an epoch, in the table. */
  say(epoch) {
    this.epoch = epoch;
    this.slider.value = epoch;
    this.slider.closest(".controls").querySelector("output").textContent = epoch;
    for (const [label, cells] of Object.entries(this.cells)) {
      this.panels.forEach((panel, place) => {
        const value = panel.series[label]?.[epoch - 1];
        cells[place].textContent = panel.fraction ? percent(value) : plain(value);
      });
    }
  }

  zoom(first, last) {
    first = Math.max(1, Math.min(Math.round(first), this.last - 1));
    last = Math.min(this.last, Math.max(Math.round(last), first + 1));
    this.charts[0].setScale("x", { min: first, max: last });
  }

  /** One chart has another range: so have all. */
  zoomed(min, max) {
    if (this.zooming || !this.charts.length || min == null) return;
    this.zooming = true;
    this.range = [Math.max(1, Math.ceil(min)), Math.min(this.last, Math.floor(max))];
    this.bounds.forEach((input, which) => (input.value = this.range[which]));
    for (const chart of this.charts) if (chart.scales.x.min !== min || chart.scales.x.max !== max) chart.setScale("x", { min, max });
    this.zooming = false;
  }
}

/** The curves of a chapter, a line a row. */
function drawGroup(place) {
  const group = data.groups.find((each) => each.key === place.dataset.group);
  const lines = {};
  group.rows.forEach((name, number) => {
    lines[name] = { colour: COLOURS[number % COLOURS.length], dash: number >= COLOURS.length ? [6, 4] : undefined };
  });
  const panels = group.panels.map((panel) => ({ ...panel,
    series: Object.fromEntries(group.rows.map((name) => [name, meanColumn(data.rows[name], panel.key) ?? []])) }));
  new Board(place, panels, lines);
}

/** The features of every row of images over the epochs, a panel a row (1.2.7). */
function drawFeatures(place) {
  const group = data.groups.find((each) => each.key === place.dataset.group);
  const rows = group.rows.filter((name) => data.rows[name].seeds[0].columns.feature_percentiles);
  const ordinal = (number) => `${number}${number === 1 ? "st" : "th"} percentile`;
  const lines = Object.fromEntries(data.percentiles.map((number, place) => [ordinal(number), { colour: COLOURS[place] }]));
  const panels = rows.map((name) => ({ title: name, fraction: false, series: Object.fromEntries(data.percentiles.map((number, place) =>
    [ordinal(number), data.rows[name].seeds[0].columns.feature_percentiles.map((values) => values[place])])) }));
  if (panels.length) new Board(place, panels, lines);
}

/** What one row has: the curves of its seeds, records, confusion, transitions, errors. */
function drawRow(place) {
  const row = data.rows[place.dataset.row];
  if (!row) return;
  const group = data.groups.find((each) => each.rows.includes(place.dataset.row));
  const lines = {};
  row.seeds.forEach((seed, number) => (lines[`seed ${seed.seed}`] = { colour: COLOURS[number % COLOURS.length] }));
  const panels = group.panels.filter((panel) => row.seeds.every((seed) => seed.columns[panel.key])).map((panel) => ({ ...panel,
    series: Object.fromEntries(row.seeds.map((seed) => [`seed ${seed.seed}`, seed.columns[panel.key]])) }));
  place.append(make("p", {}, `Dotted: the best epoch of seed ${row.seeds[0].seed}. `, ...row.seeds.flatMap((seed) =>
    [`Seed ${seed.seed}: `, make("a", { href: seed.record }, "record"), seed.commit ? ", commit " : "", make("code", {}, (seed.commit ?? "").slice(0, 12)), ". "])));
  new Board(place, panels, lines, row.seeds[0].best_epoch);
  if (row.confusion) place.append(matrix("Confusion on test, label by line, prediction by column", row.confusion.names, row.confusion.names, row.confusion.counts, true));
  if (row.chain) drawChain(place, row.chain);
  if (row.images) drawImages(place, row.images, row.confusion.names);
  if (row.sentences) drawSentences(place, row.sentences);
}

/** A table with coloured cells; shares: colours by the part of the line, else by the size up to the largest. */
function matrix(caption, lines, columns, values, shares) {
  const largest = Math.max(...values.flat().map((value) => Math.abs(value ?? 0)), 1e-9);
  const head = make("tr", {}, make("th"), ...columns.map((name) => make("th", { scope: "col" }, name)));
  const body = values.map((line, number) => {
    const total = line.reduce((sum, value) => sum + (value ?? 0), 0) || 1;
    return make("tr", {}, make("th", { scope: "row" }, lines[number]), ...line.map((value, place) => {
      const part = value == null ? 0 : shares ? value / total : Math.abs(value) / largest;
      const hue = shares || value >= 0 ? 211 : 4;
      const style = `background:hsl(${hue} 69% ${100 - 55 * part}%);color:${part > 0.6 ? "#fff" : "inherit"}`;
      const title = `${lines[number]} → ${columns[place]}: ${value ?? "forbidden"}${shares ? `, ${(100 * part).toFixed(1)} % of the line` : ""}`;
      return make("td", { style, title }, value == null ? "×" : shares ? `${value || ""}` : value.toFixed(1).replace(/^-0.0$/, "0.0"));
    }));
  });
  return make("table", { class: "matrix" }, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...body));
}

function drawChain(place, chain) {
  const lines = ["start", ...chain.tag_names], columns = [...chain.tag_names, "end"];
  const values = [[...chain.start, null], ...chain.transitions.map((line, number) => [...line, chain.end[number]])];
  place.append(matrix("Transition scores of the CRF, from by line, to by column; × is forbidden", lines, columns, values, false));
}

/** Images that the row gets wrong, the surest first. */
function drawImages(place, found, names) {
  const all = [["", "any"], ...names.map((name, number) => [number, name])];
  const option = ([value, name]) => make("option", { value }, name);
  const label = make("select", { onchange: show, "aria-label": "label" }, ...all.map(option));
  const said = make("select", { onchange: show, "aria-label": "prediction" }, ...all.map(option));
  const list = make("div", { class: "images" });
  const count = make("output");
  function show() {
    const chosen = found.examples.filter((each) =>
      (label.value === "" || each.label === Number(label.value)) && (said.value === "" || each.predicted === Number(said.value)));
    count.textContent = `${chosen.length} shown`;
    list.replaceChildren(...chosen.map((each) => {
      const order = each.probabilities.map((value, number) => [value, number]).sort((a, b) => b[0] - a[0]);
      const wanted = order.filter(([, number], rank) => rank < 3 || number === each.label);
      return make("figure", {}, make("img", { src: `data:image/png;base64,${each.png}`, alt: `test image ${each.index}, a ${names[each.label]}` }),
        make("figcaption", {}, make("strong", {}, names[each.label]), ` #${each.index}`, ...wanted.map(([value, number]) =>
          make("span", { class: number === each.label ? "bar right" : "bar", style: `--part:${value}` }, `${names[number]} ${percent(value)}`))));
    }));
  }
  place.append(make("h4", {}, `Wrong on test: ${found.count.toLocaleString("en")} of ${found.of.toLocaleString("en")}, the surest ones here`),
    make("div", { class: "controls" }, make("label", {}, "is ", label), make("label", {}, "taken for ", said), count), list);
  show();
}

const KINDS = { missed: "missed", spurious: "spurious", boundary: "wrongly bounded", type: "of a wrong type", both: "wrongly bounded and of a wrong type" };

/** Sentences with entities that are wrong; filters by kind of error and by type. */
function drawSentences(place, found) {
  const types = [...new Set(found.examples.flatMap((each) => each.entities.flatMap((entity) => [entity.gold, entity.found])))].filter(Boolean).sort();
  const boxes = Object.entries(KINDS).map(([kind, name]) => {
    const box = make("input", { type: "checkbox", value: kind, checked: true, onchange: show });
    return make("label", { class: `kind ${kind}` }, box, `${name} (${found.counts[kind].toLocaleString("en")})`);
  });
  const type = make("select", { onchange: show, "aria-label": "entity type" }, make("option", { value: "" }, "any type"), ...types.map((each) => make("option", {}, each)));
  const list = make("ol", { class: "sentences" });
  const count = make("output");
  function show() {
    const kinds = new Set(boxes.map((label) => label.firstChild).filter((box) => box.checked).map((box) => box.value));
    const fits = (entity) => kinds.has(entity.kind) && (!type.value || entity.gold === type.value || entity.found === type.value);
    const chosen = found.examples.filter((each) => each.entities.some(fits));
    count.textContent = `${chosen.length} shown`;
    list.replaceChildren(...chosen.map((each) => make("li", { value: each.index + 1 }, ...marked(each))));
  }
  place.append(make("h4", {}, `Entities of ${found.sentences.toLocaleString("en")} test sentences: ${found.counts.correct.toLocaleString("en")} found as they are, and these errors`),
    make("div", { class: "controls" }, ...boxes, type, count), list);
  show();
}

/** The words of a sentence with its entities marked. */
function marked(sentence) {
  const result = [];
  let at = 0;
  const words = (start, end) => sentence.words.slice(start, end).join(" ");
  for (const entity of sentence.entities) {
    if (entity.start < at) continue; // it lies inside the one before
    result.push(words(at, entity.start) + " ");
    const moved = entity.found_start == null ? "" : `, found as “${words(entity.found_start, entity.found_end)}”`;
    const title = entity.kind === "correct" ? entity.gold : `${KINDS[entity.kind]}: gold ${entity.gold ?? "none"}, found ${entity.found ?? "none"}${moved}`;
    const note = entity.gold === entity.found ? entity.gold : `${entity.gold ?? "–"} → ${entity.found ?? "–"}`;
    result.push(make("mark", { class: entity.kind, title }, words(entity.start, entity.end), make("sub", {}, note + moved)), " ");
    at = entity.end;
  }
  return [...result, words(at)];
}

/** A click on a heading sorts a table by that column: largest first, then smallest; text by the alphabet. */
function sortable(table) {
  const body = table.tBodies[0];
  if (!table.tHead || !body || body.rows.length < 2) return;
  const headings = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const text = row.cells[column]?.textContent.trim() ?? "";
    if (text === "" || text.startsWith("–")) return null; // no figure
    const number = column && text.replace(/,(?=\d{3})/g, "").replace("−", "-").match(/^\D{0,2}?(-?\d+(\.\d+)?)/);
    return number ? Number(number[1]) : text;
  };
  headings.forEach((heading, column) => {
    const button = make("button", { type: "button", class: "sort" }, ...heading.childNodes);
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") === "descending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(b).localeCompare(String(a)));
      const rows = [...body.rows].map((row) => [value(row, column), row]);
      rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : up ? order(a, b) : order(b, a)));
      body.append(...rows.map(([, row]) => row));
    });
  });
}

/** All figures: of every seed what it came to (no epoch), and every epoch's. */
function csv() {
  const lines = [["row", "task", "scale", "seed", "commit", "epoch", "metric", "value"]];
  for (const [name, row] of Object.entries(data.rows)) {
    for (const seed of row.seeds) {
      const about = [name, row.task, row.scale, seed.seed, seed.commit ?? ""];
      for (const [metric, value] of Object.entries(seed.metrics)) lines.push([...about, "", metric, value]);
      for (const [metric, values] of Object.entries(seed.columns)) {
        values.forEach((value, place) => [value].flat().forEach((part, number) => {
          const suffix = Array.isArray(value) ? `_${metric === "feature_percentiles" ? data.percentiles[number] : number}` : "";
          lines.push([...about, seed.epochs[place], metric + suffix, part]);
        }));
      }
    }
    for (const [metric, value] of Object.entries(row.published)) lines.push([name, row.task, "published", "", "", "", metric, value]);
  }
  return lines.map((line) => line.map((part) => (/[",\n]/.test(part) ? `"${String(part).replaceAll('"', '""')}"` : part)).join(",")).join("\r\n") + "\r\n";
}

function download() {
  const link = make("a", { href: URL.createObjectURL(new Blob([csv()], { type: "text/csv" })), download: "study.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** Draws what is in a row's details when they are opened for the first time. */
function open(details) {
  const place = details.querySelector("[data-row]");
  if (details.open && place && !place.dataset.drawn) {
    place.dataset.drawn = true;
    drawRow(place);
  }
}

document.querySelectorAll("table").forEach(sortable);
document.querySelectorAll("[data-group]").forEach((place) => (place.dataset.what === "features" ? drawFeatures : drawGroup)(place));
document.getElementById("download").addEventListener("click", download);
document.querySelectorAll("details").forEach((details) => details.addEventListener("toggle", () => open(details)));
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => { details.open = true; open(details); }));
function follow() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target?.tagName === "DETAILS") { target.open = true; open(target); target.scrollIntoView(); }
}
addEventListener("hashchange", follow);
follow();
