"""Settings of a service from its flags."""

import dataclasses
import signal

import pytest
import serving_fixtures
from absl import flags

from serving import errors, service
from serving.cli import entry


@pytest.fixture
def settings(script, tmp_path):
    module = script(entry.MODULES["serve"])

    def parsed(*argv):
        flags.FLAGS(["serve", f"--bundle={tmp_path}", *argv])
        return module.settings(tmp_path)

    return parsed


def test_the_user_store_is_in_the_environment_or_in_its_flag(settings, tmp_path, monkeypatch):
    assert settings().user_store is None
    monkeypatch.setenv("TFREC_USER_STORE", f"sqlite:{tmp_path}/hidden.db")
    assert settings().user_store == f"sqlite:{tmp_path}/hidden.db"
    flag = f"sqlite:{tmp_path}/flag.db"
    assert settings(f"--user_store={flag}").user_store == flag
    monkeypatch.setenv("TFREC_USER_STORE", "users.db")
    with pytest.raises(
        ValueError, match=r"Expected sqlite:PATH, a file, or redis://.*, got 'users\.db'"
    ):
        settings("--user_store=")


def test_a_user_store_that_cannot_be_opened_is_refused_with_the_flags(settings, tmp_path):
    (tmp_path / "text.db").write_text("not a database" * 100)
    with pytest.raises(errors.UserStoreError, match="file is not a database"):
        settings(f"--user_store=sqlite:{tmp_path}/text.db")


def test_an_impression_log_that_cannot_be_written_is_refused_with_the_flags(settings):
    with pytest.raises(errors.ImpressionLogError, match=r"^/proc/nothing is not writable"):
        settings("--impression_log=/proc/nothing")


def test_frequency_caps_without_a_user_store_print_a_warning(settings, tmp_path, capsys):
    caps, others = '--rules={"frequency_caps": [{"max": 3}]}', '--rules={"caps": []}'
    store = f"--user_store=sqlite:{tmp_path}/users.db"
    for argv, is_warned in (([others], False), ([caps], True), ([caps, store], False)):
        settings(*argv)
        assert ("The frequency caps of --rules count only" in capsys.readouterr().err) == is_warned


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ('{"cap": []}', "rules.cap: unknown key"),
        ('{"caps": [{"field": "advertizer", "max": 1}]}', "Did you mean 'advertiser'"),
        ('{"frequency_caps": [{"max": 1, "event": "click"}]}', "only a user store counts"),
    ],
)
def test_rules_are_checked_before_the_release_is_loaded(
    rules, message, script, tiny_base, monkeypatch
):
    module = script(entry.MODULES["serve"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.delattr(service, "load_stable_release")
    port = serving_fixtures.free_port()
    flags.FLAGS(["serve", f"--bundle={tiny_base}", f"--port={port}", f"--rules={rules}"])
    with pytest.raises(errors.InvalidRequestError, match=message):
        module.main()


def test_caps_beyond_what_the_user_store_keeps_are_refused_with_the_rules(
    settings, tiny_base, tmp_path
):
    store = f"--user_store=sqlite:{tmp_path}/users.db"
    refused = settings(store, '--rules={"frequency_caps": [{"max": 501}]}')
    with pytest.raises(errors.InvalidRequestError, match="max: expected at most 500"):
        service.check_first_release(dataclasses.replace(refused, base=tiny_base))


def test_rules_do_not_hide_why_a_release_cannot_be_loaded(settings, tmp_path):
    rules = '--rules={"caps": [{"field": "brand", "max": 1}]}'
    service.check_first_release(settings(rules))
    assert not list(tmp_path.iterdir())
