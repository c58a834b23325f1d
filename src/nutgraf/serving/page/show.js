// Texts with places marked. Whatever comes from outside becomes a text node, never markup.
// Places count Unicode code points, as the server does; JavaScript counts otherwise.

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// The text from start to end, in nodes: `wrap(piece, spans over it)` makes those under a span.
export function pieces(points, start, end, spans, wrap) {
  const inside = (place) => Math.min(Math.max(place, start), end);
  const ends = spans.flatMap((span) => [inside(span.start), inside(span.end)]);
  const cuts = [...new Set([start, end, ...ends])].sort((a, b) => a - b);
  return cuts.slice(0, -1).map((from, i) => {
    const text = points.slice(from, cuts[i + 1]).join("");
    const over = spans.filter((span) => span.start <= from && from < span.end);
    return over.length ? wrap(text, over) : document.createTextNode(text);
  });
}

const NAMES = { best: "Best", baseline: "Baseline", zero_shot: "Zero-shot", lead3: "Lead-3" };
export const label = (system) => NAMES[system] ?? system;

const signed = (points) => `${points < 0 ? "−" : "+"}${Math.abs(points).toFixed(1)}`;

const WHY = {
  consensus: "that agrees most with the others",
  support: "with the fewest names and numbers that the article lacks",
  fitted: "from which fitted weights expect the most",
};
export const why = (choose) => WHY[choose] ?? "that is chosen";

// What the base said of a sentence that it doubts, or nothing.
export const doubtOf = (summary, sentence) =>
  (summary.facts ?? []).find((fact) => fact.doubted && fact.start === sentence.start);
export const percent = ({ probability }) => `${Math.round(100 * probability)}%`;

// What is worth a word below a summary.
function remarks(summary) {
  const unsupported = summary.evidence.unsupported.length;
  const said = [];
  if (unsupported) {
    said.push(`${unsupported} ${unsupported > 1 ? "names or numbers" : "name or number"} not in the article`);
  }
  const doubted = (summary.facts ?? []).filter((fact) => fact.doubted).length;
  if (doubted) said.push(`${doubted} ${doubted > 1 ? "sentences" : "sentence"} doubted`);
  if (summary.evidence.repeated.length) said.push("Repeats itself");
  if (summary.finish_reason === "length") said.push(`Cut at ${summary.new_tokens} tokens`);
  if (summary.trimmed_tokens) said.push(`The article's last ${summary.trimmed_tokens.toLocaleString("en")} tokens were not read`);
  return said;
}

// One system's summary, from the first piece to the whole. `look(sentence, held)` is called with the
// sentence that somebody points at or has reached, and with null when they leave.
export class Card {
  constructor(system, description, look, choose) {
    this.choose = choose;
    this.system = system;
    this.look = look;
    this.text = element("p", { class: "text writing", "aria-busy": "true" });
    this.notes = element("ul", { class: "notes" });
    this.facts = element("span", { class: "soft" }, "waiting …");
    this.others = element("details", { class: "others", hidden: true });
    this.tools = element("span", { class: "tools" });
    const name = element("h3", { title: description }, label(system));
    this.node = element(
      "article", { class: "card", "data-system": system },
      element("div", { class: "bar" }, name, this.facts), this.text, this.notes, this.others, this.tools,
    );
  }

  write(piece) {
    this.facts.textContent = "writing …";
    this.text.append(document.createTextNode(piece));
  }

  finish(summary) {
    const points = Array.from(summary.text);
    const { sentences, unsupported } = summary.evidence;
    const underlined = (text, [{ kind }]) =>
      element("u", { class: "unsupported", title: `${kind} not in the article` }, text,
        element("span", { class: "unseen" }, ` (${kind} not in the article)`));
    const sure = (doubt) => element("span", { class: "sure" },
      element("span", { class: "unseen" }, " (doubted: "), `${percent(doubt)} sure`,
      element("span", { class: "unseen" }, ")"));
    const held = (sentence) => {
      const doubt = doubtOf(summary, sentence);
      return element("span", {
        class: doubt ? "sentence doubted" : "sentence", tabindex: "0", "aria-describedby": "passage",
        onmouseenter: (event) => this.look(summary, sentence, event.target),
        onmouseleave: () => this.look(null),
        onfocus: (event) => this.look(summary, sentence, event.target),
        onblur: () => this.look(null),
      }, ...pieces(points, sentence.start, sentence.end, unsupported, underlined), ...(doubt ? [sure(doubt)] : []));
    };
    const between = (from, to) => points.slice(from, to).join("");
    const ends = [0, ...sentences.map((sentence) => sentence.end)];
    this.text.className = "text";
    this.text.removeAttribute("aria-busy");
    this.text.replaceChildren(
      ...sentences.flatMap((sentence, i) => [between(ends[i], sentence.start), held(sentence)]),
      between(ends.at(-1)),
    );
    if (!summary.text) this.text.append(element("em", { class: "soft" }, "Nothing was written."));
    const words = summary.text.split(/\s+/).filter(Boolean).length;
    this.facts.textContent = `${words} words · ${summary.seconds.toFixed(1)} s`;
    this.notes.replaceChildren(...remarks(summary).map((said) => element("li", {}, said)));
    this.showCandidates(summary);
    this.tools.replaceChildren(
      element("button", { type: "button", class: "quiet", onclick: (e) => copy(summary.text, e.target) },
        "Copy"),
      element("button", {
        type: "button", class: "quiet",
        onclick: () => download(summary.text, `summary-${summary.system}.txt`, "text/plain"),
      }, "Download"),
    );
  }

  showCandidates({ text, candidates = [] }) {
    this.others.hidden = candidates.length < 2;
    const chosen = candidates.findIndex((candidate) => candidate.text === text);
    const value = ({ expected, agreement }) => expected ?? agreement;
    const best = [...candidates.keys()].sort((a, b) => value(candidates[b]) - value(candidates[a]));
    this.others.replaceChildren(
      element("summary", {}, `Of ${candidates.length} the one ${why(this.choose)}`),
      element("ol", {}, ...best.map((i) => {
        const { text: own, agreement, unsupported, expected } = candidates[i];
        const points = expected === null ? "" : `${signed(expected)} expected, `;
        const missing = unsupported ? `, ${unsupported} not in the article` : "";
        const first = i === 0 ? ", the likeliest words" : "";
        return element("li", { class: i === chosen ? "chosen" : "" },
          element("span", { class: "soft" }, `${points}agreement ${agreement.toFixed(0)}${missing}${first}`), " ", own);
      })),
    );
  }

  stop() {
    if (this.text.getAttribute("aria-busy")) {
      this.text.className = "text";
      this.text.removeAttribute("aria-busy");
      this.facts.textContent = "stopped";
    }
  }
}

async function copy(text, button) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(text); // only over HTTPS and on this machine
  } catch {
    const box = element("textarea", { class: "unseen" });
    box.value = text;
    document.body.append(box);
    box.select();
    copied = document.execCommand("copy");
    box.remove();
    button.focus();
  }
  button.textContent = copied ? "Copied" : "Not allowed";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

export function download(text, name, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
