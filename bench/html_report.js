"use strict";
const { rows, overhead, crossovers } = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const FILTERS = ["case", "format", "layer", "dtype"];
const NAMES = [...new Set(rows.map((row) => row.provider))].filter((name) => name !== "copy").sort(oursFirst);
const COLORS = new Map(NAMES.map((name, i) => [name, `var(--c${Math.min(i, 7)})`]));
const chosen = { search: "" };
let sorted = { key: null, down: false };

function oursFirst(a, b) {
  const late = (name) => !name.startsWith("mlx-dequant");
  return late(a) - late(b) || a.localeCompare(b);
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function number(value) {
  return value >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

function time(seconds) {
  if (seconds >= 1) return `${number(seconds)} s`;
  return seconds >= 1e-3 ? `${number(seconds * 1e3)} ms` : `${number(seconds * 1e6)} µs`;
}

function percent(share) {
  if (share < 0.001) return "<0.1 %";
  return `${share < 0.095 ? (100 * share).toFixed(1) : Math.round(100 * share)} %`;
}

function groups(list, keys) {
  const found = new Map();
  for (const row of list) {
    const key = JSON.stringify(keys.map((name) => row[name]));
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(row);
  }
  return [...found.values()];
}

function median(row) {
  return row.seconds.median;
}

function bars(list) {
  const timed = list.filter((row) => row.status === "timed" && row.provider !== "copy");
  if (!timed.length) return shape("svg", { viewBox: "0 0 400 1" });
  timed.sort((a, b) => median(a) - median(b));
  const copy = timed[0].gbps / timed[0].share_of_copy;
  const width = 400, step = 38, height = timed.length * step + 22;
  const scale = width / Math.max(copy * 1.02, timed[0].gbps);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Bars of GB/s" });
  timed.forEach((row, i) => {
    const y = i * step;
    svg.append(shape("text", { x: 0, y: y + 13 }, row.provider));
    const value = `${number(row.gbps)} GB/s, ${percent(row.share_of_copy)}, ${time(median(row))}`;
    svg.append(shape("text", { x: width, y: y + 13, "text-anchor": "end", class: "soft" }, value));
    const bar = { x: 0, y: y + 18, width: Math.max(row.gbps * scale, 1.5), height: 9, rx: 2 };
    svg.append(shape("rect", { ...bar, x: 0, width, fill: "var(--grid)" }));
    svg.append(shape("rect", { ...bar, fill: COLORS.get(row.provider) }));
  });
  const x = copy * scale;
  timed.forEach((row, i) => svg.append(shape("line", { x1: x, x2: x, y1: i * step + 15, y2: i * step + 30, class: "copy" })));
  const label = { x: Math.min(x, width), y: height - 3, "text-anchor": x > width / 2 ? "end" : "start", class: "soft" };
  svg.append(shape("text", label, `copy ${number(copy)} GB/s`));
  return svg;
}

function lines(list) {
  const timed = list.filter((row) => row.status === "timed" && row.provider !== "copy");
  const width = 400, height = 250, left = 52, bottom = 30, top = 8, right = 10;
  const counts = [...new Set(timed.map((row) => row.M))].sort((a, b) => a - b);
  const times = timed.map((row) => Math.log10(median(row)));
  const low = Math.floor(Math.min(...times)), high = Math.ceil(Math.max(...times) + 1e-9);
  const far = Math.log2(counts.at(-1) / counts[0]) || 1;
  const x = (m) => left + 6 + ((width - left - right - 12) * Math.log2(m / counts[0])) / far;
  const y = (seconds) => top + ((height - top - bottom) * (high - Math.log10(seconds))) / (high - low || 1);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Time against rows of x" });
  for (let power = low; power <= high; power++) {
    const at = y(10 ** power);
    svg.append(shape("line", { x1: left, x2: width - right, y1: at, y2: at, class: "grid" }));
    svg.append(shape("text", { x: left - 8, y: at + 4, "text-anchor": "end", class: "soft" }, time(10 ** power)));
  }
  for (const m of counts) {
    svg.append(shape("text", { x: x(m), y: height - 12, "text-anchor": "middle", class: "soft" }, m));
  }
  for (const one of groups(timed, ["provider"])) {
    one.sort((a, b) => a.M - b.M);
    const color = COLORS.get(one[0].provider);
    const ours = one[0].provider.startsWith("mlx-dequant");
    const points = one.map((row) => `${x(row.M)},${y(median(row))}`).join(" ");
    svg.append(shape("polyline", { points, fill: "none", stroke: color, "stroke-width": ours ? 3 : 1.8 }));
    for (const row of one) {
      const dot = shape("circle", { cx: x(row.M), cy: y(median(row)), r: ours ? 4.5 : 3.5, fill: color });
      dot.append(shape("title", {}, `${row.provider}, ${row.M} rows: ${time(median(row))}`));
      svg.append(dot);
    }
  }
  return svg;
}

function legend(list) {
  const names = NAMES.filter((name) => list.some((row) => row.provider === name && row.status === "timed"));
  const items = names.map((name) => {
    const key = element("i");
    key.style.background = COLORS.get(name);
    return element("span", {}, key, name);
  });
  return element("p", { class: "legend under" }, ...items);
}

function format(row) {
  return row.format + (row.has_g_idx ? ", act-order" : "");
}

function heading(row, keys) {
  const unit = row.case === "take" ? "ids" : row.M === 1 ? "row" : "rows";
  const words = { case: row.case, format: format(row), M: row.M ? `${row.M} ${unit}` : "" };
  const size = row.format ? `${row.layer}, ${row.shape.join(" x ")}` : row.layer;
  const title = keys.map((key) => words[key]).filter(Boolean).join(", ");
  return [element("h3", {}, title), element("p", { class: "under" }, `${size}, ${row.dtype}`)];
}

function barCards(shown) {
  const cards = groups(shown, ["case", "format", "has_g_idx", "layer", "dtype", "M"]).map((list) => {
    const out = list.filter((row) => row.status !== "timed");
    const notes = out.map((row) => element("li", row.status === "left out" ? {} : { class: "out" }, `${row.provider}: ${row.status}, ${row.check}`));
    return element("div", { class: "card" }, ...heading(list[0], ["case", "format", "M"]), bars(list),
      ...(notes.length ? [element("ul", {}, ...notes)] : []));
  });
  document.getElementById("bars").replaceChildren(...cards);
}

function lineCards(shown) {
  const products = shown.filter((row) => row.case === "linear");
  const several = groups(products, ["format", "has_g_idx", "layer", "dtype"]).filter(
    (list) => new Set(list.map((row) => row.M)).size > 1 && list.some((row) => row.status === "timed" && row.provider !== "copy"),
  );
  document.getElementById("lines-section").hidden = !several.length;
  const cards = several.map((list) => {
    const one = list[0];
    const met = crossovers.filter((at) => ["format", "has_g_idx", "layer", "dtype"].every((key) => at[key] === one[key]));
    const words = met.map((at) => {
      const slower = at.faster === at.ours ? at.other : at.ours;
      return element("li", {}, `from about ${Math.round(at.M)} rows of x on, ${at.faster} is faster than ${slower}`);
    });
    const none = element("li", {}, "no line of ours meets another's");
    return element("div", { class: "card" }, ...heading(one, ["case", "format"]), lines(list), legend(list),
      element("ul", {}, ...(words.length ? words : [none])));
  });
  document.getElementById("lines").replaceChildren(...cards);
}

const COLUMNS = [
  ["provider", (row) => row.provider], ["case", (row) => row.case], ["format", format],
  ["layer", (row) => row.layer], ["rows", (row) => row.M || "", "M"], ["dtype", (row) => row.dtype],
  ["time", (row) => (row.seconds ? time(median(row)) : row.status), "seconds"],
  ["spread", (row) => (row.seconds ? `±${percent((row.seconds.high - row.seconds.low) / 2 / median(row))}` : ""), "spread"],
  ["GB/s", (row) => (row.seconds ? number(row.gbps) : ""), "gbps"],
  ["of copy", (row) => (row.seconds ? percent(row.share_of_copy) : ""), "share_of_copy"],
  ["check", (row) => row.check],
];

function table(shown) {
  const key = sorted.key;
  const order = [...shown];
  if (key) order.sort((a, b) => (sorted.down ? -1 : 1) * compared(field(a, key), field(b, key)));
  const head = COLUMNS.map(([name, , field]) => {
    const button = element("button", { type: "button" }, name);
    button.onclick = () => {
      const wanted = field ?? name;
      sorted = { key: wanted, down: sorted.key === wanted && !sorted.down };
      draw();
    };
    return element("th", field ? { class: "number" } : {}, button);
  });
  const lines = order.map((row) => {
    const kind = !["timed", "left out"].includes(row.status) ? "out" : row.provider.startsWith("mlx-dequant") ? "ours" : "";
    const style = ([name, , field]) => (field ? { class: "number" } : name === "check" ? { class: "note" } : {});
    return element("tr", { class: kind }, ...COLUMNS.map((column) => element("td", style(column), String(column[1](row)))));
  });
  const made = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...lines));
  document.getElementById("table").replaceChildren(made);
  document.getElementById("count").textContent = `${shown.length} of ${rows.length} rows; a click on a heading sorts`;
}

function field(row, key) {
  if (key === "seconds") return row.seconds && median(row);
  if (key === "spread") return row.seconds && (row.seconds.high - row.seconds.low) / median(row);
  return row[key];
}

function compared(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "number" ? a - b : String(a).localeCompare(String(b));
}

function costs() {
  const lines = overhead.map((row) =>
    element("tr", {}, element("td", {}, `${row.provider}: ${row.what}`), element("td", { class: "number" }, time(median(row))),
      element("td", { class: "number" }, row.aim ? `aim ${time(row.aim)}` : "")));
  document.getElementById("overhead").replaceChildren(element("table", {}, element("tbody", {}, ...lines)));
}

function filters() {
  const boxes = FILTERS.map((name) => {
    const values = [...new Set(rows.map((row) => row[name]))].filter(Boolean);
    const select = element("select", {}, element("option", { value: "" }, "all"),
      ...values.map((value) => element("option", { value }, value)));
    select.onchange = () => { chosen[name] = select.value; draw(); };
    return element("label", {}, name, select);
  });
  const search = element("input", { type: "search", placeholder: "provider …" });
  search.oninput = () => { chosen.search = search.value.toLowerCase(); draw(); };
  document.getElementById("filters").replaceChildren(...boxes, element("label", {}, "provider", search));
}

function draw() {
  const shown = rows.filter((row) => FILTERS.every((name) => !chosen[name] || row[name] === chosen[name])
    && row.provider.toLowerCase().includes(chosen.search));
  barCards(shown);
  lineCards(shown);
  table(shown);
}

filters();
costs();
draw();
