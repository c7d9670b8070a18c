// One message of a conversation: its text as it grows, what can be done with it, and what became of it.

import { announce, bind, button, copy, el, write } from "./dom.js";
import { counted, rough, text } from "./i18n.js";
import { MarkdownView } from "./markdown.js";
import { TokenView } from "./tokens.js";

// Tokens of answers with their probabilities; they are not kept with the conversation.
const tokensOf = new WeakMap();

// Whether an answer's tokens are known.
export const hasTokens = (message) => tokensOf.has(message);

// A message's node. `does`: `edit(message, words)`, `again(message)`, `onward(message)` or null; `isRaw`: continuation;
// `byToken`: show tokens where they are known.
export class MessageView {
  constructor(message, { does, isRaw, byToken }) {
    this.message = message;
    this.does = does;
    this.isRaw = isRaw;
    this.body = el("div", { class: "body" });
    this.meta = el("span", { class: "faint meta" });
    this.actions = el("div", { class: "actions" });
    this.trouble = el("div", { class: "trouble", role: "alert" });
    const isUser = message.role === "user";
    const who = isUser ? (isRaw ? "who.prompt" : "who.user") : isRaw ? "who.continuation" : "who.assistant";
    this.node = el("article", { class: `message ${message.role}${isRaw ? " raw" : ""}`, label: who },
      el("header", {}, el("span", { t: who }), this.meta), this.body, this.trouble, this.actions);
    this.show(byToken);
    if (isUser) this.userActions();
    else this.settle();
  }

  // Shows the text: by token, as Markdown, or as it stands.
  show(byToken) {
    const { message } = this;
    this.tokens = this.prose = this.plain = null;
    if (message.role === "assistant" && byToken && (hasTokens(message) || !message.content)) {
      this.tokens = new TokenView();
      this.body.replaceChildren(this.tokens.node);
      this.tokens.push(tokensOf.get(message) ?? []);
    } else if (message.role === "assistant" && !this.isRaw) {
      const root = el("div", { class: "markdown" });
      this.body.replaceChildren(root);
      this.prose = new MarkdownView(root);
      this.prose.update(message.content);
    } else {
      this.plain = el("div", { class: "plain" }, message.content);
      this.body.replaceChildren(this.plain);
    }
  }

  // Takes what has just come.
  push({ text: words, tokens }) {
    this.message.content += words;
    if (tokens.length) {
      if (!tokensOf.has(this.message)) tokensOf.set(this.message, []);
      tokensOf.get(this.message).push(...tokens);
      this.tokens?.push(tokens);
    }
    this.plain?.append(words);
    if (this.prose) this.timer ??= setTimeout(() => this.draw(), 60);
    this.speak(words);
  }

  draw() {
    clearTimeout(this.timer);
    this.timer = null;
    this.prose?.update(this.message.content);
  }

  // A screen reader hears whole sentences, not pieces.
  speak(words) {
    this.unsaid = (this.unsaid ?? "") + words;
    const end = Math.max(...[..."。！？.!?\n"].map((sign) => this.unsaid.lastIndexOf(sign)));
    if (end < 0) return;
    announce(this.unsaid.slice(0, end + 1));
    this.unsaid = this.unsaid.slice(end + 1);
  }

  begin() {
    this.node.classList.add("streaming");
    this.node.setAttribute("aria-busy", "true");
    this.trouble.replaceChildren();
    this.actions.replaceChildren();
  }

  // The answer is over, well or not.
  end() {
    this.draw();
    this.tokens?.finish();
    // Without log-probabilities from the server there is nothing to show by token.
    if (this.tokens && !hasTokens(this.message)) this.show(false);
    this.node.classList.remove("streaming");
    this.node.removeAttribute("aria-busy");
    if (this.unsaid?.trim()) announce(this.unsaid);
    this.unsaid = "";
    this.settle();
  }

  settle() {
    const { message, does } = this;
    const { finish, usage, seconds, error } = message;
    const tokens = usage?.completion_tokens;
    const speed = tokens && seconds > 0.05 ? text("meta.speed", { speed: rough(tokens / seconds) }) : null;
    const ends = { length: "meta.length", stopped: "meta.stopped" }[finish];
    write(this.meta, [tokens && counted(tokens, "token"), speed, ends && text(ends)].filter(Boolean).join(" · "));
    this.trouble.replaceChildren(...(error ? [el("p", {}, error)] : []));
    this.actions.replaceChildren(
      button("again", () => does.again(message), { class: "quiet again" }),
      ...(this.isRaw && does.onward ? [button("onward", () => does.onward(message), { class: "quiet" })] : []),
      button("copy", () => copy(message.content), { class: "quiet" }));
  }

  userActions() {
    this.actions.replaceChildren(
      button("edit", () => this.edit(), { class: "quiet edit" }),
      button("copy", () => copy(this.message.content), { class: "quiet" }));
  }

  edit() {
    const field = el("textarea", { label: "edit", rows: 3, props: { value: this.message.content } });
    const close = () => {
      this.show(false);
      this.userActions();
      this.actions.querySelector(".edit").focus();
    };
    const send = () => field.value.trim() && this.does.edit(this.message, field.value);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    const cancel = button("cancel", close, { class: "quiet" });
    bind(field, "title", "composer.keys");
    this.body.replaceChildren(field);
    this.actions.replaceChildren(button("edit.send", send, { class: "primary" }), cancel);
    field.focus();
  }
}
