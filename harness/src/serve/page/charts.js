// Curves as SVG: axes, a legend that hides and shows, and the values under the pointer (or under arrow keys).

import { el, svg } from "./dom.js";
import { number, text } from "./i18n.js";

const COLOURS = 8;
const MARGIN = { left: 52, right: 12, top: 10, bottom: 34 };

// A chart of lines. `update({ series, xName, yName, isLog })`, a series: `{ name, x, y, look }` with ascending `x`;
// `look` picks colour and dash, the same for the same thing from update to update.
export class LineChart {
  constructor() {
    this.plot = svg("svg", { class: "plot", tabindex: 0, role: "img" });
    this.readout = el("div", { class: "readout", "aria-live": "polite" });
    this.legend = el("div", { class: "legend" });
    this.frame = el("div", { class: "plot-frame" }, this.plot, this.readout);
    this.node = el("div", { class: "chart" }, this.frame, this.legend);
    this.hidden = new Set();
    this.data = { series: [], xName: "", yName: "", isLog: false };
    this.at = null; // x that is read out
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerdown", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.read(null));
    this.plot.addEventListener("keydown", (event) => this.move(event));
    this.plot.addEventListener("blur", () => this.read(null));
    new ResizeObserver(() => this.draw()).observe(this.frame);
  }

  update(data) {
    this.data = data;
    this.drawLegend();
    this.draw();
  }

  get shown() {
    return this.data.series.filter(({ name, x }) => !this.hidden.has(name) && x.length);
  }

  drawLegend() {
    const { series } = this.data;
    const names = series.map(({ name, look }) => `${look} ${name}`).join("\n");
    if (names === this.listed) return; // focus and pointer stay where they are
    this.listed = names;
    this.legend.replaceChildren(...series.map(({ name, look }) => {
      const key = svg("svg", { class: "key", width: 22, height: 8, "aria-hidden": "true" },
        svg("line", { class: lookOf(look), x1: 0, x2: 22, y1: 4, y2: 4 }));
      const toggle = () => {
        if (!this.hidden.delete(name)) this.hidden.add(name);
        box.setAttribute("aria-pressed", !this.hidden.has(name));
        this.draw();
      };
      const box = el("button", { type: "button", class: "quiet", "aria-pressed": !this.hidden.has(name), on: { click: toggle } },
        key, el("span", {}, name));
      return box;
    }));
  }

  draw() {
    const width = this.frame.clientWidth;
    if (!width) return;
    const height = Math.round(Math.max(200, Math.min(340, width * 0.5)));
    const { xName, yName } = this.data;
    const isEmpty = !this.scale(width, height);
    set(this.plot, { width, height, viewBox: `0 0 ${width} ${height}`, "aria-label": text("chart.label", { x: xName, y: yName }) });
    if (isEmpty) {
      const words = svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle", class: "faint" }, "–");
      this.plot.replaceChildren(words);
      return;
    }
    const [low, high] = [height - MARGIN.bottom, width - MARGIN.right];
    const grid = svg("g", { class: "grid" });
    for (const y of this.yTicks) {
      grid.append(svg("line", { x1: MARGIN.left, x2: high, y1: this.py(y), y2: this.py(y) }),
        svg("text", { x: MARGIN.left - 6, y: this.py(y) + 4, "text-anchor": "end" }, tick(y)));
    }
    for (const x of this.xTicks) {
      grid.append(svg("line", { class: "mark", x1: this.px(x), x2: this.px(x), y1: low, y2: low + 4 }),
        svg("text", { x: this.px(x), y: low + 17, "text-anchor": "middle" }, tick(x)));
    }
    grid.append(svg("line", { class: "axis", x1: MARGIN.left, x2: high, y1: low, y2: low }),
      svg("text", { x: high, y: height - 3, "text-anchor": "end", class: "name" }, xName));
    const lines = this.shown.map(({ x, y, look }) => {
      const points = thin(x, y, high - MARGIN.left).filter(([, value]) => this.isPlottable(value));
      const path = points.map(([a, b], i) => `${i ? "L" : "M"}${this.px(a).toFixed(1)} ${this.py(b).toFixed(1)}`).join("");
      const dot = points.length === 1 ? [svg("circle", { class: lookOf(look), cx: this.px(points[0][0]), cy: this.py(points[0][1]), r: 2.5 })] : [];
      return [svg("path", { class: `line ${lookOf(look)}`, d: path }), ...dot];
    });
    this.cursor = svg("g", { class: "cursor" });
    this.plot.replaceChildren(grid, ...lines.flat(), this.cursor);
    this.read(this.at);
  }

  isPlottable(y) {
    return Number.isFinite(y) && (!this.data.isLog || y > 0);
  }

  // Sets the scales; false where nothing can be drawn.
  scale(width, height) {
    const [xs, ys] = [bounds(), bounds()];
    for (const { x, y } of this.shown) {
      for (let i = 0; i < x.length; i += 1) {
        if (!this.isPlottable(y[i])) continue;
        xs.take(x[i]);
        ys.take(y[i]);
      }
    }
    if (xs.low > xs.high) return false;
    const { isLog } = this.data;
    const to = isLog ? Math.log10 : (y) => y;
    let [low, high] = [to(ys.low), to(ys.high)];
    const room = (high - low || Math.abs(high) || 1) * 0.05;
    [low, high] = [low - room, high + room];
    if (!isLog && ys.low >= 0) low = Math.max(0, low);
    const [right, bottom] = [width - MARGIN.right, height - MARGIN.bottom];
    const span = xs.high - xs.low || 1;
    this.px = (x) => MARGIN.left + ((x - xs.low) / span) * (right - MARGIN.left);
    this.py = (y) => bottom - ((to(y) - low) / (high - low)) * (bottom - MARGIN.top);
    this.xTicks = ticks(xs.low, xs.high, width / 90);
    this.yTicks = isLog ? logTicks(10 ** low, 10 ** high) : ticks(low, high, height / 50);
    return true;
  }

  // The x of all points that are shown.
  get stops() {
    return [...new Set(this.shown.flatMap(({ x }) => x))].sort((a, b) => a - b);
  }

  point(event) {
    const { stops } = this;
    if (!stops.length || !this.px) return;
    const x = event.clientX - this.plot.getBoundingClientRect().left;
    this.read(stops[nearest(stops.map((stop) => this.px(stop)), x)]);
  }

  move(event) {
    const { stops } = this;
    const jump = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity }[event.key];
    if (!stops.length || jump === undefined) return;
    event.preventDefault();
    const now = this.at === null ? (jump > 0 ? -1 : stops.length) : nearest(stops, this.at);
    this.read(stops[Math.max(0, Math.min(stops.length - 1, now + jump))]);
  }

  // Reads out every curve at an x, or none.
  read(x) {
    this.at = x;
    this.cursor?.replaceChildren();
    this.readout.classList.toggle("shown", x !== null && this.shown.length > 0);
    if (x === null || !this.cursor || !this.shown.length) return;
    const values = this.shown.flatMap((one) => {
      const i = nearest(one.x, x);
      // A curve that has ended or not begun has no value here.
      const isInside = x >= one.x[0] && x <= one.x.at(-1);
      return isInside && this.isPlottable(one.y[i]) ? [{ ...one, at: one.x[i], value: one.y[i] }] : [];
    });
    this.cursor.append(svg("line", { x1: this.px(x), x2: this.px(x), y1: MARGIN.top, y2: this.plot.height.baseVal.value - MARGIN.bottom }),
      ...values.map(({ at, value, look }) => svg("circle", { class: lookOf(look), cx: this.px(at), cy: this.py(value), r: 3 })));
    values.sort((a, b) => b.value - a.value);
    this.readout.replaceChildren(el("p", {}, `${this.data.xName} ${number(x)}`),
      ...values.slice(0, 12).map(({ name, value, look }) => el("p", {},
        svg("svg", { class: "key", width: 12, height: 8, "aria-hidden": "true" }, svg("line", { class: lookOf(look), x1: 0, x2: 12, y1: 4, y2: 4 })),
        el("span", { class: "name" }, name), el("span", { class: "number" }, number(value)))));
    const isRight = this.px(x) > this.frame.clientWidth / 2;
    this.readout.classList.toggle("left", isRight);
  }
}

const lookOf = (look) => `s${look % COLOURS} dash${Math.floor(look / COLOURS) % 3}`;

function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
}

function bounds() {
  const box = { low: Infinity, high: -Infinity };
  box.take = (value) => {
    box.low = Math.min(box.low, value);
    box.high = Math.max(box.high, value);
  };
  return box;
}

function nearest(sorted, x) {
  let [low, high] = [0, sorted.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= x) low = middle;
    else high = middle;
  }
  return x - sorted[low] <= sorted[high] - x ? low : high;
}

// Round numbers from `low` to `high`, about `wanted` of them.
export function ticks(low, high, wanted) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(2, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-12); i += 1) found.push(Number((i * step).toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const factor of [1, 2, 5]) found.push(factor * 10 ** power);
  }
  const inside = found.filter((y) => y >= low && y <= high);
  return inside.length >= 2 ? inside : ticks(low, high, 4);
}

function tick(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${number(value / 1e6)}M`;
  if (size >= 1e4) return `${number(value / 1e3)}k`;
  return size !== 0 && size < 1e-3 ? value.toExponential(0) : String(value);
}

// At most some four points a pixel column: first, lowest, highest and last of each.
function thin(x, y, width) {
  if (x.length <= 4 * width) return x.map((at, i) => [at, y[i]]);
  const found = [];
  const size = x.length / width;
  for (let column = 0; column < width; column += 1) {
    const [from, to] = [Math.floor(column * size), Math.floor((column + 1) * size)];
    let [low, high] = [from, from];
    for (let i = from; i < to; i += 1) {
      if (y[i] < y[low]) low = i;
      if (y[i] > y[high]) high = i;
    }
    for (const i of [...new Set([from, low, high, to - 1])].sort((a, b) => a - b)) found.push([x[i], y[i]]);
  }
  return found;
}
