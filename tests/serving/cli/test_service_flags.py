"""Settings of a service from its flags."""

import pytest
from absl import flags

from serving import errors
from serving.cli import entry


@pytest.fixture
def settings(script, tmp_path):
    module = script(entry.MODULES["serve"])

    def parsed(*argv):
        flags.FLAGS(["serve", f"--bundle={tmp_path}", *argv])
        return module.service_flags.settings(tmp_path)

    return parsed


def test_the_user_store_is_in_the_environment_or_in_its_flag(settings, tmp_path, monkeypatch):
    assert settings().user_store is None
    monkeypatch.setenv("TFREC_USER_STORE", f"sqlite:{tmp_path}/hidden.db")
    assert settings().user_store == f"sqlite:{tmp_path}/hidden.db"
    flag = f"sqlite:{tmp_path}/flag.db"
    assert settings(f"--user_store={flag}").user_store == flag
    monkeypatch.setenv("TFREC_USER_STORE", "users.db")
    with pytest.raises(ValueError, match=r"Expected sqlite:PATH or redis://.*, got 'users\.db'"):
        settings("--user_store=")


def test_a_user_store_that_cannot_be_opened_is_refused_with_the_flags(settings, tmp_path):
    (tmp_path / "text.db").write_text("not a database" * 100)
    with pytest.raises(errors.UserStoreError, match="file is not a database"):
        settings(f"--user_store=sqlite:{tmp_path}/text.db")


def test_frequency_caps_of_a_service_without_a_user_store_are_warned_of(settings, tmp_path, capsys):
    caps, others = '--rules={"frequency_caps": [{"max": 3}]}', '--rules={"caps": []}'
    store = f"--user_store=sqlite:{tmp_path}/users.db"
    for argv, is_warned in (([others], False), ([caps], True), ([caps, store], False)):
        settings(*argv)
        assert ("The frequency caps of --rules count only" in capsys.readouterr().err) == is_warned
