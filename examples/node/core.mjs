// SPDX-License-Identifier: Apache-2.0
// A messaging core that answers every text with its echo, over HTTP and JSON: nothing but Node.
//
// TRUNKLINE_URL (default http://127.0.0.1:7433) and TRUNKLINE_TOKEN say where and as whom; TRUNKLINE_STATE
// (default ./revision) is the file that remembers how far it has got. A revision is noted once its answer
// is stored; an event that comes again makes the same answer, by its id.
import { readFile, rename, writeFile } from "node:fs/promises";

const { TRUNKLINE_URL = "http://127.0.0.1:7433", TRUNKLINE_TOKEN, TRUNKLINE_STATE = "revision" } = process.env;
if (!TRUNKLINE_TOKEN) throw new Error("TRUNKLINE_TOKEN is not set");
const headers = { authorization: `Bearer ${TRUNKLINE_TOKEN}` };
const seen = await readFile(TRUNKLINE_STATE, "utf8").catch(() => "");

async function call(path, options = {}) {
  const response = await fetch(`${TRUNKLINE_URL}/v1/${path}`, { headers, ...options });
  if (!response.ok) throw new Error(`${path}: ${await response.text()}`);
  return response;
}

async function answer({ eventId, session, message }) {
  const text = message?.content?.text?.text;
  if (text === undefined || message.fromMe) return;
  const to = { jid: message.chat.lid ?? message.chat.pnJid };
  const body = { requestId: eventId, to, text: { text: `echo: ${text}` }, priority: "PRIORITY_REPLY" };
  await call(`${session}/messages`, { method: "POST", body: JSON.stringify(body) });
}

const from = seen ? BigInt(seen) + 1n : 0;
const events = await call(`workspaces/default/events:watch?fromRevision=${from}&types=EVENT_TYPE_MESSAGE`);
let rest = "";
for await (const chunk of events.body.pipeThrough(new TextDecoderStream())) {
  const frames = (rest + chunk).split("\n\n");
  rest = frames.pop();
  for (const frame of frames) {
    const field = (name) => frame.match(new RegExp(`^${name}: ?(.*)$`, "m"))?.[1];
    if (field("event") === "error") throw new Error(field("data"));
    if (field("event") !== "event") continue;
    const { event } = JSON.parse(field("data"));
    await answer(event);
    await writeFile(`${TRUNKLINE_STATE}.new`, event.revision);
    await rename(`${TRUNKLINE_STATE}.new`, TRUNKLINE_STATE);
  }
}
throw new Error("the daemon ended the stream");
