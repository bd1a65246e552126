"""Lines about the heads: expectations before training, and the published heads after an export."""

from collections.abc import Iterator

from serving import manifest
from tfrecords import label_counts, reader


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
