// Tables that can be sorted by any column: numbers by their exact value, everything else as text.
for (const table of $$("table.sortable")) {
  const heads = $$("thead tr:last-child th", table), body = $("tbody", table);
  const value = (row, column) => {
    const cell = row.cells[column], number = $("data", cell);
    return number ? (number.value === "" ? null : Number(number.value)) : cell.textContent.trim().toLowerCase();
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [value(row, column), row]);
      rows.sort(([a], [b]) => (a === null) - (b === null) || (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
