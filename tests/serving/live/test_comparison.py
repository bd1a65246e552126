"""Live updates that another release lacks."""

import pytest
import serving_fixtures

from serving import live, releases


@pytest.fixture
def base(tmp_path):
    """Two releases with the same ads."""
    return serving_fixtures.publish_trainings(tmp_path, 2)


def test_an_empty_list_equals_a_missing_one(base):
    first, second = (live.LiveIndex(releases.load(base, version)) for version in (1, 2))
    first.update([{"ad_id": "new-1", "fields": {"tags": []}}])
    second.update([{"ad_id": "new-1", "fields": {}}])
    views = [live_ads.view() for live_ads in (first, second)]
    tags = [view.listed(view.rows_of(["new-1"]))[0].fields["tags"] for view in views]
    assert tags == [[], None]
    assert live.missing_updates(base, 1, 2) == live.MissingUpdates((), ())
    first.update([{"ad_id": "new-1", "fields": {"tags": ["x"]}}])
    assert live.missing_updates(base, 1, 2).changed == ("new-1",)
