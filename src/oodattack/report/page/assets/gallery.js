// The gallery: which rows match, in which order, and how many of them are shown.
const data = block("gallery-data");
let matching = [];
if (data) {
  const cards = $("#cards"), more = $("#more"), find = $("#find"), sort = $("#sort"), selects = $$("[data-filter]");
  const place = Object.fromEntries(data.columns.map((name, number) => [name, number]));
  const texts = data.rows.map((row) => row.filter((cell) => typeof cell === "string").join("\n").toLowerCase());
  const compare = (a, b) => (a === null) - (b === null) || (a < b ? -1 : a > b ? 1 : 0);
  let shown = cards.children.length, drawn = [...data.rows.keys()].join();
  const match = () => {
    const [chart, bar] = (state.get("bar") ?? "").split(".");
    const words = (state.get("q") ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    const set = selects.map((select) => [place[select.dataset.filter], state.get(select.dataset.filter)]);
    const rows = [...data.rows.keys()].filter((number) =>
      (!chart || data.bars[number][chart] === Number(bar)) &&
      words.every((word) => texts[number].includes(word)) &&
      set.every(([column, value]) => value === null || data.rows[number][column] == value));
    const key = state.get("sort") ?? "", column = place[key.replace("-", "")], sign = key.startsWith("-") ? -1 : 1;
    if (column === undefined) return rows;
    const at = (number) => data.rows[number][column];
    return rows.sort((a, b) => (at(a) === null || at(b) === null ? 1 : sign) * compare(at(a), at(b)) || a - b);
  };
  const show = (count) => {
    const next = matching.slice(shown, shown + count);
    insert(cards, next.map((number) => data.cards[number]).join(""));
    shown += next.length;
    more.hidden = shown >= matching.length;
    more.textContent = `Show ${Math.min(data.batch, matching.length - shown)} more`;
  };
  const update = () => {
    find.value = state.get("q") ?? "";
    sort.value = state.get("sort") ?? "";
    for (const select of selects) select.value = state.get(select.dataset.filter) ?? "";
    matching = match();
    $("#matching").textContent = matching.length.toLocaleString("en");
    const order = matching.join();
    if (order === drawn) return show(0);
    drawn = order;
    shown = 0;
    cards.replaceChildren();
    show(data.batch);
  };
  const csv = () => {
    // A spreadsheet would run a cell that begins with one of these signs as a formula.
    const cell = (value) => typeof value === "string"
      ? `"${value.replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"` : value ?? "";
    const lines = [data.columns, ...matching.map((number) => data.rows[number])].map((row) => row.map(cell).join());
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
    link.download = "selection.csv";
    link.click();
  };
  $("#filters").hidden = false;
  find.addEventListener("input", () => choose({ q: find.value }));
  sort.addEventListener("change", () => choose({ sort: sort.value }));
  for (const select of selects)
    select.addEventListener("change", () => choose({ [select.dataset.filter]: select.value }));
  $("#clear").addEventListener("click", () =>
    choose({ q: "", bar: "", sort: "", ...Object.fromEntries(selects.map((select) => [select.dataset.filter, ""])) }));
  $("#csv").addEventListener("click", csv);
  more.addEventListener("click", () => {
    const first = cards.children.length;
    show(data.batch);
    $$("[data-row]", cards)[first]?.focus();
  });
  listeners.push(update);
}
