"use strict";
// Tables are readable without this; it puts buttons into their heads that sort them.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const { dataset, textContent } = row.cells[column];
    return dataset.order === undefined ? textContent : Number(dataset.order);
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const [body] = table.tBodies;
      const missing = (row) => row.cells[column].textContent === "–";
      const rows = [...body.rows].sort(
        (a, b) => missing(a) - missing(b) || (down ? -1 : 1) * compare(key(a, column), key(b, column)),
      );
      body.append(...rows);
    });
  });
}
// Paper can't be unfolded.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
