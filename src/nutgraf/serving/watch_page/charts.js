// Charts in SVG: lines or dots over two axes. Texts become text nodes.

const SPACE = "http://www.w3.org/2000/svg";
const LEFT = 54;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 36;

export function short(value) {
  if (typeof value !== "number") return typeof value === "string" ? value : JSON.stringify(value);
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
  return String(Number(value.toPrecision(size >= 1000 ? 6 : 3)));
}

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// A sample of a line for a legend.
export const sample = (kind) =>
  svg("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" }, svg("path", { class: kind, d: "M1 5L25 5" }));

function ticks(low, high, logarithmic, many) {
  if (logarithmic) {
    const all = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      for (const digit of [1, 2, 5]) all.push(digit * 10 ** power);
    }
    const inside = all.filter((value) => value >= low * 0.999 && value <= high * 1.001);
    const every = Math.ceil(inside.length / many);
    return inside.filter((_, i) => i % every === 0);
  }
  const rough = (high - low) / many;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((each) => each >= rough);
  const first = Math.ceil(low / step) * step;
  return Array.from({ length: Math.floor((high - first) / step + 1.001) }, (_, i) => first + i * step);
}

// A range that shows most values: a few that are far above are cut off, and counted.
function range(values, logarithmic, cut) {
  const sorted = [...values].sort((a, b) => a - b);
  let [low, high] = [sorted[0], sorted.at(-1)];
  const high95 = sorted[Math.floor(0.95 * (sorted.length - 1))];
  if (cut && sorted.length > 8 && high - low > 3 * (high95 - low) && high95 > low) high = high95 + 0.15 * (high95 - low);
  const above = sorted.filter((value) => value > high).length;
  if (low === high) return logarithmic ? [low / 2, high * 2, above] : [low - 0.5, high + 0.5, above];
  const margin = logarithmic ? 1 : 0.04 * (high - low);
  return logarithmic ? [low / 1.1, high * 1.1, above] : [low - margin, high + margin, above];
}

// Draw series {name, kind, points} into a box; those of one kind are one path, so that thousands stay
// fast. `pick(name)` is called for the series that is clicked, `point(name, point)` for that below the
// pointer (null: none). `x` and `y` are {label, log}; of the y axis `cut` may hide a few high values.
export function draw(box, { title, series, x, y, dots = false, height = 260, pick, point }) {
  const width = Math.max(240, Math.round(box.clientWidth));
  const points = series.flatMap((each) => each.points);
  if (!points.length) {
    box.replaceChildren("Nothing has been measured yet.");
    return;
  }
  x = { ...x, log: x.log && points.every((p) => p[0] > 0) }; // a person may add a trial with 0
  const [x0, x1] = range(points.map((p) => p[0]), x.log, false);
  const [y0, y1, above] = range(points.map((p) => p[1]), y.log, y.cut);
  const scale = (low, high, log, from, to) => {
    const f = log ? Math.log : (v) => v;
    return (value) => from + ((f(value) - f(low)) / (f(high) - f(low))) * (to - from);
  };
  const atX = scale(x.log || dots ? x0 : Math.min(0, x0), x1, x.log, LEFT, width - RIGHT);
  const atY = scale(y0, y1, y.log, height - BOTTOM, TOP);
  const place = (p) => `${atX(p[0]).toFixed(1)} ${Math.max(-height, atY(p[1])).toFixed(1)}`;
  const path = (all) => dots
    ? all.map((p) => `M${place(p)}h.01`).join("")
    : all.length === 1 ? `M${place(all[0])}h.01` : all.length ? `M${all.map(place).join("L")}` : "";

  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  const across = x.log ? x0 : Math.min(dots ? x0 : 0, x0);
  for (const value of ticks(across, x1, x.log, Math.max(2, Math.floor(width / 90)))) {
    picture.append(svg("text", { x: atX(value), y: height - BOTTOM + 16, "text-anchor": "middle" }, short(value)));
  }
  for (const value of ticks(y0, y1, y.log, 5)) {
    picture.append(
      svg("path", { class: "grid", d: `M${LEFT} ${atY(value)}H${width - RIGHT}` }),
      svg("text", { x: LEFT - 6, y: atY(value) + 4, "text-anchor": "end" }, short(value)),
    );
  }
  const label = above ? `${x.label} (${above} values are above the chart)` : x.label;
  picture.append(svg("text", { x: width - RIGHT, y: height - 4, "text-anchor": "end" }, label));
  const inside = svg("svg", { x: 0, y: 0, width, height: height - BOTTOM + 2, viewBox: `0 0 ${width} ${height - BOTTOM + 2}` });
  for (const kind of [...new Set(series.map((each) => each.kind))]) {
    const own = series.filter((each) => each.kind === kind);
    for (const dotted of [false, true]) { // a line of one point is a dot
      const d = own.filter((each) => (dots || each.points.length === 1) === dotted).map((each) => path(each.points)).join("");
      if (d) inside.append(svg("path", { class: `${kind}${dotted ? " dots" : ""}`, d }));
    }
  }
  const mark = svg("path", { class: `pointed${dots ? " dots" : ""}` });
  // A layer of its own: a large chart is not painted again for each curve that is pointed at.
  const over = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "layer", "aria-hidden": "true" }, mark);
  picture.append(inside);
  box.replaceChildren(picture, over);
  if (!point) return;

  let near = null;
  picture.addEventListener("pointermove", (event) => {
    const frame = picture.getBoundingClientRect();
    const ratio = width / frame.width;
    const [px, py] = [(event.clientX - frame.left) * ratio, (event.clientY - frame.top) * ratio];
    let best = 30 ** 2;
    let nearest = null;
    for (const each of series) {
      for (const p of each.points) {
        const distance = (atX(p[0]) - px) ** 2 + (atY(p[1]) - py) ** 2;
        if (distance < best) [best, nearest] = [distance, { each, p }];
      }
    }
    if (nearest?.p === near?.p) return;
    near = nearest;
    mark.setAttribute("d", near ? path(near.each.points) : "");
    point(near?.each.name ?? null, near?.p);
  });
  picture.addEventListener("pointerleave", () => {
    near = null;
    mark.setAttribute("d", "");
    point(null);
  });
  picture.addEventListener("click", () => near && pick(near.each.name));
}
