"use strict";
const { rows, fixed, crossovers } = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const FILTERS = ["operation", "format", "layer", "dtype"];
const NAMES = [...new Set(rows.map((row) => row.contestant))].filter((name) => name !== "copy").sort(oursFirst);
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

function bars(list) {
  const timed = list.filter((row) => row.status === "timed" && row.contestant !== "copy");
  if (!timed.length) return shape("svg", { viewBox: "0 0 400 1" });
  timed.sort((a, b) => a.seconds - b.seconds);
  const copy = timed[0].copy_gbps;
  const width = 400, step = 38, height = timed.length * step + 22;
  const scale = width / Math.max(copy * 1.02, timed[0].gbps);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Bars of GB/s" });
  timed.forEach((row, i) => {
    const y = i * step;
    svg.append(shape("text", { x: 0, y: y + 13 }, row.contestant));
    const value = `${number(row.gbps)} GB/s, ${percent(row.copy_share)}, ${time(row.seconds)}`;
    svg.append(shape("text", { x: width, y: y + 13, "text-anchor": "end", class: "soft" }, value));
    const bar = { x: 0, y: y + 18, width: Math.max(row.gbps * scale, 1.5), height: 9, rx: 2 };
    svg.append(shape("rect", { ...bar, x: 0, width, fill: "var(--grid)" }));
    svg.append(shape("rect", { ...bar, fill: COLORS.get(row.contestant) }));
  });
  const x = copy * scale;
  timed.forEach((row, i) => svg.append(shape("line", { x1: x, x2: x, y1: i * step + 15, y2: i * step + 30, class: "copy" })));
  const label = { x: Math.min(x, width), y: height - 3, "text-anchor": x > width / 2 ? "end" : "start", class: "soft" };
  svg.append(shape("text", label, `copy ${number(copy)} GB/s`));
  return svg;
}

function lines(list) {
  const timed = list.filter((row) => row.status === "timed" && row.contestant !== "copy");
  const width = 400, height = 250, left = 52, bottom = 30, top = 8, right = 10;
  const counts = [...new Set(timed.map((row) => row.vectors))].sort((a, b) => a - b);
  const times = timed.map((row) => Math.log10(row.seconds));
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
  for (const one of groups(timed, ["contestant"])) {
    one.sort((a, b) => a.vectors - b.vectors);
    const color = COLORS.get(one[0].contestant);
    const ours = one[0].contestant.startsWith("mlx-dequant");
    const points = one.map((row) => `${x(row.vectors)},${y(row.seconds)}`).join(" ");
    svg.append(shape("polyline", { points, fill: "none", stroke: color, "stroke-width": ours ? 3 : 1.8 }));
    for (const row of one) {
      const dot = shape("circle", { cx: x(row.vectors), cy: y(row.seconds), r: ours ? 4.5 : 3.5, fill: color });
      dot.append(shape("title", {}, `${row.contestant}, ${row.vectors} x: ${time(row.seconds)}`));
      svg.append(dot);
    }
  }
  return svg;
}

function legend(list) {
  const names = NAMES.filter((name) => list.some((row) => row.contestant === name && row.status === "timed"));
  const items = names.map((name) => {
    const key = element("i");
    key.style.background = COLORS.get(name);
    return element("span", {}, key, name);
  });
  return element("p", { class: "legend under" }, ...items);
}

function heading(row, keys) {
  const words = { operation: row.operation, format: row.format, vectors: row.vectors ? `${row.vectors} ${row.operation === "take" ? "ids" : "x"}` : "" };
  const size = row.format ? `${row.layer}, ${row.shape.join(" x ")}` : row.layer;
  const title = keys.map((key) => words[key]).filter(Boolean).join(", ");
  return [element("h3", {}, title), element("p", { class: "under" }, `${size}, ${row.dtype}`)];
}

function barCards(shown) {
  const cards = groups(shown, ["operation", "format", "layer", "dtype", "vectors"]).map((list) => {
    const out = list.filter((row) => row.status !== "timed");
    const notes = out.map((row) => element("li", row.status === "left out" ? {} : { class: "out" }, `${row.contestant}: ${row.status}, ${row.note}`));
    return element("div", { class: "card" }, ...heading(list[0], ["operation", "format", "vectors"]), bars(list),
      ...(notes.length ? [element("ul", {}, ...notes)] : []));
  });
  document.getElementById("bars").replaceChildren(...cards);
}

function lineCards(shown) {
  const products = shown.filter((row) => row.operation === "linear");
  const several = groups(products, ["format", "layer", "dtype"]).filter(
    (list) => new Set(list.map((row) => row.vectors)).size > 1 && list.some((row) => row.status === "timed" && row.contestant !== "copy"),
  );
  document.getElementById("lines-section").hidden = !several.length;
  const cards = several.map((list) => {
    const one = list[0];
    const met = crossovers.filter((at) => ["format", "layer", "dtype"].every((key) => at[key] === one[key]));
    const words = met.map((at) => {
      const slower = at.faster === at.ours ? at.other : at.ours;
      return element("li", {}, `from about ${Math.round(at.vectors)} rows of x on, ${at.faster} is faster than ${slower}`);
    });
    const none = element("li", {}, "no line of ours meets another's");
    return element("div", { class: "card" }, ...heading(one, ["operation", "format"]), lines(list), legend(list),
      element("ul", {}, ...(words.length ? words : [none])));
  });
  document.getElementById("lines").replaceChildren(...cards);
}

const COLUMNS = [
  ["contestant", (row) => row.contestant], ["operation", (row) => row.operation], ["format", (row) => row.format],
  ["layer", (row) => row.layer], ["x", (row) => row.vectors || "", "vectors"], ["dtype", (row) => row.dtype],
  ["time", (row) => (row.seconds ? time(row.seconds) : row.status), "seconds"],
  ["spread", (row) => (row.seconds ? `±${percent((row.high - row.low) / 2 / row.seconds)}` : ""), "high"],
  ["GB/s", (row) => (row.seconds ? number(row.gbps) : ""), "gbps"],
  ["of copy", (row) => (row.seconds ? percent(row.copy_share) : ""), "copy_share"],
  ["Gweights/s", (row) => (row.seconds ? number(row.gweights) : ""), "gweights"], ["note", (row) => row.note],
];

function table(shown) {
  const key = sorted.key;
  const order = [...shown];
  if (key) order.sort((a, b) => (sorted.down ? -1 : 1) * compared(a[key], b[key]));
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
    const kind = !["timed", "left out"].includes(row.status) ? "out" : row.contestant.startsWith("mlx-dequant") ? "ours" : "";
    const style = ([name, , field]) => (field ? { class: "number" } : name === "note" ? { class: "note" } : {});
    return element("tr", { class: kind }, ...COLUMNS.map((column) => element("td", style(column), String(column[1](row)))));
  });
  const made = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...lines));
  document.getElementById("table").replaceChildren(made);
  document.getElementById("count").textContent = `${shown.length} of ${rows.length} rows; a click on a heading sorts`;
}

function compared(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "number" ? a - b : String(a).localeCompare(String(b));
}

function costs() {
  const lines = fixed.map((row) =>
    element("tr", {}, element("td", {}, row.cost), element("td", { class: "number" }, time(row.seconds)),
      element("td", { class: "number" }, row.aim ? `aim ${time(row.aim)}` : "")));
  document.getElementById("fixed").replaceChildren(element("table", {}, element("tbody", {}, ...lines)));
}

function filters() {
  const boxes = FILTERS.map((name) => {
    const values = [...new Set(rows.map((row) => row[name]))].filter(Boolean);
    const select = element("select", {}, element("option", { value: "" }, "all"),
      ...values.map((value) => element("option", { value }, value)));
    select.onchange = () => { chosen[name] = select.value; draw(); };
    return element("label", {}, name, select);
  });
  const search = element("input", { type: "search", placeholder: "contestant …" });
  search.oninput = () => { chosen.search = search.value.toLowerCase(); draw(); };
  document.getElementById("filters").replaceChildren(...boxes, element("label", {}, "contestant", search));
}

function draw() {
  const shown = rows.filter((row) => FILTERS.every((name) => !chosen[name] || row[name] === chosen[name])
    && row.contestant.toLowerCase().includes(chosen.search));
  barCards(shown);
  lineCards(shown);
  table(shown);
}

filters();
costs();
draw();
