"use strict";
(() => {
  const root = document.documentElement;
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  root.classList.add("js");
  for (const each of all("#theme, #help-button, #filters, .pictures > .controls, .enlarge")) each.hidden = false;

  /* Colours: as the system, light, dark. */
  const themes = ["as the system", "light", "dark"];
  let theme = 0;
  one("#theme").addEventListener("click", () => {
    theme = (theme + 1) % themes.length;
    if (theme) root.dataset.theme = themes[theme]; else delete root.dataset.theme;
    one("#theme").textContent = "◐○●"[theme];
    one("#theme").setAttribute("aria-label", `Colours: ${themes[theme]}`);
  });

  /* The slider between scan and healthy version. */
  const wipePanel = (panel, percent) => {
    const divider = one(".divider", panel), width = Number(divider.dataset.width) * percent / 100;
    one(".wipe", panel).setAttribute("width", width);
    divider.setAttribute("transform", `translate(${width} 0)`);
    divider.setAttribute("visibility", percent > 0 && percent < 100 ? "visible" : "hidden");
  };
  const said = (percent) => percent <= 0 ? "scan" : percent >= 100 ? "healthy version" : `${Math.round(percent)} % healthy version`;
  const wipe = (scan, percent) => {
    const range = one(".wipe-range", scan);
    range.value = percent;
    range.setAttribute("aria-valuetext", said(percent));
    for (const panel of all(".panel.wiped", scan)) wipePanel(panel, percent);
  };
  const percentAt = (event, panel) => {
    const width = Number(one(".divider", panel).dataset.width);
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(panel.getScreenCTM().inverse());
    return Math.max(0, Math.min(100, 100 * at.x / width));
  };
  const draggable = (panel, moved) => {
    panel.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      panel.setPointerCapture(event.pointerId);
      moved(percentAt(event, panel));
    });
    panel.addEventListener("pointermove", (event) => {
      if (panel.hasPointerCapture(event.pointerId)) moved(percentAt(event, panel));
    });
  };

  /* What is laid over the pictures is the same for all scans. */
  const setMap = (percent) => {
    root.style.setProperty("--map", percent / 100);
    for (const range of all(".map-range, #large-map")) range.value = percent;
  };
  const setClass = (name, on, boxes, checked) => {
    root.classList.toggle(name, on);
    for (const box of all(boxes)) box.checked = checked;
  };

  const choose = (scan, id) => {
    for (const view of all(".view", scan)) view.classList.toggle("chosen", view.id === id);
    for (const tab of all(".tabs button", scan)) tab.setAttribute("aria-pressed", String(tab.dataset.view === id));
    for (const row of all("tr[data-view]", scan)) row.classList.toggle("chosen", row.dataset.view === id);
  };
  const chooseByAddress = () => {
    const view = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (view && view.classList.contains("view")) choose(view.closest(".scan"), view.id);
  };

  for (const scan of all(".scan")) {
    const range = one(".wipe-range", scan);
    if (!range) continue;
    choose(scan, one(".view", scan).id);
    range.addEventListener("input", () => wipe(scan, Number(range.value)));
    for (const panel of all(".panel.wiped", scan)) draggable(panel, (percent) => wipe(scan, percent));
    one(".map-range", scan).addEventListener("input", (event) => setMap(Number(event.target.value)));
    one(".outline-box", scan).addEventListener("change", (event) => setClass("no-outlines", !event.target.checked, ".outline-box", event.target.checked));
    one(".smooth-box", scan).addEventListener("change", (event) => setClass("smooth", event.target.checked, ".smooth-box", event.target.checked));
    for (const tab of all(".tabs button", scan)) tab.addEventListener("click", () => choose(scan, tab.dataset.view));
    for (const row of all("tr[data-view]", scan)) row.addEventListener("click", (event) => {
      event.preventDefault();
      choose(scan, row.dataset.view);
      history.replaceState(null, "", `#${row.dataset.view}`);
      const pictures = one(".pictures", scan).getBoundingClientRect();
      if (pictures.top < 0 || pictures.top > innerHeight / 2) one(".pictures", scan).scrollIntoView({ block: "start" });
    });
  }
  chooseByAddress();
  addEventListener("hashchange", chooseByAddress);

  /* One plane, large: scan, healthy version and map in one place. */
  const large = one("#large"), stage = one("#large-picture");
  for (const button of all(".enlarge")) button.addEventListener("click", () => {
    const plane = button.closest(".plane"), panels = all(".panel", plane), id = plane.dataset.plane;
    const picture = panels[0].cloneNode(true);
    const clip = one("clipPath", picture);
    clip.id = "large-clip";
    one("image", picture).removeAttribute("id");
    one("use", picture).setAttribute("clip-path", "url(#large-clip)");
    const over = panels[2].cloneNode(true);
    one("use", over).remove();
    one("image", over).removeAttribute("id");
    for (const each of all(".sides", over)) each.remove();
    picture.insertBefore(document.createElementNS(picture.namespaceURI, "g"), one(".divider", picture)).append(...over.childNodes);
    stage.replaceChildren(picture);
    one("#large-title").textContent = `${one("figcaption b", plane).textContent}, ${one("figcaption span", plane).textContent}`;
    wipePanel(picture, Number(one("#large-wipe").value));
    draggable(picture, (percent) => { one("#large-wipe").value = percent; wipePanel(picture, percent); });
    large.dataset.plane = id;
    large.showModal();
    one("#large-wipe").focus();
  });
  one("#large-wipe").addEventListener("input", (event) => wipePanel(one("svg", stage), Number(event.target.value)));
  one("#large-map").addEventListener("input", (event) => setMap(Number(event.target.value)));
  large.addEventListener("close", () => stage.replaceChildren());

  /* The table: sorted and filtered. */
  const table = one("#ranking"), body = one("tbody", table), rows = all("tr", body);
  all("thead th", table).forEach((head, column) => {
    if (!head.dataset.sort) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => {
        const cell = row.cells[column];
        if (head.dataset.sort === "text") return cell.textContent.trim().toLowerCase();
        return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
      };
      const sign = down ? -1 : 1;
      body.append(...rows.slice().sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (typeof x === "string") return sign * x.localeCompare(y, undefined, { numeric: true });
        return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : sign * (x - y);
      }));
    });
  });
  const filter = one("#filter");
  let status = "all";
  const refresh = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = status === "all" || (status === "warned" ? "warned" in row.dataset : row.dataset.status === status);
      row.hidden = !(fits && words.every((word) => text.includes(word)));
      shown += !row.hidden;
    }
    one("#shown").textContent = shown === rows.length ? "" : `${shown} of ${rows.length}`;
  };
  filter.addEventListener("input", refresh);
  for (const button of all("#filters button")) button.addEventListener("click", () => {
    status = button.dataset.status;
    for (const other of all("#filters button")) other.setAttribute("aria-pressed", String(other === button));
    refresh();
  });

  /* Keys. */
  const scans = all(".scan"), help = one("#help");
  const here = () => {
    const line = innerHeight * 0.35;
    return scans.findLastIndex((scan) => scan.getBoundingClientRect().top <= line);
  };
  const toTable = () => { one("#cohort").scrollIntoView({ block: "start", behavior: "instant" }); };
  const go = (step) => {
    const to = here() + step, scan = scans[Math.min(scans.length - 1, to)];
    if (to < 0 || !scan) {
      toTable();
      return;
    }
    scan.scrollIntoView({ block: "start", behavior: "instant" });
    scan.focus({ preventScroll: true });
  };
  one("#help-button").addEventListener("click", () => help.showModal());
  let mapBefore = 65;
  const keys = {
    j: () => go(1), ArrowRight: () => go(1), k: () => go(-1), ArrowLeft: () => go(-1), t: toTable,
    "/": () => { toTable(); filter.focus(); filter.select(); },
    "?": () => help.showModal(),
    m: () => {
      const now = Number(one("#large-map").value);
      if (now) mapBefore = now;
      setMap(now ? 0 : mapBefore);
    },
    r: () => {
      const scan = scans[here()], range = scan && one(".wipe-range", scan);
      if (range) wipe(scan, Number(range.value) < 50 ? 100 : 0);
    },
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || one("dialog[open]")) return;
    const typing = event.target.matches("input, textarea, select");
    if (event.key === "Escape" && event.target === filter) {
      filter.value = "";
      refresh();
      filter.blur();
      return;
    }
    if (typing && !(event.target.type === "checkbox")) return;
    if (/^[1-9]$/.test(event.key)) {
      const scan = scans[here()], tab = scan && all(".tabs button", scan)[Number(event.key) - 1];
      if (tab) choose(scan, tab.dataset.view);
    } else if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });
})();
