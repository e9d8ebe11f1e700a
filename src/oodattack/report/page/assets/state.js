// What the reader has chosen. It is kept in the part of the address after #, so that a link shows the same.
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
let state = new URLSearchParams(location.hash.slice(1));
const listeners = [];
const changed = () => listeners.forEach((listener) => listener());
const choose = (values) => {
  for (const [key, value] of Object.entries(values)) value ? state.set(key, value) : state.delete(key);
  history.replaceState(null, "", "#" + state);
  changed();
};
addEventListener("hashchange", () => {
  state = new URLSearchParams(location.hash.slice(1));
  changed();
});
addEventListener("DOMContentLoaded", changed);
// In a page of one file, addresses of images are names, which its data resolves.
const block = (id) => JSON.parse($("#" + id)?.textContent ?? "null");
const images = block("image-data");
const insert = (element, html) => {
  const template = document.createElement("template");
  template.innerHTML = images
    ? html.replace(/ src="image:([\w-]+)"/g, (_, name) => ` src="${images[name] ?? images[name + "-t"]}"`) : html;
  element.append(template.content);
};
document.documentElement.classList.add("scripted");
