// The score of every slice as a small drawing, with the slice that is shown.

import { drawing, shown } from "./dom.js";

const [WIDTH, HEIGHT, BASE] = [320, 84, 78];

export class Profile {
  #cursor;
  #length;

  constructor({ axis, length, positions, scores, plane }, onSlice) {
    this.axis = axis;
    this.#length = length;
    const points = positions.map((position, n) => ({ position, score: scores[n] })).filter(({ position, score }) => position !== null && score !== null);
    const highest = Math.max(...points.map(({ score }) => score), 1e-9);
    const [x, y] = [(position) => this.#x(position), (score) => BASE - (score / highest) * (BASE - 14)];
    const line = points.map(({ position, score }) => `${x(position).toFixed(1)},${y(score).toFixed(1)}`).join(" ");
    this.#cursor = drawing("line", { class: "cursor", y1: 2, y2: BASE });
    const peak = points.find(({ score }) => score === highest) ?? points[0];
    this.drawing = drawing(
      "svg", { class: "profile", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Score of every ${plane} slice; the highest is ${shown(highest, 1)} nats` },
      drawing("line", { class: "base", x1: 0, x2: WIDTH, y1: BASE, y2: BASE }),
      points.length ? drawing("polygon", { points: `${x(points[0].position)},${BASE} ${line} ${x(points.at(-1).position)},${BASE}` }) : null,
      drawing("polyline", { points: line }),
      this.#cursor,
      peak ? drawing("text", { x: Math.min(WIDTH - 30, Math.max(30, x(peak.position))), y: 10 }, shown(highest, 0)) : null,
    );
    this.drawing.addEventListener("click", (event) => {
      const box = this.drawing.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      onSlice(this.axis, Math.min(length - 1, Math.max(0, Math.round(share * length - 0.5))));
    });
  }

  at(position) {
    const x = this.#x(position).toFixed(1);
    this.#cursor.setAttribute("x1", x);
    this.#cursor.setAttribute("x2", x);
  }

  #x(position) {
    return ((position + 0.5) / this.#length) * WIDTH;
  }
}
