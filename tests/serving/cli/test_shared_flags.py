"""The bearer token comes from a file or the environment."""

import pytest

from serving.cli import shared_flags


def test_a_token_comes_from_the_file_or_else_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("TFREC_TOKEN", raising=False)
    assert shared_flags.read_token(None) is None
    monkeypatch.setenv("TFREC_TOKEN", " from-environment ")
    assert shared_flags.read_token(None) == "from-environment"
    path = tmp_path / "token"
    path.write_text("from-file\n")
    assert shared_flags.read_token(str(path)) == "from-file"
    for bad in ("", "two words", "schlüssel", "line\nbreak"):
        path.write_text(bad)
        with pytest.raises(ValueError, match="expected printable ASCII"):
            shared_flags.read_token(str(path))
    with pytest.raises(FileNotFoundError):
        shared_flags.read_token(str(tmp_path / "none"))
