"""The data card: content of a converted data set, and problems in it.

All numbers are exact counts over all rows, unless the card says otherwise.
"""

import numpy as np

from tfrecords import reader
from tfrecords.card import ads, model, rejects, split_counts, statistics, time, warnings
from tfrecords.splits import SPLITS

_QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}
_SPLIT_MEANINGS = {
    "order": "by the order of the log: the last rows are for test, those before them for "
    "validation. Realistic if the log is in time order.",
    "time": "by time: the latest requests are for test, those before them for validation. "
    "As in production, the past predicts the future.",
    "fraction": "at random, by request. Training sees the same days as test, so metrics are "
    "better than they will be in production.",
    "column": "by the split column of the log.",
    "file": "by file.",
    "leave_last_out": "by user: the last request of each user is for test, the one before for "
    "validation.",
    "leave_fraction_out": "by user: the last share of each user's requests is held out.",
    "leave_random_fraction_out": "by user: a random share of each user's requests is held out. "
    "Training sees later requests of the same user, so metrics are better than they will be in "
    "production.",
}


def build_card(data_set: reader.DataSet) -> model.DataCard:
    """Builds the card of a data set in one pass over its shards.

    Raises:
        FileNotFoundError: A file of the data set is missing.
        ValueError: A file is damaged.
    """
    description = data_set.description
    profile = data_set.profile()
    distinct = profile.num_distinct
    counts = {split: split_counts.count_split(data_set, split) for split in SPLITS}
    card = model.DataCard(
        directory=str(data_set.directory),
        data=description,
        log_schema=data_set.schema,
        split_meaning=_SPLIT_MEANINGS[description.split.kind],
        splits={
            split: _split_summary(data_set, split, counted) for split, counted in counts.items()
        },
        time=time.describe(profile.time, description.times_by_unit),
        fields=[
            statistics.summarize(
                data_set.fitted,
                field,
                counts,
                distinct.get((data_set.schema.values_of(field) or field).name),
            )
            for field in data_set.schema.fields
        ],
        ads=ads.describe(data_set, counts),
        rejected=rejects.describe(data_set.directory / "rejected.tsv", description.source.lines),
    )
    card.warnings = warnings.find(card)
    return card


def _split_summary(
    data_set: reader.DataSet, split: str, counts: split_counts.SplitCounts
) -> model.SplitSummary:
    share = statistics.share
    has_clicks = data_set.label_count(split, "click") > 0
    return model.SplitSummary(
        rows=counts.rows,
        requests=counts.requests,
        sampled=data_set.description.splits[split].sampled,
        share_with_click=share(counts.clicked_requests, counts.requests) if has_clicks else None,
        without_click=counts.without_click,
        known_without_click=counts.known_without_click,
        labels={label: _label(data_set, split, label) for label in data_set.spec.labels},
        list_lengths=_list_lengths(counts.list_lengths),
    )


def _label(data_set: reader.DataSet, split: str, label: str) -> model.LabelSummary:
    known = data_set.label_count(split, label)
    positive = data_set.label_positives(split, label)
    return model.LabelSummary(
        known=known,
        missing=data_set.num_rows(split) - known,
        positive=positive,
        rate=statistics.share(positive, known),
        mean=statistics.share(data_set.label_sum(split, label), known),
    )


def _list_lengths(requests: np.ndarray) -> model.ListLengths:
    """Describes list lengths, given the number of requests by length [T] int64."""
    present = np.flatnonzero(requests)
    total = int(requests.sum())
    if not total:
        return model.ListLengths()
    up_to = np.cumsum(requests[present])
    quantiles = {
        name: int(present[np.searchsorted(up_to, share * total)])
        for name, share in _QUANTILES.items()
    }
    return model.ListLengths(
        mean=float((present * requests[present]).sum() / total),
        min=int(present[0]),
        max=int(present[-1]),
        one_ad=float(requests[1] / total),
        **quantiles,
    )
