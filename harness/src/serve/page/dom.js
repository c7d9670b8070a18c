// Builds DOM nodes. Texts of the page are bound to their keys, so that another language can be shown in place.
// Invariant: text that comes from a model, a file or a user becomes a text node, never markup.

import { language, text } from "./i18n.js";

const bound = new WeakMap(); // node -> { where: [key, params] }, where "text" or an attribute

// Binds a text of the page to a node's content ("text") or to one of its attributes.
export function bind(node, where, key, params) {
  const all = bound.get(node) ?? {};
  all[where] = [key, params];
  bound.set(node, all);
  node.setAttribute("data-i18n", "");
  show(node, where, key, params);
}

function show(node, where, key, params) {
  const words = text(key, params);
  if (where !== "text") node.setAttribute(where, words);
  else if (node.textContent !== words) node.textContent = words;
}

// Shows every bound text below `root` in the present language.
export function translate(root) {
  document.documentElement.lang = language() === "zh" ? "zh-CN" : "en";
  for (const node of root.querySelectorAll("[data-i18n]")) {
    for (const [where, [key, params]] of Object.entries(bound.get(node) ?? {})) show(node, where, key, params);
  }
}

// An element. `options`: `t` (key of its text) with `p` (parameters), `label`, `title`, `hint` (keys of `aria-label`,
// `title`, `placeholder`), `on` (listeners), `props` (properties); the rest are attributes, left out where null or false.
export function el(name, options = {}, ...children) {
  const node = document.createElement(name);
  const { t, p, label, title, hint, on = {}, props = {}, ...attributes } = options;
  if (t) bind(node, "text", t, p);
  if (label) bind(node, "aria-label", label);
  if (title) bind(node, "title", title);
  if (hint) bind(node, "placeholder", hint);
  set(node, attributes);
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  Object.assign(node, props);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// An SVG element; its look comes from classes and presentation attributes.
export function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  set(node, attributes);
  node.append(...children);
  return node;
}

function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
}

// A button; `key` names its text.
export function button(key, click, options = {}) {
  return el("button", { type: "button", t: key, on: { click }, ...options });
}

// Sets a text only where it differs, so that selections and screen readers are left in peace.
export function write(node, words) {
  if (node.textContent !== words) node.textContent = words;
}

let region = null;

// Has a screen reader speak.
export function announce(words) {
  region ??= document.getElementById("announcer");
  region.append(el("p", {}, words));
  while (region.childElementCount > 4) region.firstChild.remove();
}

// Tells something in passing; `undo` takes it back.
export function toast(words, undo) {
  const node = el("div", { class: "toast", role: "status" }, el("span", {}, words));
  const close = () => node.remove();
  if (undo) node.append(button("undo", () => (undo(), close())));
  document.getElementById("toasts").append(node);
  setTimeout(close, 8000);
}

// Offers a text as a file.
export function download(name, type, words) {
  const url = URL.createObjectURL(new Blob([words], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// Puts a text on the clipboard, also where the page is not served securely.
export async function copy(words) {
  if (navigator.clipboard) await navigator.clipboard.writeText(words);
  else {
    const field = el("textarea", { class: "hidden", props: { value: words } });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  toast(text("copied"));
}

// Whether a key pressed here belongs to a field.
export function isTyping(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}
