// Curves of stage runs: which stage, which measure, how smooth; asks for the metrics of what is shown.

import { getJson } from "./api.js";
import { LineChart } from "./charts.js";
import { button, el } from "./dom.js";
import { text } from "./i18n.js";

const MEASURES = ["train.loss", "val.loss", "val.bpb", "train.lr", "train.tokens_per_second"];
const WITHOUT_CURVES = ["tokenizer", "data", "exam"]; // stages that train nothing
const SMOOTHING = [0, 0.8, 0.95];
const AT_ONCE = 6; // requests

// Metrics by stage run; what is done does not change any more.
const kept = new Map();

async function metricsOf(run, isOver, signal) {
  const known = kept.get(run);
  if (known?.isOver) return known.metrics;
  try {
    const metrics = await getJson(`/api/runs/${encodeURIComponent(run)}/metrics`, signal);
    kept.set(run, { metrics, isOver });
    return metrics;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return known?.metrics ?? null; // not begun, or no metrics
  }
}

// Curves of trials: `{ name, look, stages: [{ stage, run, state }] }`.
export class Curves {
  constructor() {
    const redraw = () => this.draw();
    const select = (label, options) => el("select", { label, on: { change: redraw } }, options);
    this.stage = el("select", { label: "curve.stage", on: { change: () => this.again?.() } });
    this.measure = select("curve.measure", MEASURES.map((value) => el("option", { value, t: `curve.${value}` })));
    this.smooth = select("curve.smooth", SMOOTHING.map((value) => el("option", { value, t: `curve.smooth.${value}` })));
    this.isLog = false;
    const log = button("curve.log", () => {
      this.isLog = !this.isLog;
      log.setAttribute("aria-pressed", this.isLog);
      redraw();
    }, { class: "toggle", "aria-pressed": "false" });
    this.chart = new LineChart();
    this.note = el("p", { class: "faint" });
    this.node = el("div", { class: "curves" },
      el("div", { class: "bar" }, this.stage, this.measure, this.smooth, log), this.chart.node, this.note);
    this.trials = [];
    this.metrics = new Map();
  }

  // Shows trials; `again` is called when another stage is wanted.
  async update(trials, signal) {
    this.trials = trials;
    this.again = () => this.update(this.trials, signal).catch(() => {});
    this.listStages();
    const wanted = trials.flatMap(({ stages }) => stages.filter(({ stage }) => stage === this.stage.value));
    const runs = new Map(wanted.filter(({ state }) => state !== "pending").map((one) => [one.run, one]));
    const queue = [...runs.values()];
    const work = async () => {
      for (let one = queue.shift(); one; one = queue.shift()) {
        const metrics = await metricsOf(one.run, one.state === "done", signal);
        if (metrics) this.metrics.set(one.run, metrics);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    this.draw();
  }

  listStages() {
    const there = new Set(this.trials.flatMap(({ stages }) => stages.map(({ stage }) => stage)));
    const names = [...there].filter((stage) => !WITHOUT_CURVES.includes(stage));
    if (names.join() === this.listed) return;
    this.listed = names.join();
    const chosen = this.stage.value;
    this.stage.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    // One trial: what it is at; several: what all of them begin with.
    const begun = this.trials.length === 1 ? this.trials[0].stages.filter(({ stage, state }) => names.includes(stage) && state !== "pending") : [];
    this.stage.value = names.includes(chosen) ? chosen : begun.at(-1)?.stage ?? names[0] ?? "";
  }

  draw() {
    const measure = this.measure.value;
    const [split, column] = measure.split(".");
    const isAlone = this.trials.length === 1;
    const seen = new Set();
    const names = distinct(this.trials.map(({ name }) => name));
    const series = this.trials.flatMap(({ look, stages }, i) => {
      const run = stages.find(({ stage }) => stage === this.stage.value)?.run;
      const metrics = this.metrics.get(run);
      if (!metrics || seen.has(run)) return []; // trials may share a stage run
      seen.add(run);
      const one = (part, as, lookAs) => ({ name: as, look: lookAs, x: metrics[part]?.step ?? [],
        y: smooth(metrics[part]?.[column] ?? [], part === "train" ? Number(this.smooth.value) : 0) });
      if (isAlone && measure === "train.loss") {
        return [one("train", text("curve.train"), look), one("val", text("curve.val"), look + 1)].filter(({ y }) => y.length);
      }
      return [one(split, names[i], look)].filter(({ y }) => y.length);
    });
    this.chart.update({ series, xName: text("curve.step"), yName: text(`curve.${measure}`), isLog: this.isLog });
    this.note.textContent = this.trials.length && !series.length ? text("curve.none") : "";
  }
}

// Labels without the words that all of them share.
export function distinct(labels) {
  const words = labels.map((label) => label.split(" "));
  const isShared = (word) => words.length > 1 && words.every((others) => others.includes(word));
  return words.map((all, i) => all.filter((word) => !isShared(word)).join(" ") || labels[i]);
}

// Exponential moving average without the bias of its start (as Adam's, Kingma & Ba 2015, section 3).
export function smooth(values, share) {
  if (!share) return values;
  let [mean, weight] = [0, 0];
  return values.map((value) => {
    if (!Number.isFinite(value)) return value;
    mean = share * mean + (1 - share) * value;
    weight = share * weight + (1 - share);
    return mean / weight;
  });
}
