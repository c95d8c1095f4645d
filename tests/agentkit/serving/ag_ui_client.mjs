// The protocol's own client: it asks for a run, answers each interrupt as told, and prints what it has at the end.
//   node ag_ui_client.mjs URL PROMPT ANSWER [KEY]
import { HttpAgent } from "@ag-ui/client";

const [url, prompt, answer, key] = process.argv.slice(2);
const headers = key ? { Authorization: `Bearer ${key}` } : {};
const agent = new HttpAgent({ url, headers, threadId: "thread 1" });
agent.messages = [{ id: "m1", role: "user", content: prompt }];
const seen = [];
const outcomes = [];
let interrupts = [];
const subscriber = {
  onEvent: ({ event }) => { seen.push(event.type); },
  onRunFinishedEvent: ({ event }) => {
    outcomes.push(event.outcome?.type ?? "none");
    interrupts = event.outcome?.interrupts ?? [];
  },
  onRunErrorEvent: ({ event }) => { outcomes.push(`error ${event.code}`); },
};
await agent.runAgent({ runId: "run 1" }, subscriber);
for (let n = 2; interrupts.length > 0 && n < 9; n++) {
  const resume = interrupts.map(({ id }) => ({ interruptId: id, status: "resolved", payload: JSON.parse(answer) }));
  interrupts = [];
  await agent.runAgent({ runId: `run ${n}`, resume }, subscriber);
}
console.log(JSON.stringify({ seen, outcomes, messages: agent.messages }));
