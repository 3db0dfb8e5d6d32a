// All about one scan beside its picture: warnings, score, findings, slice scores, whole-scan statistics.

import { element, scrollTo, shown } from "./dom.js";
import { Profile } from "./profile.js";

const PARTS = { local: "something is in the scan", acquisition: "the scan was taken in another way" };
const SHOWN_STATISTICS = 8;

export class Panel {
  #host;
  #findings = [];
  profile = null;

  constructor(host, { onFinding, onSlice }) {
    this.#host = host;
    this.onFinding = onFinding;
    this.onSlice = onSlice;
  }

  show(about, run) {
    this.#findings = [];
    this.profile = about.profile ? new Profile(about.profile, this.onSlice) : null;
    const parts = about.failed
      ? [failure(about)]
      : [warnings(about), score(about, run), this.#table(about), this.#slices(about), statistics(about)];
    this.#host.replaceChildren(...parts.filter(Boolean), footnote(run));
    this.#host.scrollTop = 0;
  }

  tell(problem) {
    this.#host.prepend(notice("alert bad", "Not all can be shown", [problem]));
  }

  select(finding, reveal) {
    this.#findings.forEach((row, n) => row.setAttribute("aria-selected", n === finding ? "true" : "false"));
    if (reveal && this.#findings[finding]) scrollTo(this.#findings[finding], this.#host);
  }

  #table({ listed }) {
    if (listed.length === 0) return section("Findings", element("p", { class: "quiet" }, "None above the healthy threshold."));
    const head = ["", "mm³", "peak", "false / scan", "x, y, z mm"].map((text) => element("th", { scope: "col", title: HEADS[text] }, text));
    this.#findings = listed.map((finding, n) => this.#row(finding, n));
    const table = element("table", { class: "findings" });
    table.append(element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...this.#findings));
    return section("Findings", table);
  }

  #row(finding, n) {
    const jump = element("button", { type: "button", title: "Go there" }, String(n + 1)); // the row hears of it, too
    const cells = [
      shown(finding.volume_mm3, finding.volume_mm3 < 100 ? 1 : 0), shown(finding.peak, 2), shown(finding.expected_false, 2),
      finding.centre_mm.map((value) => shown(value, 1)).join(", "),
    ];
    return element("tr", { "aria-selected": "false", onclick: () => this.onFinding(n) }, element("td", {}, jump), ...cells.map((text) => element("td", {}, text)));
  }

  #slices({ profile }) {
    if (!this.profile) return null;
    const title = `Score of every ${profile.plane} slice, in nats`;
    return section(title, this.profile.drawing, element("p", { class: "quiet" }, "The paper's score; click to go to a slice."));
  }
}

const HEADS = {
  "false / scan": "How many findings with at least this peak a healthy scan has",
  "peak": "Largest value of the map inside",
  "x, y, z mm": "Centre: x to the right, y to the front, z up",
};

function failure({ code, message }) {
  return notice("alert bad", "This scan could not be scored", [message, code && `Code ${code}`].filter(Boolean));
}

function warnings({ warnings: found, problems, geometry }) {
  const unknown = geometry && !geometry.known
    ? [notice("alert warn", "Orientation unknown", ["The file does not say how the scan lies: left and right, and all positions in mm, are a guess."])]
    : [];
  const gate = found.length ? [notice("alert warn", "This scan does not look like the training scans", found)] : [];
  const missing = problems.length ? [notice("alert bad", "Not all can be shown", problems)] : [];
  const all = [...missing, ...gate, ...unknown];
  return all.length ? element("div", {}, ...all) : null;
}

function score({ score: value, p_value, flagged, part, parts, strangest, paper_score, map_max }, run) {
  const verdict = flagged === null ? "" : flagged ? "flagged" : "not flagged";
  const rate = run.false_positive_rate;
  const why = [
    flagged === null ? "too few calibration scans to flag" : rate === null ? "" : `at most ${shown(100 * rate, 0)} % of healthy scans are flagged`,
    run.calibration_scans === null ? "" : `from ${run.calibration_scans} healthy scans`,
  ].filter(Boolean).join("; ");
  const big = element("p", { class: "score" }, element("strong", {}, shown(value, 2)), element("span", {}, ` p ${shown(p_value, 3)}`));
  if (verdict) big.append(element("span", { class: flagged ? "tag" : "tag calm" }, verdict));
  const rows = Object.entries(parts).filter(([, each]) => each.value !== null)
    .map(([name, each]) => [name, `${shown(each.value, 2)}, p ${shown(each.p_value, 3)}`, name === part, PARTS[name]]);
  if (strangest) rows.push(["strangest", strangest.replace(/ -/, " −"), false, "The whole-scan statistic that departs most, in healthy standard deviations"]);
  if (paper_score !== null) rows.push(["paper's score", `${shown(paper_score, 1)} nats`, false, "The sum of −log p over unlikely codes"]);
  if (map_max !== null) rows.push(["largest in map", shown(map_max, 3), false, ""]);
  const list = element("dl", { class: "figures" });
  for (const [name, text, decided, title] of rows) {
    list.append(element("dt", { title: title || null }, name), element("dd", {}, text, decided ? element("span", { class: "quiet" }, " decided") : ""));
  }
  return section("Score", big, why ? element("p", { class: "quiet" }, why) : null, list);
}

function statistics({ statistics: values }) {
  if (values.length === 0) return null;
  const largest = Math.max(3, ...values.map(({ value }) => Math.abs(value ?? 0)));
  const rows = values.map(({ name, value }) => statistic(name, value, largest));
  const first = element("div", { class: "statistics" }, ...rows.slice(0, SHOWN_STATISTICS));
  const rest = element("details", {}, element("summary", {}, `${values.length - SHOWN_STATISTICS} more`), element("div", { class: "statistics" }, ...rows.slice(SHOWN_STATISTICS)));
  return section("Whole-scan statistics, in healthy standard deviations", first, values.length > SHOWN_STATISTICS ? rest : null);
}

function statistic(name, value, largest) {
  const bar = element("span", { class: "deviation" }, element("i"));
  const width = Math.min(1, Math.abs(value ?? 0) / largest) * 50;
  Object.assign(bar.firstChild.style, { width: `${width}%`, left: `${(value ?? 0) < 0 ? 50 - width : 50}%` });
  return element("div", { class: Math.abs(value ?? 0) >= 3 ? "far" : null }, element("span", {}, name), bar, element("span", { class: "number" }, shown(value, 1)));
}

function footnote(run) {
  const parts = [run.mendscan && `mendscan ${run.mendscan}`, run.model && `model ${String(run.model).slice(0, 12)}`, run.notice];
  return element("p", { class: "quiet foot" }, parts.filter(Boolean).join(" · ") || "Research use only; not a medical device.");
}

function notice(kind, title, texts) {
  return element("div", { class: kind, role: "note" }, element("strong", {}, title), ...texts.map((text) => element("p", {}, text)));
}

function section(title, ...parts) {
  return element("section", {}, element("h2", {}, title), ...parts.filter(Boolean));
}
