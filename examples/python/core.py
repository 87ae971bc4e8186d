# SPDX-License-Identifier: Apache-2.0
"""A messaging core that answers every text with its echo.

TRUNKLINE_ADDRESS (default 127.0.0.1:7433) and TRUNKLINE_TOKEN say where and as whom. An event is
acknowledged once its answer is stored; should it come again, its id makes the same answer.
"""

import os
import queue

import grpc
from trunkline.v1 import event_service_pb2 as ev
from trunkline.v1 import event_service_pb2_grpc as ev_grpc
from trunkline.v1 import message_pb2
from trunkline.v1 import message_service_pb2 as msg
from trunkline.v1 import message_service_pb2_grpc as msg_grpc
from trunkline.v1 import person_pb2

auth = [("authorization", "Bearer " + os.environ["TRUNKLINE_TOKEN"])]
channel = grpc.insecure_channel(os.environ.get("TRUNKLINE_ADDRESS", "127.0.0.1:7433"))
messages = msg_grpc.MessageServiceStub(channel)


def answer(event):
    """Answers a text; everything else is only acknowledged."""
    message = event.message
    if message.from_me or message.content.WhichOneof("content") != "text":
        return
    messages.SendMessage(msg.SendMessageRequest(
        parent=event.session,
        request_id=event.event_id,
        to=person_pb2.Recipient(jid=message.chat.lid or message.chat.pn_jid),
        text=message_pb2.TextContent(text="echo: " + message.content.text.text),
        priority=message_pb2.PRIORITY_REPLY), metadata=auth)


say = queue.SimpleQueue()
say.put(ev.PullRequest(open=ev.PullOpen(
    subscription="workspaces/default/subscriptions/default", max_events=100, max_bytes=1 << 20)))
for frame in ev_grpc.EventServiceStub(channel).Pull(iter(say.get, None), metadata=auth):
    for lease in frame.leases.leases:
        answer(lease.event)
        say.put(ev.PullRequest(ack=ev.PullAck(ack_ids=[lease.ack_id])))
