"""Rates from the log to a release and to live updates."""

import dataclasses
import shutil

import numpy as np
import pytest

from serving import live
from serving.export import held_out_requests
from serving.releases import bundle
from tfrec import calibration
from tfrecords import encoding

pytestmark = pytest.mark.slow

CALIBRATORS = calibration.Calibrators()


@pytest.fixture(scope="module")
def loaded(event_base):
    """The loaded release. Read only."""
    return bundle.load(event_base)


@pytest.fixture
def release(loaded, tmp_path):
    """The release without updates, in a writable base directory."""
    return dataclasses.replace(loaded, base=shutil.copytree(loaded.base, tmp_path / "release"))


def rate_columns(data_set):
    columns = dict(encoding.columns(data_set.schema.ad_fields))
    return [columns[field].start for field in data_set.schema.rates]


def test_a_release_has_the_rates_of_the_end_of_the_log(release, event_data_set):
    assert release.manifest.ad_kinds["brand_clicks"] == "numeric"
    rows = release.ad_index.find(event_data_set.catalog().ad_ids.to_pylist())
    served = release.ad_index.features(rows)[:, rate_columns(event_data_set)]
    encoder = encoding.Encoder(event_data_set.fitted, event_data_set.schema.ad_fields)
    latest = encoder.encode_table(event_data_set.catalog().released_fields)
    np.testing.assert_array_equal(served, latest[:, rate_columns(event_data_set)])
    assert (served != event_data_set.catalog().features[:, rate_columns(event_data_set)]).any()
    has_brand = release.ad_index.column(rows, "brand").is_valid().to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(served > 0, np.stack([has_brand, np.ones(12, bool)], axis=1))


def test_new_and_changed_ads_have_the_rates_of_their_values(release, event_data_set):
    ads = live.LiveIndex(release)
    shown = {ad.ad_id: ad.fields for ad in release.ad_index.listed(np.arange(12))}
    (known, fields), *_ = [(ad, own) for ad, own in shown.items() if own["brand"] == "acme"]
    ads.update(
        [
            {"ad_id": "new", "fields": {"brand": "acme"}},
            {"ad_id": known, "fields": {"brand": "unseen"}},
            {"ad_id": "given", "fields": {"brand": "acme", "brand_clicks": 0.9}},
        ]
    )
    view = ads.view()
    row_of_ad = {ad: row for row, ad in enumerate(view.ad_ids(np.arange(15)))}
    rows = np.array([row_of_ad["new"], row_of_ad[known], row_of_ad["given"]])
    new, changed, given = (ad.fields for ad in view.listed(rows))
    assert new == {"brand": "acme", "brand_clicks": fields["brand_clicks"], "ad_clicks": None}
    assert changed == {"brand": "unseen", "brand_clicks": None, "ad_clicks": fields["ad_clicks"]}
    assert given["brand_clicks"] == 0.9
    first, _ = rate_columns(event_data_set)
    own = release.ad_index.features(release.ad_index.find([known]))
    assert view.features(rows)[0, first] == own[0, first] > 0


def test_held_out_rows_are_scored_with_the_rates_of_the_release(
    release, event_data_set, event_models
):
    scored = list(held_out_requests._scored(event_data_set, event_models[1], CALIBRATORS, 5))
    assert len(scored) == 5
    for one in scored:
        ads = release.ad_index.features(release.ad_index.find(one.ad_ids))
        query = encoding.Encoder(event_data_set.fitted, event_data_set.schema.query_fields)
        columns = release.query_tower.columns([one.fields])
        served = event_models[1].score(query(columns), ads[None])
        np.testing.assert_allclose(
            one.scores["click_probability"],
            1 / (1 + np.exp(-served["click"].numpy()[0])),
            atol=1e-5,
        )
