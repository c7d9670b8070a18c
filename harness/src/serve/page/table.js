// A table that sorts by its heads and is brought up to date in place: rows and cells that stay keep their nodes, and
// with them focus, selection and scroll.

import { el, write } from "./dom.js";

// Columns: `{ key, t or name, isNumber, value(row), fill?(cell, row) }`; rows have an `id`.
export class SortTable {
  constructor(label) {
    this.head = el("thead");
    this.body = el("tbody");
    this.node = el("div", { class: "scroll", tabindex: 0, role: "region", label },
      el("table", { class: "data" }, this.head, this.body));
    this.sort = null; // { key, isDown }
    this.rows = new Map(); // id -> { node, cells: { key: [cell, what it shows] } }
  }

  update(columns, rows) {
    this.data = rows;
    const names = columns.map(({ key }) => key).join("\n");
    if (names !== this.names) this.rebuild(columns, names);
    this.columns = columns;
    this.fill();
  }

  rebuild(columns, names) {
    this.names = names;
    this.rows.clear();
    this.body.replaceChildren();
    const had = document.activeElement?.closest?.("th")?.dataset.key;
    this.head.replaceChildren(el("tr", {}, columns.map((column) => {
      const { key, t, name, isNumber } = column;
      const words = t ? el("span", { t }) : el("span", {}, name);
      const sort = el("button", { type: "button", on: { click: () => this.sortBy(column) } }, words);
      return el("th", { scope: "col", class: isNumber ? "number" : null, "data-key": key }, sort);
    })));
    if (had) [...this.head.querySelectorAll("th")].find((one) => one.dataset.key === had)?.firstChild.focus();
    this.mark();
  }

  // Once by a sensible order, again the other way round, a third time as the rows came.
  sortBy({ key, isNumber }) {
    const first = isNumber === true;
    if (this.sort?.key !== key) this.sort = { key, isDown: first };
    else if (this.sort.isDown === first) this.sort.isDown = !first;
    else this.sort = null;
    this.mark();
    this.fill();
  }

  mark() {
    for (const head of this.head.querySelectorAll("th")) {
      const isSorted = head.dataset.key === this.sort?.key;
      if (isSorted) head.setAttribute("aria-sort", this.sort.isDown ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  }

  get ordered() {
    const column = this.columns.find(({ key }) => key === this.sort?.key);
    if (!column) return this.data;
    const sign = this.sort.isDown ? -1 : 1;
    const isUnknown = (value) => value === null || value === undefined || value === "";
    return this.data.map((row) => [column.value(row), row]).sort(([a], [b]) => {
      if (isUnknown(a) || isUnknown(b)) return isUnknown(a) - isUnknown(b); // unknown ones last, either way
      return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
    }).map(([, row]) => row);
  }

  fill() {
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    const rows = this.ordered;
    const ids = new Set(rows.map(({ id }) => id));
    for (const [id, { node }] of this.rows) {
      if (ids.has(id)) continue;
      node.remove();
      this.rows.delete(id);
    }
    rows.forEach((row, i) => {
      const known = this.rows.get(row.id) ?? this.add(row);
      for (const column of this.columns) this.fillCell(known.cells[column.key], column, row);
      if (this.body.children[i] !== known.node) this.body.insertBefore(known.node, this.body.children[i] ?? null);
    });
    if (focused && document.activeElement !== focused) focused.focus({ preventScroll: true });
  }

  add(row) {
    const cells = {};
    const node = el("tr", {}, this.columns.map(({ key, isNumber }) => {
      const cell = el("td", { class: isNumber ? "number" : null });
      cells[key] = { cell, shown: undefined };
      return cell;
    }));
    const known = { node, cells };
    this.rows.set(row.id, known);
    return known;
  }

  fillCell(known, column, row) {
    const shown = column.show ? column.show(row) : String(column.value(row) ?? "");
    if (shown === known.shown) return;
    known.shown = shown;
    if (column.fill) column.fill(known.cell, row);
    else write(known.cell, shown);
  }
}
