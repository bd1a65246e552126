r"""Moves events from a stream of Redis or Valkey into the user store.

    tfrec serve --workdir=workdir/quickstart --user_store=sqlite:workdir/users.db
    tfrec consume_events --stream_server=redis://127.0.0.1:6379/0 \
        --user_store=sqlite:workdir/users.db --feedback_log=workdir/impressions
    valkey-cli XADD tfrec.events '*' event \
        '{"event_id": "e1", "user_id": "u17", "ad_id": "ad-3", "event": "click"}'

Runs until SIGTERM or Ctrl-C. An event affects its user's answers within a second. Each entry of the
stream has a field `event`: the JSON of one event, as in POST /v1/events. Processes with the same
--group share the work. An entry is acknowledged after its event has been stored, so no event is
lost, and duplicates count once. Entries that are not events are logged and skipped; they stay in
the stream, where XRANGE shows them. Events more than 5 minutes ahead of this host's clock wait in
the stream; events more than 35 minutes ahead of it and of the server's clock are skipped. If each
host has its own store, give each host its own --group. Trim the stream where it is written, for
example with XADD MAXLEN ~ 1000000.
"""

import asyncio
import logging
import signal
import socket

from absl import flags

from serving import redis_address
from serving.cli import command_line
from serving.cli.flags import user_flags

flags.adopt_module_key_flags(user_flags)
flags.DEFINE_string(
    "stream_server",
    None,
    "Server of the stream: redis://HOST:PORT/DATABASE; default: the environment variable "
    "TFREC_STREAM_SERVER.",
)
flags.DEFINE_string("stream", "tfrec.events", "Name of the stream.")
flags.DEFINE_string("group", "tfrec", "Group of readers; each group reads every event.")
flags.DEFINE_string(
    "member",
    socket.gethostname(),
    "Name of this reader in its group; the same after a restart, and unique to each process.",
)
flags.DEFINE_string(
    "feedback_log",
    None,
    "Directory for the log of events, as tfrec join_feedback and tfrec rebuild_users read it.",
)
FLAGS = flags.FLAGS


def main() -> None:
    asyncio.run(_consume(_stream_server(), user_flags.required_user_store()))


def _stream_server() -> str:
    address = command_line.address_of_flag("stream_server")
    if address is None:
        raise ValueError(
            "Expected the server of the stream, got none. Set --stream_server or the environment "
            "variable TFREC_STREAM_SERVER, which hides a password from other users of the machine."
        )
    if not redis_address.names_server(address):
        raise ValueError(
            f"--stream_server is {redis_address.without_secrets(address)!r}; expected "
            "redis://HOST:PORT/DATABASE, or rediss:// for TLS."
        )
    return address


async def _consume(stream_server: str, user_store: str) -> None:
    from serving import impressions, orchestrator, users

    logging.getLogger().setLevel(logging.INFO)  # The consumer logs its progress once a minute.
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    with command_line.require_extra("redis"):
        data = orchestrator.UserData(users.open_store(user_store))
        reader = users.StreamReader(stream_server, FLAGS.stream, FLAGS.group, FLAGS.member)
    feedback = impressions.FeedbackLog(FLAGS.feedback_log) if FLAGS.feedback_log else None
    consumer = orchestrator.EventConsumer(reader, orchestrator.EventIntake(data, feedback))
    print(f"reading {FLAGS.stream} as {FLAGS.member} of the group {FLAGS.group}", flush=True)
    try:
        await consumer.run(stopping)
    finally:
        await reader.close()
        await data.close()
    print(consumer.summary())
