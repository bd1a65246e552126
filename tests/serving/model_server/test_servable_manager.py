"""In which order versions are loaded and unloaded, and what a close waits for."""

import os
import pathlib
import threading
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.apis import model_pb2

from serving import model_config
from serving.model_server import servable_manager


class _Model:
    """Notes when it is closed."""

    def __init__(self, version: int, events: list[str]) -> None:
        self.name = "m"
        self.version = version
        self._events = events

    def close(self) -> None:
        self._events.append(f"unload {self.version}")


class _Models:
    """A manager of one model, whose versions are empty directories, and what it did."""

    def __init__(self, base: pathlib.Path, policy: str, *versions: int) -> None:
        self.base = base
        self.events: list[str] = []
        self.manager = servable_manager.ServableManager(self._load, retry_seconds=0.0)
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

    def _load(self, name: str, version: int, path: str) -> Any:
        self.events.append(f"load {version}")
        if os.listdir(path):
            raise ValueError(f"{path} is corrupt")
        return _Model(version, self.events)


def test_the_only_version_serves_until_the_next_one_does(tmp_path: pathlib.Path) -> None:
    models = _Models(tmp_path, "latest {}", 1)
    models.add(2)
    models.manager.poll()
    assert models.taken() == ["load 1", "load 2", "unload 1"]


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


def _states(models: _Models) -> dict[int, str]:
    state = servable_manager.State.State
    found = models.manager.status(model_pb2.ModelSpec(name="m"))
    return {item.version: state.Name(item.state) for item in found}


def test_a_corrupt_new_version_leaves_the_old_one_serving_and_is_tried_twice(
    tmp_path: pathlib.Path,
) -> None:
    models = _Models(tmp_path, "latest {}", 1)
    models.add(2)
    (tmp_path / "2" / "corrupt").touch()
    models.manager.poll()
    assert _states(models) == {2: "LOADING", 1: "AVAILABLE"}
    models.manager.poll()
    assert _states(models) == {2: "END", 1: "AVAILABLE"}
    models.manager.poll()
    assert models.taken() == ["load 1", "load 2", "load 2"]
    models.add(3)
    models.manager.poll()
    assert _states(models) == {3: "AVAILABLE", 2: "END", 1: "END"}
    # A repaired version that is wanted again is loaded again.
    (tmp_path / "2" / "corrupt").unlink()
    models.reload("all {}")
    assert _states(models) == {3: "AVAILABLE", 2: "AVAILABLE", 1: "AVAILABLE"}


def test_versions_that_vanish_are_unloaded_unless_the_base_path_does(
    tmp_path: pathlib.Path,
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    models = _Models(base, "all {}", 1)
    base.rename(tmp_path / "away")
    models.manager.poll()
    assert _states(models) == {1: "AVAILABLE"}
    (tmp_path / "away").rename(base)
    (base / "1").rename(base / "was-1")
    models.manager.poll()
    assert _states(models) == {1: "END"}
    (base / "was-1").rename(base / "1")
    models.manager.poll()
    assert _states(models) == {1: "AVAILABLE"}


def test_a_model_without_a_version_is_waited_for_if_another_one_has_some(
    tmp_path: pathlib.Path,
) -> None:
    base = tmp_path / "m"
    base.mkdir()
    models = _Models(base, "all {}", 1)
    both = model_config.build({"m": base, "later": tmp_path / "later"}, "all")
    models.manager.reload(both)
    assert models.manager.available_versions() == {"m": [1]}
    (tmp_path / "later" / "4").mkdir(parents=True)
    models.manager.poll()
    assert models.manager.available_versions() == {"m": [1], "later": [4]}
