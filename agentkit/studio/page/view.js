// What a run looks like. All text of models, tools and users goes into text nodes, never into markup.

import { addressOf, noteOf, wordsOf } from "./files.js";
import { isOver, isWaiting } from "./run.js";

/** Makes an element; `attributes` may hold listeners as `onclick` and so on. Children are nodes or text. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;

/** Returns text with characters that are not seen, or that reorder others, written as their numbers. */
export const visible = (text) => text.replace(HIDDEN, (found) => `\\u{${found.codePointAt(0).toString(16)}}`);

const percent = (share) => (share >= 0.995 ? "99+ %" : share < 0.005 ? "< 1 %" : `${Math.round(100 * share)} %`);
const seconds = (s) => (s === null || s === undefined ? "" : s < 0.9995 ? `${Math.round(1000 * s)} ms` : `${s.toFixed(s < 10 ? 2 : 1)} s`);

/** An amount of US dollars, which events hold as a string. */
const dollars = (amount) => `$${Number(amount).toLocaleString("en", { minimumSignificantDigits: 1, maximumSignificantDigits: 3 })}`;

/** The cost of a run; "" for models that are free, and for runs of versions that kept no costs. */
function costText({ known_cost: known, unpriced_models: unpriced = [] }) {
  const cost = Number(known) ? dollars(known) : "";
  if (!unpriced.length) return cost;
  return `${cost ? `more than ${cost}` : "cost unknown"}: no price of ${unpriced.map(visible).join(", ")}`;
}

function json(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

const STATUS = {
  running: "running", completed: "completed", needs_approval: "waits for a decision", needs_results: "waits for results",
  failed: "failed", unfinished: "ends in the middle",
};

export const statusText = (run) => STATUS[run.status] ?? run.status.replaceAll("_", " ");

/** Returns the whole view of a run; `acts` has the callbacks: decide, fork, reward, download, compare. */
export function runView(run, acts, { differsFrom = null, title = null } = {}) {
  const view = el("section", { class: "run", "aria-label": title ?? `Run ${run.id}` });
  if (title) view.append(el("h2", {}, title));
  const { history } = run;
  if (history.length) {
    view.append(el("details", { class: "history" }, el("summary", {}, `${history.length} earlier messages`), ...history.map(messageView)));
  }
  if (run.prompt) view.append(el("article", { class: "user" }, el("h2", {}, "You"), ...contentViews(run, run.prompt)));
  if (run.plan) view.append(planView(run.plan));
  for (const step of run.steps) view.append(stepView(run, step, acts, step.number === differsFrom));
  if (run.pending.length && isWaiting(run)) view.append(...run.pending.map((call) => questionView(call, acts)));
  view.append(endView(run, acts));
  return view;
}

/** Texts and files of a message, in order. */
function contentViews(run, content) {
  const items = typeof content === "string" ? [content] : content;
  return items.map((item) => (typeof item === "string" ? el("p", { class: "text" }, visible(item)) : fileView(run, item)));
}

/** A file: an image is shown, a sound can be heard, others are named. A trace has no bytes behind its references. */
function fileView(run, file) {
  const [kind] = file.media_type.split("/");
  const note = visible(noteOf(file));
  if (run.isFile || !file.sha256 || !["image", "audio"].includes(kind)) return el("p", { class: "notice" }, note);
  const shown = kind === "image" ? el("img", { alt: note }) : el("audio", { controls: true, "aria-label": note });
  addressOf(run.id, file).then((address) => { shown.src = address; }, () => shown.replaceWith(el("p", { class: "notice" }, note)));
  return el("figure", {}, shown);
}

function messageView(message) {
  return el("div", { class: "earlier" }, ...message.parts.map((part) => {
    const said = part.part_kind === "tool-call" ? `${part.tool_name} ${part.arguments}` : wordsOf(part.content ?? "");
    return el("p", { class: "text" }, el("b", {}, `${part.part_kind.replace("-", " ")}: `), visible(said ?? ""));
  }));
}

function planView(steps) {
  const marks = { done: "✓", failed: "✗", pending: "·" };
  return el("article", { class: "plan" }, el("h2", {}, "Plan"),
    el("ol", {}, ...steps.map((step) => el("li", { class: step.status }, `${marks[step.status]} ${step.goal}`, step.tool ? ` (${step.tool})` : ""))));
}

function stepView(run, step, acts, differs) {
  const view = el("article", { class: differs ? "step differs" : "step" });
  view.append(el("h2", {}, `Step ${step.number}`, differs ? " differs" : ""));
  if (step.thinking) view.append(el("details", { class: "thinking" }, el("summary", {}, "Reasoning"), el("p", { class: "text" }, visible(step.thinking))));
  if (step.text) view.append(el("p", { class: "text answer" }, visible(step.text)));
  for (const call of step.calls) if (call) view.append(callView(run, call));
  for (const notice of step.notices) view.append(el("p", { class: "notice" }, visible(notice)));
  if (step.response) view.append(figuresView(step));
  if (acts.fork && step.messages.length) {
    view.append(el("div", { class: "row" },
      el("button", { type: "button", class: "quiet", onclick: () => acts.fork(step.number) }, `Fork step ${step.number}`),
      ...(acts.reward && isOver(run) ? rewardButtons(run, acts, step.number) : [])));
  }
  return view;
}

const OUTCOMES = {
  writing: "is being written", called: "", running: "is running", success: "", waiting: "waits for a decision",
  retry: "sent back to the model", failed: "failed", timeout: "ran out of time", not_run: "did not run",
};

function callView(run, call) {
  const view = el("section", { class: `call ${call.state}` });
  const told = [OUTCOMES[call.state] ?? call.state, seconds(call.durationS)].filter(Boolean).join(", ");
  view.append(el("h3", {}, el("code", {}, visible(call.name || "…")), told ? ` ${told}` : ""));
  if (call.probability !== null) view.append(choiceView(call));
  view.append(el("pre", { tabIndex: 0, "aria-label": "Arguments" }, visible(json(call.arguments))));
  if (call.progress) {
    const { progress, total, message } = call.progress;
    view.append(el("p", { class: "notice" }, visible([message, total ? `${progress} of ${total}` : progress].filter((x) => x !== null).join(": "))));
  }
  if (call.result !== null) {
    view.append(el("details", { open: call.result.length < 600 }, el("summary", {}, "Result"),
      el("pre", { tabIndex: 0, "aria-label": "Result" }, visible(json(call.result)))));
    view.append(...call.files.map((file) => fileView(run, file)));
  }
  if (call.error) view.append(el("p", { class: "notice error" }, visible(call.error)));
  return view;
}

/** The probability of the chosen tool and of the others, which only models in the agent's process report. */
function choiceView(call) {
  const all = [[call.name, call.probability], ...call.alternatives].filter(([, share]) => share >= 0.005).slice(0, 5);
  return el("ul", { class: "choice", "aria-label": "Probability of each tool" }, ...all.map(([name, share]) => {
    const bar = el("span", { class: "bar" });
    bar.style.width = `${Math.max(1, 100 * share)}%`;
    return el("li", {}, el("span", { class: "track" }, bar), el("span", {}, `${visible(name)} ${percent(share)}`));
  }));
}

const ORIGINS = [
  ["restored_tokens", "read from disk"], ["reused_tokens", "reused"], ["prefilled_tokens", "evaluated"],
  ["forced_tokens", "forced by the grammar"], ["sampled_tokens", "sampled"],
];

function figuresView(step) {
  const { usage, decoding, p_answer: pAnswer, model_name: model } = step.response;
  const told = [model, seconds(step.durationS), `${usage.input_tokens} tokens read`, `${usage.output_tokens} written`];
  if (Number(usage.cost)) told.push(dollars(usage.cost));
  if (pAnswer !== null && pAnswer !== undefined) told.push(`an answer instead of a call: ${percent(pAnswer)}`);
  if (decoding?.first_token_s) told.push(`first token after ${seconds(decoding.first_token_s)}`);
  const view = el("div", { class: "figures" }, el("p", {}, told.filter(Boolean).join(" · ")));
  if (decoding) {
    const counts = { ...decoding, reused_tokens: decoding.reused_tokens - decoding.restored_tokens };
    const shown = ORIGINS.map(([key, name]) => [key, name, counts[key]]).filter(([, , n]) => n > 0);
    const bar = el("div", { class: "origins", "aria-hidden": "true" });
    for (const [key, , n] of shown) {
      const part = el("span", { class: key });
      part.style.flexGrow = n;
      bar.append(part);
    }
    view.append(bar, el("p", { class: "legend" }, ...shown.map(([key, name, n]) => el("span", {}, el("i", { class: key }), `${n} ${name} `))));
  }
  return view;
}

function questionView(call, acts) {
  const view = el("article", { class: "question" });
  const heading = { approval: "May this call run?", unknown: "This call may have taken effect already.", external: "This call waits for its result." };
  view.append(el("h2", {}, heading[call.kind]), el("p", {}, el("code", {}, visible(call.tool_name))));
  view.append(changesView(call.arguments), el("p", { class: "notice" }, visible(call.reason)));
  const row = el("div", { class: "row" });
  const decide = (decision) => acts.decide({ tool_call_id: call.tool_call_id, ...decision });
  const button = (text, decision, kind = "") => row.append(el("button", { type: "button", class: kind, onclick: () => decide(decision()) }, text));
  const words = el("input", { type: "text", "aria-label": call.kind === "external" ? "Result of the call" : "Reason, or result of the call" });
  if (call.kind !== "external") {
    button(call.kind === "unknown" ? "Run it again" : "Allow once", () => ({ decision: "approve", digest: call.digest }), "primary");
  }
  if (call.kind === "approval") button("Allow in this run", () => ({ decision: "approve", digest: call.digest, for_run: true }));
  if (call.kind !== "approval") button("It ran: this is its result", () => ({ decision: "settle", digest: call.digest, content: words.value || "done" }));
  button("Deny", () => ({ decision: "deny", reason: words.value }));
  view.append(el("label", {}, call.kind === "approval" ? "Reason for a denial " : "Result or reason ", words), row);
  return view;
}

/** The arguments; texts that replace others as lines that go and lines that come. */
function changesView(text) {
  const pairs = [];
  const look = (value) => {
    if (value === null || typeof value !== "object") return;
    const [before, after] = [value.old_text ?? value.old_string, value.new_text ?? value.new_string];
    if (typeof before === "string" && typeof after === "string") pairs.push([before, after]);
    Object.values(value).forEach(look);
  };
  try {
    look(JSON.parse(text));
  } catch {
    // shown as it is
  }
  const view = el("div", {}, el("pre", { tabIndex: 0, "aria-label": "Arguments" }, visible(json(text))));
  for (const [before, after] of pairs) {
    const lines = (words, sign, kind) => words.split("\n").map((line) => el(kind, {}, `${sign} ${visible(line)}\n`));
    view.append(el("pre", { class: "diff", tabIndex: 0, "aria-label": "Change" }, ...lines(before, "-", "del"), ...lines(after, "+", "ins")));
  }
  return view;
}

function endView(run, acts) {
  const view = el("footer", { class: "end" });
  const told = [statusText(run)];
  if (run.confidence !== null) told.push(`least sure choice of a tool: ${percent(run.confidence)}`);
  if (run.usage) told.push(`${run.usage.requests} requests, ${run.usage.tool_calls} calls, ${run.usage.input_tokens} + ${run.usage.output_tokens} tokens`);
  if (run.usage) told.push(costText(run.usage));
  if (run.startedAt && run.endedAt) told.push(seconds(run.endedAt - run.startedAt));
  view.append(el("p", { class: `state ${run.status}` }, told.filter(Boolean).join(" · ")));
  if (run.error) view.append(el("p", { class: "notice error" }, visible(run.error)));
  const last = run.steps.at(-1)?.text ?? "";
  if (run.output !== null && run.output !== last) view.append(el("pre", { tabIndex: 0, "aria-label": "Output" }, visible(typeof run.output === "string" ? run.output : JSON.stringify(run.output, null, 2))));
  if (run.score) view.append(scoreView(run.score));
  if (run.steps.length > 1 && run.startedAt) view.append(timelineView(run));
  if (run.rewards.length) view.append(el("p", { class: "notice" }, `Rewards: ${run.rewards.map((each) => `${each.reward} by ${each.source}${each.step ? ` for step ${each.step}` : ""}`).join(", ")}`));
  const row = el("div", { class: "row" });
  if (isOver(run) && acts.reward) row.append(...rewardButtons(run, acts, null));
  if (acts.download) row.append(el("button", { type: "button", class: "quiet", onclick: acts.download }, "Save the trace"));
  if (acts.compare) row.append(acts.compare());
  if (row.childElementCount) view.append(row);
  return view;
}

function scoreView({ value, answer, explanation }) {
  const lines = [["Answer", answer], ["Explanation", explanation]].filter(([, text]) => text);
  return el("div", { class: "score" }, el("p", { class: value ? "good" : "error" }, `Score ${value}`),
    ...lines.map(([name, text]) => el("p", { class: "text" }, el("b", {}, `${name}: `), visible(String(text)))));
}

function rewardButtons(run, acts, step) {
  const given = (value) => run.rewards.findLast((each) => (each.step ?? null) === step)?.reward === value;
  const where = step === null ? "the run" : `step ${step}`;
  return [["Good", 1], ["Bad", 0]].map(([name, value]) => el("button", {
    type: "button", class: "quiet", "aria-pressed": String(given(value)), "aria-label": `${name}: reward ${value} for ${where}`, onclick: () => acts.reward(value, step),
  }, name));
}

/** Model and tools over time, one row a step. */
function timelineView(run) {
  const begin = run.steps[0].askedAt;
  const end = run.endedAt ?? run.steps.at(-1).askedAt + (run.steps.at(-1).durationS ?? 0);
  const total = Math.max(1e-6, end - begin);
  const table = el("table", { class: "timeline" }, el("caption", {}, "Time line"));
  for (const step of run.steps) {
    const track = el("td", {});
    let at = step.askedAt - begin;
    const spans = [["model", step.durationS ?? 0], ...step.calls.map((call) => ["tool", call?.durationS ?? 0])];
    for (const [kind, length] of spans) {
      const span = el("span", { class: kind });
      span.style.left = `${(100 * at) / total}%`;
      span.style.width = `${Math.max(0.4, (100 * length) / total)}%`;
      if (length) track.append(span);
      at += length;
    }
    const tools = spans.slice(1).reduce((sum, [, length]) => sum + length, 0);
    table.append(el("tr", {}, el("th", { scope: "row" }, `Step ${step.number}`), track, el("td", { class: "amount" }, `${seconds(spans[0][1])} model${tools ? `, ${seconds(tools)} tools` : ""}`)));
  }
  return table;
}
