// The list of scans, least likely first; failed ones at the end, each with its reason.

import { byId, element, scrollTo, shown } from "./dom.js";

export class List {
  #rows = [];
  #cases;

  constructor(cases) {
    this.#cases = cases;
    this.#rows = cases.map(row);
    byId("scans").replaceChildren(...this.#rows);
    byId("filter").addEventListener("input", () => this.#filter());
    this.#filter();
  }

  select(number) {
    this.#rows.forEach((made, n) => {
      const link = made.firstChild;
      if (n === number) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
    if (this.#rows[number]) scrollTo(this.#rows[number], byId("scans"));
  }

  // The next scan that the filter leaves.
  beside(number, step) {
    for (let n = number + step; n >= 0 && n < this.#rows.length; n += step) if (!this.#rows[n].hidden) return n;
    return number;
  }

  #filter() {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    this.#cases.forEach((each, n) => {
      const text = searched(each);
      this.#rows[n].hidden = !words.every((word) => text.includes(word));
      left += this.#rows[n].hidden ? 0 : 1;
    });
    byId("count").textContent = left === this.#cases.length ? `${left}` : `${left} of ${this.#cases.length}`;
  }
}

function searched({ name, part, flagged, failed, code, message, warnings }) {
  return [name, part, flagged ? "flagged" : "", failed ? "failed" : "", code, message, ...warnings].join(" ").toLowerCase();
}

function row(each) {
  const link = element("a", { href: `#${each.number + 1}`, class: each.failed ? "failed" : each.flagged ? "flagged" : "" });
  link.append(element("span", { class: "scan-name" }, each.name));
  if (each.failed) {
    link.append(element("span", { class: "tag bad" }, "failed"), element("span", { class: "second" }, each.message || each.code));
    return element("li", {}, link);
  }
  link.append(element("span", { class: "p", title: "p-value among the healthy calibration scans" }, `p ${shown(each.p_value, 3)}`));
  const second = element("span", { class: "second" });
  if (each.flagged) second.append(element("span", { class: "tag" }, "flagged"));
  if (each.warnings.length) second.append(element("span", { class: "tag warn", title: each.warnings.join("\n") }, "warning"));
  second.append(element("span", { title: "Score, the part that decided it, findings" }, summary(each)));
  link.append(second);
  return element("li", {}, link);
}

function summary({ score, part, findings }) {
  const found = findings === 1 ? "1 finding" : `${findings} findings`;
  return [shown(score, 2), part, found].filter(Boolean).join(" · ");
}
