"""What a data card warns of, in plain words with what to do.

A `warning` is likely a mistake or makes a metric or a model worthless; a `note` is worth knowing.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from tfrecords import pages
from tfrecords.card import field_warnings
from tfrecords.schema import NUM_CANDIDATES

FEW_CLICKS = 1_000
SHIFTED_RATE = 0.2
# About one in 1.7 million where nothing changed.
_SIGMAS = 5.0
_MUCH_OF_ONE_AD = 0.5
_MUCH_NEW = 0.3
_MUCH_CHANGED = 0.05
_MUCH_REJECTED = 0.01


@dataclasses.dataclass(frozen=True)
class Finding:
    """One warning or note.

    Attributes:
        level: `warning` or `note`.
        text: What is wrong.
        action: What to do.
    """

    level: str
    text: str
    action: str


def find(card: dict[str, Any]) -> list[dict[str, str]]:
    """Returns the warnings of a card, then its notes, as JSON values."""
    found = [
        Finding(*parts)
        for parts in itertools.chain(
            _clicks(card),
            _labels(card),
            _splits(card),
            _lists(card),
            _ads(card),
            _rejected(card["rejected"]),
            _time(card),
            field_warnings.find(card),
        )
    ]
    found.sort(key=lambda own: own.level == "note")
    return [dataclasses.asdict(own) for own in found]


Found = Iterator[tuple[str, str, str]]


def _clicks(card: dict[str, Any]) -> Found:
    click = card["splits"]["train"]["labels"]["click"]
    if click["known"] and click["positive"] == click["known"]:
        yield (
            "warning",
            "Every training row is a click: the ranker has nothing to learn.",
            "Give the schema a click column with zeros, or convert with "
            "--sampled_negatives=4, which draws ads that were not clicked.",
        )
    elif click["known"] and not click["positive"]:
        yield (
            "warning",
            "No training row is a click: nothing can be learnt.",
            "Check that the schema's click names the right column, and its click_threshold.",
        )
    elif 0 < click["positive"] < FEW_CLICKS:
        yield (
            "warning",
            f"Training has {click['positive']:,} clicks: too few for a model to trust.",
            f"Use a larger log; a few thousand clicks are little, {FEW_CLICKS:,} too few.",
        )
    elif (click["rate"] or 0) > 0.5:
        yield (
            "note",
            f"{pages.format_percent(click['rate'])} of the training rows are clicks, "
            "far more than ads get.",
            "Right for ratings or for logs thinned out of rows without a click; of these say in "
            "the schema which share was kept (negative_keep_rate), else the predicted "
            "probabilities are those of this log, not of live traffic.",
        )
    if card["sampled_negatives"]:
        yield (
            "note",
            f"{sum(s['sampled'] for s in card['splits'].values()):,} rows are ads drawn as not "
            f"clicked, {card['sampled_negatives']} for each click.",
            "Click rates and probabilities depend on that number: use them to order ads, not "
            "to price them. Shares of ad-side fields include the drawn ads.",
        )

    if card["keys"]["negative_keep_rate"] < 1:
        yield (
            "note",
            f"The log kept {pages.format_percent(card['keys']['negative_keep_rate'])} of its rows "
            "without a click.",
            "Rates here are those of the log; what is served is corrected for it.",
        )


def _labels(card: dict[str, Any]) -> Found:
    if card["rows_inside_engagement_window"]:
        yield (
            "note",
            f"{card['rows_inside_engagement_window']:,} rows are younger than the window of "
            f"{card['engagement_window_seconds']:,.0f} seconds: their engagement and revenue may "
            "still come, and count as missing.",
            "Rates over time are those of the log as it is, late engagements left out.",
        )
    for split, of_split in card["splits"].items():
        for label, own in of_split["labels"].items():
            if not of_split["rows"]:
                continue
            if not own["known"]:
                yield (
                    "warning",
                    f"The {split} split has no {label} labels.",
                    f"Nothing of {label} can be learnt or measured there: use a split of labelled "
                    "rows, such as --split=time.",
                )
            elif own["missing"]:
                yield (
                    "note",
                    f"{pages.format_percent(own['missing'] / of_split['rows'])} of the {split} "
                    f"rows lack {label}.",
                    "They are left out of its loss and metrics.",
                )
            elif label != "click" and not own["positive"]:
                yield (
                    "warning",
                    f"{label} is never above 0 in the {split} split.",
                    f"Check the schema's {label}; without it the release has no such head.",
                )
        engaged = of_split["engaged_without_click"]
        if engaged:
            yield (
                "warning",
                f"{engaged:,} {split} rows are engaged with but not clicked.",
                "Engagement is modelled as following a click: correct the labels, or name "
                "another engagement column.",
            )


def _splits(card: dict[str, Any]) -> Found:
    splits = card["splits"]
    for split in ("validation", "test"):
        if not splits[split]["rows"]:
            yield (
                "warning",
                f"The {split} split is empty.",
                f"Use a larger log, or a larger --{split}_fraction.",
            )
    train, test = (splits[split]["labels"]["click"] for split in ("train", "test"))
    if train["known"] and test["known"] and train["rate"]:
        pooled = (train["positive"] + test["positive"]) / (train["known"] + test["known"])
        chance = (pooled * (1 - pooled) * (1 / train["known"] + 1 / test["known"])) ** 0.5
        change = abs(test["rate"] - train["rate"])
        if change > SHIFTED_RATE * train["rate"] and change > _SIGMAS * chance:
            yield (
                "warning",
                f"The click rate drifts from {pages.format_percent(train['rate'])} in training to "
                f"{pages.format_percent(test['rate'])} in test.",
                "Probabilities learnt there will be off in test: see the rates over time, train "
                "on recent data, or look for a change in what is logged.",
            )
    kind = card["split"]["kind"]
    if card["keys"]["time"] and kind in ("fraction", "leave_random_fraction_out"):
        yield (
            "warning",
            "The log has times, yet it is split at random: training sees test's future.",
            "Convert with --split=time for honest metrics.",
        )
    elif not card["keys"]["time"] and kind == "order":
        yield (
            "note",
            "The schema names no time column, so the log's order is taken for time.",
            "Name the column in the schema's time if there is one.",
        )


def _lists(card: dict[str, Any]) -> Found:
    lengths = card["splits"]["test"]["list_lengths"]
    if lengths["counts"] and lengths["max"] == 1:
        yield (
            "note",
            "Each test request has one ad: metrics of lists, such as NDCG, say nothing.",
            "Name the column of the request in the schema's request_key if the log has one; else "
            "judge the ranker by AUC and normalised entropy.",
        )


def _ads(card: dict[str, Any]) -> Found:
    ads = card["ads"]
    if ads["count"] <= NUM_CANDIDATES:
        yield (
            "note",
            f"There are {ads['count']:,} ads, no more than the {NUM_CANDIDATES} candidates "
            "of the first stage.",
            "Retrieval leaves nothing out; the ranker alone decides.",
        )
    first = ads["most_shown"][0] if ads["most_shown"] else None
    if first and first["share"] >= _MUCH_OF_ONE_AD and ads["count"] > 1:
        yield (
            "warning",
            f"One ad, {first['ad_id']!r}, has {pages.format_percent(first['share'])} of the "
            "training impressions.",
            "Check that ad_key identifies ads; a placeholder such as 0 or 'unknown' does not.",
        )
    new = ads["new"]["test"]
    if (new["share"] or 0) > _MUCH_NEW:
        yield (
            "warning",
            f"{pages.format_percent(new['share'])} of the test {new['counted']} are of ads "
            "that training never showed.",
            "Ad ids help little there: give the ads fields that new ones share, such as advertiser "
            "or category, and train often.",
        )
    if (ads["changed_share"] or 0) > _MUCH_CHANGED:
        yield (
            "warning",
            f"{pages.format_percent(ads['changed_share'])} of the impressions show an ad with "
            "other fields than the catalogue's, which keeps an ad's latest values.",
            "Serving sees the catalogue's values, training the log's. Move what differs from "
            "request to request to the query side, or add it to ad_key.",
        )


def _rejected(rejected: dict[str, Any]) -> Found:
    if rejected["count"]:
        much = (rejected["share"] or 0) > _MUCH_REJECTED
        yield (
            "warning" if much else "note",
            f"{rejected['count']:,} rows ({pages.format_percent(rejected['share'])}) were "
            f"rejected, most often because: {rejected['reasons'][0]['reason']}.",
            "See rejected.tsv for each line; correct the log or the schema and convert again.",
        )


def _time(card: dict[str, Any]) -> Found:
    time = card["time"]
    if not time["by_time"]:
        return
    if time["low"] == time["high"]:
        yield (
            "warning",
            "All rows have the same time.",
            "Check the schema's time; a split by time is none here.",
        )
        return
    empty = sum(count == 0 for count in time["rows"])
    if empty:
        yield (
            "note",
            f"{empty} of {len(time['rows'])} equal spans of time hold no row.",
            "Expected of a log with nights or pauses; else rows are lost, or a time is wrong.",
        )
