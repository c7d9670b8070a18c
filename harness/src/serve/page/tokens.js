// Answers token by token: coloured by probability, with what else was likely on hover and on focus.
// Several tokens may make one character, so tokens are shown in groups that decode to whole characters. An answer is one
// stop of the Tab key; arrows go from group to group.

import { el, write } from "./dom.js";
import { percent, text } from "./i18n.js";

// Upper borders of probability, from surprising to sure; `p0` is the most surprising.
export const BINS = [0.01, 0.05, 0.2, 0.5, 0.9];

const bin = (probability) => {
  const found = BINS.findIndex((border) => probability < border);
  return found === -1 ? BINS.length : found;
};

// Groups tokens such that each group's bytes are whole characters; the last may be unfinished.
export class Grouping {
  constructor() {
    this.open = [];
  }

  // The groups that are whole now.
  push(tokens) {
    const whole = [];
    for (const token of tokens) {
      this.open.push(token);
      const bytes = this.open.flatMap((one) => one.bytes);
      const words = decode(bytes);
      // No character has more than four bytes: what is longer and still no text is none.
      if (words === null && bytes.length < 4 + token.bytes.length) continue;
      whole.push({ words: words ?? lossy(bytes), tokens: this.open });
      this.open = [];
    }
    return whole;
  }

  // What is left at the end.
  finish() {
    const tokens = this.open;
    this.open = [];
    return tokens.length ? [{ words: lossy(tokens.flatMap((one) => one.bytes)), tokens }] : [];
  }
}

function decode(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(bytes));
  } catch {
    return null;
  }
}

const lossy = (bytes) => new TextDecoder().decode(new Uint8Array(bytes));

// A token's text, with what cannot be seen made visible.
function visible({ text: words, bytes }) {
  const whole = decode(bytes);
  if (whole === null) return `‹${bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ")}›`;
  return (whole || words).replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "∅";
}

// An answer that grows.
export class TokenView {
  constructor() {
    this.node = el("div", { class: "tokens", role: "group", label: "tokens.label", on: {
      keydown: (event) => this.move(event),
      pointerover: (event) => this.point(event),
      pointerleave: () => hide(),
      focusin: (event) => this.point(event),
      focusout: () => hide(),
      click: (event) => this.point(event),
    } });
    this.groups = new WeakMap();
    this.grouping = new Grouping();
    this.count = 0;
    this.logprob = 0;
  }

  push(tokens) {
    for (const token of tokens) {
      this.count += 1;
      this.logprob += token.logprob ?? 0;
    }
    this.grouping.push(tokens).forEach((group) => this.add(group));
  }

  finish() {
    this.grouping.finish().forEach((group) => this.add(group));
  }

  // exp of the mean negative log-probability, of sampled tokens.
  get perplexity() {
    return this.count ? Math.exp(-this.logprob / this.count) : null;
  }

  add(group) {
    const logprob = group.tokens.reduce((sum, one) => sum + (one.logprob ?? 0), 0);
    const isFirst = this.node.childElementCount === 0;
    const node = el("span", { class: `token p${bin(Math.exp(logprob))}`, tabindex: isFirst ? 0 : -1 }, group.words);
    if (/^\s*\n\s*$/.test(group.words)) node.classList.add("newline");
    this.groups.set(node, group);
    this.node.append(node);
  }

  point(event) {
    const node = event.target.closest?.(".token");
    const group = node && this.groups.get(node);
    if (group) show(node, group);
    else hide();
  }

  move(event) {
    const node = document.activeElement;
    if (!this.groups.has(node)) return;
    const target = {
      ArrowRight: node.nextElementSibling,
      ArrowLeft: node.previousElementSibling,
      Home: this.node.firstElementChild,
      End: this.node.lastElementChild,
    }[event.key];
    if (event.key === "Escape") hide();
    if (!target) return;
    event.preventDefault();
    for (const [one, index] of [[node, -1], [target, 0]]) one.tabIndex = index;
    target.focus();
  }
}

let tip = null;
let owner = null;
// What scrolls away takes its description along; what has the focus keeps it.
addEventListener("scroll", () => (owner === document.activeElement ? place() : hide()), { capture: true, passive: true });

// Takes the description away.
export function hide() {
  tip?.classList.remove("shown");
  owner?.removeAttribute("aria-describedby");
  owner = null;
}

function show(node, group) {
  if (owner === node) return;
  hide();
  owner = node;
  tip ??= document.body.appendChild(el("div", { id: "tip", class: "tip", role: "tooltip" }));
  tip.replaceChildren(...group.tokens.map(describe));
  node.setAttribute("aria-describedby", "tip");
  tip.classList.add("shown");
  place();
}

function place() {
  if (!owner) return;
  const [at, box] = [owner.getClientRects()[0] ?? owner.getBoundingClientRect(), tip.getBoundingClientRect()];
  const below = at.bottom + 6 + box.height < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - box.width - 8))}px`;
  tip.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - box.height - 6)}px`;
}

function describe(token) {
  const probability = Math.exp(token.logprob ?? NaN);
  const rows = token.top.map((one) => {
    const bar = el("span", { class: "bar" });
    bar.style.width = `${(100 * Math.exp(one.logprob)).toFixed(1)}%`;
    const isChosen = one.text === token.text;
    return el("tr", { class: isChosen ? "chosen" : null },
      el("td", {}, visible(one)),
      el("td", { class: "bars", "aria-hidden": "true" }, bar),
      el("td", { class: "number" }, percent(Math.exp(one.logprob))));
  });
  const known = Number.isFinite(probability);
  return el("div", { class: "tip-token" },
    el("p", { class: "tip-head" },
      el("strong", {}, visible(token)),
      el("span", { class: "number" }, known ? percent(probability) : "–"),
      known && el("span", { class: "number faint" }, `ln p ${token.logprob.toFixed(2)}`)),
    rows.length > 0 && el("table", {}, el("tbody", {}, rows)));
}

// What the colours mean.
export function legend() {
  const borders = [0, ...BINS, 1];
  const node = el("div", { class: "token-legend", "aria-hidden": "true" }, el("span", { t: "tokens.legend", class: "faint" }));
  for (let i = 0; i < borders.length - 1; i += 1) {
    const name = el("span", { class: `token p${i}` });
    write(name, i === 0 ? `<${100 * borders[1]}` : `${100 * borders[i]}+`);
    node.append(name);
  }
  node.append(el("span", { class: "faint" }, "%"));
  return node;
}
