// The page: which runs are shown, and what its buttons do.

import { asContent, wordsOf } from "./files.js";
import { apply, contentOf, conversationAt, firstDifference, isRunning, isWaiting, newRun } from "./run.js";
import { ask, follow, Refused, setKey, traceOf } from "./service.js";
import { el, runView, statusText, visible } from "./view.js";

const byId = (id) => document.getElementById(id);
const state = { session: null, runs: [], cases: [], scores: null, shown: [], compared: null, attached: [], isBusy: false };
let following = new AbortController();
let frame = 0;

function tell(text) {
  byId("status").textContent = text;
}

/** Does what a button asks for, and tells what went wrong. */
async function attempt(work) {
  try {
    tell("");
    return await work();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) {
      byId("key-dialog").showModal();
      return undefined;
    }
    tell(error.message);
    return undefined;
  }
}

// -- showing -----------------------------------------------------------------------------------------------

function draw() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    drawNow();
  });
}

function drawNow() {
  const panes = byId("panes");
  const isAtEnd = panes.scrollHeight - panes.scrollTop - panes.clientHeight < 80;
  const open = new Set([...panes.querySelectorAll("details")].map((each, index) => (each.open ? index : -1)));
  const typed = [...panes.querySelectorAll("input")].map((each) => each.value);
  const focused = [...panes.querySelectorAll("button, input, select, summary, pre")].indexOf(document.activeElement);
  const { shown, compared } = state;
  const left = el("div", { class: "pane" });
  const differs = compared && shown.length ? firstDifference(shown.at(-1), compared) : null;
  for (const run of shown) left.append(runView(run, actsOn(run), { differsFrom: run === shown.at(-1) ? differs : null }));
  const right = compared ? el("div", { class: "pane" }, runView(compared, actsOn(compared), { differsFrom: differs, title: `Run ${compared.id}` })) : null;
  const hint = shown.length || compared ? null : el("p", { class: "hint" }, "Write a message to the agent, choose a run, or open a trace.");
  panes.replaceChildren(...[hint, shown.length ? left : null, right].filter(Boolean));
  panes.classList.toggle("two", Boolean(compared));
  [...panes.querySelectorAll("details")].forEach((each, index) => { if (open.has(index)) each.open = true; });
  [...panes.querySelectorAll("input")].forEach((each, index) => { if (typed[index]) each.value = typed[index]; });
  if (focused >= 0) panes.querySelectorAll("button, input, select, summary, pre")[focused]?.focus({ preventScroll: true });
  if (isAtEnd) panes.scrollTop = panes.scrollHeight;
  const last = shown.at(-1);
  const isOurs = last && !last.isFile;
  byId("stop").hidden = !(isOurs && (isRunning(last) || isWaiting(last)));
  byId("resume").hidden = !(isOurs && last.status === "failed");
  byId("send").disabled = state.isBusy || Boolean(isOurs && (isRunning(last) || isWaiting(last)));
}

function drawRuns() {
  const entry = (title, told, isShown, open) => el("li", {},
    el("button", { type: "button", "aria-current": String(isShown), onclick: () => attempt(open) }, el("b", {}, title), el("span", {}, told)));
  const isShown = (id) => state.shown.some((each) => each.id === id);
  byId("cases").replaceChildren(...state.cases.map((run) => {
    const told = run.score ? `score ${run.score.value} · ${statusText(run)}` : statusText(run);
    return entry(run.id, told, state.shown.includes(run), () => showFile(run));
  }));
  byId("runs").replaceChildren(...state.runs.map((run) => {
    const when = new Date(1000 * run.created_at).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
    return entry(titleOf(run), `${when} · ${statusText(run)}`, isShown(run.run_id), () => show(run));
  }));
}

const titleOf = (entry) => entry.session?.replace(/ · [0-9a-f]{8}$/, "") ?? entry.run_id;

async function loadRuns() {
  state.runs = (await ask("GET", "runs?limit=200")).runs;
  drawRuns();
}

/** Shows a run of the list, with the other runs of its session. */
async function show(entry) {
  stopFollowing();
  const inSession = entry.session ? state.runs.filter((run) => run.session === entry.session).reverse() : [entry];
  state.session = entry.session;
  state.compared = null;
  state.shown = inSession.map((each) => newRun(each.run_id));
  location.hash = entry.run_id;
  drawRuns();
  draw();
  await Promise.all(state.shown.map((run) => watch(run)));
}

function stopFollowing() {
  following.abort();
  following = new AbortController();
}

/** Follows a run until it ends or waits. */
async function watch(run) {
  const { signal } = following;
  const hear = (events) => {
    for (const event of events) apply(run, event);
    draw();
  };
  hear.isOver = () => !isRunning(run);
  await attempt(() => follow(run.id, run.last, hear, tell, signal));
  if (!signal.aborted) {
    await attempt(loadRuns);
    if (run === state.shown.at(-1)) announce(run);
  }
}

function announce(run) {
  draw();
  tell(isWaiting(run) ? "The run waits for a decision." : `The run is over: ${statusText(run)}.`);
}

// -- what buttons do ---------------------------------------------------------------------------------------

/** The callbacks of a run's view; a run of a file has no service behind it. */
function actsOn(run) {
  const acts = { fork: (number) => attempt(() => openFork(run, number)) };
  if (run === state.shown.at(-1)) acts.compare = () => compareChoice(run);
  if (run.isFile) return acts;
  return {
    ...acts,
    decide: (decision) => attempt(() => decide(run, decision)),
    reward: (value, step) => attempt(() => reward(run, value, step)),
    download: () => attempt(() => download(run)),
  };
}

async function send(words) {
  state.isBusy = true;
  try {
    const prompt = state.attached.length ? [...(words ? [words] : []), ...(await Promise.all(state.attached.map(asContent)))] : words;
    state.session ??= `${(words || state.attached[0].name).replaceAll(/\s+/g, " ").slice(0, 60)} · ${crypto.randomUUID().slice(0, 8)}`;
    if (state.shown.some((run) => run.isFile || run.session !== state.session)) state.shown = [];
    const { run_id: id } = await ask("POST", "runs", { prompt, session: state.session }, { "Idempotency-Key": crypto.randomUUID() });
    begin(id, { prompt: wordsOf(prompt), session: state.session });
    byId("prompt").value = "";
    state.attached = [];
    drawAttached();
  } finally {
    state.isBusy = false;
    draw();
  }
}

/** Adds files to the next message. */
function attach(files) {
  state.attached.push(...files);
  drawAttached();
}

function drawAttached() {
  byId("attached").replaceChildren(...state.attached.map((file) => el("li", {}, visible(file.name), " ", el("button", {
    type: "button", class: "quiet", "aria-label": `Do not send ${file.name}`,
    onclick: () => {
      state.attached = state.attached.filter((each) => each !== file);
      drawAttached();
    },
  }, "Remove"))));
}

/** Shows a run that has just been accepted. */
function begin(id, known) {
  const run = Object.assign(newRun(id), known);
  state.shown.push(run);
  location.hash = id;
  const panes = byId("panes");
  draw();
  requestAnimationFrame(() => { panes.scrollTop = panes.scrollHeight; });
  watch(run);
}

async function decide(run, decision) {
  await ask("POST", `runs/${run.id}/decisions`, { decisions: [decision] });
  run.pending = run.pending.filter((call) => call.tool_call_id !== decision.tool_call_id);
  if (!run.pending.length) {
    run.status = "running";
    watch(run);
  }
  draw();
}

async function reward(run, value, step) {
  await ask("POST", `runs/${run.id}/rewards`, { reward: value, step, source: "studio" });
  await watch(run);
}

async function download(run) {
  const link = el("a", { href: URL.createObjectURL(await traceOf(run.id)), download: `${run.id}.jsonl` });
  link.click();
  URL.revokeObjectURL(link.href);
}

function compareChoice(run) {
  const others = state.runs.filter((each) => each.run_id !== run.id);
  const choice = el("select", { "aria-label": "Compare with another run", onchange: () => attempt(() => compare(choice.value)) },
    el("option", { value: "" }, "Compare with…"), ...others.map((each) => el("option", { value: each.run_id }, `${titleOf(each)}, ${new Date(1000 * each.created_at).toLocaleTimeString()}`)));
  choice.value = state.compared?.id ?? "";
  return choice;
}

async function compare(id) {
  state.compared = id ? newRun(id) : null;
  draw();
  if (id) await watch(state.compared);
}

/** Asks what of the last message is changed, then runs the fork. */
async function openFork(run, number) {
  let earlier = [];
  if (run.nHistory && !run.history.length) {
    if (!run.session) throw new Error("The trace does not have the earlier messages of this conversation.");
    earlier = (await ask("GET", `sessions/${encodeURIComponent(run.session)}`)).messages.slice(0, run.nHistory);
  }
  const messages = structuredClone(conversationAt(run, number, earlier));
  const { parts } = messages.at(-1);
  byId("fork-fields").replaceChildren(...parts.map((part, index) => {
    const files = typeof part.content === "string" ? [] : part.content.filter((item) => typeof item !== "string");
    const change = () => { part.content = files.length ? [field.value, ...files] : field.value; };
    const field = el("textarea", { id: `fork-${index}`, rows: "5", onchange: change });
    field.value = typeof part.content === "string" ? part.content : part.content.filter((item) => typeof item === "string").join("\n");
    return el("div", {}, el("label", { for: `fork-${index}` }, part.tool_name ? `Result of ${part.tool_name}` : "Message"), field);
  }));
  byId("fork-form").onsubmit = (event) => {
    event.preventDefault();
    byId("fork-dialog").close();
    attempt(async () => {
      const { run_id: id } = await ask("POST", "forks", run.isFile ? { messages } : { messages, run_id: run.id }, { "Idempotency-Key": crypto.randomUUID() });
      stopFollowing();
      Object.assign(state, { session: null, shown: [], compared: run });
      begin(id, {});
    });
  };
  byId("fork-dialog").showModal();
}

/** Opens traces, and the `runs.jsonl` and `scores.jsonl` of an evaluation; a second trace is compared with the first. */
async function openFiles(files) {
  const found = await Promise.all([...files].map(async (file) => contentOf(await file.text(), file.name)));
  byId("file").value = "";
  for (const { run, cases, scores } of found) {
    if (cases) state.cases = cases;
    if (run) showFile(run, state.shown.at(-1)?.isFile ? state.shown.at(-1) : null);
    state.scores = scores ?? state.scores;
  }
  for (const run of state.cases) run.score = state.scores?.get(run.id) ?? run.score;
  if (found.some(({ cases }) => cases)) showFile(state.cases[0]);
  drawRuns();
  draw();
}

function showFile(run, compared = null) {
  stopFollowing();
  Object.assign(state, { session: null, shown: [run], compared });
  drawRuns();
  draw();
}

// -- beginning ---------------------------------------------------------------------------------------------

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const words = byId("prompt").value.trim();
  if ((words || state.attached.length) && !byId("send").disabled) attempt(() => send(words));
});
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("composer").requestSubmit();
  }
});
byId("new").addEventListener("click", () => {
  stopFollowing();
  Object.assign(state, { session: null, shown: [], compared: null });
  location.hash = "";
  drawRuns();
  draw();
  byId("prompt").focus();
});
byId("stop").addEventListener("click", () => attempt(async () => {
  const run = state.shown.at(-1);
  await ask("POST", `runs/${run.id}/cancel`);
  await watch(run);
}));
byId("resume").addEventListener("click", () => attempt(async () => {
  const run = state.shown.at(-1);
  await ask("POST", `runs/${run.id}/resume`);
  run.status = "running";
  watch(run);
}));
byId("file").addEventListener("change", (event) => attempt(() => openFiles(event.target.files)));
byId("attach").addEventListener("change", (event) => {
  attach(event.target.files);
  event.target.value = "";
});
byId("prompt").addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) attach(event.clipboardData.files);
});
byId("fork-close").addEventListener("click", () => byId("fork-dialog").close());
byId("key-dialog").addEventListener("close", () => {
  setKey(byId("key").value);
  byId("key").value = "";
  attempt(load);
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  const dropped = [...event.dataTransfer.files];
  const traces = dropped.filter((file) => /\.(jsonl|ndjson)$/.test(file.name));
  if (traces.length) attempt(() => openFiles(traces));
  attach(dropped.filter((file) => !traces.includes(file)));
});

async function load() {
  const { name, service } = await ask("GET", "agent");
  byId("agent").textContent = name ?? service;
  await loadRuns();
  const wanted = state.runs.find((run) => run.run_id === location.hash.slice(1));
  if (wanted) await show(wanted);
}

draw();
attempt(load);
