"""Compares the live updates of two releases, which each have their own."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence, Set
from typing import Any

import pyarrow as pa

from serving import releases
from serving.index import AD_ID, ListedAd
from serving.live import live_store
from serving.live.live_index import LiveIndex
from serving.live.live_view import LiveView


@dataclasses.dataclass(frozen=True)
class MissingUpdates:
    """Updates of a release that another release lacks.

    Attributes:
        removed: Ids of removed ads that the other release has.
        changed: Ids of added or changed ads that the other release lacks, or has with other values.
    """

    removed: tuple[str, ...]
    changed: tuple[str, ...]


def missing_updates(base: pathlib.Path, version: int, other: int) -> MissingUpdates:
    """Returns the updates of a release that another release lacks.

    Rates are not compared, because a newer release has newer ones.

    Args:
        base: Base directory of the bundles.
        version: Version of the release with the updates. Without updates, nothing is loaded.
        other: Version of the other release.

    Raises:
        BundleError: A release cannot be loaded, or its live updates cannot be read.
    """
    if live_store.LiveStore(base, version, "").state_of_file() is None:
        return MissingUpdates((), ())
    with contextlib.ExitStack() as stack:
        updated, new = (
            stack.enter_context(contextlib.closing(releases.load(base, v)))
            for v in (version, other)
        )
        rates = {rate["name"] for release in (updated, new) for rate in release.manifest.rates}
        return _missing(LiveIndex(updated), LiveIndex(new), rates, _vectors_of_both(updated, new))


def _vectors_of_both(updated: releases.Bundle, new: releases.Bundle) -> list[str]:
    """Returns the names of the vectors that both releases store in the same way."""
    schema = new.ad_index.table_schema
    return [
        field.name
        for field in updated.ad_index.table_schema
        if pa.types.is_fixed_size_list(field.type)
        and field.name in schema.names
        and schema.field(field.name).type == field.type
    ]


def _missing(
    updated: LiveIndex, new: LiveIndex, rates: Set[str], vectors: Sequence[str]
) -> MissingUpdates:
    changes = updated.changes()
    changed = changes.ads[AD_ID].to_pylist()
    removed = sorted(set(changes.removed) - set(changed))
    new_ads = {ad.ad_id: ad for ad in _found(new.view(), [*removed, *changed], vectors)}
    differing = [
        ad.ad_id
        for ad in _found(updated.view(), changed, vectors)
        if ad.ad_id not in new_ads or _differ(ad, new_ads[ad.ad_id], rates)
    ]
    return MissingUpdates(
        tuple(ad_id for ad_id in removed if ad_id in new_ads), tuple(sorted(differing))
    )


def _found(view: LiveView, ad_ids: Sequence[str], vectors: Sequence[str]) -> list[ListedAd]:
    """Returns the ads with the given ids, and some of their vectors, which answers do not show."""
    rows = view.rows_of(ad_ids)
    ads = view.listed(rows)
    for name in vectors:
        for ad, vector in zip(ads, view.column(rows, name).to_pylist(), strict=True):
            ad.fields[name] = vector
    return ads


def _differ(ad: ListedAd, new_ad: ListedAd, ignored: Set[str]) -> bool:
    """Returns whether two ads differ in a field that both releases have, or in what is shown."""
    fields = (ad.fields.keys() & new_ad.fields.keys()) - ignored
    shown = ad.show.keys() & new_ad.show.keys()
    return any(
        _without_empty(ad.fields[name]) != _without_empty(new_ad.fields[name]) for name in fields
    ) or any(ad.show[name] != new_ad.show[name] for name in shown)


def _without_empty(value: Any) -> Any:
    """Returns a value of a field; an empty list is missing, as in the models."""
    return None if value == [] else value
