"""Options are checked where they are given, and a training keeps those it began with."""

import dataclasses
import json

import numpy as np
import pytest

from tfrec import config


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (config.RankerConfig, {"epochs": 0}, r"epochs: expected a whole number >= 1, got 0\."),
        (config.RankerConfig, {"epochs": 1.0}, r"expected a whole number >= 1, got 1\.0\."),
        (config.RankerConfig, {"field_dim": True}, r"expected a whole number >= 1, got True"),
        (config.RankerConfig, {"dropout": 1}, r"dropout: expected a number >= 0 and < 1, got 1"),
        (config.RetrievalConfig, {"learning_rate": "x"}, r"expected a number > 0, got 'x'"),
        (config.RetrievalConfig, {"refit": 1}, r"refit: expected True or False, got 1\."),
        (config.ConvertConfig, {"max_rejected_fraction": 2.0}, r"number >= 0 and <= 1, got 2\.0"),
        (
            config.RetrievalConfig,
            {"learning_rate": float("inf")},
            r"expected a number > 0, got inf",
        ),
        (config.RankerConfig, {"seed": -1}, r"seed: .* >= 0 and <= 4294967294, got -1"),
        (config.RetrievalConfig, {"seed": 2**32}, r"<= 4294967294, got 4294967296"),
        (config.EvaluationConfig, {"resamples": 1}, r"EvaluationConfig\.resamples: .* >= 2"),
    ],
)
def test_options_out_of_range_are_refused(kind, options, said):
    with pytest.raises(ValueError, match=said):
        kind(**options)


def test_a_whole_number_is_a_number_and_numbers_of_numpy_become_those_of_python():
    made = config.RankerConfig(dropout=0, epochs=np.int64(3), learning_rate=np.float32(0.5))
    assert (made.dropout, made.epochs, made.learning_rate) == (0.0, 3, 0.5)
    assert json.loads(json.dumps(dataclasses.asdict(made)))["epochs"] == 3


def test_a_subclass_whose_options_would_be_lost_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Mine(config.RankerConfig):
        num_towers: int = 3

    with pytest.raises(
        ValueError, match=r"expected an instance of RankerConfig, got .*Mine.* as class attributes"
    ):
        config.check_kind(Mine(), config.RankerConfig)
    with pytest.raises(
        ValueError, match=r"expected an instance of RankerConfig, got {'epochs': 1}\.$"
    ):
        config.check_kind({"epochs": 1}, config.RankerConfig)
    config.check_kind(config.RankerConfig(), config.RankerConfig)


def test_a_directory_keeps_the_options_of_its_training(tmp_path):
    path = tmp_path / "ranker" / "config.json"
    first = config.RankerConfig(epochs=2)
    config.save_config(first, path, "rows", None)
    written = path.read_text()
    config.save_config(first, path, "rows", None)
    path.write_text("")  # A process that was killed as it wrote.
    config.save_config(first, path, "rows", None)
    with pytest.raises(ValueError, match=r"ranker was trained with .*: epochs 2, now 3\. Del"):
        config.save_config(dataclasses.replace(first, epochs=3), path, "rows", None)
    assert path.read_text() == written
    with pytest.raises(ValueError, match=r"with other options or data: data rows, now more\. Del"):
        config.save_config(first, path, "more", None)
    config.save_config(first, path, "rows", "abc")
    with pytest.raises(ValueError, match=r"ranker was trained with .*: source abc, now def\. Del"):
        config.save_config(first, path, "rows", "def")
    assert config.load_config(config.RankerConfig, path) == first


@pytest.mark.parametrize("content", ['{"old_option": 3}', '{"epochs": 0}', "[]", ""])
def test_options_of_another_version_are_refused_with_the_file_and_what_to_do(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"config.json: expected .* RankerConfig .* Train the mo"):
        config.load_config(config.RankerConfig, path)
