"""Adds, changes and removes ads of a release while it is served.

    tfrec update_index --workdir=workdir/quickstart --add=ads.jsonl --remove=ids.txt
    tfrec update_index --bundle=bundles --add=ads.csv --measure_recall

Takes seconds, mostly to load the release; the ad tower embeds about a thousand new ads a second.
Running services apply the update with their next request. If an ad is invalid, nothing is applied.

--add    .jsonl: one ad per line, {"ad_id": "ad-17", "fields": {"advertiser": "a9", "price": 12.5}},
         as in an answer. .csv: the column ad_id and one column per field; lists are joined with the
         schema's separator. An existing ad is replaced; a field that is left out is missing.
--remove One ad id per line.

Prints the changes, the number of live ads, and whether to export a new release. --measure_recall
compares the live index with exact search, on queries that the export has stored.
"""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from absl import flags

from serving import manifest
from serving.cli import command_line
from serving.cli.flags import bundle_flags
from tfrecords.schema import numbers_of

flags.adopt_module_key_flags(bundle_flags)
flags.DEFINE_string("add", None, "File of ads to add or change: .jsonl or .csv.")
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
    if path.suffix == ".jsonl":
        return [
            _parse(path, number, line)
            for number, line in enumerate(command_line.read_lines(path), 1)
        ]
    if path.suffix == ".csv":
        try:
            return list(_read_csv(path, release))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: expected a CSV file in UTF-8 ({error}).") from error
    raise ValueError(f"--add: expected a .jsonl or .csv file, got {path}.")


def _parse(path: pathlib.Path, number: int, line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"{path}, ad {number}: expected JSON, got invalid JSON ({error})."
        ) from error


def _read_csv(path: pathlib.Path, release: manifest.Manifest) -> Iterator[dict[str, Any]]:
    separators = {
        field["name"]: field.get("separator", "|") for field in release.schema.get("fields", ())
    }
    # Excel starts a file with a byte order mark.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        names = reader.fieldnames or []
        known = [*release.ad_kinds, "ad_id"]
        unknown = [name for name in names if name not in known]
        if "ad_id" not in names or unknown or len(set(names)) < len(names):
            raise ValueError(
                f"{path}: expected the column ad_id and columns of {list(release.ad_kinds)}, each "
                f"once, got {list(names)}."
            )
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"{path}, line {reader.line_num}: expected {len(names)} values, like the "
                    "header line."
                )
            fields = {
                name: _value(f"{path}, line {reader.line_num}, {name}", kind, row[name], separators)
                for name, kind in release.ad_kinds.items()
                if name in row
            }
            yield {"ad_id": row["ad_id"], "fields": fields}


def _value(place: str, kind: str, text: str, separators: dict[str, str]) -> Any:
    if not text:
        return None
    separator = separators.get(place.rsplit(", ", 1)[1], "|")
    if kind == "categorical_list":
        return text.split(separator)
    if kind in ("categorical", "text"):
        return text
    try:
        return numbers_of(text, separator) if kind == "dense" else float(text)
    except ValueError as error:
        raise ValueError(f"{place}: expected a number, got {text!r}.") from error
