// Bars of histograms that filter images. A chart is one stop of the Tab key; arrows move within it.
const wireBars = (root) => {
  const charts = {};
  for (const bar of $$("[data-bar]", root)) (charts[bar.dataset.chart] ??= []).push(bar);
  for (const group of Object.values(charts)) {
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
};
const pressBars = () => {
  let words = "";
  for (const bar of $$("[data-bar]")) {
    const pressed = `${bar.dataset.chart}.${bar.dataset.bar}` === state.get("bar");
    bar.setAttribute("aria-pressed", pressed);
    if (pressed) words = `: ${bar.getAttribute("aria-label")}`;
  }
  const chosen = $("#chosen-bar");
  if (chosen) chosen.textContent = words;
};
wireBars(document);
listeners.push(pressBars);
