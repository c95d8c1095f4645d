// A run as the page shows it, built from its events in order. Nothing here touches the page.

import { wordsOf } from "./files.js";

/** Returns a run of which nothing is known yet. */
export function newRun(id) {
  return {
    id, agent: null, model: "", session: null, prompt: "", history: [], nHistory: 0, status: "running", steps: [],
    plan: null, pending: [], usage: null, confidence: null, output: null, error: null, rewards: [], last: 0,
    startedAt: null, endedAt: null, score: null, isFile: false,
  };
}

const NOTICES = {
  guardrail: (e) => (e.verdict === "allow" ? null : `Guardrail ${e.name} at ${e.stage}: ${e.verdict}. ${e.reason}`),
  repeated_call: (e) => `${e.tool_name} was not run again: ${e.kind}.`,
  handoff: (e) => `Handed over from ${e.from_agent ?? "the agent"} to ${e.to_agent}.`,
  limit_reached: (e) => `Limit reached: ${e.limit}.`,
  compaction: () => "The conversation was shortened for the model.",
  side_request: (e) => `Further request: ${e.purpose}.`,
  text_calls: (e) => (e.problem ? `Calls in text could not be read: ${e.problem}` : null),
  decision: (e) => `${e.by}: ${e.decision} for the call ${e.tool_call_id}.`,
  cancel_requested: (e) => `${e.by} asked to stop the run.`,
  resume_requested: (e) => `${e.by} asked to resume the run.`,
};

/** Changes a run by its next event; one that was read before, by another reader of the run, changes nothing. */
export function apply(run, event) {
  if (event.number <= run.last) return;
  run.last = event.number ?? run.last;
  const step = run.steps.at(-1);
  switch (event.event_kind) {
    case "run_requested":
      Object.assign(run, { id: event.run_id, prompt: event.prompt, session: event.session, history: event.history ?? [] });
      break;
    case "run_started":
      run.nHistory = event.n_history ?? 0;
      begin(run, event);
      break;
    case "run_resumed":
      begin(run, event);
      run.steps = run.steps.filter((each) => each.number <= event.step);
      break;
    case "model_request":
      ask(run, event);
      break;
    case "text_delta":
      if (step) step.text += event.text;
      break;
    case "thinking_delta":
      if (step) step.thinking += event.text;
      break;
    case "tool_call_delta":
      if (step) write(step, event);
      break;
    case "model_response":
      if (step) answer(step, event);
      break;
    case "tool_call":
      Object.assign(callOf(run, event), { state: "running" });
      break;
    case "tool_progress":
      Object.assign(callOf(run, event), { progress: event });
      break;
    case "tool_result":
      Object.assign(callOf(run, event), { state: event.outcome, result: wordsOf(event.content), files: event.files ?? [], error: event.error, durationS: event.duration_s });
      break;
    case "approval_requested":
      run.pending.push(event.call);
      Object.assign(callOf(run, event.call), { state: "waiting", question: event.call });
      break;
    case "plan":
      if (event.steps) run.plan = event.steps;
      notice(run, event.reason ? `The plan was revised: ${event.reason}` : "A plan was made.");
      break;
    case "reward":
      run.rewards.push(event);
      break;
    case "run_finished":
      Object.assign(run, { status: event.status, usage: event.usage, confidence: event.confidence, output: event.output, endedAt: event.time });
      break;
    case "run_failed":
      Object.assign(run, { status: "failed", usage: event.usage, error: `${event.error_type}: ${event.error}`, endedAt: event.time, pending: [] });
      break;
  }
  if (event.event_kind === "decision") run.pending = run.pending.filter((call) => call.tool_call_id !== event.tool_call_id);
  const said = NOTICES[event.event_kind]?.(event);
  if (said) notice(run, said);
}

export const isWaiting = (run) => run.status === "needs_approval" || run.status === "needs_results";
export const isRunning = (run) => run.status === "running";
export const isOver = (run) => run.endedAt !== null && !isWaiting(run) && !isRunning(run);

function begin(run, event) {
  Object.assign(run, { id: event.run_id, agent: event.agent_name, model: event.model_name, status: "running", error: null });
  run.startedAt ??= event.time;
}

function notice(run, text) {
  const step = run.steps.at(-1);
  if (step) step.notices.push(text);
}

/** A request with the number of an earlier step replaces it: a server was killed, or middleware asked again. */
function ask(run, event) {
  const index = run.steps.findIndex((each) => each.number === event.step);
  if (index >= 0) run.steps.length = index;
  const [first] = event.messages;
  const prompt = first?.parts.find((part) => part.part_kind === "user-prompt");
  if (!run.steps.length && prompt && !run.prompt) run.prompt = prompt.content;
  for (const part of event.messages.flatMap((message) => message.parts)) {
    const call = part.tool_call_id ? findCall(run, part.tool_call_id) : null;
    if (call && call.result === null) Object.assign(call, { result: wordsOf(part.content), state: call.state === "waiting" ? "not_run" : "retry" });
  }
  run.steps.push({
    number: event.step, messages: event.messages, note: event.note, askedAt: event.time, text: "", thinking: "", calls: [],
    notices: [], response: null, durationS: null,
  });
}

function write(step, event) {
  const call = (step.calls[event.index] ??= newCall(`writing ${event.index}`, "", ""));
  if (event.tool_name) call.name = event.tool_name;
  call.arguments += event.arguments;
}

function answer(step, event) {
  const { response } = event;
  const parts = (kind) => response.parts.filter((part) => part.part_kind === kind);
  const text = (kind) => parts(kind).map((part) => part.content).join("");
  Object.assign(step, { response, durationS: event.duration_s, text: text("text"), thinking: text("thinking") });
  step.calls = parts("tool-call").map((part) => ({
    ...newCall(part.tool_call_id, part.tool_name, part.arguments),
    state: "called", probability: part.probability, alternatives: part.alternatives ?? [],
  }));
}

function newCall(id, name, args) {
  return { id, name, arguments: args, state: "writing", probability: null, alternatives: [], result: null, files: [], error: null, durationS: null,
    progress: null, question: null };
}

function findCall(run, id) {
  for (const step of run.steps.toReversed()) {
    const found = step.calls.find((call) => call?.id === id);
    if (found) return found;
  }
  return null;
}

/** Returns the call of an event; calls within code have no part in the response and are added to the step. */
function callOf(run, event) {
  const found = findCall(run, event.tool_call_id);
  if (found) return found;
  const call = newCall(event.tool_call_id, event.tool_name, event.arguments ?? "");
  run.steps.at(-1)?.calls.push(call);
  return call;
}

/** Returns the conversation that the model read at a step, without instructions: those are the agent's own. */
export function conversationAt(run, number, earlier = []) {
  const isFork = run.history.length && run.steps[0]?.messages.length && sameParts(run.history.at(-1), run.steps[0].messages[0]);
  const messages = [...earlier, ...(isFork ? run.history.slice(0, -1) : run.history)];
  for (const step of run.steps) {
    for (const message of step.messages) {
      const parts = message.parts.filter((part) => part.part_kind !== "system-prompt");
      if (parts.length) messages.push({ ...message, parts });
    }
    if (step.number === number) return messages;
    if (step.response) messages.push(step.response);
  }
  throw new Error(`the run has no step ${number}`);
}

const sameParts = (one, other) => JSON.stringify(one.parts) === JSON.stringify(other.parts);

/** Returns the number of the first step that both runs have, and in which they differ; null if there is none. */
export function firstDifference(one, other) {
  const words = (step) => JSON.stringify([step.text, step.calls.map((call) => [call.name, call.arguments, call.result])]);
  const others = new Map(other.steps.map((step) => [step.number, words(step)]));
  const step = one.steps.find((each) => others.has(each.number) && others.get(each.number) !== words(each));
  return step?.number ?? null;
}

/** Returns the objects in a file of one JSON object a line; its last line may be cut. */
function linesOf(text, name) {
  const lines = text.split("\n").slice(0, -1).filter(Boolean);
  if (!lines.length) throw new Error(`${name} has no whole line`);
  return lines.map((line, index) => {
    try {
      return JSON.parse(line);
    } catch {
      throw new Error(`${name}, line ${index + 1}, is not JSON`);
    }
  });
}

/** Returns what a file holds: the run of a trace, the runs of an evaluation's cases, or the cases' scores by id. */
export function contentOf(text, name) {
  const lines = linesOf(text, name);
  if (typeof lines[0]?.case_id === "string") {
    if ("value" in lines[0]) return { scores: new Map(lines.map((score) => [score.case_id, score])) };
    if (Array.isArray(lines[0].messages)) return { cases: lines.map((record) => runOfCase(record)) };
  }
  const run = newRun(name);
  lines.forEach((event, index) => {
    if (event?.version !== 1 || typeof event.event_kind !== "string") {
      throw new Error(`${name}, line ${index + 1}, is neither an event of a trace of version 1 nor a case of an evaluation`);
    }
    apply(run, event);
  });
  if (run.status === "running") run.status = "unfinished";
  run.isFile = true;
  return { run };
}

/** Returns the run of a case; an evaluation keeps its messages, and no times. */
function runOfCase(record) {
  const run = newRun(record.case_id);
  let unread = [];
  for (const message of record.messages) {
    unread.push(message);
    if (message.kind === "response") {
      const step = run.steps.length + 1;
      unread.pop();
      apply(run, { event_kind: "model_request", step, messages: unread });
      apply(run, { event_kind: "model_response", step, response: message, duration_s: null });
      unread = [];
    }
    for (const part of message.kind === "request" ? message.parts : []) {
      if (part.part_kind === "tool-return") {
        apply(run, { event_kind: "tool_result", ...part, outcome: part.is_error ? "failed" : "success", error: null, duration_s: null });
      }
    }
  }
  const { status, usage, output = null, error } = record;
  return Object.assign(run, { status, usage, output, error: error ? String(error) : null, isFile: true });
}
