// The AI SDK's own transport and reader: it sends a message, answers approvals as told, and prints what it has.
//   node vercel_client.mjs URL PROMPT APPROVED [KEY]
import { DefaultChatTransport, readUIMessageStream } from "ai";

const [api, prompt, approved, key] = process.argv.slice(2);
const headers = key ? { Authorization: `Bearer ${key}` } : {};
const transport = new DefaultChatTransport({ api, headers });
const messages = [{ id: "m1", role: "user", parts: [{ type: "text", text: prompt }] }];
const seen = [];
let error = null;

async function send(last) {
  const options = { chatId: "chat 1", trigger: "submit-message", messageId: undefined, messages };
  const stream = await transport.sendMessages(options);
  const noted = stream.pipeThrough(new TransformStream({
    transform(chunk, controller) { seen.push(chunk.type); controller.enqueue(chunk); },
  }));
  let message = last;
  const onError = (failure) => { error = String(failure); };
  for await (const state of readUIMessageStream({ message: last, stream: noted, onError })) message = state;
  return message;
}

let reply = await send(undefined);
for (let n = 0; n < 8; n++) {
  const waiting = reply.parts.filter((part) => part.state === "approval-requested");
  if (waiting.length === 0) break;
  for (const part of waiting) {
    part.state = "approval-responded";
    part.approval = { id: part.approval.id, approved: approved === "true", reason: "as told" };
  }
  messages.splice(1, 1, reply);
  reply = await send(reply);
}
const again = await transport.reconnectToStream({ chatId: "chat 1" });
console.log(JSON.stringify({ seen, error, reply, again: again !== null }));
