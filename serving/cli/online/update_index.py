"""Adds, changes and removes ads of the served releases.

    tfrec update_index --workdir=workdir/quickstart --add=ads.jsonl --remove=ids.txt
    tfrec update_index --bundle=bundles --add=ads.parquet --measure_recall

Takes seconds, mostly to load the releases; the ad tower embeds about a thousand new ads a second.
Running services apply the update with their next request; hosts that do not share the directory of
the bundles need the command on each of them. Without --version, only the stable release and the
canary are updated. If an ad is invalid for one of them, nothing is applied.

--add    Ads as JSON lines, as in an answer, or as Parquet with the columns ad_id, the names of ad
         fields, and the columns to show:
         {"ad_id": "ad-17", "fields": {"advertiser": "a9", "price": 12}, "show": {"title": "Shoe"}}
         An existing ad is replaced as a whole: fields that are left out become missing. Only rates
         keep their released values, and a field that is the ad key gets the ad id.
--remove File with one ad id per line.

Prints the changes of each release, the number of live ads, and whether to export a new release.
--measure_recall compares the live index with exact search on queries stored by the export.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from serving import errors
from serving.cli import command_line, shared_flags
from tfrecords import terminal

if TYPE_CHECKING:
    from serving import manifest
    from serving.live import Applied

shared_flags.define_release()
flags.DEFINE_string("add", None, "Ads to add or change, as JSON lines or Parquet.")
flags.DEFINE_string("remove", None, "File with the ids of ads to remove, one per line.")
flags.DEFINE_bool("measure_recall", False, "Measure the recall of the live index.")
flags.DEFINE_bool("json", False, "Print only the changes, as JSON.")
FLAGS = flags.FLAGS
FLAGS["version"].help = "Version of the release to change; default: the stable one and the canary."


def main() -> None:
    from serving import releases
    from serving.live import LiveIndex

    base = shared_flags.bundle_base()
    versions = [FLAGS.version]
    if FLAGS.version is None:
        pointer = releases.current_pointer(base)
        versions = [v for v in (pointer.stable, pointer.canary) if v is not None]
    removed = command_line.read_lines(pathlib.Path(FLAGS.remove)) if FLAGS.remove else []
    # All releases check the update first, so that an invalid one changes none of them.
    prepared = []
    for version in versions:
        with _named(version, versions, "No release was updated"):
            release = releases.load(base, version)
            ads = _read_ads(pathlib.Path(FLAGS.add), release.manifest) if FLAGS.add else []
            live = LiveIndex(release)
            update = live.prepare(ads, removed) if ads or removed else None
            prepared.append((version, live, update))
    results = []
    for version, live, update in prepared:
        with _named(version, versions, f"Release {version} was not updated"):
            applied = None if update is None else live.apply(update)
        recall = live.measure_recall() if FLAGS.measure_recall else None
        status = live.status()
        if FLAGS.json:
            changes = None if applied is None else dataclasses.asdict(applied)
            row = {"version": version, "applied": changes, "recall_at_500": recall}
            results.append({**row, "live": status})
            continue
        if FLAGS.add or FLAGS.remove:
            unchanged = "the files have no ads, so none was changed"
            print(f"release {version}: {_description(applied) if applied else unchanged}")
        _print_state(recall, status)
    if FLAGS.json:
        command_line.print_json({"releases": results})


def _read_ads(path: pathlib.Path, release: manifest.Manifest) -> list[Any]:
    """Reads ads in the form of answers, for `LiveIndex.prepare`."""
    import pyarrow.parquet as pq

    if path.suffix == ".jsonl":
        lines = enumerate(command_line.read_lines(path), 1)
        return [command_line.parse_json(line, f"{path}, ad {n}", "JSON") for n, line in lines]
    if path.suffix != ".parquet":
        raise ValueError(f"--add: expected a file .jsonl or .parquet, got {path}.")
    table = pq.read_table(path)
    shown = release.schema.get("show", ())
    fields = [name for name in table.column_names if name in release.ad_kinds]
    if "ad_id" not in table.column_names or not fields:
        raise ValueError(
            f"{path}: expected the columns ad_id and some of {list(release.ad_kinds)}, got "
            f"{table.column_names}."
        )
    return [
        {
            "ad_id": row["ad_id"],
            "fields": {name: row[name] for name in fields},
            "show": {name: row[name] for name in shown if name in row},
        }
        for row in table.to_pylist()
    ]


@contextlib.contextmanager
def _named(version: int, versions: Sequence[int], outcome: str) -> Iterator[None]:
    """Names the release and the outcome in errors if there are several releases."""
    try:
        yield
    except (ValueError, errors.ServingError) as error:
        if len(versions) == 1:
            raise
        raise errors.LiveIndexError(
            f"release {version}: {error} {outcome}; --version=N updates only release N."
        ) from error


def _description(applied: Applied) -> str:
    more = ", …" if applied.unknown > len(applied.unknown_ids) else ""
    unknown = f", {applied.unknown:,} not found ({', '.join(map(repr, applied.unknown_ids))}{more})"
    return (
        f"{terminal.format_count(applied.added, 'ad')} added, {applied.changed:,} changed, "
        f"{applied.removed:,} removed{unknown if applied.unknown else ''}"
    )


def _print_state(recall: float | None, status: Mapping[str, Any]) -> None:
    if recall is not None:
        print(f"recall at 500 of the live index: {recall:.4f}")
    num_ads = terminal.format_count(status["num_ads"], "ad")
    print(
        f"live: {num_ads}; {status['added']:,} of them added or changed, "
        f"{status['removed_or_changed']:,} of the release removed or changed"
    )
    if status["rebuild_suggested"]:
        print(f"a new release should be exported: {status['rebuild_suggested']}")
