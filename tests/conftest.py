"""Loads the fixtures, except in the process that only hands out tests: it needs no TensorFlow."""

pytest_plugins = ("left_out",)


def pytest_configure(config):
    hands_out = config.getoption("dist", "no") != "no"
    if not hands_out:
        for plugin in ("tiny_models", "serving_fixtures", "valkey"):
            config.pluginmanager.import_plugin(plugin)
