// Entry: header, routes, shortcuts, and the dialog that asks for a key.
//
// Routes: #/chat[/ID | ?model=NAME], #/compare[?m=NAME&m=...], #/sweeps[/NAME[/TRIAL]]. Chat and Compare stay alive while
// another page is shown, answers go on; sweeps are looked at anew.

import { onKeyWanted } from "./api.js";
import { catalog } from "./catalog.js";
import { Chat } from "./chat.js";
import { Compare } from "./compare.js";
import { bind, button, el, isTyping, translate } from "./dom.js";
import { language, onLanguage, setLanguage, text } from "./i18n.js";
import { read, write as keep } from "./store.js";
import { sweepsView } from "./sweeps.js";
import { hide as hideTip } from "./tokens.js";

const SINGLE = "mindscale.single-keys";
const PAGES = ["chat", "compare", "sweeps"];

const main = document.getElementById("main");
const links = Object.fromEntries(PAGES.map((page) => [page, el("a", { href: `#/${page}`, t: `nav.${page}` })]));
const alive = {}; // pages that stay
let view = null;

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, ...rest] = path.split("/").map(decodeURIComponent);
  const asked = new URLSearchParams(query);
  const known = PAGES.includes(page) ? page : "chat";
  view?.stop && view !== alive.chat && view !== alive.compare && view.stop();
  for (const [name, link] of Object.entries(links)) {
    if (name === known) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const isFirst = view === null;
  document.title = `${text(`nav.${known}`)} · Mindscale`;
  if (known === "sweeps") view = sweepsView(rest);
  else view = alive[known] ??= known === "chat" ? new Chat() : new Compare();
  hideTip();
  if (main.firstChild !== view.node) main.replaceChildren(view.node);
  if (known === "chat") view.visit(rest[0], asked.get("model"));
  else {
    if (known === "compare") view.visit(asked.getAll("m"));
    if (!isFirst) view.node.querySelector("h1").focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

// Without models there is nobody to talk to: the page is then about sweeps alone.
function onlySweeps() {
  links.chat.hidden = links.compare.hidden = true;
  document.querySelector("#head .mark").href = "#/sweeps";
  if (view instanceof Chat || view instanceof Compare) location.hash = "#/sweeps";
}

function header() {
  const other = button("language", () => setLanguage(language() === "zh" ? "en" : "zh"), { id: "language", title: "language.help" });
  const help = button("help.sign", showHelp, { id: "help", label: "help", title: "help" });
  const mark = el("a", { class: "mark", href: "#/chat", "aria-label": "Mindscale" }, el("img", { src: "icon.svg", alt: "", width: 22, height: 22 }), el("span", {}, "Mindscale"));
  document.getElementById("head").append(mark, el("nav", { label: "nav" }, Object.values(links)), el("span", { class: "gap" }), other, help);
  bind(document.getElementById("skip"), "text", "skip");
}

let helpDialog = null;

function showHelp() {
  helpDialog ??= buildHelp();
  if (!helpDialog.open) helpDialog.showModal();
}

function buildHelp() {
  const rows = [["c p s", "keys.pages"], ["?", "keys.help"], ["/", "keys.prompt"], ["Enter", "keys.send"], ["Esc", "keys.stop"],
    ["n", "keys.new"], ["r", "keys.again"], ["e", "keys.edit"], ["← →", "keys.arrows"]];
  const single = el("input", { type: "checkbox", props: { checked: read(SINGLE) ?? true }, on: { change: () => keep(SINGLE, single.checked) } });
  const dialog = el("dialog", { class: "help", label: "help" },
    el("h2", { t: "help" }),
    el("dl", {}, rows.map(([keys, key]) => el("div", {}, el("dt", {}, keys.split(" ").map((one) => el("kbd", {}, one))), el("dd", { t: key })))),
    el("label", { class: "check" }, single, el("span", { t: "keys.single" })),
    button("close", () => dialog.close(), { class: "primary" }));
  document.body.append(dialog);
  return dialog;
}

// Asks for the server's key; null where the user will not say.
function askKey(isWrong) {
  return new Promise((resolve) => {
    const field = el("input", { type: "password", autocomplete: "off", required: true, "aria-labelledby": "key-label" });
    const dialog = el("dialog", { class: "key-dialog", label: "key.title" },
      el("form", { method: "dialog" },
        el("h2", { t: "key.title" }),
        isWrong && el("p", { class: "trouble", role: "alert", t: "key.wrong" }),
        el("label", { class: "stack" }, el("span", { id: "key-label", t: "key.field" }), field),
        el("p", { class: "faint", t: "key.kept" }),
        el("div", { class: "bar" }, el("button", { class: "primary", value: "use", t: "key.use" }),
          button("cancel", () => dialog.close("")))));
    dialog.addEventListener("close", () => {
      const key = dialog.returnValue === "use" ? field.value.trim() : "";
      dialog.remove();
      resolve(key || null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return;
  const isPlain = event.key.length === 1;
  if (isPlain && (isTyping(event.target) || read(SINGLE) === false)) return;
  const page = { c: "chat", p: "compare", s: "sweeps" }[event.key];
  if (event.key === "?") showHelp();
  else if (page) location.hash = `#/${page}`;
  else if (!view.key?.(event)) return;
  event.preventDefault();
});

onKeyWanted(askKey);
onLanguage(() => {
  translate(document);
  for (const one of Object.values(alive)) translate(one.node);
  const current = PAGES.find((page) => links[page].hasAttribute("aria-current"));
  document.title = `${text(`nav.${current}`)} · Mindscale`;
});
header();
translate(document);
addEventListener("hashchange", route);
route();
catalog().then((list) => list.length || onlySweeps()).catch(() => {});
