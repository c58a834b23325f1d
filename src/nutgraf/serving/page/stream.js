// Asking the server. Every function throws an Error with one line to show.

export async function fetchJson(path) {
  const answer = await asked(path);
  return answer.json();
}

// Events (name, data) of summaries as they are written, until all are whole.
export async function* summaries(request, signal) {
  const answer = await asked("summaries", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...request, stream: true, evidence: true }),
    signal,
  });
  for await (const [name, data] of events(answer)) {
    if (name === "done") return;
    if (name === "problem") throw new Error(data.error);
    yield [name, data];
  }
  throw new Error("The answer broke off: is the server still running?");
}

// The server-sent events (name, data) of an answer, until it ends.
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const whole = rest.split("\n\n");
    rest = whole.pop();
    for (const event of whole.filter((each) => !each.startsWith(":"))) {
      const [, name, data] = event.match(/^event: (\w+)\ndata: (.*)$/s);
      yield [name, JSON.parse(data)];
    }
  }
}

export async function asked(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: is nutgraf still running?");
  }
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({}));
  throw new Error(error ?? `The answer was ${answer.status}: is nutgraf still running?`);
}
