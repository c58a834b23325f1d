// In place of stream.js, for the page in an output cell of a notebook: no server can be asked there.
// All comes as messages from the cell: `state`, a whole snapshot, and `details`, the curves and
// samples of trainings by name.

let latest = null;
let wake = () => {};

addEventListener("message", ({ source, data }) => {
  if (source !== parent || !data?.state) return;
  latest = data;
  wake();
  parent.postMessage("shown", "*"); // scripts run here: the cell can hide the view that has none
});

export async function asked(path, { body }) {
  const what = path.split("/").at(-1);
  if (what === "events") return null;
  const of = latest.details[JSON.parse(body).name]?.[what];
  if (!of) throw new Error("A cell has this of some trainings only, because of its size: nutgraf watch has all.");
  return { json: async () => of };
}

const differs = (one, other) => JSON.stringify(one) !== JSON.stringify(other);

// Snapshots as the server sends them: the first one whole, then what differs.
export async function* events() {
  let before = null;
  for (;;) {
    const now = latest?.state;
    if (now && now !== before) {
      const news = Object.fromEntries(Object.entries(now).filter(([name, value]) => differs(value, before?.[name])));
      if (before && news.trials) {
        news.trials = Object.fromEntries(Object.keys({ ...before.trials, ...now.trials })
          .filter((number) => differs(before.trials[number], now.trials[number]))
          .map((number) => [number, now.trials[number] ?? null]));
      }
      yield ["news", { ...news, whole: !before, time: now.time }];
      before = now;
    } else await new Promise((resolve) => { wake = resolve; });
  }
}
