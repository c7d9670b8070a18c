"use strict";
const each = (selector, act, root = document) => root.querySelectorAll(selector).forEach(act);

// Sortable tables: clicks on a column head cycle through ascending, descending and original order.
const missing = text => text === "" || text === "–";
const number = text => {
  const found = text.replace(/[,\s]/g, "").replace("−", "-").match(/^[<≤~±]*(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)/i);
  return found ? Number(found[1]) : NaN;
};
const cell = (row, column) => row.cells[column].textContent.trim();
const isFixed = row => row.classList.contains("group") || row.classList.contains("mean");

function sort(table, column, direction) {
  for (const body of table.tBodies) {
    const all = [...body.rows];
    body.first ??= all;
    const rows = body.first.filter(row => !isFixed(row));
    const texts = rows.map(row => cell(row, column)).filter(text => !missing(text));
    const isNumber = texts.every(text => !Number.isNaN(number(text)));
    const compare = (a, b) => {
      const [x, y] = [cell(a, column), cell(b, column)];
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      return direction * (isNumber ? number(x) - number(y) : x.localeCompare(y, undefined, { numeric: true }));
    };
    if (direction) rows.sort(compare);
    body.append(...body.first.filter(isFixed), ...rows);
  }
}

each("table.sortable", table => {
  each("thead tr:last-child th", head => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "none" }[head.ariaSort] ?? "ascending";
      each("thead th[aria-sort]", other => other.removeAttribute("aria-sort"), table);
      if (next !== "none") head.ariaSort = next;
      sort(table, head.cellIndex, { ascending: 1, descending: -1, none: 0 }[next]);
    });
  }, table);
});

// A table that continues to the right fades there.
each(".scroll", box => {
  const look = () => box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  box.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(box);
});

// Figures: a click enlarges one.
const large = document.getElementById("large");
each(".enlarge", button => button.addEventListener("click", () => {
  large.querySelector("div").replaceChildren(button.querySelector("svg").cloneNode(true));
  large.showModal();
}));
large.addEventListener("click", () => large.close());

// Printing: unfold everything, and fold it again afterwards.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach(fold => { fold.open = true; });
});
addEventListener("afterprint", () => opened.forEach(fold => { fold.open = false; }));

// A link to an element in a folded section unfolds the section.
function unfold() {
  const fold = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)))?.closest("details");
  if (fold) fold.open = true;
}
addEventListener("hashchange", unfold);
unfold();
