// One prompt to several models, answers side by side, equal seeds, each token by its probability.

import { catalog, caption } from "./catalog.js";
import { button, copy, download, el, isTyping, toast, write as put } from "./dom.js";
import { onLanguage, text } from "./i18n.js";
import { QUESTIONS } from "./questions.js";
import { Round, toMarkdown } from "./round.js";
import { SettingsForm } from "./settings.js";
import { read, write } from "./store.js";
import { legend } from "./tokens.js";

const CHOICE = "mindscale.compare"; // { models, mode, byToken, system }
const LEAST = 2;
const MOST = 6;

export class Compare {
  constructor() {
    this.choice = { models: [], mode: "auto", byToken: true, system: "", ...read(CHOICE) };
    this.served = [];
    this.rounds = [];
    this.running = null; // AbortController
    this.build();
    onLanguage(() => this.rounds.forEach((round) => round.settle()));
    this.loadModels();
  }

  build() {
    this.chips = el("div", { class: "chips" });
    this.count = el("span", { class: "faint" });
    this.prompt = el("textarea", { rows: 2, hint: "compare.hint", label: "compare.hint", on: { keydown: (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    } } });
    this.sendButton = el("button", { class: "primary", t: "compare.run" });
    this.stopButton = button("stop", () => this.running?.abort(), { class: "danger", hidden: true });
    const form = el("form", { class: "composer", on: { submit: (event) => (event.preventDefault(), this.send()) } },
      this.prompt, this.sendButton, this.stopButton);
    this.note = el("p", { class: "trouble", role: "alert" });
    this.results = el("div", { class: "rounds" });
    this.tools = el("div", { class: "bar", hidden: true }, legend(), el("span", { class: "gap" }),
      button("export.copy", () => copy(toMarkdown(this.rounds)), { class: "quiet" }),
      button("export.md", () => download("mindscale-compare.md", "text/markdown", toMarkdown(this.rounds)), { class: "quiet" }),
      button("clear", () => this.clear(), { class: "quiet" }));
    this.node = el("section", { class: "compare page", label: "nav.compare" },
      el("h1", { t: "nav.compare", tabindex: -1 }),
      el("fieldset", {}, el("legend", {}, el("span", { t: "compare.models" }), " ", this.count), this.chips),
      form, this.note, el("div", { class: "folds" }, this.buildQuestions(), this.buildSettings()), this.tools, this.results);
  }

  buildQuestions() {
    return el("details", { class: "questions" }, el("summary", { t: "compare.questions" }),
      el("div", { class: "chips" },
        QUESTIONS.map((words) => el("button", { type: "button", class: "chip", lang: "zh", on: { click: () => this.ask([words]) } }, words)),
        button("compare.all", () => this.ask(QUESTIONS), { class: "chip strong" })));
  }

  buildSettings() {
    const keep = (change) => {
      Object.assign(this.choice, change);
      write(CHOICE, this.choice);
    };
    this.keep = keep;
    this.settings = new SettingsForm("compare.sampling", { seed: 42 });
    const system = el("textarea", { rows: 2, hint: "system.hint", props: { value: this.choice.system },
      on: { change: () => keep({ system: system.value }) } });
    const mode = el("select", { on: { change: () => keep({ mode: mode.value }) } },
      ["auto", "chat", "raw"].map((value) => el("option", { value, t: `mode.${value}` })));
    mode.value = this.choice.mode;
    const byToken = el("input", { type: "checkbox", props: { checked: this.choice.byToken }, on: { change: () => {
      keep({ byToken: byToken.checked });
      this.rounds.forEach((round) => round.show(byToken.checked));
    } } });
    return el("details", { class: "options" }, el("summary", { t: "settings" }),
      el("div", { class: "option-grid" },
        el("label", { class: "stack" }, el("span", { t: "mode" }), mode),
        el("label", { class: "stack wide" }, el("span", { t: "system" }), system),
        this.settings.node,
        el("label", { class: "check" }, byToken, el("span", { t: "by-token" }))));
  }

  async loadModels() {
    try {
      this.served = await catalog();
    } catch (error) {
      this.chips.replaceChildren(el("p", { role: "alert" }, error.message), button("retry", () => this.loadModels()));
      return;
    }
    const known = this.choice.models.filter((name) => this.served.some((model) => model.name === name));
    this.choice.models = known.length >= LEAST ? known : this.served.slice(0, 3).map(({ name }) => name);
    this.listModels();
  }

  listModels() {
    this.chips.replaceChildren(...this.served.map((model) => {
      const box = el("input", { type: "checkbox", value: model.name, props: { checked: this.choice.models.includes(model.name) },
        on: { change: () => this.choose() } });
      return el("label", { class: "chip" }, box, el("span", {}, caption(model)));
    }));
    if (this.served.length < LEAST) this.chips.append(el("p", { class: "faint", t: "compare.few" }));
    this.choose();
  }

  choose() {
    const boxes = [...this.chips.querySelectorAll("input")];
    const models = boxes.filter((box) => box.checked).map((box) => box.value);
    for (const box of boxes) box.disabled = !box.checked && models.length >= MOST;
    this.keep({ models });
    put(this.count, `${models.length} / ${MOST}`);
  }

  // Chooses models by name, as a link from a sweep does.
  visit(models) {
    if (!models.length) return;
    this.keep({ models: models.slice(0, MOST) });
    if (this.served.length) this.listModels();
  }

  send() {
    const words = this.prompt.value;
    if (words.trim()) this.ask([words]);
    else this.prompt.focus();
  }

  // Asks one prompt after the other.
  async ask(prompts) {
    const sampling = this.settings.sampling();
    if (this.running || !sampling) return;
    const models = this.choice.models.map((name) => this.served.find((model) => model.name === name)).filter(Boolean);
    put(this.note, models.length < LEAST ? text("compare.choose") : "");
    if (models.length < LEAST) return;
    // One seed for all, also where the user leaves it open.
    sampling.seed ??= crypto.getRandomValues(new Uint32Array(1))[0];
    if (prompts.length === 1) [this.prompt.value] = prompts;
    this.running = new AbortController();
    this.work(true);
    for (const prompt of prompts) {
      const { mode, system, byToken } = this.choice;
      const round = new Round({ prompt, system, models, mode, byToken, sampling, signal: this.running.signal });
      this.rounds.unshift(round);
      this.results.prepend(round.node);
      this.tools.hidden = false;
      await round.run();
      if (this.running.signal.aborted) break;
    }
    this.running = null;
    this.work(false);
  }

  work(isRunning) {
    const hadFocus = [this.sendButton, this.stopButton].includes(document.activeElement);
    this.sendButton.hidden = isRunning;
    this.stopButton.hidden = !isRunning;
    if (hadFocus) (isRunning ? this.stopButton : this.sendButton).focus();
  }

  clear() {
    const cleared = this.rounds;
    this.running?.abort();
    this.rounds = [];
    this.results.replaceChildren();
    this.tools.hidden = true;
    this.prompt.focus();
    toast(text("compare.cleared"), () => {
      this.rounds = [...this.rounds, ...cleared];
      this.results.append(...cleared.map((round) => round.node));
      this.tools.hidden = false;
    });
  }

  key(event) {
    if (event.key === "Escape" && this.running) this.running.abort();
    else if (isTyping(event.target)) return false;
    else if (event.key === "/") this.prompt.focus();
    else return false;
    return true;
  }
}
