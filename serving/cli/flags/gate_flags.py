"""The flag that overrides the export gate."""

from absl import flags

flags.DEFINE_bool(
    "force",
    False,
    "Publish even if the export gate refuses the release.",
)
