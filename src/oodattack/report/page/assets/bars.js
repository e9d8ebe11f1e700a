// Bars of histograms that filter the gallery. A chart is one stop of the Tab key; arrows move within it.
const bars = $$("[data-bar]");
const charts = Map.groupBy ? Map.groupBy(bars, (bar) => bar.dataset.chart) : new Map();
if (!Map.groupBy) for (const bar of bars) charts.set(bar.dataset.chart, [...(charts.get(bar.dataset.chart) ?? []), bar]);
for (const group of charts.values()) {
  group[0].setAttribute("tabindex", 0);
  group.forEach((bar, number) => {
    const name = `${bar.dataset.chart}.${bar.dataset.bar}`;
    const toggle = () => choose({ bar: state.get("bar") === name ? "" : name });
    bar.addEventListener("click", toggle);
    bar.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: number - 1, ArrowRight: number + 1, Home: 0, End: group.length - 1 }[event.key];
      if (event.key === "Enter" || event.key === " ") toggle();
      else if (to === undefined || !group[to]) return;
      else group[to].focus();
      event.preventDefault();
    });
    bar.addEventListener("focus", () => group.forEach((one) => one.setAttribute("tabindex", one === bar ? 0 : -1)));
  });
}
listeners.push(() => {
  const name = state.get("bar");
  let words = "";
  for (const bar of bars) {
    const pressed = `${bar.dataset.chart}.${bar.dataset.bar}` === name;
    bar.setAttribute("aria-pressed", pressed);
    if (pressed) words = `: ${bar.getAttribute("aria-label")}`;
  }
  const chosen = $("#chosen-bar");
  if (chosen) chosen.textContent = words;
});
