"""In which order versions are loaded and unloaded, and what a close waits for."""

import pathlib
import threading
from typing import Any

import pytest
from google.protobuf import text_format
from serving.model_server.models import servable_manager
from tensorflow_serving.apis import model_pb2

from serving import model_config


class _Model:
    """Notes when it is closed."""

    def __init__(self, version: int, events: list[str]) -> None:
        self.version = version
        self._events = events

    def close(self) -> None:
        self._events.append(f"unload {self.version}")


class _Models:
    """A manager of one model, whose versions are empty directories, and what it did."""

    def __init__(self, base: pathlib.Path, policy: str, *versions: int) -> None:
        self.base = base
        self.events: list[str] = []
        self.manager = servable_manager.ServableManager(self._load)
        self.add(*versions)
        self.reload(policy)

    def add(self, *versions: int) -> None:
        for version in versions:
            (self.base / str(version)).mkdir()

    def reload(self, policy: str) -> None:
        config = model_config.build({"m": self.base})
        text_format.Merge(policy, config.model_config_list.config[0].model_version_policy)
        self.manager.reload(config)

    def taken(self) -> list[str]:
        events = list(self.events)
        self.events.clear()
        return events

    def _load(self, name: str, version: int, path: object) -> Any:
        self.events.append(f"load {version}")
        return _Model(version, self.events)


def test_the_only_version_serves_until_the_next_one_does(tmp_path: pathlib.Path) -> None:
    models = _Models(tmp_path, "latest {}", 1)
    models.add(2)
    models.manager.poll()
    assert models.taken() == ["load 1", "load 2", "unload 1"]


def test_missing_versions_and_base_paths_are_logged_once_until_they_are_back(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = tmp_path / "m"
    base.mkdir()
    models = _Models(base, "specific { versions: 1 versions: 2 }", 1, 2)

    def warnings_of_three_polls() -> list[str]:
        caplog.clear()
        for _ in range(3):
            models.manager.poll()
        return [r.getMessage()[:35] for r in caplog.records if r.levelname == "WARNING"]

    (base / "2").rmdir()
    assert warnings_of_three_polls() == ["Version 2 of servable m, which was "]
    (base / "1").rmdir()
    assert warnings_of_three_polls() == ["Version 1 of servable m, which was "]
    base.rmdir()
    assert warnings_of_three_polls() == [f"Could not find base path {base}"[:35]]
    base.mkdir()
    models.add(1, 2)
    assert warnings_of_three_polls() == []
    (base / "2").rmdir()
    assert warnings_of_three_polls() == ["Version 2 of servable m, which was "]


def test_with_several_versions_the_old_one_is_unloaded_before_the_new_one_loads(
    tmp_path: pathlib.Path,
) -> None:
    models = _Models(tmp_path, "latest { num_versions: 2 }", 1, 2)
    assert models.taken() == ["load 2", "load 1"]
    models.add(3)
    models.manager.poll()
    # Version 2 is wanted and serves meanwhile.
    assert models.taken() == ["unload 1", "load 3"]


def test_if_all_versions_are_replaced_the_highest_serves_until_then(
    tmp_path: pathlib.Path,
) -> None:
    models = _Models(tmp_path, "all {}", 1, 2)
    models.taken()
    models.add(3, 4)
    models.reload("latest { num_versions: 2 }")
    assert models.taken() == ["unload 1", "load 4", "unload 2", "load 3"]


def test_a_close_gives_up_a_version_that_is_used_and_unloads_the_others(
    tmp_path: pathlib.Path,
) -> None:
    models = _Models(tmp_path, "all {}", 1, 2)
    models.taken()
    with models.manager.use(model_pb2.ModelSpec(name="m", version={"value": 1})):
        assert not models.manager.close(0.2)
    assert models.taken() == ["unload 2"]
    assert models.manager.available_versions() == {"m": []}


def test_a_close_gives_up_a_running_load(tmp_path: pathlib.Path) -> None:
    models = _Models(tmp_path, "latest {}", 1)
    loading, released = threading.Event(), threading.Event()

    def load(name: str, version: int, path: object) -> Any:
        loading.set()
        released.wait(20)
        return _Model(version, models.events)

    models.manager._load_servable = load
    models.add(2)
    poll = threading.Thread(target=models.manager.poll)
    poll.start()
    assert loading.wait(20)
    assert not models.manager.close(0.1)
    released.set()
    poll.join()
    assert models.manager.close(20)
