// What the views share: elements, calls to the router with the key that the user gave, tabs, and the chosen cascade.
export const at = id => document.getElementById(id);
export const show = (target, text) => {
  const element = typeof target === "string" ? at(target) : target;
  if (element.textContent !== text) element.textContent = text;
};

const KEY = "cascade-api-key";
export async function send(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const reply = await fetch(path, {...options, headers: {...options.headers, ...(key ? {authorization: `Bearer ${key}`} : {})}});
  if (reply.ok) return reply;
  at("key-form").hidden = reply.status !== 401;
  const body = await reply.json().catch(() => null);
  throw new Error(body?.error?.message ?? `${path}: ${reply.status}`);
}
export const call = async path => (await send(path)).json();
at("key-form").addEventListener("submit", event => {
  event.preventDefault();
  sessionStorage.setItem(KEY, at("key").value);
  at("key").value = "";
  at("key-form").hidden = true;
});

const listeners = [];
export const chosen = {
  sizes: [],
  get name() { return at("model").value; },
  onChange(listener) { listeners.push(listener); },
  offer(cascades) {
    const select = at("model");
    const names = cascades.map(cascade => cascade.name);
    if (names.join() !== [...select.options].map(option => option.value).join()) {
      const before = select.value;
      select.replaceChildren(...names.map(name => new Option(name)));
      if (names.includes(before)) select.value = before;
      select.closest("label").hidden = names.length < 2;
    }
    const sizes = cascades.find(cascade => cascade.name === select.value)?.sizes ?? [];
    if (sizes.join() !== this.sizes.join()) {
      this.sizes = sizes;
      at("size").replaceChildren(...sizes.map(size => new Option(size)));
    }
  },
};
at("model").addEventListener("change", () => listeners.forEach(listener => listener()));

const tabs = [...document.querySelectorAll("[role=tab]")];
function open(tab, focus) {
  for (const each of tabs) {
    const selected = each === tab;
    each.setAttribute("aria-selected", selected);
    each.tabIndex = selected ? 0 : -1;
    at(each.getAttribute("aria-controls")).hidden = !selected;
  }
  if (focus) tab.focus();
}
// The address follows what the user chose, so that it can be kept; not before, since browsers begin there with Tab.
function choose(tab, focus = false) {
  open(tab, focus);
  history.replaceState(null, "", location.pathname + location.search + "#" + tab.getAttribute("aria-controls"));
}
tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowLeft: -1, Home: -index, End: tabs.length - 1 - index}[event.key];
    if (step === undefined) return;
    event.preventDefault();
    choose(tabs[(index + step + tabs.length) % tabs.length], true);
  });
});
open(tabs.find(tab => "#" + tab.getAttribute("aria-controls") === location.hash) ?? tabs[0], false);
