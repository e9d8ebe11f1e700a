// An audit: the radius whose columns are shown, and the images in a panel.
const radios = $("#eps");
if (radios) {
  const groups = $$("#heatmap [colspan]"), columns = groups[0].colSpan;
  radios.addEventListener("change", (event) => choose({ eps: event.target.value }));
  listeners.push(() => {
    const eps = state.get("eps") ?? "";
    for (const radio of $$("input", radios)) radio.checked = radio.value === eps;
    for (const cell of $$("#heatmap [data-eps]")) cell.hidden = eps !== "" && cell.dataset.eps !== eps;
    for (const group of groups) group.colSpan = eps === "" ? columns : 2;
  });
}
const showImages = () => {
  const show = $("[data-show]");
  if (!show) return;
  const [chart, bar] = (state.get("bar") ?? "").split(".");
  const chosen = chart === show.dataset.show, all = state.get("show") === "all";
  let count = 0;
  for (const card of $$("[data-image]")) {
    card.hidden = chosen ? card.dataset.inBar !== bar : !all && !("passes" in card.dataset);
    count += !card.hidden;
  }
  for (const radio of $$("input", show)) radio.checked = radio.value === (chosen ? "" : all ? "all" : "pass");
  const which = chosen ? `in the chosen bar (${$("[aria-pressed=true]")?.getAttribute("aria-label")})` : all ? "" : "that pass";
  $("[data-shown]").textContent = `${count} ${count === 1 ? "image" : "images"} ${which}`;
};
listeners.push(showImages);
document.addEventListener("change", (event) => {
  if (event.target.closest("[data-show]")) choose({ bar: "", show: event.target.value === "all" ? "all" : "" });
});
