r"""Moves events from a stream of Redis or Valkey into the user store.

    tfrec serve --workdir=workdir/quickstart --user_store=sqlite:workdir/users.db
    tfrec consume_events --stream_server=redis://127.0.0.1:6379/0 \
        --user_store=sqlite:workdir/users.db --feedback_log=workdir/impressions
    valkey-cli XADD tfrec.events '*' event \
        '{"event_id": "e1", "user_id": "u17", "ad_id": "ad-3", "event": "click"}'

Runs until SIGTERM or Ctrl-C. An event is in the next answer of its user within a second. Each entry
of the stream has a field event, the JSON of an event of POST /v1/events. Entries are read by a
group, so that several processes share the work, and are acknowledged after the event was stored:
none is lost, and one that comes twice counts once. Entries that are no event are logged and left
out; the stream keeps them, as XRANGE shows. Events that are more than 5 minutes ahead of the clock
of this host wait in the stream; those that are more than 35 minutes ahead are left out. With a
store of each host, give each its own --group. Trim the stream where it is written, for example with
XADD MAXLEN ~ 1000000.
"""

import asyncio
import logging
import signal
import socket

from absl import flags

from serving import redis_address

flags.DEFINE_string(
    "stream_server", None, "Server of the stream: redis://HOST:PORT/DATABASE.", required=True
)
flags.DEFINE_string("stream", "tfrec.events", "Name of the stream.")
flags.DEFINE_string("group", "tfrec", "Group of readers; each group reads every event.")
flags.DEFINE_string(
    "member",
    socket.gethostname(),
    "Name of this reader in its group; the same after a restart, and another for each process.",
)
flags.DEFINE_string(
    "user_store", None, "The store: sqlite:PATH or redis://HOST:PORT/DATABASE.", required=True
)
flags.DEFINE_string(
    "feedback_log",
    None,
    "Directory for the events that name an answer, as tfrec join_feedback reads them.",
)
FLAGS = flags.FLAGS


def main() -> None:
    if not redis_address.names_server(FLAGS.stream_server):
        raise ValueError(
            f"--stream_server is {redis_address.without_secrets(FLAGS.stream_server)!r}; expected "
            "redis://HOST:PORT/DATABASE, or rediss:// for TLS."
        )
    asyncio.run(_consume())


async def _consume() -> None:
    from serving import impressions, orchestrator, users
    from serving.cli import extras

    logging.getLogger().setLevel(logging.WARNING)  # A server that does not answer is one.
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    with extras.require_extra("redis"):
        data = orchestrator.UserData(users.open_store(FLAGS.user_store))
        reader = users.StreamReader(FLAGS.stream_server, FLAGS.stream, FLAGS.group, FLAGS.member)
    feedback = impressions.FeedbackLog(FLAGS.feedback_log) if FLAGS.feedback_log else None
    consumer = orchestrator.EventConsumer(reader, orchestrator.EventIntake(data, feedback))
    print(f"reading {FLAGS.stream} as {FLAGS.member} of the group {FLAGS.group}", flush=True)
    try:
        await consumer.run(stopping)
    finally:
        await reader.close()
        await data.close()
    print(
        f"{consumer.received:,} events, of which {consumer.added:,} were new; "
        f"{consumer.rejected:,} entries were no events"
    )
