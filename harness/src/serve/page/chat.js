// Talking to a model, or having it continue a text: one conversation at a time, streamed, kept in the browser.

import { complete } from "./api.js";
import { catalog, fillPicker, isRawModel } from "./catalog.js";
import { bind, button, download, el, isTyping, toast } from "./dom.js";
import { all, blank, load, remove, save, titleOf, toJson, toMarkdown } from "./history.js";
import { onLanguage, text, when } from "./i18n.js";
import { MessageView } from "./message.js";
import { SettingsForm } from "./settings.js";
import { read, write } from "./store.js";
import { legend } from "./tokens.js";

const CHOICE = "mindscale.chat"; // { model, system, byToken }

export class Chat {
  constructor() {
    this.choice = { model: null, system: "", byToken: false, ...read(CHOICE) };
    this.conversation = blank(this.choice.model, false, this.choice.system);
    this.running = null; // { conversation, message, controller }
    this.forgotten = new Set(); // ids of conversations that were deleted
    this.views = new Map(); // message -> MessageView
    this.served = [];
    this.build();
    onLanguage(() => {
      this.listHistory();
      this.views.forEach((view) => view.message.role === "assistant" && !this.isAnswering(view.message) && view.settle());
    });
    this.loadModels();
  }

  build() {
    this.picker = el("select", { id: "model", label: "model", on: { change: () => this.chooseModel(this.picker.value) } });
    this.mode = el("select", { id: "mode", label: "mode", on: { change: () => this.chooseMode(this.mode.value === "raw") } },
      el("option", { value: "chat", t: "mode.chat" }), el("option", { value: "raw", t: "mode.raw" }));
    const panel = (id, key) => button(`${key}.sign`, null, { class: "panel-button", popovertarget: id, label: key, title: key });
    const bar = el("div", { class: "bar" }, panel("history", "history"), this.picker, this.mode, el("span", { class: "gap" }), panel("side", "settings"));
    this.log = el("div", { class: "log", role: "log", "aria-live": "off", label: "conversation", tabindex: 0,
      on: { scroll: () => (this.place = this.log.scrollTop) } });
    this.prompt = el("textarea", { id: "prompt", rows: 1, hint: "composer.hint", label: "composer.hint", on: {
      input: () => this.fit(),
      keydown: (event) => {
        // Enter also ends the composition of a Chinese character: that one is not meant for us.
        if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
        event.preventDefault();
        if (!this.running) this.send();
      },
    } });
    this.sendButton = el("button", { class: "primary", t: "send" });
    this.stopButton = button("stop", () => this.stop(), { class: "danger", hidden: true });
    const composer = el("form", { class: "composer", on: { submit: (event) => {
      event.preventDefault();
      if (!this.running) this.send();
    } } }, this.prompt, this.sendButton, this.stopButton);
    this.node = el("section", { class: "chat", label: "nav.chat" }, el("h1", { class: "hidden", t: "nav.chat" }), this.buildHistory(),
      el("div", { class: "talk" }, bar, this.log, composer), this.buildSide());
  }

  buildHistory() {
    this.list = el("ul", { class: "conversations" });
    return el("aside", { id: "history", class: "panel", popover: "auto", label: "history" },
      el("header", {}, el("h2", { t: "history" }), button("new", () => this.start(), { id: "new" })), this.list);
  }

  buildSide() {
    this.system = el("textarea", { id: "system", rows: 4, hint: "system.hint", props: { value: this.choice.system },
      on: { change: () => {
        this.conversation.system = this.system.value;
        this.keepChoice({ system: this.system.value });
        if (this.conversation.messages.length) this.keep(this.conversation);
      } } });
    this.settings = new SettingsForm("sampling");
    const byToken = el("input", { type: "checkbox", id: "by-token", props: { checked: this.choice.byToken },
      on: { change: () => {
        this.keepChoice({ byToken: byToken.checked });
        this.render();
      } } });
    this.legend = legend();
    return el("aside", { id: "side", class: "panel", popover: "auto", label: "settings" },
      el("header", {}, el("h2", { t: "settings" })),
      el("label", { class: "stack" }, el("span", { t: "system" }), this.system),
      this.settings.node,
      el("label", { class: "check" }, byToken, el("span", { t: "by-token" })), this.legend,
      el("div", { class: "bar" }, el("span", { class: "faint", t: "export" }),
        button("export.md", () => this.export("md"), { class: "quiet", title: "export.md.help" }),
        button("export.json", () => this.export("json"), { class: "quiet", title: "export.json.help" })));
  }

  async loadModels() {
    try {
      this.served = await catalog();
    } catch (error) {
      this.log.replaceChildren(el("div", { class: "empty", role: "alert" }, el("p", {}, error.message),
        button("retry", () => this.loadModels())));
      return;
    }
    const { model } = this.conversation;
    const isServed = this.served.some(({ name }) => name === model);
    if (!this.conversation.messages.length && !isServed) this.conversation.model = this.first;
    this.open(this.conversation);
  }

  // The model to begin with: one that answers, where there is one.
  get first() {
    return (this.served.find((model) => !isRawModel(model)) ?? this.served[0])?.name ?? null;
  }

  keepChoice(change) {
    Object.assign(this.choice, change);
    write(CHOICE, this.choice);
  }

  chooseModel(name) {
    this.conversation.model = name;
    this.keepChoice({ model: name });
    if (!this.conversation.messages.length) this.chooseMode(isRawModel(this.served.find((model) => model.name === name)));
  }

  chooseMode(isRaw) {
    this.conversation.isRaw = isRaw;
    this.render();
  }

  // Shows what a route names: a conversation by its id, or a new one with a model.
  visit(id, model) {
    this.log.scrollTop = this.place ?? 0; // lost while another page was shown
    this.closeHistory();
    if (model) {
      this.start(model);
    } else if (id && id !== this.conversation.id) {
      const found = this.running?.conversation.id === id ? this.running.conversation : load(id);
      if (found) this.open(found);
    }
    if (matchMedia("(min-width: 900px)").matches) this.prompt.focus({ preventScroll: true });
  }

  start(model = this.choice.model) {
    const name = model ?? this.first;
    this.open(blank(name, isRawModel(this.served.find((one) => one.name === name)), this.choice.system));
    history.replaceState(null, "", "#/chat");
    this.closeHistory();
    this.prompt.focus();
  }

  closeHistory() {
    const panel = this.list.parentElement;
    if (panel.matches(":popover-open")) panel.hidePopover();
  }

  open(conversation) {
    this.conversation = conversation;
    if (conversation.messages.length === 0 && conversation.model) {
      conversation.isRaw = isRawModel(this.served.find(({ name }) => name === conversation.model));
    }
    this.system.value = conversation.system ?? "";
    fillPicker(this.picker, this.served, conversation.model);
    this.render();
    this.listHistory();
    this.log.scrollTop = this.log.scrollHeight;
  }

  isAnswering(message) {
    return this.running?.message === message;
  }

  render() {
    const { isRaw, messages } = this.conversation;
    this.mode.value = isRaw ? "raw" : "chat";
    this.legend.hidden = !this.choice.byToken;
    this.system.disabled = isRaw;
    for (const where of ["placeholder", "aria-label"]) bind(this.prompt, where, isRaw ? "composer.raw" : "composer.hint");
    this.views.clear();
    this.log.replaceChildren(...messages.map((message) => this.view(message).node));
    if (!messages.length) this.log.replaceChildren(el("div", { class: "empty" },
      el("p", { t: isRaw ? "empty.raw" : "empty.chat" }), el("p", { class: "faint", t: "empty.help" })));
  }

  view(message) {
    const does = {
      edit: (one, words) => this.resend(one, words),
      again: (one) => this.again(one),
      onward: (one) => this.answer(one),
    };
    const view = new MessageView(message, { does, isRaw: this.conversation.isRaw, byToken: this.choice.byToken });
    this.views.set(message, view);
    if (this.isAnswering(message)) view.begin();
    return view;
  }

  send() {
    const words = this.prompt.value;
    if (!words.trim() || !this.conversation.model || !this.settings.sampling()) return;
    this.prompt.value = "";
    this.fit();
    this.ask(words);
  }

  // Adds a turn and has it answered.
  ask(words) {
    const question = { role: "user", content: words };
    this.conversation.messages.push(question);
    this.render();
    this.answerAnew();
  }

  answerAnew() {
    const answer = { role: "assistant", content: "" };
    this.conversation.messages.push(answer);
    this.log.append(this.view(answer).node);
    this.answer(answer);
  }

  // An edited question replaces itself and all that followed.
  resend(question, words) {
    if (this.running) return;
    const { messages } = this.conversation;
    messages.splice(messages.indexOf(question));
    this.ask(words);
  }

  again(answer) {
    if (this.running) return;
    const { messages } = this.conversation;
    messages.splice(messages.indexOf(answer));
    this.render();
    this.answerAnew();
  }

  // Streams into an answer; a continuation goes on after what the answer holds already.
  async answer(message) {
    const sampling = this.settings.sampling();
    if (this.running || !sampling) return;
    const { conversation } = this;
    const before = conversation.messages.slice(0, conversation.messages.indexOf(message));
    const controller = new AbortController();
    this.running = { conversation, message, controller };
    this.work(true);
    const system = conversation.system ? [{ role: "system", content: conversation.system }] : [];
    const spoken = before.map(({ role, content }) => ({ role, content }));
    const asked = conversation.isRaw ? { prompt: (spoken.at(-1)?.content ?? "") + message.content } : { messages: [...system, ...spoken] };
    delete message.error;
    this.keep(conversation);
    this.views.get(message)?.begin();
    this.follow(true);
    try {
      const ask = { model: conversation.model, ...asked, sampling, logprobs: this.choice.byToken, signal: controller.signal };
      Object.assign(message, await complete(ask, (piece) => this.push(message, piece)));
    } catch (error) {
      if (error.name === "AbortError") message.finish = "stopped";
      else message.error = error.message;
    }
    this.running = null;
    this.work(false);
    this.views.get(message)?.end();
    this.follow();
    this.keep(conversation);
  }

  push(message, piece) {
    const isAtEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 80;
    const view = this.views.get(message);
    if (view) view.push(piece);
    else message.content += piece.text; // another conversation is shown
    if (isAtEnd) this.follow(true);
  }

  follow(isWanted = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 200) {
    if (isWanted) this.log.scrollTop = this.log.scrollHeight;
  }

  work(isRunning) {
    const hadFocus = [this.sendButton, this.stopButton].includes(document.activeElement);
    this.sendButton.hidden = isRunning;
    this.stopButton.hidden = !isRunning;
    if (hadFocus) this.prompt.focus();
  }

  stop() {
    this.running?.controller.abort();
  }

  keep(conversation) {
    if (this.forgotten.has(conversation.id)) return;
    conversation.updated = Date.now();
    if (!save(conversation)) toast(text("history.full"));
    this.listHistory();
  }

  listHistory() {
    const rows = all().map((one) => {
      const isOpen = one.id === this.conversation.id;
      const forget = () => {
        this.forgotten.add(one.id);
        remove(one.id);
        if (this.running?.conversation.id === one.id) this.stop();
        if (one.id === this.conversation.id) this.start();
        this.listHistory();
        toast(text("history.removed"), () => {
          this.forgotten.delete(one.id);
          save(one);
          this.listHistory();
        });
      };
      return el("li", { class: isOpen ? "open" : null },
        el("a", { href: `#/chat/${one.id}`, "aria-current": isOpen ? "page" : null },
          el("span", { class: "title" }, titleOf(one)), el("small", { class: "faint" }, `${when(one.updated)} · ${one.model}`)),
        button("remove.sign", forget, { class: "quiet", label: "remove", title: "remove" }));
    });
    this.list.replaceChildren(...(rows.length ? rows : [el("li", { class: "faint none", t: "history.none" })]));
  }

  export(kind) {
    const { conversation } = this;
    if (!conversation.messages.length) return toast(text("export.none"));
    const name = `mindscale-${conversation.id}.${kind}`;
    if (kind === "md") download(name, "text/markdown", toMarkdown(conversation));
    else download(name, "application/json", toJson(conversation));
  }

  fit() {
    this.prompt.style.height = "auto";
    this.prompt.style.height = `${Math.min(this.prompt.scrollHeight + 2, innerHeight * 0.4)}px`;
  }

  // Keys of this page alone; true where one was taken.
  key(event) {
    const last = (role) => this.conversation.messages.findLast((message) => message.role === role);
    if (event.key === "Escape" && this.running) this.stop();
    else if (isTyping(event.target)) return false;
    else if (event.key === "n") this.start();
    else if (event.key === "/") this.prompt.focus();
    else if (event.key === "r" && last("assistant")) this.again(last("assistant"));
    else if (event.key === "e" && last("user")) this.views.get(last("user")).edit();
    else return false;
    return true;
  }
}
