"""Tells in five seconds how tfrec answers a request, with a recording of a real release.

    python3 scripts/demo.py
    python3 scripts/demo.py --fast
    python3 scripts/demo.py --recording=mine.json

Needs no installation: Python 3.8 or newer and its standard library. Nothing is computed here:
the answers were recorded by scripts/docs/record_demo.py from a release bundle. To compute your own:
make quickstart.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import time

RECORDING = pathlib.Path(__file__).resolve().parent.parent / "docs" / "demo_recording.json"
SECONDS = 5.0
WIDTH = 40
ARCHITECTURE = """
  raw log --> encoder --> TFRecords + ad catalogue
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
    parser.add_argument("--fast", action="store_true", help="without the pauses of a terminal")
    parser.add_argument("--recording", default=str(RECORDING), help="what to replay")
    arguments = parser.parse_args()
    parts = list(story(read(arguments.recording)))
    pause = 0.0 if arguments.fast or not sys.stdout.isatty() else SECONDS / len(parts)
    for title, lines in parts:
        print(bold(title))
        print("\n".join(lines) + "\n", flush=True)
        time.sleep(pause)


def read(path: str) -> dict:
    """Reads a recording; leaves with a message where it is none."""
    try:
        with open(path, encoding="utf-8") as file:
            recording = json.load(file)
        return {name: recording[name] for name in ("recorded", "release", "acts", "latency")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(
            f"error: {path}: expected a recording of scripts/docs/record_demo.py ({error!r}); "
            "leave --recording out to replay the one that comes with tfrec."
        )


def story(recording: dict):
    """Yields the parts, each a title and lines."""
    release, acts = recording["release"], recording["acts"]
    yield "tfrec: from a log of shown ads to ten ranked ads", ARCHITECTURE.splitlines()[1:]
    yield (
        f"What follows is a RECORDING of {recording['recorded']}, not a computation",
        about(release),
    )
    first = acts[0]
    fields = first["request"]["context"]
    shown = ", ".join(f"{name}={value}" for name, value in list(fields.items())[:8])
    yield (
        "A held-out request",
        [f"  {shown}, ... ({len(fields)} fields)"],
    )
    yield "Its way through the stages", waterfall(first["answer"]["stage_ms"])
    before = {}
    for act in acts:
        title = "Ten ads, " + act["title"]
        yield title, table(act["answer"], before)
        before = before or places(act["answer"])
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
    """Returns what was measured of the release that was recorded."""
    lines = [
        f"  release {release['version']} (training {release['training_id']}) of the log "
        f"{release['log']!r}: {release['ads']:,} ads, index {release['index']}"
    ]
    truth = release["click_auc_of_the_truth"]
    beside = "" if truth is None else f" (the planted truth reaches {truth:.4f})"
    lines.append(
        f"  click AUC {release['click_auc']:.4f}{beside} on "
        f"{release['impressions_tested']:,} held-out impressions"
    )
    recall = ", ".join(
        f"{name.replace('_', '-')} {value:.3f}" for name, value in release["recall_at_500"].items()
    )
    return [*lines, "  recall@500 of held-out clicks, whole catalogue: " + recall]


def waterfall(stages: dict) -> list:
    """Draws the stages' times one after another."""
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


def places(answer: dict) -> dict:
    """Returns the rank of each ad."""
    return {ad["ad_id"]: ad["rank"] for ad in answer["ads"]}


def table(answer: dict, before: dict) -> list:
    """Returns an answer as a table; `before` are the ranks of the first one."""
    lines = []
    if answer["degraded"]:
        lines.append(f"  degraded, and the answer says so: {answer['degraded']}")
    lines.append("  rank  ad              utility    click   engage  revenue  similarity")
    for ad in answer["ads"]:
        scores = (ad["utility"], ad["click_probability"], ad["engagement_probability"])
        scores = (*scores, ad["expected_revenue"])
        cells = "".join(f"{number(score):>9}" for score in scores)
        came = ""
        if before:
            was = before.get(ad["ad_id"])
            came = "  new" if was is None else "" if was == ad["rank"] else f"  was {was}"
        ad_id, similarity = ad["ad_id"][:14], ad["retrieval_score"]
        lines.append(f"  {ad['rank']:4}  {ad_id:14}{cells}{similarity:12.3f}{came}")
    return lines


def number(value) -> str:
    """Returns a score, or a dash where there is none."""
    return "-" if value is None else f"{value:.4f}"


def bold(text: str) -> str:
    """Returns a title, bold on a terminal unless NO_COLOR is set."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        return f"\033[1m{text}\033[0m"
    return text


if __name__ == "__main__":
    main()
