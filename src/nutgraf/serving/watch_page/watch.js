import { draw, sample, short } from "./charts.js";
import { element } from "./show.js";
import { showSamples } from "./samples.js";
import { AddForm } from "./steer.js";
import { asked, events } from "./stream.js";
import { showTabs } from "./tabs.js";
import { readToken } from "./token.js";
import { TrialTable } from "./table.js";

const $ = (id) => document.getElementById(id);
const STATES = {
  running: "Running", stopped: "Not running", killed: "Not running", finished: "Finished", failed: "Failed",
  empty: "Nothing there yet",
};
const STAGE_STATES = {
  running: "running", finished: "finished", stopped: "begun, not running", waiting: "waiting",
  earlier: "finished before, may be made again",
};
const KINDS = ["queued", "interrupted", "stopped", "error", "completed", "running", "chosen"];
const token = readToken();

let now = {}; // the latest snapshot, put together from what has come
let clock = 0; // seconds that the server's clock is ahead of this one
let shown = null; // the training whose curves are shown, if somebody has chosen one
let version = ""; // of the curves that are shown
let written = ""; // the same of the samples
let redrawOne = null; // draws these again, for another width
let pressed = false; // whether a button of the mouse, a pen or a finger is down
let held = null; // the timer that ends this, whatever happens
const waiting = []; // what has come meanwhile, as functions that show it
const LONGEST_PRESS = 1000; // milliseconds that it waits for a click
const table = new TrialTable($("table"), choose, (what, trial) => steer({ do: what, trial }));
new AddForm($("add"), () => now, steer);

async function post(path, body) {
  return asked(`watch/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Nutgraf-Token": token },
    body: JSON.stringify(body),
  });
}

// Listen for ever: if the server goes away, its last snapshot stays, and it is asked again.
async function listen() {
  let ended = false;
  for (let wait = 1; ; wait = Math.min(30, wait * 2)) {
    try {
      for await (const [name, news] of events(await post("events", {}))) {
        ended = name === "end";
        if (ended) continue;
        $("problem").textContent = "";
        wait = 1;
        afterPress(() => take(news));
      }
    } catch (error) {
      $("problem").textContent = error.message;
    }
    if (ended) {
      $("problem").textContent = "The server of this page has ended, and this is what it said last. nutgraf watch shows more.";
    } else if (!token) return;
    await new Promise((resolve) => setTimeout(resolve, wait * 1000));
  }
}

// What is replaced or pushed away between press and release loses its click, so whatever comes
// waits for the click. Of a release on a scroll bar or in a menu the page hears nothing.
function afterPress(show) {
  if (pressed || waiting.length) waiting.push(show);
  else show();
}
function release() {
  pressed = false;
  clearTimeout(held);
  setTimeout(() => pressed || waiting.splice(0).forEach((show) => show()));
}
addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  pressed = true;
  clearTimeout(held);
  held = setTimeout(release, LONGEST_PRESS);
}, true);
for (const end of ["pointerup", "pointercancel"]) addEventListener(end, release, true);

function take(news) {
  const { trials, log, log_goes_on: goesOn, ...rest } = news;
  now = news.whole ? { ...rest, trials: {} } : { ...now, ...rest };
  clock = news.time - Date.now() / 1000;
  if (log) now.log = goesOn ? [...now.log, ...log].slice(-300) : log;
  if (trials) {
    now.trials = { ...now.trials };
    for (const [number, trial] of Object.entries(trials)) {
      if (trial) now.trials[number] = trial;
      else delete now.trials[number];
    }
  }
  show(news);
}

function show(news) {
  document.querySelector("main").hidden = false;
  const name = now.folder.split("/").filter(Boolean).at(-1);
  document.title = `${STATES[now.state]}: ${name}, nutgraf`;
  $("folder").textContent = now.folder;
  $("state").textContent = STATES[now.state];
  $("state").dataset.state = now.state;
  $("state").title = now.holder ?? "";
  $("report").hidden = !now.report;
  if ("report" in news && now.report) linkReport();
  if (now.judge && !document.querySelector(".tabs")) showTabs(token, ["Watch", null], ["Judge", "judging/"]);
  if ("machine" in news) showMachine();
  if ("stages" in news || "state" in news) showStages();
  if ("problems" in news || "state" in news) showProblems();
  if ("trials" in news || "search" in news) showSearch(news.trials ?? {});
  showOne();
  if (news.log) showLog();
}

async function linkReport() {
  try {
    $("report").href = (await (await post("report", {})).json()).path;
  } catch {
    $("report").hidden = true; // the server has ended, as the problem says
  }
}

function duration(seconds) {
  const [minutes, rest] = [Math.floor(Math.round(seconds) / 60), Math.round(seconds) % 60];
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return minutes ? `${minutes} min ${rest} s` : `${rest} s`;
}

const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(1)} GB`;

function showMachine() {
  const { cores, load, memory, of_memory: total, free_disk: disk } = now.machine;
  $("machine").textContent = `This machine: ${load}% of ${cores} cores, ${gigabytes(memory)} of `
    + `${gigabytes(total)} memory, ${gigabytes(disk)} of disk free`;
}

function showStages() {
  $("stages").replaceChildren(...now.stages.map((stage) => {
    const time = element("span", { class: "soft time" });
    const bar = stage.state === "running" && stage.share !== null
      ? [element("progress", { value: stage.share, max: 1, "aria-label": `${stage.name}, share done` })] : [];
    const parts = stage.of > 1 && stage.state !== "finished" ? `, ${stage.there} of ${stage.of}` : "";
    return element("li", { "data-state": stage.state, title: stage.what },
      element("strong", {}, stage.name), element("span", { class: "soft" }, STAGE_STATES[stage.state] + parts), ...bar, time);
  }));
  tick();
}

// Once a second: the times that go on.
function tick() {
  [...$("stages").children].forEach((item, i) => {
    const { began, seconds, planned, share, state, carried_on: part } = now.stages[i];
    const plan = planned === null ? "" : `planned ${duration(planned)}`;
    let words = plan;
    if (began !== null) {
      const spent = Math.max(0, Date.now() / 1000 + clock - began);
      // On a busy machine the pace so far says more than the plan.
      const whole = share > 0.1 ? Math.max(planned, spent / share) : planned;
      const left = planned === null ? null : share === null ? planned - spent : whole * (1 - share);
      words = duration(spent) + (left > 0 ? `, about ${duration(left)} left` : "") + (plan ? `; ${plan}` : "");
    } else if (state === "finished" || state === "earlier") {
      words = `${part ? "at least " : ""}${duration(seconds)}${plan ? `; ${plan}` : ""}`;
    }
    const time = item.querySelector(".time");
    if (time.textContent !== words) time.textContent = words;
  });
}

function showProblems() {
  const lines = now.problems.map(({ level, stage, text }) =>
    element("li", { class: level }, stage ? `${stage}: ${text}` : text));
  if (now.state === "killed") {
    lines.push(element("li", { class: "error" },
      "The process that ran it is gone without a word: killed, or the machine went down. The same command carries on."));
  }
  $("wrong").hidden = !lines.length;
  $("problems").replaceChildren(...lines);
}

const kind = (trial) => (trial.chosen ? "chosen" : trial.state);

function showSearch(changed) {
  const all = Object.entries(now.trials);
  const of = now.search?.of ?? 0;
  const counts = KINDS.map((each) => [each, all.filter(([, trial]) => kind(trial) === each).length]).filter(([, n]) => n);
  $("counts").replaceChildren(element("span", { class: "key" }, `${all.length} of ${of} trials`),
    ...counts.map(([each, n]) => element("span", { class: "key" }, sample(each), `${n} ${each}`)));
  drawLosses();
  drawSettings();
  const steered = Boolean(now.search?.steered && all.length);
  $("add").hidden = !steered;
  table.update(now.search?.settings ?? [], now.trials, changed, steered);
}

// Ask the search to stop a trial, to add one, or to let one go on; the log says what became of it.
async function steer(request) {
  try {
    await post("steer", request);
    $("steered").textContent = now.state === "running"
      ? "Asked. The search does it when it next hears of a trial; the log says so."
      : "Noted. Nothing runs this study: the next nutgraf run does it.";
  } catch (error) {
    $("steered").textContent = error.message;
  }
}

function drawLosses() {
  const series = KINDS.flatMap((each) => Object.entries(now.trials)
    .filter(([, trial]) => kind(trial) === each && trial.points.length)
    .map(([name, trial]) => ({ name, kind: each, points: trial.points })));
  draw($("losses"), {
    title: `Validation loss of ${series.length} trials by articles seen; the table has the values`,
    series, x: { label: "articles seen" }, y: { cut: true }, height: 300, pick: choose, point: describe,
  });
}

function describe(name, place) {
  if (name === null) {
    $("pointed").textContent = "Point at a curve to see which trial it is; click it for its own curves.";
    return;
  }
  const { state, values } = now.trials[name];
  const settings = Object.entries(values).map(([key, value]) => `${key.split(".").at(-1)} ${short(value)}`);
  $("pointed").textContent = `Trial ${name}, ${state}: loss ${place[1].toFixed(3)}; ${settings.join(", ")}`;
}

function drawSettings() {
  const names = now.search?.settings ?? [];
  // All of them are there before the first is drawn: how wide one is depends on their number.
  const figures = $("settings").children;
  while (figures.length > names.length) $("settings").lastChild.remove();
  while (figures.length < names.length) {
    $("settings").appendChild(element("figure", {}, element("figcaption"), element("div")));
  }
  names.forEach((name, i) => {
    const figure = figures[i];
    const values = Object.values(now.trials).map((trial) => trial.values[name]);
    const words = values.some((value) => typeof value !== "number") ? [...new Set(values.map(short))] : null;
    figure.firstChild.textContent = name + (words ? `: ${words.map((word, n) => `${n + 1} ${word}`).join(", ")}` : "");
    const series = Object.entries(now.trials).filter(([, trial]) => trial.loss !== null).map(([number, trial]) => {
      const value = trial.values[name];
      return { name: number, kind: kind(trial), points: [[words ? words.indexOf(short(value)) + 1 : value, trial.loss]] };
    });
    draw(figure.lastChild, {
      title: `Lowest validation loss by ${name}`, series, dots: true, height: 200,
      x: { label: "", log: now.search.log.includes(name) && !words }, y: { cut: true }, pick: choose, point: describe,
    });
  });
}

// The curves of one training.

function choose(name) {
  shown = name;
  version = written = "";
  table.select(name);
  showOne();
}

function chosen() {
  if (shown !== null) return shown;
  const all = Object.entries(now.trials);
  const running = Object.keys(now.trainings ?? {}).at(-1);
  const best = all.filter(([, trial]) => trial.loss !== null).sort(([, a], [, b]) => a.loss - b.loss)[0];
  return running ?? best?.[0] ?? null;
}

async function showOne() {
  const models = Object.keys(now.trainings ?? {});
  const name = chosen();
  const record = now.trials?.[name] ?? now.trainings?.[name];
  $("one").hidden = $("samples").hidden = !record;
  if (!record) return;
  showTexts(name, record);
  const current = JSON.stringify([name, record.seen, record.points.length, record.state, models]);
  if (current === version) return;
  version = current;
  $("models").replaceChildren(...models.map((model) => element("button", {
    type: "button", class: "quiet", "aria-pressed": String(model === name), onclick: () => choose(model),
  }, model)));
  const title = now.trials?.[name] ? `Trial ${name}` : name;
  $("one-title").textContent = `Curves: ${title}`;
  try {
    const rows = await (await post("curves", { name })).json();
    afterPress(() => current === version && drawOne(title, record, rows));
  } catch (error) {
    afterPress(() => {
      if (current !== version) return;
      version = ""; // the next news asks again
      redrawOne = null;
      $("curves").replaceChildren(); // they may be of another training
      $("one-note").textContent = error.message;
    });
  }
}

async function showTexts(name, record) {
  const current = JSON.stringify([name, record.points, record.state, record.written]);
  if (current === written) return;
  written = current;
  const ofTraining = `Samples: what ${now.trials?.[name] ? `trial ${name}` : name} writes at each evaluation`;
  try {
    const samples = await (await post("samples", { name })).json();
    afterPress(() => current === written && writeSamples(ofTraining, record, samples));
  } catch (error) {
    afterPress(() => {
      if (current !== written) return;
      written = "";
      $("samples-title").textContent = ofTraining;
      $("texts").hidden = true;
      $("samples-note").textContent = error.message;
    });
  }
}

function writeSamples(title, record, samples) {
  $("samples-title").textContent = title;
  const none = !samples.evaluations?.length;
  $("samples-note").textContent = !none ? ""
    : record.points.length ? "None were written: train.samples says of how many articles. A base that is sharded (ray.fsdp) writes none."
      : "There has been no evaluation yet.";
  $("texts").hidden = none;
  showSamples($("texts"), samples, record.pairs ? "summaries" : "articles");
}

function drawOne(title, record, rows) {
  const of = (key) => rows.filter((row) => row[key] != null).map((row) => [row.examples, row[key]]);
  redrawOne = () => drawOne(title, record, rows);
  const unit = record.pairs ? "summaries, two a pair" : "articles";
  const seen = `${record.seen.toLocaleString("en")} of ${record.of.toLocaleString("en")} ${unit}. `;
  $("one-note").textContent = (record.why ? `${title}: ${record.why}. ` : "")
    + (rows.length ? seen : `${seen}No curves are stored of it, only the losses at its evaluations.`);
  const validation = rows.length ? of("validation_loss") : record.points;
  const trained = { name: "training", kind: "second", points: of("train_loss") };
  const validated = { name: "validation", kind: "chosen", points: validation };
  const figures = [
    ...record.pairs
      ? [["Loss of the pairs", [trained]], ["Validation loss of the references", [validated]]]
      : [["Loss: training (thin) and validation (thick)", [trained, validated]]],
    ["Learning rate", [{ name: "rate", kind: "first", points: of("learning_rate") }]],
    ["Gradient norm before clipping, the largest", [{ name: "norm", kind: "first", points: of("grad_norm") }]],
  ].filter(([, series]) => series.some((each) => each.points.length));
  $("curves").replaceChildren(...figures.map(([label]) =>
    element("figure", {}, element("figcaption", {}, label), element("div"))));
  figures.forEach(([label, series], i) => draw($("curves").children[i].lastChild, {
    title: `${title}. ${label}`, series, x: { label: record.pairs ? "summaries seen" : "articles seen" }, y: { cut: true }, height: 200,
  }));
}

function showLog() {
  const box = $("log");
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  $("lines").textContent = now.log.length < now.lines ? `the last ${now.log.length} of ${now.lines} lines` : "";
  box.replaceChildren(...now.log.map(({ time, level, text }) => element("span", { class: level },
    `${new Date(time * 1000).toLocaleTimeString("en-GB")}  ${text}\n`)));
  if (!now.log.length) box.textContent = "No log is in this folder: the study was run before one was written.";
  if (atEnd) box.scrollTop = box.scrollHeight;
}

let width = innerWidth;
addEventListener("resize", () => {
  if (width === innerWidth || !now.folder) return;
  width = innerWidth;
  drawLosses();
  drawSettings();
  redrawOne?.();
});
setInterval(() => now.stages && tick(), 1000);
listen();
