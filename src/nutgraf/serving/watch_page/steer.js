// The form that adds a trial: the searched settings, at first those of the best trial so far.
import { short } from "./charts.js";
import { element } from "./show.js";

export class AddForm {
  constructor(box, study, steer) {
    this.box = box;
    this.fields = box.querySelector("div");
    box.addEventListener("toggle", () => box.open && this.fill(study()));
    box.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      steer({ do: "add", values: this.values });
    });
  }

  fill({ search, trials }) {
    const all = Object.values(trials);
    const evaluated = all.filter((trial) => trial.loss !== null).sort((a, b) => a.loss - b.loss);
    const { values } = evaluated[0] ?? all[0];
    this.fields.replaceChildren(...search.settings.map((name) => {
      const own = values[name];
      const choices = search.choices[name];
      const field = choices
        ? element("select", { name }, ...choices.map((choice) => element("option", {
          value: JSON.stringify(choice), selected: JSON.stringify(choice) === JSON.stringify(own),
        }, short(choice))))
        : element("input", { name, type: "number", step: "any", required: true, value: String(own ?? "") });
      return element("label", {}, name, field);
    }));
  }

  get values() {
    const fields = [...this.fields.querySelectorAll("input, select")];
    return Object.fromEntries(fields.map(({ name, value, type }) =>
      [name, type === "number" ? Number(value) : JSON.parse(value)]));
  }
}
