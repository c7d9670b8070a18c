// Markdown of models as DOM nodes. marked only cuts the text into tokens; every node is built here.
// Invariant: no HTML of a model is ever parsed, it is shown as it stands; links lead to http, https and mailto only,
// images are not loaded.

import { lexer } from "./marked.js";
import { button, copy, el } from "./dom.js";

// Shows a text in `root`, and again as it grows: blocks that are as they were keep their nodes.
export class MarkdownView {
  constructor(root) {
    this.root = root;
    this.shown = []; // raw text of each block
  }

  update(words) {
    const blocks = lexer(words).filter((token) => token.type !== "space");
    let same = 0;
    while (same < blocks.length && same < this.shown.length && blocks[same].raw === this.shown[same]) same += 1;
    while (this.root.childNodes.length > same) this.root.lastChild.remove();
    for (const token of blocks.slice(same)) this.root.append(block(token) ?? document.createTextNode(""));
    this.shown = blocks.map((token) => token.raw);
  }
}

// A whole text at once.
export function markdown(words) {
  const root = el("div", { class: "markdown" });
  new MarkdownView(root).update(words);
  return root;
}

const inner = (tokens) => tokens.map(block).filter(Boolean);

function block(token) {
  switch (token.type) {
    case "heading":
      return el(`h${Math.min(6, token.depth + 2)}`, {}, inline(token.tokens)); // below the page's own headings
    case "paragraph":
      return el("p", {}, inline(token.tokens));
    case "code":
      return code(token);
    case "blockquote":
      return el("blockquote", {}, inner(token.tokens));
    case "list": {
      const start = token.ordered && token.start !== 1 ? { start: token.start } : {};
      return el(token.ordered ? "ol" : "ul", start, token.items.map((item) => el("li", {}, inner(item.tokens))));
    }
    case "checkbox":
      return el("input", { type: "checkbox", disabled: true, checked: token.checked });
    case "table":
      return table(token);
    case "hr":
      return el("hr");
    case "text": // of a list's item
      return el("span", {}, token.tokens ? inline(token.tokens) : decoded(token.text));
    case "html":
      return el("p", { class: "as-is" }, token.raw.trimEnd());
    case "space":
    case "def":
      return null;
    default:
      return el("p", {}, token.raw);
  }
}

function code(token) {
  return el("div", { class: "code" },
    el("div", { class: "code-head" }, el("span", {}, token.lang || ""), button("copy", () => copy(token.text), { class: "quiet" })),
    el("pre", { tabindex: 0 }, el("code", {}, token.text)));
}

function table(token) {
  const cell = (name) => (one, i) => {
    const align = token.align[i] ? `align-${token.align[i]}` : null;
    return el(name, { class: align }, inline(one.tokens));
  };
  return el("div", { class: "scroll", tabindex: 0 },
    el("table", {},
      el("thead", {}, el("tr", {}, token.header.map(cell("th")))),
      el("tbody", {}, token.rows.map((row) => el("tr", {}, row.map(cell("td")))))));
}

const inline = (tokens) => (tokens ?? []).map(span);

function span(token) {
  switch (token.type) {
    case "strong":
    case "em":
    case "del":
      return el(token.type, {}, inline(token.tokens));
    case "codespan":
      return el("code", {}, token.text);
    case "br":
      return el("br");
    case "link":
      return link(token);
    case "image":
      return el("span", { class: "as-is" }, token.raw);
    case "escape":
      return token.text;
    case "text":
      return token.tokens ? el("span", {}, inline(token.tokens)) : decoded(token.text);
    default:
      return token.raw; // HTML among them
  }
}

function link(token) {
  const isKnown = /^(https?:\/\/|mailto:)/i.test(token.href);
  if (!isKnown) return el("span", { class: "as-is" }, token.raw);
  return el("a", { href: token.href, rel: "noopener noreferrer nofollow", target: "_blank" }, inline(token.tokens));
}

const ENTITY = /&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});/gi;

// `&lt;` and the like as the characters that they mean; the parser sees nothing but one reference.
function decoded(words) {
  if (!words.includes("&")) return words;
  return words.replace(ENTITY, (one) => new DOMParser().parseFromString(one, "text/html").body.textContent);
}
