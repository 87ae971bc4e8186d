// SPDX-License-Identifier: Apache-2.0
// A messaging core that answers every text with its echo, over HTTP and JSON: nothing but Node.
//
// TRUNKLINE_URL (default http://127.0.0.1:7433) and TRUNKLINE_TOKEN say where and as whom. It keeps no state:
// events are leased, answered, and acknowledged once their answers are stored. What it did not acknowledge
// comes again, also to another process, and makes the same answer, by its id.
const { TRUNKLINE_URL = "http://127.0.0.1:7433", TRUNKLINE_TOKEN } = process.env;
if (!TRUNKLINE_TOKEN) throw new Error("TRUNKLINE_TOKEN is not set");
const headers = { authorization: `Bearer ${TRUNKLINE_TOKEN}` };
const subscription = "workspaces/default/subscriptions/default";

async function call(path, body) {
  const response = await fetch(`${TRUNKLINE_URL}/v1/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`${path}: ${await response.text()}`);
  return response.json();
}

async function answer({ eventId, session, message }) {
  const text = message?.content?.text?.text;
  if (text === undefined || message.fromMe) return;
  const to = { jid: message.chat.lid ?? message.chat.pnJid };
  await call(`${session}/messages`, { requestId: eventId, to, text: { text: `echo: ${text}` }, priority: "PRIORITY_REPLY" });
}

for (;;) {
  const { leases } = await call(`${subscription}:lease`, { maxEvents: 20, wait: "30s" });
  for (const { event } of leases) await answer(event);
  const ackIds = leases.map(({ ackId }) => ackId);
  if (ackIds.length > 0) await call(`${subscription}:settle`, { ack: { ackIds } });
}
