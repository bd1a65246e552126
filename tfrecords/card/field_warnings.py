"""Warnings about the fields of a data set; fields with the same problem share a warning."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from tfrecords import label_counts, pages, terminal
from tfrecords.card import model, statistics

MUCH_MISSING = 0.95
MUCH_MORE_MISSING = 0.2
MUCH_OUT_OF_VOCABULARY = 0.3
# Distinct values per unit above which a field looks like an id.
LIKE_AN_ID = 0.5
_FEW_DISTINCT = 100
_ALMOST_CONSTANT = 0.999
Found = Iterator[model.CardWarning]


def find(card: model.DataCard) -> Found:
    """Yields the warnings and notes about the fields of a card."""
    yield from _leaks(card)
    yield from _varying(card)
    # Computed fields are empty at the start of the log, and rates change over time.
    logged = [field for field in card.fields if not field.is_computed]
    yield from _uninformative(logged)
    yield from _about(
        (field for field in card.fields if field.is_computed and _missing(field) == 1),
        None,
        "Empty in every training row",
        "No user returns, or no value is shown again, within max_age_days of the field: check "
        "user_key and time in the schema, or remove the fields.",
    )
    yield from _changed_missing(logged)
    yield from _ids(card)
    yield from _vocabularies(card)
    yield from _written_twice(card)
    yield from _written_as_floats(card)
    yield from _drift(logged)


def _about(
    fields: Iterable[model.FieldSummary],
    figure: Callable[[model.FieldSummary], str] | None,
    text: str,
    action: str,
    create: Callable[[str, str], model.CardWarning] = model.warning,
) -> Found:
    """Yields a warning that lists fields, each with a figure, or nothing without fields."""
    named = [f.name if figure is None else f"{f.name} ({figure(f)})" for f in fields]
    if named:
        yield create(f"{text}: {terminal.format_list(named)}.", action)


def _leaks(card: model.DataCard) -> Found:
    """Warns of fields that predict clicks on their own; computed fields use only earlier rows."""

    def leaks(field: model.FieldSummary) -> bool:
        # Sampled negatives are not drawn from the ads that the log shows.
        by_sampling = field.side == "ad" and card.data.sampled_negatives > 0
        return (
            not field.is_computed
            and not by_sampling
            and (field.click_auc or 0) >= label_counts.LEAK_AUC
        )

    return _about(
        filter(leaks, card.fields),
        lambda f: f"AUC {f.click_auc:.3f}",
        "Each predicts the held-out clicks on its own, like a copy of the label",
        "Remove each field that is known only after an ad was shown, such as a dwell time or a "
        "status: it makes metrics meaningless, and it is unknown when serving.",
    )


def _varying(card: model.DataCard) -> Found:
    lines = max(card.data.source.lines, 1)
    if varying := card.data.rows_of_varying_query_fields:
        shares = [f"{n} ({pages.format_percent(count / lines)})" for n, count in varying.items()]
        yield model.warning(
            "Query fields differ within a request, in this share of the rows: "
            f"{terminal.format_list(shares)}.",
            "A request has the values of its first row. Move fields of the ad to the ad side.",
        )
    if strays := card.data.rows_of_other_users:
        yield model.warning(
            f"{pages.format_percent(strays / lines)} of the rows have a different user from the "
            "first row of their request.",
            "The request key is not unique; for example, it may restart each day. Combine it with "
            "the date or the user.",
        )


def _missing(field: model.FieldSummary, split: str = "train") -> float:
    return field.missing[split] or 0.0


def _uninformative(fields: list[model.FieldSummary]) -> Found:
    gone = [f for f in fields if _missing(f) == 1]
    constant = [f for f in fields if f.constant and f not in gone]
    remaining = [f for f in fields if f not in gone and f not in constant]
    empty = [f for f in remaining if _missing(f) >= MUCH_MISSING]
    almost_constant = [
        f for f in remaining if f not in empty and (f.largest_share or 0) >= _ALMOST_CONSTANT
    ]
    check = "Check their columns in the schema, or remove the fields."
    yield from _about(gone, None, "Missing in every training row", check)
    text = "Constant, with the same id in every training row"
    yield from _about(constant, None, text, check)
    yield from _about(
        empty,
        lambda f: pages.format_percent(_missing(f)),
        "Missing in nearly every training row",
        "Check their columns in the schema. If they are correct, these fields are of little use.",
    )
    yield from _about(
        almost_constant,
        lambda f: pages.format_percent(f.largest_share),
        "Almost constant, with one id in nearly every training row",
        "These fields are of little use, but harmless.",
        model.note,
    )


def _changed_missing(fields: list[model.FieldSummary]) -> Found:
    changed = [
        f
        for f in fields
        if f.missing["test"] is not None
        and abs(_missing(f, "test") - _missing(f)) >= MUCH_MORE_MISSING
    ]
    return _about(
        changed,
        lambda f: _change(f.missing),
        "The missing share changes from training to test",
        "Logging has changed: compare the two parts of the log.",
    )


def _change(shares: Mapping[str, model.Share]) -> str:
    return " to ".join(pages.format_percent(shares[split]) for split in ("train", "test"))


def _units(card: model.DataCard, field: model.FieldSummary) -> int:
    train = card.splits["train"]
    return train.requests if field.unit == "request" else train.rows


def _is_like_an_id(card: model.DataCard, field: model.FieldSummary) -> bool:
    distinct = field.distinct or 0
    is_large = distinct > _FEW_DISTINCT and distinct >= LIKE_AN_ID * _units(card, field)
    return field.kind == "categorical" and is_large


def _ids(card: model.DataCard) -> Found:
    schema = card.log_schema
    keys = {schema.user_key, schema.request_key, *schema.ad_key}
    like_ids = [f for f in card.fields if _is_like_an_id(card, f)]
    for is_key, action in (
        (False, "remove the field, or name its column as request_key or user_key."),
        (True, "remove the field; its column stays the key."),
    ):
        yield from _about(
            (f for f in like_ids if (f.column in keys) == is_key),
            lambda f: f"{f.distinct:,} values in {_units(card, f):,} {f.unit}s",
            "Nearly one value per row, like an id",
            f"Values rarely repeat, so nothing can be learned from them: {action}",
        )


def _vocabularies(card: model.DataCard) -> Found:
    """Distinguishes values that are new in test from values that do not fit in the vocabulary."""
    new: list[model.FieldSummary] = []
    rare: list[model.FieldSummary] = []
    for field in card.fields:
        if not field.out_of_vocabulary or _is_like_an_id(card, field):
            continue
        train, test = (field.out_of_vocabulary[split] or 0 for split in ("train", "test"))
        if max(train, test) >= MUCH_OUT_OF_VOCABULARY:
            (new if test - train >= MUCH_OUT_OF_VOCABULARY / 2 else rare).append(field)
    action = (
        "These values are new or rare in training: train often, increase the fields' "
        "num_oov_buckets, or use coarser values."
    )
    if card.data.split.kind == "order":
        action += " If the log is sorted by one of these fields, convert it with --split=fraction."
    yield from _about(
        new,
        lambda f: _change(f.out_of_vocabulary),
        "Out of vocabulary far more often in test than in training",
        action,
    )
    yield from _about(
        rare,
        lambda f: _change(f.out_of_vocabulary),
        "Often out of vocabulary, in training and in test",
        "The vocabularies exclude these values: decrease the fields' min_count or increase "
        "max_vocabulary_size; increase num_oov_buckets for fewer collisions of the others.",
    )


def _written_twice(card: model.DataCard) -> Found:
    found = {f.name: f.written_twice for f in card.fields if f.written_twice is not None}
    are_fields = {f.column for f in card.fields if f.name in found}
    if card.ads.written_twice is not None and are_fields.isdisjoint(card.log_schema.ad_key):
        found["the ad key"] = card.ads.written_twice
    named = [
        f"{name} ({duplicates.count:,}, such as {duplicates.example} and {duplicates.other})"
        for name, duplicates in found.items()
    ]
    if named:
        yield model.warning(
            f"Whole numbers are written in two ways: {terminal.format_list(named)}.",
            "They count as different values, so an ad or a user has two ids. pandas writes whole "
            'numbers as floats where some are missing: convert such columns with .astype("Int64") '
            "before writing them as text. pandas also reads 007 as 7: read such columns with "
            "dtype=str.",
        )


def _written_as_floats(card: model.DataCard) -> Found:
    found = {f.column: f.written_as_float for f in card.fields if f.written_twice is None}
    found.setdefault(card.log_schema.user_key or "", card.data.float_user)
    if card.ads.written_twice is None:
        found[", ".join(card.log_schema.ad_key)] = card.ads.written_as_float
    keys = (card.log_schema.user_key, ", ".join(card.log_schema.ad_key))
    for name, example in found.items():
        if example is not None:
            # Versions such as 13.0 are fine, but requests have the ids of users and ads from
            # elsewhere.
            create = model.warning if name in keys else model.note
            yield create(
                f"The ids of {name!r} end in '.0': requests have to send {example!r}, not "
                f"{example.removesuffix('.0')!r}.",
                "pandas writes whole numbers as floats where some are missing: write the column as "
                'strings or .astype("Int64").',
            )


def _drift(fields: list[model.FieldSummary]) -> Found:
    drifted = [f for f in fields if f.drift.level == "drifted"]
    drifted.sort(key=lambda f: f.drift.psi or 0, reverse=True)
    return _about(
        drifted,
        lambda f: f"{f.drift.psi:.2f}",
        "Values differ strongly between training and test, with a PSI of at least "
        f"{statistics.DRIFTED:g}",
        "This is expected for dates, counters and new ids. Otherwise compare the fields' top "
        "values in training and test, and train on recent data.",
    )
