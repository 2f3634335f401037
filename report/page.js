"use strict";
// Compares two values of a column: numbers by size, texts by language. Texts in a column of numbers,
// such as a dash, stand together at one end.
function compare(a, b) {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
  return typeof a === "number" ? -1 : 1;
}

// Sorts the tables of class "sortable" by the column whose head is clicked, or chosen with Enter or
// the space bar. A cell is compared by its data-value as a number, if it has one, else by its text.
function makeSortable(root) {
  for (const table of root.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.tabIndex = 0;
      const sort = () => {
        const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row) => {
          const cell = row.cells[column];
          return { row, value: "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent };
        });
        rows.sort((a, b) => sign * compare(a.value, b.value));
        body.append(...rows.map((r) => r.row));
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); }
      });
    });
  }
}
makeSortable(document);

// The page of a run that is going on is served with the attribute data-live, and the server says
// when it changed. The script then replaces the content of the page and keeps open what was open.
if (document.body.hasAttribute("data-live")) {
  const events = new EventSource("events");
  const update = async () => {
    const answer = await fetch("./").catch(() => null); // the server may have ended
    if (!answer || !answer.ok) return;
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    const open = new Set([...document.querySelectorAll("details[open]")].map((d) => d.id));
    for (const name of ["header", "main", "footer"]) {
      document.querySelector(name).replaceWith(next.querySelector(name));
    }
    for (const d of document.querySelectorAll("details")) if (open.has(d.id)) d.open = true;
    document.title = next.title;
    makeSortable(document);
  };
  let busy = Promise.resolve();
  events.addEventListener("update", () => { busy = busy.then(update); });
  events.addEventListener("end", () => events.close()); // the last update came before
}
