"""The flag that overrides the export gate."""

from absl import flags

flags.DEFINE_bool(
    "force",
    False,
    "Publish even if the export gate refuses the release.",
)
FLAGS = flags.FLAGS


def force() -> bool:
    """Returns whether to publish a release that the gate refuses."""
    return bool(FLAGS.force)
