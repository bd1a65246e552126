"""Shows in five seconds how tfrec answers a request, with a recording of a real release.

    python3 scripts/demo.py
    python3 scripts/demo.py --fast
    python3 scripts/demo.py --recording=mine.json

Needs Python 3.8 or newer and nothing else. Nothing is computed: scripts/docs/record_demo.py
recorded the answers from a release bundle. `make quickstart` computes your own.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import sys
import time

RECORDING = pathlib.Path(__file__).resolve().parent.parent / "docs" / "demo_recording.json"
SECONDS = 5.0
WIDTH = 40
ARCHITECTURE = """
  raw log --> encoder --> TFRecords + ad catalog
                              |
              +---------------+----------------+
              v                                v
       two-tower model                  ranker: attention,
       (TFRS softmax)                   three calibrated heads
              |                                |
              v                                v
  RELEASE:  query_tower/N    ad_index/N    ranker/N    manifests/N.json
              |                  |             |
  request --> embedding --> FAISS: 500 --> scores --> utility --> ten ads
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fast", action="store_true", help="do not pause between the parts")
    parser.add_argument("--recording", default=str(RECORDING), help="recording to replay")
    # `head` may close the output early; Windows has no such signal.
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    arguments = parser.parse_args()
    parts = list(story(read(arguments.recording)))
    pause = 0.0 if arguments.fast or not sys.stdout.isatty() else SECONDS / len(parts)
    for title, lines in parts:
        print(bold(title))
        print("\n".join(lines) + "\n", flush=True)
        time.sleep(pause)


def read(path: str) -> dict:
    """Reads a recording; exits with a message if the file is not one."""
    try:
        with open(path, encoding="utf-8") as file:
            recording = json.load(file)
        return {name: recording[name] for name in ("recorded", "release", "acts", "latency")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(
            f"error: {path}: expected a recording of scripts/docs/record_demo.py ({error!r}). "
            "Without --recording, the one that comes with tfrec is replayed."
        )


def story(recording: dict):
    """Yields the parts of the story: a title and lines each."""
    release, acts = recording["release"], recording["acts"]
    yield "tfrec: from a log of shown ads to ten ranked ads", ARCHITECTURE.splitlines()[1:]
    yield (
        f"This is a RECORDING of {recording['recorded']}, not a computation",
        about(release),
    )
    first = acts[0]
    fields = first["request"]["context"]
    shown = ", ".join(f"{name}={value}" for name, value in list(fields.items())[:8])
    yield (
        "A held-out request",
        [f"  {shown}, ... ({len(fields)} fields)"],
    )
    yield "Time of each stage", waterfall(first["answer"]["stage_ms"])
    first_ranks = {}
    for act in acts:
        yield "Ten ads, " + act["title"], table(act["answer"], release["heads"], first_ranks)
        first_ranks = first_ranks or ranks(act["answer"])
    latency = recording["latency"]
    yield (
        "Speed, as recorded",
        [
            f"  {latency['requests']} requests one after another: p50 {latency['p50_ms']:.1f} ms, "
            f"p99 {latency['p99_ms']:.1f} ms"
        ],
    )
    yield "Compute your own", ["  make quickstart     # log, training, release, ten ranked ads"]


def about(release: dict) -> list:
    """Returns the metrics of the recorded release."""
    lines = [
        f"  release {release['version']} (training {release['training_id']}) of the log "
        f"{release['log']!r}: {release['ads']:,} ads, index {release['index']}"
    ]
    best = release["click_auc_of_the_ground_truth"]
    ceiling = "" if best is None else f" (the ground truth reaches {best:.4f})"
    lines.append(
        f"  click AUC {release['click_auc']:.4f}{ceiling} on "
        f"{release['impressions_tested']:,} held-out impressions"
    )
    recall = ", ".join(
        f"{name.replace('_', '-')} {value:.3f}" for name, value in release["recall_at_500"].items()
    )
    return [*lines, f"  recall@500 of {release['recall_of']}, among all ads: {recall}"]


def waterfall(stages: dict) -> list:
    """Draws the times of the stages as consecutive bars."""
    total = stages.get("total", sum(stages.values()))
    lines, begun = [], 0.0
    for name, value in stages.items():
        if name == "total":
            lines.append(f"  {name:14}{value:6.1f} ms")
            continue
        offset = int(WIDTH * begun / total)
        bar = "#" * max(1, round(WIDTH * value / total))
        lines.append(f"  {name:14}{value:6.1f} ms  {' ' * offset}{bar}")
        begun += value
    return lines


def ranks(answer: dict) -> dict:
    """Returns the rank of each ad."""
    return {ad["ad_id"]: ad["rank"] for ad in answer["ads"]}


def table(answer: dict, heads: dict, first_ranks: dict) -> list:
    """Returns an answer as a table, with the rank of each ad in the first answer.

    Args:
        answer: The answer.
        heads: Head -> field with its score.
        first_ranks: Ad id -> rank in the first answer; empty: this is the first answer.
    """
    lines = []
    if answer["degraded"]:
        lines.append(f"  degraded: {answer['degraded']}")
    titles = "".join(f"{title:>11}" for title in ("utility", *heads, "similarity"))
    lines.append(f"  rank  {'ad':30}{titles}")
    for ad in answer["ads"]:
        scores = (ad["utility"], *(ad[field] for field in heads.values()), ad["retrieval_score"])
        cells = "".join(f"{number(score):>11}" for score in scores)
        moved = ""
        if first_ranks:
            first = first_ranks.get(ad["ad_id"])
            moved = "  new" if first is None else "" if first == ad["rank"] else f"  was {first}"
        name = ad.get("show", {}).get("title") or ad["ad_id"]
        lines.append(f"  {ad['rank']:4}  {name[:30]:30}{cells}{moved}")
    return lines


def number(value) -> str:
    """Formats a score; a dash if there is none."""
    return "-" if value is None else f"{value:.4f}"


def bold(text: str) -> str:
    """Returns a title, bold on a terminal unless NO_COLOR is set."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        return f"\033[1m{text}\033[0m"
    return text


if __name__ == "__main__":
    main()
