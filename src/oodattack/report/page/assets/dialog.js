// The panel of one row. Its content is read when it is opened: from rows/N.js, or from the page of one file.
const panel = $("#panel"), content = $("#panel-content"), details = new Map();
let current = null, opener = null, refocus = false;
const card = (number) => $(`.card[data-row="${number}"], td [data-row="${number}"]`);
const inOrder = () => data ? matching.map((number) => data.rows[number][0])
  : $$("td:not([hidden]) > [data-row]").map((one) => Number(one.dataset.row));
window.oodattackRow = (number, html) => {
  details.set(number, html);
  if (number !== current) return;
  content.replaceChildren();
  insert(content, html);
  wireBars(content);
  pressBars();
  showImages();
  if (refocus) $("[aria-current]", content)?.focus();
  const gain = $("[data-gain]", content);
  gain?.addEventListener("input", () => {
    $(".difference", content).style.setProperty("--gain", gain.value);
    $("output", gain.parentElement).textContent = `${gain.value} ×`;
  });
};
const load = async (number) => {
  if (details.has(number)) return oodattackRow(number, details.get(number));
  content.textContent = "Loading …";
  const packed = $$("[data-from]").findLast((one) => Number(one.dataset.from) <= number);
  if (packed) {
    const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt());
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const rows = JSON.parse(await new Response(stream).text());
    for (const [row, html] of rows) oodattackRow(row, html);
    return;
  }
  const script = document.createElement("script");
  script.src = `rows/${number}.js`;
  script.onerror = () => { content.textContent = `Cannot read ${script.src}: keep the folder of this page together.`; };
  document.head.append(script);
};
listeners.push(() => {
  const wanted = state.has("row") && (data || card(state.get("row"))) ? Number(state.get("row")) : null;
  if (wanted === current) return;
  current = wanted;
  refocus = content.contains(document.activeElement);
  if (current === null) return panel.close();
  const order = inOrder(), place = order.indexOf(current);
  $("#panel-place").textContent = place < 0 ? "" : `${place + 1} of ${order.length}`;
  $("#previous").disabled = place <= 0;
  $("#next").disabled = place < 0 || place === order.length - 1;
  $("#previous").onclick = () => choose({ row: String(order[place - 1]) });
  $("#next").onclick = () => choose({ row: String(order[place + 1]) });
  if (!panel.open) panel.showModal();
  load(current);
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-row]");
  if (!button) return;
  if (!panel.contains(button)) opener = button;
  choose({ row: button.dataset.row });
});
panel.addEventListener("keydown", (event) => {
  if (event.target.matches("input, [data-bar]")) return;
  if (event.key === "ArrowLeft") $("#previous").click();
  if (event.key === "ArrowRight") $("#next").click();
});
panel.addEventListener("close", () => {
  const last = current;
  choose(data ? { row: "" } : { row: "", bar: "" });
  (opener?.dataset.row === String(last) ? opener : card(last))?.focus();
});
