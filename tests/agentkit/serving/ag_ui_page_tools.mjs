// The protocol's own client with a tool of the page: it runs each call of the tool, until the agent has answered.
//   node ag_ui_page_tools.mjs URL PROMPT
import { HttpAgent } from "@ag-ui/client";

const [url, prompt] = process.argv.slice(2);
const agent = new HttpAgent({ url, threadId: "thread 1" });
agent.messages = [{ id: "m1", role: "user", content: prompt }];
const parameters = { type: "object", properties: { word: { type: "string" } }, required: ["word"] };
const tools = [{ name: "highlight", description: "Highlights a word on the page.", parameters }];
const outcomes = [];
const subscriber = { onRunFinishedEvent: ({ event }) => { outcomes.push(event.outcome?.type ?? "none"); } };
for (let n = 1; n < 9; n++) {
  await agent.runAgent({ runId: `run ${n}`, tools }, subscriber);
  const answered = new Set(agent.messages.filter(({ role }) => role === "tool").map(({ toolCallId }) => toolCallId));
  const calls = agent.messages.flatMap(({ toolCalls }) => toolCalls ?? []);
  const open = calls.filter(({ id, function: { name } }) => name === "highlight" && !answered.has(id));
  if (open.length === 0) break;
  for (const { id, function: { arguments: given } } of open) {
    agent.messages.push({ id: `result ${id}`, role: "tool", toolCallId: id, content: `highlit ${JSON.parse(given).word}` });
  }
}
console.log(JSON.stringify({ outcomes, messages: agent.messages }));
