// The table of trials, which sorts by any column. Only rows with news are made again.
import { short } from "./charts.js";
import { element } from "./show.js";

const FIXED_BEFORE = [["trial", "Trial", true], ["state", "State", false]];
const FIXED_AFTER = [
  ["seen", "Articles", true], ["loss", "Loss", true], ["rouge", "ROUGE-Lsum", true], ["seconds", "Seconds", true],
  ["why", "Why it ended", false],
];

// What a person may do to a trial, by its state.
const STEERS = {
  queued: ["stop", "Stop"], running: ["stop", "Stop"], interrupted: ["stop", "Stop"], stopped: ["continue", "Go on"],
};

export class TrialTable {
  constructor(section, choose, steer) {
    this.section = section;
    this.choose = choose;
    this.steer = steer;
    this.head = section.querySelector("thead");
    this.body = section.querySelector("tbody");
    this.rows = new Map();
    this.sort = { by: "trial", down: false };
    this.columns = "";
  }

  update(settings, trials, changed, steered) {
    this.trials = trials;
    this.section.hidden = !Object.keys(trials).length;
    if (this.columns !== [steered, ...settings].join()) {
      this.columns = [steered, ...settings].join();
      this.steered = steered;
      this.settings = settings;
      this.rows.clear();
      this.body.replaceChildren();
      this.showHead();
    }
    for (const number of this.rows.keys()) {
      if (number in trials) continue;
      this.rows.get(number).remove();
      this.rows.delete(number);
    }
    for (const [number, trial] of Object.entries(trials)) {
      if (this.rows.has(number) && !(number in changed)) continue;
      const row = this.row(number, trial);
      const before = this.rows.get(number);
      if (before) this.renew(before, row);
      else this.rows.set(number, row);
    }
    this.order();
  }

  // Replace only the cells with news, so that a button that is pressed or has the focus stays.
  renew(row, news) {
    row.className = news.className;
    [...news.cells].forEach((cell, i) => {
      const before = row.cells[i];
      if (before.isEqualNode(cell)) return;
      const focused = before.contains(document.activeElement);
      before.replaceWith(cell);
      if (focused) (cell.querySelector("button") ?? row.querySelector("button")).focus({ preventScroll: true });
    });
  }

  get all() {
    return [...FIXED_BEFORE, ...this.settings.map((name) => [name, name.split(".").at(-1).replaceAll("_", " "), true]),
      ...FIXED_AFTER];
  }

  showHead() {
    this.head.replaceChildren(element("tr", {}, ...this.all.map(([name, label, number]) =>
      element("th", { scope: "col", class: number ? "number" : "", title: name, "data-by": name },
        element("button", { type: "button", onclick: () => this.sortBy(name) }, label)))));
  }

  row(number, trial) {
    const values = { ...trial, trial: number };
    const cells = this.all.map(([name, , right]) => {
      const value = this.settings.includes(name) ? trial.values[name] : values[name];
      let text = value === null || value === undefined ? "" : short(value);
      if (name === "loss" && value !== null) text = value.toFixed(3);
      if (name === "rouge" && value !== null) text = value.toFixed(1);
      if (name === "seen" || name === "seconds") text = value.toLocaleString("en");
      if (name === "state" && trial.chosen) text = "chosen";
      const inside = name === "trial"
        ? element("button", { type: "button", onclick: () => this.choose(number), "aria-label": `curves of trial ${number}` }, text)
        : text;
      if (name === "state" && this.steered && STEERS[trial.state]) {
        return element("td", {}, inside, " ", this.steerButton(number, ...STEERS[trial.state]));
      }
      return element("td", { class: `${right ? "number" : ""}${trial.state === "error" && name === "why" ? " error" : ""}` },
        inside);
    });
    return element("tr", { class: number === this.selected ? "shown" : "" }, ...cells);
  }

  steerButton(number, what, label) {
    return element("button", {
      type: "button", "data-steer": what, "aria-label": `${label}: trial ${number}`, onclick: () => this.steer(what, Number(number)),
    }, label);
  }

  select(number) {
    this.rows.get(this.selected)?.classList.remove("shown");
    this.selected = number;
    this.rows.get(number)?.classList.add("shown");
  }

  sortBy(name) {
    this.sort = { by: name, down: this.sort.by === name && !this.sort.down };
    this.order();
  }

  value(number) {
    const trial = this.trials[number];
    const { by } = this.sort;
    if (by === "trial") return Number(number);
    return this.settings.includes(by) ? trial.values[by] : trial[by];
  }

  // Empty values come last, whichever way it sorts.
  order() {
    const { by, down } = this.sort;
    for (const cell of this.head.querySelectorAll("th")) {
      if (cell.dataset.by === by) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
    const keyed = [...this.rows.keys()].map((number) => [number, this.value(number)]);
    const empty = (value) => value === null || value === undefined || value === "";
    keyed.sort(([, a], [, b]) => {
      if (empty(a) || empty(b)) return empty(a) - empty(b);
      const first = typeof a === "number" && typeof b === "number" ? a - b : short(a).localeCompare(short(b));
      return down ? -first : first;
    });
    const rows = keyed.map(([number]) => this.rows.get(number));
    if (rows.some((row, i) => this.body.children[i] !== row)) {
      const focused = document.activeElement;
      this.body.replaceChildren(...rows);
      if (this.body.contains(focused)) focused.focus({ preventScroll: true });
    }
  }
}
