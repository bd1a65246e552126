"""Writes the models.config of TensorFlow Serving for a bundle.

    tfrec model_config --bundle=/srv/bundles --output=workdir/models.config
    tfrec model_config --bundle=/srv/bundles --output=/config/models.config --follow

Takes seconds. The file lists the versions of ranker and query_tower to serve: the stable release,
labeled `stable`; the canary, labeled `canary`; the previous stable release; and releases that a
service has loaded. The command can tell which releases are loaded only with write access to the
bundle; without it, a version stays in the file until its release is pruned. A release without a
ranker is listed for query_tower only.

A model server started with --model_config_file=FILE, --model_config_file_poll_wait_seconds and
--allow_version_labels_for_unavailable_models reloads the file while it runs. A label moves
--label_delay_seconds after the last change of the file, which added its version, because a model
server refuses labels of versions that are not loaded yet. --follow keeps the file up to date until
SIGTERM or Ctrl-C.

--root is the directory of the bundle on the model server, such as /models in
serving/deploy/compose.yaml. Without --output the file is printed.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Sequence

from absl import flags

from serving import errors, manifest, model_config, process
from serving.cli.flags import bundle_flags

flags.declare_key_flag("workdir")
flags.declare_key_flag("bundle")
flags.DEFINE_string("root", "/models", "Directory of the bundle on the model server.")
flags.DEFINE_string("output", None, "File to write; default: print it.")
flags.DEFINE_bool("follow", False, "Keep the file up to date until SIGTERM or Ctrl-C.")
flags.DEFINE_float(
    "label_delay_seconds",
    30.0,
    "Time between the last change of the file and moving a label, in seconds; must be longer than "
    "the model server's --model_config_file_poll_wait_seconds.",
    lower_bound=0.0,
)
FLAGS = flags.FLAGS

_POLL_SECONDS = 1.0


def main() -> None:
    base = bundle_flags.bundle_base()
    if FLAGS.version is not None:
        raise ValueError(
            "--version is not supported, because the file follows tfrec release; promote the "
            "release instead."
        )
    if not os.path.isabs(FLAGS.root):
        raise ValueError(f"--root: expected an absolute path, got {FLAGS.root!r}.")
    if FLAGS.output is None:
        if FLAGS.follow:
            raise ValueError("--follow requires --output=FILE, the file to keep up to date.")
        print(_text(wanted(base, ())), end="")
        return
    stop = process.StopSignal()
    path = pathlib.Path(FLAGS.output)
    problem = None
    while True:
        try:
            final = update(base, path)
        except (errors.BundleError, OSError) as error:
            if not FLAGS.follow:
                raise
            if str(error) != problem:
                print(f"{path} was not updated: {error}", file=sys.stderr, flush=True)
            final, problem = True, str(error)
        else:
            if problem is not None:
                print(f"{path} can be updated again.", file=sys.stderr, flush=True)
            problem = None
        if final and not FLAGS.follow:
            return
        if stop.wait(_POLL_SECONDS):
            return


def update(base: pathlib.Path, path: pathlib.Path) -> bool:
    """Writes the next file on the way to the target; returns whether that is the target."""
    from tfrecords import files

    before = _read(path)
    target = wanted(base, before.versions)
    # Not before the model server has read the file, which another process may have written.
    if path.exists() and 0 <= time.time() - path.stat().st_mtime < FLAGS.label_delay_seconds:
        before = dataclasses.replace(before, versions=())
    after = model_config.next_served(before, target)
    text = _text(after)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        files.write(path, text, durable=True)
        labels = ", ".join(f"{label} {version}" for label, version in after.labels.items())
        print(f"{path}: {labels}; versions {list(after.versions)}", flush=True)
    return after == target


def wanted(base: pathlib.Path, served: Sequence[int]) -> model_config.ServedReleases:
    """Returns the releases to serve: stable, canary, previous, and served ones that are loaded.

    Raises:
        BundleError: No release is published, or `releases.json` cannot be read.
    """
    from serving import releases

    pointer = releases.current_pointer(base)
    named = {pointer.stable, pointer.canary, *pointer.previous[:1]}
    versions = tuple(
        version
        for version in manifest.versions(base)
        if version in named or releases.is_held(base, version, served)
    )
    labels = {"stable": pointer.stable}
    if pointer.canary is not None:
        labels["canary"] = pointer.canary
    without_ranker = releases.versions_without_ranker(base, versions)
    return model_config.ServedReleases(versions, labels, without_ranker)


def _read(path: pathlib.Path) -> model_config.ServedReleases:
    if not path.is_file():
        return model_config.ServedReleases((), {})
    try:
        return model_config.read_served(path)
    except ValueError as error:
        raise ValueError(f"--output: {error}. Remove the file or choose another one.") from error


def _text(served: model_config.ServedReleases) -> str:
    return model_config.config_text(FLAGS.root, model_config.SERVED_MODELS, served)
