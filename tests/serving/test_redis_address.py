import pytest
import requirements

from serving import redis_address


@pytest.mark.parametrize(
    ("address", "url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0", "redis://h:1/0"),
        ("valkey://u:p@h:1/0", "redis://u:p@h:1/0", "valkey://h:1/0"),
        ("valkeys://h?password=p@q", "rediss://h?password=p@q", "valkeys://"),
        ("redis://:p@h/0?db=1", "redis://:p@h/0?db=1", "redis://h/0"),
        ("unix://u:p@/run/s?db=1", "unix://u:p@/run/s?db=1", "unix:///run/s"),
        ("h:1", "h:1", "h:1"),
        ("redis://h", "redis://h", "redis://h"),
        ("redis://[::1]:1/", "redis://[::1]:1/", "redis://[::1]:1/"),
    ],
)
def test_an_address_is_read_by_the_client_and_shown_without_its_secrets(address, url, shown):
    assert redis_address.client_url(address) == url
    assert redis_address.without_secrets(address) == shown


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://u:secret@h:abc/0", "redis://h:abc/0"),
        ("redis://h:70000/0", "redis://h:70000/0"),
        ("valkey://h:1/zero", "valkey://h:1/zero"),
        # A question mark or a slash in a password ends the host.
        ("redis://:sec?ret@h:1/0", "redis://"),
        ("redis://u:sec/ret@h:1/0", "redis://h:1/0"),
    ],
)
def test_an_address_whose_port_or_database_is_not_a_number_is_refused(address, shown):
    with pytest.raises(ValueError, match=f"'{shown}'; expected redis://HOST:PORT/") as caught:
        redis_address.client_url(address)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize("library", ["redis", "redis.asyncio"])
def test_an_option_that_the_client_does_not_know_is_named_before_it_connects(library):
    client = pytest.importorskip(library, reason=requirements.NO_REDIS).Redis

    def check(options):
        url = f"redis://user:secret@127.0.0.1:1/0?{options}"
        redis_address.check_options(client.from_url(url).connection_pool, url)

    check("health_check_interval=30")
    message = r"'redis://127.0.0.1:1/0' has an option .*'timeout'.*Correct it or leave it out"
    with pytest.raises(ValueError, match=message):
        check("timeout=3")
    with pytest.raises(ValueError, match="protocol must be either 2 or 3"):
        check("protocol=7")
