// What the report of a sweep left in its folder: the report itself, figures, tables.

import { request } from "./api.js";
import { parseCsv } from "./csv.js";
import { el } from "./dom.js";
import { cell } from "./i18n.js";
import { SortTable } from "./table.js";

const href = (path) => `/${path.split("/").map(encodeURIComponent).join("/")}`;
const nameOf = (path) => path.split("/").at(-1).replace(/\.[^.]+$/, "").replaceAll("_", " ");

export class Results {
  constructor() {
    this.report = el("p");
    this.figures = el("div", { class: "figures" });
    this.tables = el("div", { class: "tables" });
    this.node = el("section", { hidden: true }, el("h2", { t: "results" }), this.report, this.figures, this.tables);
  }

  update(files) {
    const shown = JSON.stringify(files);
    if (shown === this.shown) return; // figures stay loaded
    this.shown = shown;
    const { report, figures = [], tables = [] } = files ?? {};
    this.node.hidden = !report && !figures.length && !tables.length;
    this.report.replaceChildren(...(report ? [el("a", { href: href(report), target: "_blank", rel: "noopener", t: "report" })] : []));
    this.figures.replaceChildren(...figures.filter(isPicture).map((path) => el("figure", {},
      el("a", { href: href(path), target: "_blank", rel: "noopener" }, el("img", { src: href(path), alt: nameOf(path), loading: "lazy" })),
      el("figcaption", {}, nameOf(path)))));
    this.tables.replaceChildren(...tables.map((path) => (path.endsWith(".csv") ? csvTable(path) : fileLink(path))));
  }
}

const isPicture = (path) => /\.(svg|png|jpe?g|webp)$/i.test(path);
const fileLink = (path) => el("a", { class: "file", href: href(path), target: "_blank", rel: "noopener" }, path.split("/").at(-1));

// A table that is read when it is opened.
function csvTable(path) {
  const box = el("details", {}, el("summary", {}, nameOf(path)));
  const table = new SortTable("tables");
  let isRead = false;
  box.addEventListener("toggle", async () => {
    if (isRead || !box.open) return;
    isRead = true;
    const lines = await request(href(path)).then((response) => response.text()).then(parseCsv).catch((error) => [[error.message]]);
    const [names, ...rows] = lines;
    const columns = names.map((name, i) => ({ key: `${i}`, name, isNumber: rows.length > 0 && rows.every((row) => typeof row[i] !== "string"),
      value: (row) => row.values[i], show: (row) => cell(row.values[i], name) }));
    table.update(columns, rows.map((values, id) => ({ id, values })));
    box.append(table.node, fileLink(path));
  });
  return box;
}
