import { Card, doubtOf, download, element, label, percent, pieces, why } from "./show.js";
import { fetchJson, summaries } from "./stream.js";

const $ = (id) => document.getElementById(id);
const [article, reading, cards, passage] = ["article", "reading", "cards", "passage"].map($);
const KEPT = 20; // entries of the history
const STORE = "nutgraf.history";

let limits = {};
let shown = null; // what is on the page: { article, systems, summaries by system }
let running = null; // an AbortController while something is written
let systems = [];
let choose = ""; // by what one of several candidates is chosen
let looked = null; // the sentence whose passages are shown

start();

async function start() {
  try {
    const [models, examples] = await Promise.all([fetchJson("models"), fetchJson("examples")]);
    limits = models.limits;
    ({ systems, choose } = models);
    $("base").textContent = `${models.base} model`;
    $("caution").textContent = models.caution ?? "";
    $("doubts").hidden = !models.facts;
    $("worth").textContent = models.facts ?? "";
    $("systems").append(...systems.map(({ name, description }, i) =>
      element("label", { class: "chip", title: description },
        element("input", { type: "checkbox", name: "system", value: name, checked: i === 0 }),
        label(name))));
    $("candidates").value = models.candidates;
    $("care").hidden = !systems.some(({ name }) => name !== "lead3");
    care();
    $("examples").append(...examples.map((example) =>
      element("button", { type: "button", class: "chip", onclick: () => edit(example.article) },
        example.kind)));
  } catch (error) {
    complain(error.message);
  }
  showHistory();
  count();
}

// The article: to be edited, or to be read with passages marked.

function edit(text) {
  if (text !== undefined) article.value = text;
  turn(false);
  count();
  article.focus();
  article.setSelectionRange(0, 0);
  article.scrollTop = 0;
}

function turn(toReading) {
  reading.hidden = !toReading;
  article.hidden = toReading;
  $("edit").hidden = !toReading;
  document.body.classList.toggle("editing", !toReading);
}

function read(sources = [], copies = []) {
  const points = Array.from(shown.article);
  const marks = sources.flatMap((source) => [
    source,
    ...copies.filter((c) => c.end > source.start && c.start < source.end).map((c) => ({
      start: Math.max(c.start, source.start), end: Math.min(c.end, source.end), copied: true,
    })),
  ]);
  reading.replaceChildren(...pieces(points, 0, points.length, marks, (text, over) =>
    element("mark", { class: over.some((m) => m.copied) ? "source copied" : "source" }, text)));
  const first = reading.querySelector("mark");
  if (first) {
    const top = Math.min(...[...reading.querySelectorAll("mark")].map((mark) => mark.offsetTop));
    reading.scrollTo({ top: top - reading.clientHeight / 4 });
  }
}

function count() {
  const length = Array.from(article.value).length;
  const most = limits.max_article ?? Infinity;
  $("clear").hidden = !length;
  $("count").textContent = length
    ? `${length.toLocaleString("en")} of at most ${most.toLocaleString("en")} characters` : "";
  $("count").classList.toggle("over", length > most);
}

async function open(file) {
  if (!file) return;
  try {
    if (file.size > 4 * (limits.max_article ?? 0)) throw new Error("it is too large");
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    if (/^\s*<(!doctype|html|\?xml)/i.test(text)) throw new Error("it is a web page: copy its text, or use nutgraf summarize");
    edit(text);
    complain("");
  } catch (error) {
    complain(`${file.name} cannot be opened: ${error instanceof TypeError ? "it is no UTF-8 text" : error.message}`);
  }
}

// Summaries.

const candidates = () => Number($("candidates").value);

function care() {
  const n = candidates();
  $("cost").textContent = n > 1
    ? `writes ${n} summaries and takes the one ${why(choose)}` : "writes one summary, word by word";
  $("candidates").setAttribute("aria-valuetext", $("cost").textContent);
}

async function ask() {
  const chosen = [...document.querySelectorAll("[name=system]:checked")].map((box) => box.value);
  const text = article.value;
  if (running) return;
  if (!text.trim()) return complain("There is no article yet: paste one, open a file or try an example.");
  if (!chosen.length) return complain("No system is chosen: tick at least one.");
  complain("");
  running = new AbortController();
  busy(true);
  const made = lay({ article: text, systems: chosen, summaries: {} });
  $("status").textContent = "Writing …";
  if ($("results").getBoundingClientRect().top > innerHeight - 150) $("results").scrollIntoView();
  try {
    for await (const [name, told] of summaries({ articles: [text], systems: chosen, candidates: candidates() }, running.signal)) {
      if (name === "piece") made[told.system].write(told.text);
      else {
        shown.summaries[told.system] = told;
        made[told.system].finish(told);
      }
    }
    $("status").textContent = `${chosen.length} written.`;
    $("all").hidden = false;
    remember(shown);
  } catch (error) {
    $("status").textContent = error.name === "AbortError" ? "Stopped." : "";
    if (error.name !== "AbortError") complain(error.message);
  } finally {
    Object.values(made).forEach((card) => card.stop());
    running = null;
    busy(false);
  }
}

// The article and an empty card for each system; returns the cards by system.
function lay(order) {
  shown = order;
  looked = null;
  passage.hidden = true;
  article.value = order.article;
  turn(true);
  read();
  count();
  const made = order.systems.map((name) => {
    const description = systems.find((system) => system.name === name)?.description ?? "";
    return [name, new Card(name, description, look, choose)];
  });
  cards.replaceChildren(...made.map(([, card]) => card.node));
  cards.dataset.count = made.length;
  $("who").textContent = order.systems.map((name) =>
    `${label(name)}: ${systems.find((system) => system.name === name)?.description ?? "?"}`).join(". ") + ".";
  $("empty").hidden = true;
  $("legend").hidden = false;
  $("all").hidden = true;
  return Object.fromEntries(made);
}

function busy(on) {
  $("start").disabled = on;
  $("stop").hidden = !on;
  document.body.classList.toggle("busy", on);
}

function complain(line) {
  $("problem").textContent = line;
}

// Where a sentence comes from. The sentence with the focus counts while none is pointed at.
function look(summary, sentence, node) {
  const focused = document.activeElement;
  if (!summary && focused?.classList.contains("sentence") && focused !== looked) {
    focused.dispatchEvent(new Event("focus"));
    return;
  }
  looked?.classList.remove("looked");
  looked = summary ? node : null;
  looked?.classList.add("looked");
  passage.hidden = !summary;
  if (!summary) return reading.hidden || read();
  const points = Array.from(shown.article);
  const doubt = doubtOf(summary, sentence);
  const sources = [...(doubt?.passages ?? sentence.sources)].sort((a, b) => a.start - b.start);
  const told = sources.map(({ start, end }) => points.slice(start, end).join("").trim()).join(" … ");
  $("passage-text").textContent = (doubt ? `Doubted, ${percent(doubt)} sure, by: ` : "")
    + (told || "No passage of the article shares enough words with it.");
  if (!reading.hidden) read(sources, sentence.copied.map((copy) => copy.source));
  if (node === focused) node.scrollIntoView({ block: "nearest" });
}

// History, for as long as the tab is open.

function past() {
  try {
    return JSON.parse(sessionStorage.getItem(STORE) ?? "[]");
  } catch {
    return []; // the browser allows this page no store
  }
}

function remember(order) {
  const entries = [{ ...order, time: Date.now() }, ...past()].slice(0, KEPT);
  while (entries.length) {
    try {
      sessionStorage.setItem(STORE, JSON.stringify(entries));
      break;
    } catch {
      entries.pop(); // the store is full: the oldest goes
    }
  }
  showHistory();
}

function showHistory() {
  const entries = past();
  $("past").hidden = !entries.length;
  $("history").replaceChildren(...entries.map((order) => {
    const time = new Date(order.time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const title = order.article.trim().slice(0, 90).split("\n")[0];
    return element("li", {}, element("button", { type: "button", class: "entry", onclick: () => again(order) },
      element("span", {}, title),
      element("span", { class: "soft" }, `${time} · ${order.systems.map(label).join(", ")}`)));
  }));
}

function again(order) {
  if (running) return;
  complain("");
  $("status").textContent = "";
  for (const [name, card] of Object.entries(lay(order))) card.finish(order.summaries[name]);
  $("all").hidden = false;
  $("results").scrollIntoView({ block: "nearest" });
}

// What a person does.

$("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
$("edit").addEventListener("click", () => edit());
$("candidates").addEventListener("input", care);
$("clear").addEventListener("click", () => edit(""));
$("stop").addEventListener("click", () => running?.abort());
$("all").addEventListener("click", () =>
  download(JSON.stringify(shown, null, 2), "summaries.json", "application/json"));
$("file").addEventListener("change", (event) => { open(event.target.files[0]); event.target.value = ""; });
article.addEventListener("input", count);
article.addEventListener("dragover", (event) => event.preventDefault());
article.addEventListener("drop", (event) => {
  if (event.dataTransfer.files.length) { event.preventDefault(); open(event.dataTransfer.files[0]); }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); }
  if (event.key === "Escape") { if (running) running.abort(); else document.activeElement?.blur(); }
});
