// Sampling settings: one form for chat and comparison, kept in localStorage. A field that is left empty is left to the server.

import { button, el } from "./dom.js";
import { read, write } from "./store.js";

const FIELDS = [
  { name: "temperature", min: 0, max: 2, step: 0.1, start: 0.7 },
  { name: "top_p", min: 0.01, max: 1, step: 0.01, start: 0.9 },
  { name: "max_tokens", min: 1, max: 1e6, step: 1, start: 256 },
  { name: "seed", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, start: null },
];

// The form; `sampling()` gives what to send, or null after pointing at a field that is out of range.
export class SettingsForm {
  // `place`: where in localStorage; `starts`: other starting values.
  constructor(place, starts = {}) {
    this.place = `mindscale.${place}`;
    this.starts = Object.fromEntries(FIELDS.map(({ name, start }) => [name, starts[name] ?? start]));
    this.fields = Object.fromEntries(FIELDS.map((field) => [field.name, this.field(field)]));
    this.node = el("div", { class: "settings" },
      FIELDS.map(({ name }) => el("label", {},
        el("span", {}, el("span", { t: `set.${name}` }), el("small", { t: `set.${name}.help`, class: "faint" })),
        this.fields[name])),
      button("set.reset", () => this.show(this.starts), { class: "quiet" }));
    this.show(read(this.place) ?? this.starts);
  }

  field({ name, min, max, step }) {
    return el("input", { type: "number", id: `${this.place}.${name}`, min, max, step: step < 1 ? "any" : step,
      hint: "set.default", inputmode: "decimal", on: { change: () => this.keep() } });
  }

  show(values) {
    for (const [name, field] of Object.entries(this.fields)) field.value = values[name] ?? "";
    this.keep();
  }

  keep() {
    const values = Object.entries(this.fields).map(([name, field]) => [name, field.value === "" ? null : Number(field.value)]);
    write(this.place, Object.fromEntries(values));
  }

  sampling() {
    const wrong = Object.values(this.fields).find((field) => !field.validity.valid);
    if (wrong) {
      const panel = wrong.closest("[popover]");
      if (panel && !panel.offsetParent && !panel.matches(":popover-open")) panel.showPopover?.();
      wrong.reportValidity();
      return null;
    }
    const given = Object.entries(this.fields).filter(([, field]) => field.value !== "");
    return Object.fromEntries(given.map(([name, field]) => [name, Number(field.value)]));
  }
}
