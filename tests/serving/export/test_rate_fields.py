"""Rates from the log to a release and to live updates."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import scripts_in_forks

from serving import errors, live
from serving.cli import ad_feeds
from serving.export import held_out_requests
from serving.live import ad_rates, live_update
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


@pytest.fixture
def rates_file(tmp_path):
    path = tmp_path / "rates.csv"
    path.write_text("brand,brand_clicks\nacme,0.9\ncone,\nunseen,0.1\nother,0.2\n")
    return path


def test_rates_that_are_set_apply_to_all_ads_with_the_value(release, event_data_set, rates_file):
    column, _ = rate_columns(event_data_set)
    rates = ad_feeds.read_rates(rates_file, release.manifest)
    assert rates == {"brand_clicks": {"acme": 0.9, "unseen": 0.1, "other": 0.2}}
    ads = live.LiveIndex(release)
    ads.update([{"ad_id": "later", "fields": {"brand": "acme"}}], rates=rates)
    for view in (ads.view(), live.LiveIndex(release).view()):
        rows = np.arange(view.num_ads)
        features, listed = view.features(rows[None])[0], view.listed(rows)
        released = release.ad_index.features(rows[:12])
        assert listed[-1].ad_id == "later"
        for ad, own, before in zip(listed, features, [*released, None], strict=True):
            if ad.fields["brand"] == "acme":
                assert ad.fields["brand_clicks"] == 0.9
                assert own[column] == features[:, column].max()
            else:
                assert ad.fields["brand_clicks"] != 0.9
                np.testing.assert_array_equal(own, before)
    # The latest rates apply, also after the journal is rewritten.
    applied = ads.update(rates={"brand_clicks": {"cone": 0.8}})
    assert applied.rates == ads.status()["rates"] == {"brand_clicks": 1}
    assert ads.view().features(rows[None, :12])[0, :, column].max() > released[:, column].max()
    state = ads._state.condensed()
    assert live_update.decode(live_update.encode(state)).rates[0].numbers == {"cone": 0.8}
    found = {ad.fields["brand"]: ad.fields["brand_clicks"] for ad in ads.view().listed(rows)}
    assert found["cone"] == 0.8
    assert found["acme"] != 0.9
    ads.update(rates={"brand_clicks": {}})
    assert ads.status()["rates"] == {}
    np.testing.assert_array_equal(ads.view().features(rows[None, :12])[0], released)


def test_the_command_names_values_that_no_ad_has(release, rates_file):
    removed, added = rates_file.with_name("removed"), rates_file.with_name("added.jsonl")
    removed.write_text("\n".join(ad.ad_id for ad in release.ad_index.listed(np.arange(12))))
    added.write_text('{"ad_id": "later", "fields": {"brand": "acme"}}\n')
    flags = [f"--rates={rates_file}", f"--add={added}", f"--remove={removed}"]
    done = scripts_in_forks.run("update_index.py", f"--bundle={release.base}", *flags)
    assert "brand_clicks of 3 values, 2 not found ('other', 'unseen')" in done.stdout.splitlines()
    done = scripts_in_forks.run("update_index.py", f"--bundle={release.base}", flags[0], "--json")
    (row,) = json.loads(done.stdout)["releases"]
    assert row["rate_values_not_found"] == {"brand_clicks": ["other", "unseen"]}
    rates_file.write_text("brand,brand_clicks\n")
    done = scripts_in_forks.run("update_index.py", f"--bundle={release.base}", flags[0])
    assert done.stdout.startswith("brand_clicks of 0 values\nlive: 1 ad;")
    assert live.LiveIndex(release).status()["rates"] == {}


def test_an_age_may_exceed_one_but_not_be_negative():
    fields = [{"name": "brand_age", "of": "brand", "event": ["impression"]}]
    rates = ad_rates.AdRates(fields, None)
    with pytest.raises(errors.InvalidAdError, match=r"0 days or more, got -1 .int. for 'bolt'"):
        rates.encode({"brand_age": {"acme": 2.5, "bolt": -1}}, None)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"brand_click": {}}, "has no rate 'brand_click'. Did you mean 'brand_clicks'"),
        ({"ad_clicks": {"3": 0.1}}, "'ad_clicks' is a rate of single ads. Change these ads"),
        ({"brand_clicks": {"": 0.1}}, "expected a value of brand, a string, got ''"),
        ({"brand_clicks": {3: 0.1}}, "expected a value of brand, a string, got 3"),
        ({"brand_clicks": {"acme": 1.5}}, "expected numbers from 0 to 1, got 1.5 .* for 'acme'"),
        ({"brand_clicks": {"acme": float("nan")}}, "expected numbers from 0 to 1, got nan"),
        ({"brand_clicks": {"acme": "0.5"}}, "expected numbers from 0 to 1, got '0.5'"),
    ],
)
def test_a_rate_that_cannot_be_set_is_refused(release, rates, message):
    ads = live.LiveIndex(release)
    updates = ads.num_updates
    with pytest.raises(errors.InvalidAdError, match=message):
        ads.update(rates=rates)
    assert ads.num_updates == updates


def test_values_that_share_an_id_keep_the_rates_of_the_release(release):
    ads = live.LiveIndex(release)
    column = release.manifest.ad_fields.index({"name": "brand", "kind": "categorical"})
    # Out-of-vocabulary values share eight ids.
    unseen = {f"new-{number}": 0.9 for number in range(100)}
    ads.update([{"ad_id": name, "fields": {"brand": name}} for name in unseen])
    before = ads.view()
    rows = np.arange(before.num_ads)
    assert len(np.unique(before.features(rows[None])[0, 12:, column])) == 8
    assert ads.update(rates={"brand_clicks": {**unseen, "acme": 0.9}}).rates == {"brand_clicks": 1}
    np.testing.assert_array_equal(
        ads.view().features(rows[None, 12:]), before.features(rows[None, 12:])
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("brand,clicks\nacme,1\n", r"\(brand and brand_clicks\), got \['brand', 'clicks'\]"),
        ("sku,ad_clicks\n3,0.1\n", "Send rates of single ads as fields of the --add table"),
        ("brand,brand_clicks\na,0.1\na,0.2\n", r"expected each brand once, .* of 1 value\."),
        ("brand,brand_clicks\nNA,0.1\n,0.2\na,0.2\n", "brand in each row, got 2 rows without"),
    ],
)
def test_a_table_without_rates_of_values_is_refused(release, tmp_path, text, message):
    (tmp_path / "rates.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        ad_feeds.read_rates(tmp_path / "rates.csv", release.manifest)


def test_rates_are_optional_in_a_table_of_ads(release, tmp_path):
    (tmp_path / "ads.csv").write_text("sku,brand\nnew,acme\n")
    ads, notes = ad_feeds.read_ads(tmp_path / "ads.csv", release.manifest)
    assert ads == [{"ad_id": "new", "fields": {"brand": "acme"}, "show": {}}]
    assert notes == []
    (tmp_path / "rated.csv").write_text("sku,brand,brand_clicks\nnew,acme,0.25\n")
    (ad,), notes = ad_feeds.read_ads(tmp_path / "rated.csv", release.manifest)
    assert ad["fields"] == {"brand": "acme", "brand_clicks": 0.25}


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
