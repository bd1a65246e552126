"""Adds, changes and removes ads of a release while it is served.

    tfrec update_index --workdir=workdir/quickstart --add=ads.jsonl --remove=ids.txt
    tfrec update_index --bundle=bundles --add=ads.csv --measure_recall

Takes seconds, mostly to load the release; the ad tower embeds about a thousand new ads a second.
Running services apply the update with their next request. If an ad is invalid, nothing is applied.

--add    A table of ads as for tfrec convert --ads_path: CSV, TSV, JSON lines or Parquet with the
         columns that the schema names; others are ignored. Or JSON lines as in an answer:
         {"ad_id": "ad-17", "fields": {"advertiser": "a9", "price": 12}, "show": {"title": "Shoe"}}
         A table may also have the column ad_id, and columns named as the fields. An existing ad is
         replaced; a field that is left out is missing.
--remove One ad id per line.

Prints the changes, the number of live ads, and whether to export a new release. --measure_recall
compares the live index with exact search, on queries that the export has stored.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from serving import manifest
from serving.cli import command_line
from serving.cli.flags import bundle_flags
from tfrecords import schema

if TYPE_CHECKING:
    import pyarrow as pa

flags.adopt_module_key_flags(bundle_flags)
flags.DEFINE_string("add", None, "Table of ads to add or change: CSV, TSV, JSON lines or Parquet.")
flags.DEFINE_string("remove", None, "File of ids of ads to remove, one per line.")
flags.DEFINE_bool("measure_recall", False, "Measure the recall of the live index.")
flags.DEFINE_bool("json", False, "Print only the changes, as JSON.")
FLAGS = flags.FLAGS


def main() -> None:
    from serving import releases
    from serving.live import LiveIndex

    base = bundle_flags.bundle_base()
    release = releases.load(base, FLAGS.version)
    # Both files are read first, so that an unreadable file changes nothing.
    ads = _read_ads(pathlib.Path(FLAGS.add), release.manifest) if FLAGS.add else []
    removed = command_line.read_lines(pathlib.Path(FLAGS.remove)) if FLAGS.remove else []
    live = LiveIndex(release)
    applied = live.update(ads, removed) if ads or removed else None
    recall = live.measure_recall() if FLAGS.measure_recall else None
    status = live.status()
    if FLAGS.json:
        done = None if applied is None else dataclasses.asdict(applied)
        command_line.print_json({"applied": done, "recall_at_500": recall, "live": status})
        return
    if applied is not None:
        unknown = f", {applied.unknown:,} not found" if applied.unknown else ""
        print(
            f"release {release.version}: {applied.added:,} ads added, {applied.changed:,} changed, "
            f"{applied.removed:,} removed{unknown}"
        )
    if recall is not None:
        print(f"recall at 500 of the live index: {recall:.4f}")
    print(
        f"live: {status['num_ads']:,} ads; {status['added']:,} of them added or changed, "
        f"{status['removed_or_changed']:,} of the release removed or changed"
    )
    if status["cut_bytes"]:
        print(
            f"interrupted updates left {status['cut_bytes']:,} bytes, which were never "
            f"acknowledged; they are kept in {base}/live/{release.version}/cut-*"
        )
    if status["rebuild_suggested"]:
        print(f"a new release should be exported: {status['rebuild_suggested']}")


def _read_ads(path: pathlib.Path, release: manifest.Manifest) -> list[dict[str, Any]]:
    from tfrecords import formats

    if path.suffix == ".jsonl":
        lines = command_line.read_lines(path)
        first = _parse(path, 1, lines[0]) if lines else {}
        if isinstance(first, dict) and set(first) <= {"ad_id", "fields", "show"}:
            return [_parse(path, number, line) for number, line in enumerate(lines, 1)]
    names = formats.column_names(path, ())
    feed = _schema_of_feed(release, names)
    names = formats.column_names(path, feed.columns)
    lacking = [f.source for f in feed.ad_fields if f.source not in names]
    if len(lacking) == len(feed.ad_fields) or not set(feed.ad_key) <= set(names):
        raise ValueError(
            f"{path}: expected the columns {[*feed.ad_key, *lacking]}, or ad_id and columns of "
            f"{list(release.ad_kinds)}, got {list(names)}."
        )
    if lacking and not FLAGS.json:
        print(f"{path} has no columns {lacking}; these fields are missing in its ads.")
    return _ads_of(formats.FORMATS.get("tabular").read_ads(formats.Files((), ads=path), feed), feed)


def _schema_of_feed(release: manifest.Manifest, names: Sequence[str]) -> schema.Schema:
    """Returns the schema by which a table of ads is read: that of the log, or of answers."""
    options = {field["name"]: field for field in release.schema.get("fields", ())}
    key = release.schema.get("ad_key", ["ad_id"])
    as_answers = "ad_id" in names and not set(key) <= set(names)
    left_out = ("column", "calendar") if as_answers else ()
    fields = [
        {
            **{n: v for n, v in options.get(own["name"], {}).items() if n not in left_out},
            "name": own["name"],
            "kind": own["kind"],
            "side": side,
        }
        for side, of_side in (("query", release.query_fields), ("ad", release.ad_fields))
        for own in of_side
    ]
    return schema.schema_from_json(
        {
            "name": "feed",
            "fields": fields,
            "ad_key": ["ad_id"] if as_answers else key,
            "click": None,
            "decimal": release.schema.get("decimal"),
            "show": release.schema.get("show", ()),
        }
    )


def _ads_of(table: pa.Table, feed: schema.Schema) -> list[dict[str, Any]]:
    from tfrecords import conversion, reader

    fields = [field.name for field in feed.ad_fields]
    return [
        {
            "ad_id": row[reader.AD_ID],
            # An empty list is missing, as in the columns of other kinds.
            "fields": {name: None if row[name] == [] else row[name] for name in fields},
            "show": json.loads(row.get(schema.SHOWN) or "{}"),
        }
        for row in conversion.ads_of_table(feed, table).to_pylist()
    ]


def _parse(path: pathlib.Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"{path}, ad {number}: expected JSON, got invalid JSON ({error})."
        ) from error
