"""Changes ads and rates of the served releases.

    tfrec update_index --workdir=workdir/quickstart --add=ads.jsonl --remove=ids.txt
    tfrec update_index --bundle=bundles --add=ads.csv --measure_recall
    tfrec update_index --bundle=bundles --rates=rates.csv

Takes seconds, mostly to load the releases; the ad tower embeds about a thousand new ads a second.
Running services apply the update with their next request; with --update_channel, services on other
hosts do so as well. Without --version, only the stable release and the canary are updated. If an ad
is invalid for one of them, nothing is applied.

--add    A table of ads as for tfrec convert --ads_path: CSV, TSV, JSON lines or Parquet with the
         columns that the schema names; others are ignored. Or JSON lines as in an answer:
         {"ad_id": "ad-17", "fields": {"advertiser": "a9", "price": 12}, "show": {"title": "Shoe"}}
         A table may also have the column ad_id, and columns with the names of the fields. An
         existing ad is replaced as a whole: fields that are left out become missing. Only rates
         keep their released values, and a field that is the ad key gets the ad id.
--remove File with one ad id per line.
--rates  A table with an ad field and its rates, such as category and category_click_rate. A rate is
         a number from 0 to 1, computed as described in docs/data.md under Rates. All ads with the
         value get the rate, regardless of --add. The table replaces the rates of earlier tables:
         values that are not in it get their released rate again, as do values too rare for the
         models to tell apart. Filters do not see the updated rates.

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
from serving.cli import ad_feeds, command_line
from serving.cli.flags import bundle_flags, update_flags
from tfrecords import terminal

if TYPE_CHECKING:
    from serving.live import Applied, LiveIndex, Update

flags.adopt_module_key_flags(bundle_flags)
flags.adopt_module_key_flags(update_flags)
flags.DEFINE_string("add", None, "Table of ads to add or change: CSV, TSV, JSON lines or Parquet.")
flags.DEFINE_string("remove", None, "File with the ids of ads to remove, one per line.")
flags.DEFINE_string("rates", None, "Table of an ad field and its rates.")
flags.DEFINE_bool("measure_recall", False, "Measure the recall of the live index.")
flags.DEFINE_bool("json", False, "Print only the changes, as JSON.")
FLAGS = flags.FLAGS
FLAGS["version"].help = "Version of the release to change; default: the stable one and the canary."


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """A release and the update to apply to it; None changes nothing."""

    version: int
    notes: list[str]
    live: LiveIndex
    update: Update | None
    rates: Mapping[str, Mapping[str, float]]


def main() -> None:
    from serving import releases

    base = bundle_flags.bundle_base()
    if FLAGS.version is None:
        pointer = releases.current_pointer(base)
        versions = [v for v in (pointer.stable, pointer.canary) if v is not None]
    else:
        versions = [FLAGS.version]
    removed = command_line.read_lines(pathlib.Path(FLAGS.remove)) if FLAGS.remove else []
    # All releases check the update first, so that an invalid one changes none of them.
    prepared = []
    for version in versions:
        with _named(version, versions, "No release was updated"):
            prepared.append(_prepare(base, version, removed))
    results = []
    for release in prepared:
        with _named(release.version, versions, f"Release {release.version} was not updated"):
            applied = None if release.update is None else release.live.apply(release.update)
        recall = release.live.measure_recall() if FLAGS.measure_recall else None
        status = release.live.status()
        release.live.close()
        given = release.update.rates if release.update else ()
        view = release.live.view()
        unknown = {rate.name: view.without_ads(rate.of, release.rates[rate.name]) for rate in given}
        if FLAGS.json:
            changes = None if applied is None else dataclasses.asdict(applied)
            row = {"version": release.version, "applied": changes, "notes": release.notes}
            state = {"recall_at_500": recall, "live": status}
            results.append({**row, "rate_values_not_found": unknown, **state})
            continue
        if FLAGS.add or FLAGS.remove:
            unchanged = "the files have no ads, so none was changed"
            done = unchanged if applied is None else _description(applied)
            print(f"release {release.version}: {done}")
        elif len(versions) > 1:
            print(f"release {release.version}:")
        for note in release.notes:
            print(note)
        for name, values in unknown.items():
            given_values = terminal.format_count(len(release.rates[name]), "value")
            print(f"{name} of {given_values}{_not_found(len(values), values[:3])}")
        _print_state(base, release.version, recall, status)
    if FLAGS.json:
        command_line.print_json({"releases": results})


def _prepare(base: pathlib.Path, version: int, removed: Sequence[str]) -> _Prepared:
    from serving import releases
    from serving.live import LiveIndex, open_channel

    release = releases.load(base, version)
    ads, notes = (
        ad_feeds.read_ads(pathlib.Path(FLAGS.add), release.manifest) if FLAGS.add else ([], [])
    )
    rates = ad_feeds.read_rates(pathlib.Path(FLAGS.rates), release.manifest) if FLAGS.rates else {}
    live = LiveIndex(release, channel=open_channel(update_flags.update_channel(), release))
    update = live.prepare(ads, removed, rates) if ads or removed or rates else None
    return _Prepared(version, notes, live, update, rates)


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
    return (
        f"{terminal.format_count(applied.added, 'ad')} added, {applied.changed:,} changed, "
        f"{applied.removed:,} removed{_not_found(applied.unknown, applied.unknown_ids)}"
    )


def _not_found(count: int, first: Sequence[str]) -> str:
    if not count:
        return ""
    more = ", …" if count > len(first) else ""
    return f", {count:,} not found ({', '.join(map(repr, first))}{more})"


def _print_state(
    base: pathlib.Path, version: int, recall: float | None, status: Mapping[str, Any]
) -> None:
    if recall is not None:
        print(f"recall at 500 of the live index: {recall:.4f}")
    num_ads = terminal.format_count(status["num_ads"], "ad")
    print(
        f"live: {num_ads}; {status['added']:,} of them added or changed, "
        f"{status['removed_or_changed']:,} of the release removed or changed"
    )
    for name, count in status["rates"].items():
        print(f"live: {name} is set for {terminal.format_count(count, 'value')}")
    if status["problem"]:
        print(f"updates of other hosts are not applied: {status['problem']}")
    if status["cut_bytes"]:
        print(
            f"interrupted updates left {status['cut_bytes']:,} bytes, which were never "
            f"acknowledged; they are kept in {base}/live/{version}/cut-*"
        )
    if status["rebuild_suggested"]:
        print(f"a new release should be exported: {status['rebuild_suggested']}")
