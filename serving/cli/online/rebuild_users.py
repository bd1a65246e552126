r"""Rebuilds a user store from the impression log and the logs of events.

    tfrec serve --workdir=workdir/quickstart --user_store=sqlite:workdir/users.db \
        --impression_log=workdir/impressions
    tfrec rebuild_users --impressions=workdir/impressions --user_store=sqlite:workdir/users.db \
        --profile_fields=country,age

Takes a minute for a million rows. The store may be empty or in use: existing events do not change,
and only the latest events of each user are kept. The ads of logged answers count as shown, unless
the log says that the service ran with --nostore_impressions; impressions that were sent as events
always count. The events come from the service's log (feedback-*.jsonl in the directory of the
impression log), or from JSON lines with the same keys: {"user_id": "u17", "ad_id": "ad-3",
"event_id": "e1", "time": 1.8e9, "click": 1}. An erased user reappears if the logs still contain the
user and the erasure was more than an hour ago.
"""

import asyncio
import dataclasses
import time

from absl import flags

from serving.cli import command_line
from serving.cli.flags import user_flags
from tfrecords import terminal

flags.adopt_module_key_flags(user_flags)
flags.DEFINE_string(
    "impressions",
    None,
    "The impression log: its directory, or a comma-separated list or pattern of its files.",
    required=True,
)
flags.DEFINE_string(
    "feedback",
    None,
    "Log of events: its directory, or a comma-separated list or pattern of its files; default: "
    "those in the directory of the impression log.",
)
flags.DEFINE_list(
    "profile_fields",
    [],
    "Query fields that describe the user; the latest values in the log become the profile.",
)
flags.DEFINE_bool("json", False, "Print only a summary, as JSON.")
FLAGS = flags.FLAGS


def main() -> None:
    from serving import operations, requests
    from serving.cli import impression_files

    user_store = user_flags.required_user_store()
    logged = impression_files.find("impressions", FLAGS.impressions)
    feedback = (
        impression_files.find_events("feedback", FLAGS.feedback)
        if FLAGS.feedback
        else sorted(
            path
            for directory in {file.parent for file in logged}
            for path in impression_files.events_in(directory)
        )
    )

    async def rebuild() -> operations.RebuiltUsers:
        from serving import users

        with command_line.require_extra("redis"):
            store = users.open_store(user_store)
        try:
            return await operations.rebuild_users(
                store, logged, feedback, FLAGS.profile_fields, time.time()
            )
        finally:
            await store.close()

    done = asyncio.run(rebuild())
    if FLAGS.json:
        command_line.print_json(dataclasses.asdict(done))
        return
    print(
        f"{terminal.format_count(done.impressions, 'impression')} and "
        f"{terminal.format_count(done.events, 'event')}, {done.added:,} of them added to the store"
        f"{requests.others_not_added(done.impressions + done.events - done.added)}"
    )
    profiles = "profile of a user", "profiles of users"
    print(f"{terminal.format_count(done.profiles, *profiles)} who had none")
    if done.not_shown:
        ads = terminal.format_count(done.not_shown, "ad of answers does", "ads of answers do")
        print(
            f"{ads} not count as shown, because the service ran "
            "with --nostore_impressions; impressions that were sent as events count"
        )
    if done.anonymous:
        nouns = "impression or event names", "impressions and events name"
        print(f"{terminal.format_count(done.anonymous, *nouns)} no user; left out")
    if done.ahead:
        print(
            f"Left out because they are more than {requests.MAX_SECONDS_AHEAD:g} s ahead of this "
            f"host's clock: {terminal.format_count(done.ahead, 'impression')}. Check the clocks"
        )
    if done.rejected:
        print(*operations.describe_rejected(done.rejected, done.examples), sep="\n  ")
