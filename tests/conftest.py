"""Loads the fixtures, except in the process that only hands out tests: it needs no TensorFlow."""

import atexit
import os

pytest_plugins = ("left_out",)


def pytest_configure(config):
    hands_out = config.getoption("dist", "no") != "no"
    if not hands_out:
        for plugin in ("tiny_models", "serving_fixtures", "exported_models", "valkey"):
            config.pluginmanager.import_plugin(plugin)
    if hasattr(config, "workerinput"):
        # The last thing that a worker does: the interpreter would free its objects for seconds.
        atexit.register(os._exit, 0)
