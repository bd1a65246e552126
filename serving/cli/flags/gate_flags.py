"""The flag that overrules the export gate, shared by the commands that publish a release."""

from absl import flags

flags.DEFINE_bool(
    "force", False, "Publish even if the ranker is worse than the released one or than no model."
)
FLAGS = flags.FLAGS


def force() -> bool:
    """Returns whether a ranker that the gate refuses is published."""
    return bool(FLAGS.force)
