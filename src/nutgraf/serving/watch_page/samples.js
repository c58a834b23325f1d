// What one training wrote of the same articles at each evaluation: a column an article, a row an
// evaluation, the latest first. On a narrow page the articles come one after the other.
import { element } from "./show.js";

const BEGINNING = 220; // characters of an article that are shown at once

function text(label, words, kind) {
  return element("div", { class: kind }, element("h4", {}, label),
    element("p", { class: "text" }, words || element("em", { class: "soft" }, "Nothing was written.")));
}

function beginning(number, article) {
  const points = Array.from(article);
  const box = element("div", { class: "source" }, element("h3", {}, `Article ${number}`));
  if (points.length <= BEGINNING * 1.3) {
    box.append(element("p", {}, article));
  } else {
    box.append(element("details", {},
      element("summary", {}, `${points.slice(0, BEGINNING).join("")} …`),
      element("p", {}, `… ${points.slice(BEGINNING).join("")}`)));
  }
  return box;
}

// Fill the box; what is open or focused stays so, as long as the same training is shown.
export function showSamples(box, { articles = [], evaluations = [] }, seen) {
  const focused = [...box.querySelectorAll("summary")].indexOf(document.activeElement);
  const open = [...box.querySelectorAll("details")].map((details) => details.open);
  const lowest = Math.min(...evaluations.map((evaluation) => evaluation.loss));
  const rows = [...evaluations].reverse();
  box.style.setProperty("--articles", articles.length);
  box.style.setProperty("--rows", rows.length + 2);
  box.replaceChildren(...articles.map(({ article, reference }, i) => element("article", {},
    beginning(i + 1, article), text("Reference", reference, "reference"),
    ...rows.map(({ examples, loss, texts }) => text(
      `After ${examples.toLocaleString("en")} ${seen}: loss ${loss.toFixed(3)}${loss === lowest ? ", the lowest" : ""}`,
      texts[i] ?? "", loss === lowest ? "lowest" : "",
    )))));
  [...box.querySelectorAll("details")].forEach((details, i) => { details.open = open[i] ?? false; });
  if (focused >= 0) box.querySelectorAll("summary")[focused]?.focus({ preventScroll: true });
}
