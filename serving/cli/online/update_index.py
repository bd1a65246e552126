"""Changes ads and rates of a release while it is served.

    tfrec update_index --workdir=workdir/quickstart --add=ads.jsonl --remove=ids.txt
    tfrec update_index --bundle=bundles --add=ads.csv --measure_recall
    tfrec update_index --bundle=bundles --rates=rates.csv

Takes seconds, mostly to load the release; the ad tower embeds about a thousand new ads a second.
Running services apply the update with their next request; with --update_channel, services on other
hosts do so as well. If an ad is invalid, nothing is applied.

--add    A table of ads as for tfrec convert --ads_path: CSV, TSV, JSON lines or Parquet with the
         columns that the schema names; others are ignored. Or JSON lines as in an answer:
         {"ad_id": "ad-17", "fields": {"advertiser": "a9", "price": 12}, "show": {"title": "Shoe"}}
         A table may also have the column ad_id, and columns named as the fields. An existing ad is
         replaced; a field that is left out is missing, but a rate keeps its released value.
--remove One ad id per line.
--rates  A table with a field of the ad and rates of it, such as category and category_click_rate:
         numbers from 0 to 1, computed as described in docs/data.md under Rates. Ads with these
         values have these rates, regardless of --add, until the rate is set again. Other values
         keep the rate of the release, as do values that are too rare for models to distinguish.
         Filters do not see the updated rates.

Prints the changes, the number of live ads, and whether to export a new release. --measure_recall
compares the live index with exact search, on queries that the export has stored.
"""

import dataclasses
import pathlib

from absl import flags

from serving.cli import ad_feeds, command_line
from serving.cli.flags import bundle_flags, update_flags

flags.adopt_module_key_flags(bundle_flags)
flags.adopt_module_key_flags(update_flags)
flags.DEFINE_string("add", None, "Table of ads to add or change: CSV, TSV, JSON lines or Parquet.")
flags.DEFINE_string("remove", None, "File with the ids of ads to remove, one per line.")
flags.DEFINE_string("rates", None, "Table of an ad field and its rates.")
flags.DEFINE_bool("measure_recall", False, "Measure the recall of the live index.")
flags.DEFINE_bool("json", False, "Print only the changes, as JSON.")
FLAGS = flags.FLAGS


def main() -> None:
    from serving import releases
    from serving.live import LiveIndex, open_channel

    base = bundle_flags.bundle_base()
    release = releases.load(base, FLAGS.version)
    # Both files are read first, so that an unreadable file changes nothing.
    ads, lacking = (
        ad_feeds.read_ads(pathlib.Path(FLAGS.add), release.manifest) if FLAGS.add else ([], [])
    )
    if lacking and not FLAGS.json:
        print(f"{FLAGS.add} has no columns {lacking}; these fields are missing in its ads.")
    removed = command_line.read_lines(pathlib.Path(FLAGS.remove)) if FLAGS.remove else []
    rates = ad_feeds.read_rates(pathlib.Path(FLAGS.rates), release.manifest) if FLAGS.rates else {}
    live = LiveIndex(release, channel=open_channel(update_flags.update_channel(), release))
    applied = live.update(ads, removed, rates) if ads or removed or rates else None
    recall = live.measure_recall() if FLAGS.measure_recall else None
    status = live.status()
    live.close()
    if FLAGS.json:
        done = None if applied is None else dataclasses.asdict(applied)
        command_line.print_json({"applied": done, "recall_at_500": recall, "live": status})
        return
    if applied is not None:
        unknown = ""
        if applied.unknown:
            more = ", …" if applied.unknown > len(applied.unknown_ids) else ""
            named = ", ".join(map(repr, applied.unknown_ids))
            unknown = f", {applied.unknown:,} not found ({named}{more})"
        if ads or removed:
            print(
                f"release {release.version}: {applied.added:,} ads added, {applied.changed:,} "
                f"changed, {applied.removed:,} removed{unknown}"
            )
    if recall is not None:
        print(f"recall at 500 of the live index: {recall:.4f}")
    print(
        f"live: {status['num_ads']:,} ads; {status['added']:,} of them added or changed, "
        f"{status['removed_or_changed']:,} of the release removed or changed"
    )
    for name, count in status["rates"].items():
        print(f"live: {name} is set for {count:,} values")
    if status["problem"]:
        print(f"updates of other hosts are not applied: {status['problem']}")
    if status["cut_bytes"]:
        print(
            f"interrupted updates left {status['cut_bytes']:,} bytes, which were never "
            f"acknowledged; they are kept in {base}/live/{release.version}/cut-*"
        )
    if status["rebuild_suggested"]:
        print(f"a new release should be exported: {status['rebuild_suggested']}")
