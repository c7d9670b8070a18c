// One prompt and the answers of several models to it, side by side.

import { complete } from "./api.js";
import { caption, isRawModel } from "./catalog.js";
import { announce, el, write } from "./dom.js";
import { counted, rough, text } from "./i18n.js";
import { MarkdownView } from "./markdown.js";
import { TokenView } from "./tokens.js";

export class Round {
  // `ask`: `{ prompt, system, models, mode, byToken, sampling, signal }`.
  constructor(ask) {
    this.ask = ask;
    this.answers = ask.models.map((model) => new Answer(model, ask));
    this.node = el("article", { class: "round" },
      el("header", {}, el("h2", {}, ask.prompt), el("span", { class: "faint" }, `seed ${ask.sampling.seed}`)),
      el("div", { class: ask.models.length > 4 ? "answers thirds" : "answers" }, this.answers.map((answer) => answer.node)));
  }

  // Streams all answers at once.
  async run() {
    await Promise.all(this.answers.map((answer) => answer.run()));
    announce(text("compare.done"));
  }

  show(byToken) {
    this.answers.forEach((answer) => answer.show(byToken));
  }

  settle() {
    this.answers.forEach((answer) => answer.settle());
  }
}

class Answer {
  constructor(model, ask) {
    this.model = model;
    this.ask = ask;
    this.isRaw = ask.mode === "raw" || (ask.mode === "auto" && isRawModel(model));
    this.content = "";
    this.tokens = new TokenView();
    this.outcome = null;
    this.trouble = null;
    this.body = el("div", { class: "body", tabindex: -1 });
    this.meta = el("footer", { class: "faint meta" });
    this.alert = el("div", { class: "trouble", role: "alert" });
    this.node = el("section", { class: "answer", "aria-label": caption(model) },
      el("header", {}, el("h3", {}, model.name),
        el("small", { class: "faint" }, caption({ ...model, name: null })),
        this.isRaw && el("small", { class: "tag", t: "mode.raw" })),
      this.body, this.alert, this.meta);
    this.show(ask.byToken);
  }

  // By token, or as Markdown (of a continuation: as it stands).
  show(byToken) {
    this.byToken = byToken && (this.tokens.count > 0 || !this.outcome);
    this.prose = null;
    if (this.byToken) {
      this.body.replaceChildren(this.tokens.node);
    } else {
      const root = el("div", { class: this.isRaw ? "plain" : "markdown" }, this.isRaw ? this.content : "");
      this.body.replaceChildren(root);
      if (!this.isRaw) this.prose = new MarkdownView(root);
      this.prose?.update(this.content);
    }
  }

  async run() {
    const { prompt, system, sampling, signal } = this.ask;
    const messages = [...(system ? [{ role: "system", content: system }] : []), { role: "user", content: prompt }];
    const asked = this.isRaw ? { prompt } : { messages };
    this.node.setAttribute("aria-busy", "true");
    this.node.classList.add("streaming");
    try {
      const ask = { model: this.model.name, ...asked, sampling, logprobs: true, signal };
      this.outcome = await complete(ask, (piece) => this.push(piece));
    } catch (error) {
      this.outcome = { finish: error.name === "AbortError" ? "stopped" : null };
      if (error.name !== "AbortError") this.trouble = error.message;
    }
    this.tokens.finish();
    this.node.removeAttribute("aria-busy");
    this.node.classList.remove("streaming");
    this.show(this.byToken);
    this.settle();
  }

  push({ text: words, tokens }) {
    this.content += words;
    this.tokens.push(tokens);
    if (this.byToken) return;
    if (this.isRaw) this.body.firstChild.append(words);
    else this.timer ??= setTimeout(() => {
      this.timer = null;
      this.prose?.update(this.content);
    }, 60);
  }

  settle() {
    if (!this.outcome) return;
    const { finish, usage, seconds } = this.outcome;
    const count = usage?.completion_tokens ?? this.tokens.count;
    const { perplexity } = this.tokens;
    write(this.meta, [
      count ? counted(count, "token") : null,
      count && seconds > 0.05 ? text("meta.speed", { speed: rough(count / seconds) }) : null,
      perplexity && text("meta.perplexity", { value: rough(perplexity) }),
      { length: text("meta.length"), stopped: text("meta.stopped") }[finish],
    ].filter(Boolean).join(" · "));
    write(this.alert, this.trouble ?? "");
  }
}

// Rounds as Markdown: a table would break long answers, so each answer has its heading.
export function toMarkdown(rounds) {
  const one = ({ ask, answers }) => [
    `## ${ask.prompt}`,
    `seed ${ask.sampling.seed}, temperature ${ask.sampling.temperature ?? "default"}`,
    ...answers.map(({ model, content }) => `### ${caption(model)}\n\n${content}`),
  ].join("\n\n");
  return `${rounds.map(one).join("\n\n")}\n`;
}
