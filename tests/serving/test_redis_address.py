import pytest

from serving import redis_address


@pytest.mark.parametrize(
    ("address", "url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0", "redis://h:1/0"),
        ("valkey://u:p@h:1/0", "redis://u:p@h:1/0", "valkey://h:1/0"),
        ("valkeys://h?password=p@q", "rediss://h?password=p@q", "valkeys://h"),
        ("unix://u:p@/run/s?db=1", "unix://u:p@/run/s?db=1", "unix:///run/s"),
        ("h:1", "h:1", "h:1"),
    ],
)
def test_an_address_is_read_by_the_client_and_shown_without_its_secrets(address, url, shown):
    assert redis_address.client_url(address) == url
    assert redis_address.without_secrets(address) == shown
