// One trial: its stages and how they stand, curves, why it failed, the end of the log, what the record says of it.

import { getJson } from "./api.js";
import { catalog, modelOf } from "./catalog.js";
import { valueOf } from "./csv.js";
import { Curves } from "./curves.js";
import { el, write } from "./dom.js";
import { cell, duration, number, onLanguage, rough, text } from "./i18n.js";
import { Poll } from "./poll.js";
import { badge, runOf, stateOf } from "./progress.js";

export class Trial {
  constructor(sweep, id) {
    Object.assign(this, { sweep, id, models: [] });
    this.title = el("h1", { tabindex: -1 }, id.slice(0, 8));
    this.state = badge("pending");
    this.note = el("p", { class: "trouble", role: "alert" });
    this.reason = el("p", { class: "trouble" });
    this.stages = el("ul", { class: "stages" });
    this.curves = new Curves();
    this.log = el("pre", { class: "log-end", tabindex: 0, hidden: true });
    this.logHead = el("h2", { t: "log", hidden: true });
    this.facts = el("dl", { class: "facts" });
    this.known = new Map(); // run -> what shows it
    const up = `#/sweeps/${encodeURIComponent(sweep)}`;
    this.node = el("section", { class: "page trial" },
      el("nav", { class: "crumbs", label: "crumbs" }, el("a", { href: "#/sweeps", t: "nav.sweeps" }), el("span", { class: "faint" }, "/"), el("a", { href: up }, sweep)),
      el("div", { class: "bar title-bar" }, this.title, this.state.node), this.note, this.reason,
      this.logHead, this.log,
      el("h2", { t: "stages" }), this.stages,
      el("h2", { t: "curves" }), this.curves.node,
      el("h2", { t: "record" }), this.facts);
    this.forget = onLanguage(() => this.data && this.draw());
    catalog().then((models) => {
      this.models = models;
      if (this.data) this.draw();
    }, () => {});
    this.poll = new Poll((signal) => this.look(signal));
  }

  async look(signal) {
    try {
      this.data = await getJson(`/api/sweeps/${encodeURIComponent(this.sweep)}`, signal);
    } catch (error) {
      if (error.name !== "AbortError") write(this.note, error.message);
      return error.status !== 404;
    }
    const { trial, record } = this.find();
    write(this.note, trial || record ? "" : text("trial.unknown", { id: this.id }));
    this.draw();
    const stages = (trial?.stages ?? []).map((one) => ({ stage: one.stage, run: runOf(one), state: one.state }));
    await this.curves.update(trial ? [{ name: trial.label, look: 0, stages }] : [], signal);
    return trial ? stateOf(trial) === "running" || this.data.status.counts.running > 0 : false;
  }

  find() {
    const { status, trials } = this.data;
    const place = trials.columns.indexOf("trial");
    return {
      trial: status?.trials.find(({ trial }) => trial === this.id) ?? null,
      record: trials.rows.find((row) => row[place] === this.id) ?? null,
    };
  }

  draw() {
    const { trial, record } = this.find();
    const { columns } = this.data.trials;
    if (trial) {
      write(this.title, trial.label || this.id.slice(0, 8));
      document.title = `${trial.label} · Mindscale`;
      this.state.update(stateOf(trial));
      write(this.reason, trial.reason ?? "");
      trial.stages.forEach((stage) => this.drawStage(stage));
    } else if (record) {
      this.state.update(record[columns.indexOf("status")] || "pending");
    }
    const lines = (trial?.stages ?? []).flatMap(({ log }) => log ?? []);
    this.log.hidden = this.logHead.hidden = !lines.length;
    write(this.log, lines.join("\n"));
    const isFact = (name) => !["sweep", "status", "reason"].includes(name);
    const facts = columns.map((name, i) => [name, record ? cell(valueOf(record[i]), name) : ""]).filter(([name, value]) => value !== "" && isFact(name));
    const shown = JSON.stringify(facts);
    if (shown === this.shown) return;
    this.shown = shown;
    this.facts.replaceChildren(...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  }

  drawStage(stage) {
    const run = runOf(stage);
    if (!this.known.has(run)) {
      const shown = { state: badge(stage.state), meter: el("progress", { max: 1, label: "col.progress" }), words: el("span", { class: "faint" }),
        talk: el("a", { t: "stage.talk", hidden: true }) };
      this.known.set(run, shown);
      this.stages.append(el("li", {}, el("code", {}, run), shown.state.node, shown.meter, shown.words, shown.talk));
    }
    const { state, meter, words, talk } = this.known.get(run);
    const { last, total_steps: total } = stage;
    state.update(stage.state);
    meter.value = stage.state === "done" || stage.state === "unneeded" ? 1 : last && total ? last.step / total : 0;
    write(words, [
      last && total ? text("stage.steps", { step: number(last.step), total: number(total) }) : null,
      Number.isFinite(last?.loss) ? text("stage.loss", { loss: number(last.loss) }) : null,
      stage.state === "running" && last?.tokens_per_second ? text("stage.speed", { speed: rough(last.tokens_per_second) }) : null,
      stage.state === "running" && stage.seconds_left ? text("left", { time: duration(stage.seconds_left) }) : null,
      stage.state !== "done" ? stage.detail : null,
    ].filter(Boolean).join(" · "));
    const model = modelOf(this.models, run);
    talk.hidden = !model;
    if (model) talk.href = `#/chat?model=${encodeURIComponent(model.name)}`;
  }

  stop() {
    this.poll.stop();
    this.forget();
  }
}
