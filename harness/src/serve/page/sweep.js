// One sweep: how it stands, its trials as a table, their curves, figures, tables and reports; fills in while it runs.

import { getJson } from "./api.js";
import { catalog, modelOf } from "./catalog.js";
import { valueOf } from "./csv.js";
import { Curves, distinct } from "./curves.js";
import { button, el, toast, write } from "./dom.js";
import { cell, counted, duration, onLanguage, text } from "./i18n.js";
import { Poll } from "./poll.js";
import { badge, progress, runOf, stateOf } from "./progress.js";
import { Results } from "./results.js";
import { SortTable } from "./table.js";

const CURVES = 8; // drawn at first
const MOST_CURVES = 24;
const LEFT_OUT = ["trial", "sweep", "status", "reason"]; // shown in columns of our own

export class Sweep {
  constructor(name) {
    this.name = name;
    this.chosen = null; // trials whose curves are drawn, in order
    this.looks = new Map(); // trial -> look, kept while the page is open
    this.showAll = false;
    this.title = el("h1", { tabindex: -1 }, name);
    this.note = el("p", { class: "trouble", role: "alert" });
    this.bar = progress();
    this.table = new SortTable("trials");
    this.gone = el("p", { class: "faint" });
    this.curves = new Curves();
    this.results = new Results();
    const all = button("columns.all", () => {
      this.showAll = !this.showAll;
      all.setAttribute("aria-pressed", this.showAll);
      this.draw();
    }, { class: "toggle", "aria-pressed": "false" });
    const compare = button("compare.chosen", () => this.compare(), { class: "quiet" });
    this.body = el("div", { hidden: true },
      this.bar.node,
      el("section", {}, el("div", { class: "bar" }, el("h2", { t: "trials" }), el("span", { class: "gap" }), compare, all), this.table.node, this.gone),
      el("section", {}, el("h2", { t: "curves" }), this.curves.node),
      this.results.node);
    this.node = el("section", { class: "page sweep" },
      el("nav", { class: "crumbs", label: "crumbs" }, el("a", { href: "#/sweeps", t: "nav.sweeps" })),
      this.title, this.note, this.body);
    this.forget = onLanguage(() => this.data && this.draw());
    this.poll = new Poll((signal) => this.look(signal));
  }

  async look(signal) {
    try {
      this.data = await getJson(`/api/sweeps/${encodeURIComponent(this.name)}`, signal);
    } catch (error) {
      if (error.name !== "AbortError") write(this.note, error.message);
      return error.status !== 404;
    }
    write(this.note, "");
    this.body.hidden = false;
    this.rows = rowsOf(this.data);
    this.draw();
    await this.drawCurves(signal);
    return (this.data.status?.counts.running ?? 0) > 0;
  }

  draw() {
    const { title, status, files } = this.data;
    write(this.title, title || this.name);
    document.title = `${title || this.name} · Mindscale`;
    const counts = status?.counts ?? countsOf(this.rows);
    const total = Object.values(counts).reduce((sum, n) => sum + n, 0);
    this.bar.update(counts, total, status?.seconds_left);
    this.chooseFirst();
    const gone = countGone(this.data);
    this.gone.hidden = !gone;
    write(this.gone, gone ? text("trials.gone", { trials: counted(gone, "trial") }) : "");
    this.table.update(this.columns(), this.rows);
    this.results.update(files);
  }

  // Ticks the first trials, those that have begun before others; again if the sweep has none of the ticked ones any more.
  chooseFirst() {
    const all = this.rows.filter(({ isFirst }) => isFirst);
    const kept = this.chosen?.filter((one) => all.some(({ trial }) => trial === one));
    const isAnew = !kept || (this.chosen.length > 0 && kept.length === 0);
    const inOrder = [...all.filter(({ state }) => state !== "pending"), ...all.filter(({ state }) => state === "pending")];
    this.chosen = isAnew ? inOrder.slice(0, CURVES).map(({ trial }) => trial) : kept;
  }

  columns() {
    const names = this.data.trials.columns;
    const rest = names.map((name, index) => ({ name, index })).filter(({ name }) => !LEFT_OUT.includes(name));
    const varies = ({ index }) => new Set(this.rows.map(({ values }) => values?.[index] ?? null)).size > 1;
    const shown = this.showAll || this.rows.length < 2 ? rest : rest.filter(varies);
    return [
      { key: "plot", t: "col.plot", value: (row) => (this.chosen.includes(row.trial) ? 1 : 0),
        show: (row) => `${this.chosen.includes(row.trial)} ${row.label}`, fill: (node, row) => this.fillBox(node, row) },
      { key: "label", t: "col.label", value: (row) => row.short, show: (row) => `${row.short}\n${row.reason}`, fill: (node, row) => this.fillLabel(node, row) },
      { key: "state", t: "col.state", value: (row) => row.state, show: (row) => text(`state.${row.state}`),
        fill: (node, row) => node.replaceChildren(badge(row.state).node) },
      ...(this.data.status ? [{ key: "progress", t: "col.progress", value: (row) => row.share, show: (row) => row.work }] : []),
      ...shown.map(({ name, index }) => ({ key: `c.${name}`, name, isNumber: this.isNumber(index),
        value: (row) => row.values?.[index], show: (row) => cell(row.values?.[index], name) })),
    ];
  }

  isNumber(index) {
    const values = this.rows.map(({ values }) => values?.[index]).filter((value) => value !== null && value !== undefined);
    return values.length > 0 && values.every((value) => typeof value === "number");
  }

  fillBox(node, row) {
    if (!row.isFirst) return node.replaceChildren();
    let box = node.querySelector("input");
    if (!box) {
      box = el("input", { type: "checkbox", on: { change: () => this.choose(row.trial, box) } });
      node.replaceChildren(box);
    }
    box.setAttribute("aria-label", `${text("col.plot")}: ${row.label}`);
    box.checked = this.chosen.includes(row.trial);
    return box;
  }

  fillLabel(node, row) {
    const href = `#/sweeps/${encodeURIComponent(this.name)}/${encodeURIComponent(row.trial)}`;
    node.classList.add("label");
    const known = node.querySelector("a"); // keeps the focus
    if (!known) node.replaceChildren(el("a", { href }, row.short), el("small", { class: "reason" }));
    else write(known, row.short);
    node.title = row.short === row.label ? "" : row.label;
    write(node.querySelector(".reason"), row.reason);
  }

  choose(trial, box) {
    if (!box.checked) this.chosen = this.chosen.filter((one) => one !== trial);
    else if (this.chosen.length < MOST_CURVES) this.chosen.push(trial);
    else {
      box.checked = false;
      toast(text("curve.most", { n: MOST_CURVES }));
      return;
    }
    this.draw();
    this.drawCurves(this.poll.controller.signal).catch(() => {});
  }

  drawCurves(signal) {
    const trials = this.data.status?.trials ?? [];
    const shown = this.chosen.map((id) => trials.find(({ trial }) => trial === id)).filter(Boolean);
    for (const { trial } of shown) if (!this.looks.has(trial)) this.looks.set(trial, this.looks.size);
    return this.curves.update(shown.map(({ trial, label, stages }) => ({
      name: label, look: this.looks.get(trial), stages: stages.map((one) => ({ stage: one.stage, run: runOf(one), state: one.state })),
    })), signal);
  }

  // Takes the last model of each chosen trial, where it is served, to the comparison.
  async compare() {
    const list = await catalog().catch(() => []);
    const trials = (this.data.status?.trials ?? []).filter(({ trial }) => this.chosen.includes(trial));
    const names = trials.map(({ stages }) => stages.toReversed().map((one) => modelOf(list, runOf(one))).find(Boolean)?.name);
    const models = [...new Set(names.filter(Boolean))];
    if (models.length < 2) return toast(text("compare.unserved"));
    location.hash = `#/compare?${models.map((name) => `m=${encodeURIComponent(name)}`).join("&")}`;
  }

  stop() {
    this.poll.stop();
    this.forget();
  }
}

// Rows of the table: the trials that the sweep has now, as they stand, with what the record says of them; without a
// status, those of the record.
function rowsOf({ status, trials: { columns, rows } }) {
  const standing = new Map((status?.trials ?? []).map((one) => [one.trial, one]));
  const recorded = recordedOf(columns, rows);
  const trials = status ? [...standing.keys()] : [...recorded.keys()];
  const row = (trial, values, times) => {
    const stands = standing.get(trial);
    const field = (name) => values?.[columns.indexOf(name)];
    return {
      id: `${trial} ${times}`, trial, values, isFirst: times === 0,
      label: stands?.label || labelOf(columns, values) || String(trial).slice(0, 8),
      state: stands ? stateOf(stands) : field("status") || "pending",
      reason: (stands ? stands.reason : field("reason")) ?? "",
      ...workOf(stands),
    };
  };
  const all = trials.flatMap((trial) => (recorded.get(trial) ?? [null]).map((values, times) => row(trial, values, times)));
  const short = distinct(all.map(({ label }) => label));
  return all.map((one, i) => ({ ...one, short: short[i] }));
}

// The rows of trials.csv by trial: one for each exam.
function recordedOf(columns, rows) {
  const place = columns.indexOf("trial");
  const recorded = new Map();
  for (const values of rows) recorded.set(values[place], [...(recorded.get(values[place]) ?? []), values.map(valueOf)]);
  return recorded;
}

// How many trials of the record the sweep no longer contains.
function countGone({ status, trials: { columns, rows } }) {
  if (!status) return 0;
  const here = new Set(status.trials.map(({ trial }) => trial));
  return [...recordedOf(columns, rows).keys()].filter((trial) => !here.has(trial)).length;
}

// A name of a trial that only its record tells of: the seed and the keys, which trials.csv has before `params`.
function labelOf(columns, values) {
  const first = columns.indexOf("seed");
  const named = columns.slice(first, columns.indexOf("params")).map((name, i) => [name, values?.[first + i]]);
  const known = named.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return known.map(([name, value]) => `${name.split(".").at(-1)}=${value}`).join(" ");
}

// What a trial is at, in words, and how far it has come (0 to 1).
function workOf(stands) {
  if (!stands?.stages.length) return { share: null, work: "" };
  const wanted = stands.stages.filter(({ state }) => state !== "unneeded");
  const part = ({ state, last, total_steps: total }) => (state === "done" ? 1 : last && total ? last.step / total : 0);
  const share = wanted.reduce((sum, stage) => sum + part(stage), 0) / (wanted.length || 1);
  const now = wanted.find(({ state }) => state === "running") ?? wanted.find(({ state }) => state === "failed" || state === "stopped");
  if (!now) return { share, work: `${Math.round(100 * share)} %` };
  const steps = now.last && now.total_steps ? ` ${now.last.step}/${now.total_steps}` : "";
  const left = now.state === "running" && now.seconds_left ? `, ${duration(now.seconds_left)}` : "";
  return { share, work: `${now.stage}${steps}${left}` };
}

function countsOf(rows) {
  const counts = {};
  for (const { state, isFirst } of rows) if (isFirst) counts[state] = (counts[state] ?? 0) + 1;
  return counts;
}
