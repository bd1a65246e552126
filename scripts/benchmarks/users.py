"""Measures the latency that a user store adds to a request, over HTTP and through all stages.

    make quickstart
    python scripts/benchmarks/users.py --bundle=workdir/quickstart/bundle
    valkey-server --save '' --port 6380 &
    python scripts/benchmarks/users.py --bundle=workdir/quickstart/bundle \
        --stores=sqlite:/tmp/users.db,redis://127.0.0.1:6380/0

Fills each store with --num_users users, unless it has them: a profile, --num_actions clicks and as
many impressions each; for a million users this takes five minutes and 1.4 GB. Then sends three
kinds of requests in turn, one after another, each for a different user: with all fields, with only
the id of its user, and with a frequency cap, which reads the impressions, too. The service records
the impressions of all answers to requests with an id, as by default. Prints a table, and JSON as
the last line: times, their differences from the first kind, and the numbers of requests by state of
the user's data.
"""

import asyncio
import collections
import json
import pathlib
import random
import time
from typing import Any

from absl import flags
from workload import fresh_process, harness, poisson_load, running_service

from serving import cli, releases, users
from serving.config import UserStoreConfig
from serving.users import StoredEvent

flags.DEFINE_string("bundle", "workdir/quickstart/bundle", "Base directory of the bundles.")
flags.DEFINE_list("stores", ["sqlite:workdir/benchmark_users.db"], "Addresses of user stores.")
flags.DEFINE_integer("num_users", 1_000_000, "Number of users in a store.", lower_bound=10)
flags.DEFINE_integer(
    "num_actions",
    10,
    "Number of clicks of each user.",
    lower_bound=1,
    upper_bound=UserStoreConfig().max_actions,
)
flags.DEFINE_integer("num_requests", 2_000, "Number of requests of each kind.", lower_bound=10)
FLAGS = flags.FLAGS

_USERS_PER_WRITE = 1_000
_CONCURRENT = 50
_WARM_UP = 150
_CAP = {"frequency_caps": [{"max": 3, "hours": 24}]}
KINDS = ("carries everything", "id alone", "id and a cap")


def main() -> None:
    base = pathlib.Path(FLAGS.bundle)
    rows = []
    for address in FLAGS.stores:
        profiles, contexts, ad_ids = fresh_process.call(_samples, base)
        filled = asyncio.run(_fill(address, profiles, ad_ids))
        bodies = _bodies(profiles, contexts)
        with running_service.serve(base, f"--user_store={address}") as (url, _):
            target = poisson_load.Target(url, bodies)
            count = FLAGS.num_requests * len(KINDS)
            raw = fresh_process.call(poisson_load.one_by_one, target, count, _WARM_UP)
        rows.append({"store": address.partition(":")[0], **_summary(raw), **filled})
    result = {"num_users": FLAGS.num_users, "num_actions": FLAGS.num_actions, "stores": rows}
    table = [{"store": row["store"], **kind} for row in rows for kind in row["kinds"]]
    columns = ("p50_ms", "p99_ms", "p50_more_ms", "p99_more_ms", "store_p50_ms", "store_p99_ms")
    harness.print_rows(table, {"store": "", "kind": "", **dict.fromkeys(columns, ".2f")})
    harness.print_json(result)


def _samples(base: pathlib.Path) -> tuple[list[dict], list[dict], list[str]]:
    """Returns profiles and contexts of sample requests, and ids of ads."""
    release = releases.load(base)
    requests = release.manifest.probes["requests"]
    names = [field["name"] for field in release.manifest.query_fields]
    user_names = names[: len(names) // 2]
    return (
        [{name: query.get(name) for name in user_names} for query in requests],
        [{name: query.get(name) for name in names if name not in user_names} for query in requests],
        release.ad_index.ad_ids(range(min(1_000, release.manifest.index["num_ads"]))),
    )


def _user_id(number: int) -> str:
    # A store that was filled with other numbers of actions does not have these users.
    return f"user-{FLAGS.num_actions}-{number}"


async def _fill(address: str, profiles: list[dict], ad_ids: list[str]) -> dict[str, Any]:
    """Fills a store; returns the time that it took."""
    store = users.open_store(address)
    chance = random.Random(1)
    started = now = time.time()
    last = await store.read(_user_id(FLAGS.num_users - 1), now)
    first = FLAGS.num_users if last.is_known else 0
    for start in range(first, FLAGS.num_users, _USERS_PER_WRITE):
        numbers = range(start, min(start + _USERS_PER_WRITE, FLAGS.num_users))
        events = [
            (_user_id(number), StoredEvent(f"{kind}{at}", kind, chance.choice(ad_ids), now - at))
            for number in numbers
            for kind in ("click", "impression")
            for at in range(FLAGS.num_actions)
        ]
        await store.append(events, now)
        for at in range(0, len(numbers), _CONCURRENT):
            await asyncio.gather(
                *(
                    store.set_profile(_user_id(number), profiles[number % len(profiles)], now)
                    for number in numbers[at : at + _CONCURRENT]
                )
            )
    await store.close()
    return {"fill_seconds": round(time.time() - started)}


def _bodies(profiles: list[dict], contexts: list[dict]) -> list[bytes]:
    """Returns the bodies of requests, of each kind in turn."""
    chance = random.Random(2)
    bodies = []
    for _ in range(FLAGS.num_requests + _WARM_UP):
        numbers = [chance.randrange(FLAGS.num_users) for _ in KINDS]
        context = {"context": contexts[numbers[0] % len(contexts)], "k": 10}
        carried, alone, capped = numbers
        bodies += [
            {"user": profiles[carried % len(profiles)], **context},
            {"user_id": _user_id(alone), **context},
            {"user_id": _user_id(capped), "rules": _CAP, **context},
        ]
    return [json.dumps(body).encode() for body in bodies]


def _summary(raw: dict[str, Any]) -> dict[str, Any]:
    kinds: list[dict[str, Any]] = []
    for at, kind in enumerate(KINDS):
        latencies = harness.percentiles(raw["milliseconds"][at :: len(KINDS)])
        read = [stages["users"] for stages in raw["stage_ms"][at :: len(KINDS)] if at]
        base = kinds[0] if kinds else latencies
        more = {
            name.replace("_ms", "_more_ms"): round(value - base[name], 3)
            for name, value in latencies.items()
        }
        store = {f"store_{name}": value for name, value in harness.percentiles(read).items()}
        kinds.append({"kind": kind, **latencies, **more, **store})
    states = collections.Counter(raw["user_data"])
    return {"kinds": kinds, "failed": raw["failed"], "user_data": dict(states)}


if __name__ == "__main__":
    cli.run(main)
