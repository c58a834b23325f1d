import { element, pieces } from "./show.js";
import { asked } from "./stream.js";
import { showTabs } from "./tabs.js";
import { readToken, stored } from "./token.js";

const $ = (id) => document.getElementById(id);
const SIDES = ["left", "right"];
const KEYS = { 1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right", 3: "good", 4: "bad" };
const token = readToken();
if (location.pathname.endsWith("/judging/")) showTabs(token, ["Watch", "../"], ["Judge", null]);

let judge = "";
let shown = null; // what the server last sent: an article and two summaries, or the end
let wrong = {}; // whether each character is marked as wrong, by side
let busy = false;
const clock = { read: 0, since: null }; // milliseconds of reading, while the page is in sight

async function post(path, more = {}) {
  const answer = await asked(`judge/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Nutgraf-Token": token },
    body: JSON.stringify({ judge, ...more }),
  });
  return answer.json();
}

// One step: the server says what is shown next.
async function step(path, more) {
  if (busy) return;
  busy = true;
  try {
    const view = await post(path, more);
    $("problem").textContent = "";
    show(view);
    showResult();
  } catch (error) {
    $("problem").textContent = error.message;
  } finally {
    busy = false;
  }
}

function show(view) {
  const over = view.id === null;
  shown = view;
  judge = view.judge;
  stored("localStorage", "nutgraf.judge", judge);
  $("who").textContent = judge;
  $("begin").hidden = true;
  $("reader").hidden = $("pair").hidden = over;
  $("end").hidden = !over;
  $("panel").hidden = $("leave").hidden = false;
  for (const button of document.querySelectorAll("[data-verdict]")) button.hidden = over;
  $("undo").disabled = view.judged === 0;
  const same = view.same ? ` On ${view.same} more, both wrote the same.` : "";
  $("place").textContent = over ? "" : `${view.judged + 1} of ${view.articles}`;
  $("status").textContent = `${view.judged} of ${view.articles} judged. `
    + (view.settled ? "Settled: you can stop, or go on for a narrower interval." : "Not settled yet.") + same;
  if (over) return;
  $("reading").textContent = view.article;
  $("reading").scrollTop = 0;
  for (const side of SIDES) {
    wrong[side] = Array.from(view[side].text, () => false);
    draw(side);
  }
  scrollTo(0, 0);
  clock.read = 0;
  clock.since = document.hidden ? null : performance.now();
}

function sendVerdict(verdict) {
  if (!shown || shown.id === null) return;
  step("click", {
    id: shown.id,
    verdict,
    seconds: Math.min(seconds(), 86400),
    wrong: SIDES.flatMap((side) => runs(wrong[side]).map((run) => ({ side, ...run }))),
    seen: $("known").open,
  });
}

function undo() {
  if (shown?.judged) step("undo");
}

function seconds() {
  return (clock.read + (clock.since === null ? 0 : performance.now() - clock.since)) / 1000;
}

// What is wrong: marks over characters, which are Unicode code points, as on the server.

function runs(marks) {
  const spans = [];
  marks.forEach((on, at) => {
    if (!on) return;
    if (spans.at(-1)?.end === at) spans.at(-1).end += 1;
    else spans.push({ start: at, end: at + 1 });
  });
  return spans;
}

function toggle(side, { start, end }) {
  const on = !wrong[side].slice(start, end).every(Boolean);
  wrong[side].fill(on, start, end);
  draw(side);
}

function draw(side) {
  const { text, sentences } = shown[side];
  const points = Array.from(text);
  const spans = runs(wrong[side]);
  const ends = [0, ...sentences.map((sentence) => sentence.end)];
  const focused = [...$(side).children].indexOf(document.activeElement);
  const underlined = (piece) => element("u", { class: "unsupported" }, piece);
  const nodes = sentences.map(({ start, end }) => {
    const marks = wrong[side].slice(start, end);
    const pressed = marks.every(Boolean) ? "true" : marks.some(Boolean) ? "mixed" : "false";
    return element("span", {
      class: "sentence", role: "button", tabindex: "0", title: "Mark as wrong", "aria-pressed": pressed,
      "data-start": start, "data-end": end,
    }, ...pieces(points, start, end, spans, underlined));
  });
  $(side).replaceChildren(
    ...nodes.flatMap((node, i) => [points.slice(ends[i], sentences[i].start).join(""), node]),
    points.slice(ends.at(-1)).join(""),
  );
  if (!text.trim()) $(side).append(element("em", { class: "soft" }, "Nothing was written."));
  if (focused >= 0) nodes[focused]?.focus();
}

// The words that are selected in a summary, if some are.
function selection(side) {
  const chosen = getSelection();
  if (chosen.isCollapsed || !chosen.rangeCount) return null;
  const range = chosen.getRangeAt(0);
  if (!$(side).contains(range.commonAncestorContainer)) return null;
  const before = document.createRange();
  before.selectNodeContents($(side));
  before.setEnd(range.startContainer, range.startOffset);
  const points = Array.from(shown[side].text);
  let start = Array.from(before.toString()).length;
  let end = Math.min(start + Array.from(range.toString()).length, points.length);
  const space = (at) => /\s/.test(points[at]);
  while (start < end && space(start)) start += 1;
  while (end > start && space(end - 1)) end -= 1;
  if (start === end) return null;
  while (start > 0 && !space(start - 1)) start -= 1;
  while (end < points.length && !space(end)) end += 1;
  return { start, end };
}

function mark(side, event) {
  const words = selection(side);
  const sentence = event.target.closest(".sentence");
  const whole = sentence && { start: Number(sentence.dataset.start), end: Number(sentence.dataset.end) };
  if (words) {
    if (event.detail === 2 && whole) toggle(side, whole); // the first click of two marked the sentence
    toggle(side, words);
    getSelection().removeAllRanges();
  } else if (whole) toggle(side, whole);
}

// What is known so far.

async function showResult() {
  if (!$("known").open) return;
  const after = shown;
  let result;
  try {
    result = await post("result");
  } catch (error) {
    $("problem").textContent = error.message;
    return;
  }
  if (after !== shown) return; // there was another click meanwhile
  const { words, systems, wins, sequence, left } = result;
  const percent = (share) => `${Math.round(100 * share)}%`;
  $("words").textContent = words;
  $("more").textContent = sequence.n
    ? `${systems[0]} better: ${wins[0]}, neither: ${wins[1]}, ${systems[1]} better: ${wins[2]}. Summary 1 is `
      + `preferred in ${percent(left.mean)} (${percent(left.low)} to ${percent(left.high)}), whoever wrote it.`
    : "";
  $("scale").replaceChildren(scale(systems, sequence));
}

function scale([first, second], { low, high, mean }) {
  const svg = (name, properties, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(properties)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const x = (share) => 400 * (1 - share); // the first system is at the left
  return svg("svg", { viewBox: "0 0 400 46" },
    svg("rect", { class: "range", x: x(high), y: 8, width: x(low) - x(high), height: 12 }),
    svg("path", { class: "axis", d: "M0 14H400M200 4V24", fill: "none" }),
    ...(mean === null ? [] : [svg("circle", { class: "middle", cx: x(mean), cy: 14, r: 4 })]),
    svg("text", { class: "end", x: 0, y: 40 }, `${first} always`),
    svg("text", { class: "end second", x: 400, y: 40 }, `${second} always`));
}

// What a person does.

$("name").value = stored("localStorage", "nutgraf.judge") ?? "";
$("keys").checked = stored("localStorage", "nutgraf.keys") !== "off";
$("keys").addEventListener("change", () => stored("localStorage", "nutgraf.keys", $("keys").checked ? "on" : "off"));
$("begin").addEventListener("submit", (event) => {
  event.preventDefault();
  judge = $("name").value;
  step("next").then(() => { if (shown) $("pair").focus({ preventScroll: true }); });
});
$("leave").addEventListener("click", () => {
  shown = null;
  for (const id of ["reader", "pair", "end", "panel", "leave"]) $(id).hidden = true;
  $("who").textContent = "";
  $("known").open = $("begin").hidden = false;
  $("name").focus();
});
// A verdict is of the pair that was there when the button was pressed, and the second click of two
// comes too soon to be one of the next pair. A key has no such number.
let pressedOn = null;
addEventListener("pointerdown", () => { pressedOn = shown; }, true);
for (const button of document.querySelectorAll("[data-verdict]")) {
  button.addEventListener("click", ({ detail }) => {
    if (detail < 2 && (!detail || pressedOn === shown)) sendVerdict(button.dataset.verdict);
  });
}
$("undo").addEventListener("click", undo);
$("known").addEventListener("toggle", showResult);
for (const side of SIDES) {
  $(side).addEventListener("click", (event) => mark(side, event));
  $(side).addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    mark(side, event);
  });
}
addEventListener("hashchange", () => { // the whole address was pasted into this tab
  if (location.hash.startsWith("#token=")) location.reload();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden && clock.since !== null) {
    clock.read += performance.now() - clock.since;
    clock.since = null;
  } else if (!document.hidden) clock.since ??= performance.now();
});
document.addEventListener("keydown", (event) => {
  const ignored = event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey;
  if (!$("keys").checked || ignored || event.target.matches("input") || !shown) return;
  if (KEYS[event.key]) sendVerdict(KEYS[event.key]);
  else if (event.key.toLowerCase() === "u") undo();
  else return;
  event.preventDefault();
});
