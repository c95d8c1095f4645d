// Requests to the service behind the page. Addresses are relative, so the service may be mounted anywhere.

const BASE = new URL("..", document.baseURI);
const KEY = "agentkit.key";
const MOST_PAUSE_MS = 5000;

/** An answer of the service that is not a success. */
export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** Sends a request and returns the response; throws `Refused` if it is not a success. */
async function send(method, path, body, headers = {}, signal = undefined) {
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(new URL(path, BASE), {
    method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (response.ok) return response;
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // no body of ours: a proxy answered
  }
  throw new Refused(response.status, error.code ?? "failed", error.message ?? `the service answered ${response.status}`);
}

export async function ask(method, path, body, headers) {
  const response = await send(method, path, body, headers);
  return response.status === 204 ? null : response.json();
}

/** Returns a run's trace as a Blob. */
export async function traceOf(runId) {
  return (await send("GET", `runs/${encodeURIComponent(runId)}/trace`)).blob();
}

/** Returns a file of a run as a Blob. */
export async function fileOf(runId, sha256) {
  return (await send("GET", `runs/${encodeURIComponent(runId)}/files/${sha256}`)).blob();
}

/**
 * Reads the events of a run behind number `after` until it ends or waits, and calls `hear` with some at a time.
 * A broken connection is made again and reads on behind the last event, for as long as `signal` is not aborted.
 */
export async function follow(runId, after, hear, told, signal) {
  let pause = 250;
  while (!signal.aborted) {
    try {
      const path = `runs/${encodeURIComponent(runId)}/events?after=${after}`;
      const response = await send("GET", path, undefined, { Accept: "text/event-stream" }, signal);
      if (response.status === 204) return;
      told("");
      pause = 250;
      for await (const events of serverSentEvents(response.body)) {
        after = events.at(-1).number;
        hear(events);
      }
      if (hear.isOver()) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused && error.status < 500) throw error;
      told("The connection to the service is broken; it is tried again.");
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(2 * pause, MOST_PAUSE_MS);
  }
}

/** Yields the events in a stream, those of one piece together. */
async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    const events = blocks
      .map((block) => block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n"))
      .filter(Boolean)
      .map((data) => JSON.parse(data));
    if (events.length) yield events;
  }
}
