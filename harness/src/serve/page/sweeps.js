// The list of sweeps, and the way to one of them or to one of its trials.

import { getJson } from "./api.js";
import { el, write } from "./dom.js";
import { onLanguage, text } from "./i18n.js";
import { Poll } from "./poll.js";
import { progress } from "./progress.js";
import { Sweep } from "./sweep.js";
import { Trial } from "./trial.js";

// A view of `#/sweeps`, `#/sweeps/NAME` or `#/sweeps/NAME/TRIAL`.
export function sweepsView([name, trial]) {
  if (trial) return new Trial(name, trial);
  return name ? new Sweep(name) : new List();
}

class List {
  constructor() {
    this.items = el("ul", { class: "sweeps" });
    this.note = el("p", { class: "faint", role: "status" });
    this.node = el("section", { class: "page", label: "nav.sweeps" }, el("h1", { t: "nav.sweeps", tabindex: -1 }), this.note, this.items);
    this.known = new Map(); // name -> { node, title, bar, state }
    this.forget = onLanguage(() => this.poll.now());
    this.poll = new Poll((signal) => this.look(signal));
  }

  async look(signal) {
    let sweeps;
    try {
      sweeps = await getJson("/api/sweeps", signal);
    } catch (error) {
      if (error.name !== "AbortError") write(this.note, error.message);
      return true;
    }
    write(this.note, sweeps.length ? "" : text("sweeps.none"));
    for (const sweep of sweeps) this.show(sweep);
    for (const [name, { node }] of this.known) {
      if (sweeps.some((one) => one.name === name)) continue;
      node.remove();
      this.known.delete(name);
    }
    return sweeps.some(({ counts }) => counts.running > 0);
  }

  show({ name, title, trials, counts }) {
    if (!this.known.has(name)) {
      const bar = progress();
      const head = el("span", { class: "title" });
      const node = el("li", {}, el("a", { href: `#/sweeps/${encodeURIComponent(name)}` }, head,
        el("code", { class: "faint" }, name)), bar.node);
      this.known.set(name, { node, head, bar });
      this.items.append(node);
    }
    const { head, bar } = this.known.get(name);
    write(head, title || name);
    bar.update(counts, trials);
  }

  stop() {
    this.poll.stop();
    this.forget();
  }
}
