"""Flags that select a release."""

import pathlib

from absl import flags

flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory with a release bundle.")
flags.DEFINE_string("bundle", None, "Base directory of bundles; default: WORKDIR/bundle.")
flags.DEFINE_integer(
    "version",
    None,
    "Release version; default: the stable release, or the latest one if none was ever promoted.",
    lower_bound=1,
)
FLAGS = flags.FLAGS


def bundle_base() -> pathlib.Path:
    """Returns the base directory of the bundles."""
    return pathlib.Path(FLAGS.bundle or pathlib.Path(FLAGS.workdir) / "bundle")
