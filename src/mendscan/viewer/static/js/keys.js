// The keyboard: what each key does, and the list of them that the page shows.

import { byId, element } from "./dom.js";

export class Keys {
  #actions = new Map();

  constructor(rows) {
    for (const { keys, what, act } of rows) {
      keys.forEach((key, n) => this.#actions.set(key, (event) => act(n, event)));
      const shown = keys.map((key) => element("kbd", {}, NAMES[key] ?? key.toUpperCase()));
      byId("keys").append(element("dt", {}, ...shown), element("dd", {}, what));
    }
    // Before the canvas hears of them, which has keys of its own.
    window.addEventListener("keydown", (event) => this.#pressed(event), { capture: true });
    window.addEventListener("keyup", (event) => this.#keptFromCanvas(event), { capture: true });
  }

  #pressed(event) {
    this.#keptFromCanvas(event);
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    const act = this.#actions.get(event.key.length === 1 ? event.key.toLowerCase() : event.key);
    if (!act || isTyping(event)) return;
    event.preventDefault();
    act(event);
  }

  #keptFromCanvas(event) {
    if (event.target === byId("canvas")) event.stopPropagation();
  }
}

const NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", PageUp: "Page up", PageDown: "Page down" };

function isTyping({ target, key }) {
  if (target.matches("input[type=search]")) return true;
  return target.matches("input[type=range]") && /^(Arrow|Page)/.test(key);
}
