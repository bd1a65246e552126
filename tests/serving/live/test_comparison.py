"""Live updates that another release lacks."""

import pytest
import serving_fixtures

from serving import live, releases


@pytest.fixture
def base(tmp_path):
    """Two releases with the same ads."""
    return serving_fixtures.publish_trainings(tmp_path, 2)


def test_an_empty_list_is_no_change_of_a_missing_one(base):
    first, second = (live.LiveIndex(releases.load(base, version)) for version in (1, 2))
    first.update([{"ad_id": "new-1", "fields": {"tags": []}}])
    second.update([{"ad_id": "new-1", "fields": {}}])
    tags = [one.view().find(["new-1"])[0].fields["tags"] for one in (first, second)]
    assert tags == [[], None]
    assert live.missing_updates(base, 1, 2) == live.MissingUpdates((), ())
    first.update([{"ad_id": "new-1", "fields": {"tags": ["x"]}}])
    assert live.missing_updates(base, 1, 2).changed == ("new-1",)
