// What lies to the sides of each plane, written over the picture.  If the file does not say how the scan lies, nobody
// knows left from right, and each side says "?".

import { element } from "./dom.js";

const SIDES = { 0: ["L", "R", "A", "P"], 1: ["L", "R", "S", "I"], 2: ["P", "A", "S", "I"] };
const PLANES = ["Axial", "Coronal", "Sagittal"];
const PLACES = ["left", "right", "top", "bottom"];

export function sidesOf(plane, radiological, known) {
  if (!known) return ["?", "?", "?", "?"];
  const [left, right, above, below] = SIDES[plane];
  return radiological && plane !== 2 ? [right, left, above, below] : [left, right, above, below];
}

export class Labels {
  #host;
  #drawn = "";

  constructor(host) {
    this.#host = host;
  }

  place(tiles, how) {
    const wanted = JSON.stringify([tiles, how]);
    if (wanted === this.#drawn) return;
    this.#drawn = wanted;
    this.#host.replaceChildren(...tiles.map((tile) => box(tile, how)));
  }

  clear() {
    this.#drawn = "";
    this.#host.replaceChildren();
  }
}

// Azimuth and elevation in degrees: 0 looks from the back, 90 from the left.
export function viewedFrom([azimuth, elevation], known) {
  if (!known) return "3-D";
  const [across, along] = [Math.sin((azimuth * Math.PI) / 180), Math.cos((azimuth * Math.PI) / 180)];
  const high = Math.sin((elevation * Math.PI) / 180);
  const level = Math.abs(high) < 0.8;
  const parts = [
    level && Math.abs(across) > 0.4 ? (across > 0 ? "left" : "right") : "",
    level && Math.abs(along) > 0.4 ? (along > 0 ? "back" : "front") : "",
    Math.abs(high) > 0.4 ? (high > 0 ? "above" : "below") : "",
  ].filter(Boolean);
  return `3-D from the ${parts.join(", ")}`.replace(/the (above|below)/, "$1");
}

function box({ plane, slice, rectangle }, { radiological, known, scale, from }) {
  const [left, top, width, height] = rectangle.map((length) => length / scale);
  const made = element("div", { class: "tile", "data-plane": plane === null ? "render" : PLANES[plane].toLowerCase() });
  Object.assign(made.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
  made.append(element("span", { class: "plane" }, plane === null ? viewedFrom(from, known) : `${PLANES[plane]} ${slice}`));
  if (plane === null) return made;
  sidesOf(plane, radiological, known).forEach((text, n) => made.append(element("span", { class: `side ${PLACES[n]}` }, text)));
  return made;
}
