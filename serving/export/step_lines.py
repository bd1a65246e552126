"""Lines that the steps print about a data set, its heads and the heads of a release."""

from collections.abc import Iterator

from serving import manifest
from tfrecords import label_counts, reader
from tfrecords.splits import SPLITS


def summary(data_set: reader.DataSet) -> str:
    """Returns the numbers of rows, of the splits and of ads, and what was left out."""
    description = data_set.description
    source = description.source
    shares = ", ".join(f"{split} {data_set.num_rows(split):,}" for split in SPLITS)
    sampled = sum(split.sampled for split in description.splits.values())
    written = sum(data_set.num_rows(split) for split in SPLITS) - sampled
    rejected = f"{source.rejected:,} rejected"
    if (events := source.events) is not None:
        rejected += f" + {events.joined:,} joined as labels"
        if events.left_out:
            rejected += f" + {events.left_out:,} left out"
    if source.rejected:
        rejected += f", see {data_set.directory / 'rejected.tsv'}"
    rate = data_set.label_sum("train", "click") / max(data_set.label_count("train", "click"), 1)
    text = [
        f"      {source.lines:,} rows = {written:,} written + {rejected}",
        f"      {shares} impressions, split by {description.split.kind}",
        f"      {description.num_ads:,} ads, click rate {rate:.1%} in training",
    ]
    if description.ads_not_in_table:
        text.append(
            "      shown ads that are not in the table of ads: "
            f"{description.ads_not_in_table:,}; their fields that are read from it are missing"
        )
    if events is not None and events.unmatched:
        text.append(
            f"      {events.unmatched:,} clicks and engagements have no view of their ad within "
            "events.window_seconds before them, and are left out"
        )
    if events is not None and events.repeated:
        text.append(
            f"      {events.repeated:,} events repeat another one (same user or request, ad, type, "
            "time and amount) and are left out"
        )
    if events is not None and events.others:
        named = ", ".join(f"{name} ({count:,})" for name, count in events.others.items())
        text.append(f"      events that the schema does not name are left out: {named}")
    if sampled:
        text.append(f"      {sampled:,} of the impressions are sampled negatives")
    return "\n".join(text)


def expectations(data_set: reader.DataSet) -> Iterator[str]:
    """Yields the number of positive rows of each label, and what to expect from its head."""
    for label in data_set.spec.labels:
        train, validation = (
            label_counts.LabelRows(
                data_set.label_count(split, label), data_set.label_positives(split, label)
            )
            for split in ("train", "validation")
        )
        line = (
            f"{label}: {train.positive:,} positive in training, "
            f"{validation.positive:,} in validation"
        )
        expected = label_counts.expect(label, train, validation)
        yield line if expected is None else f"{line}. {expected.text} {expected.action}"


def published_heads(release: manifest.Manifest) -> Iterator[str]:
    """Yields how the heads of a release are weighted, and which are weak and why."""
    if not release.has_ranker:
        yield "no ranker: answers are in retrieval order"
        return
    weights = ", ".join(f"{head} {weight:.4g}" for head, weight in release.utility_weights.items())
    yield f"default weights ({release.weights_source}): {weights}"
    for head, why in release.weak_heads.items():
        yield f"{head} is weak: {why}"
