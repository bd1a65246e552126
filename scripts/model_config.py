"""Writes the models.config of TensorFlow Serving for a bundle: versions and labels.

    python scripts/model_config.py --bundle=/srv/bundles --output=serving/deploy/models.config
    python scripts/model_config.py --bundle=/srv/bundles --canary=5 --root=/models

Seconds. The file serves ranker and query_tower in the stable release (--stable), in the canary
where there is one (--canary) and in the release before the stable one, and labels the first two
`stable` and `canary`. A model server started with --model_config_file=FILE,
--model_config_file_poll_wait_seconds and --allow_version_labels_for_unavailable_models takes a
new file up while it runs: it loads what is new before it unloads what is old. The file is replaced
as a whole.

--root is where the model server sees the bundle, such as /models in serving/deploy/compose.yaml.
Without --output the file is printed.
"""

import os
import pathlib

import bundle_flags
import command_line
import local_service
from absl import flags

from serving import bundle
from serving.embedded import bundle_config

flags.adopt_module_key_flags(bundle_flags)
flags.DEFINE_integer("stable", None, "Release for all; default: --version, the latest.", 1)
flags.DEFINE_integer("canary", None, "Release that is tried beside it.", lower_bound=1)
flags.DEFINE_string("root", "/models", "Directory of the bundle as the model server sees it.")
flags.DEFINE_string("output", None, "File to write; default: print it.")
FLAGS = flags.FLAGS


def main() -> None:
    base = bundle_flags.base()
    published = bundle.versions(base)
    stable = FLAGS.stable or FLAGS.version or bundle.latest(base)
    labels = {"stable": stable}
    if FLAGS.canary is not None:
        labels["canary"] = FLAGS.canary
    for label, version in labels.items():
        if version not in published:
            raise ValueError(
                f"--{label}: expected one of the releases {published} in {base}, got {version}."
            )
    if not os.path.isabs(FLAGS.root):
        raise ValueError(f"--root: expected an absolute path, got {FLAGS.root!r}.")
    before = [version for version in published if version < stable][-1:]
    text = bundle_config.text(
        FLAGS.root, local_service.SERVED_MODELS, [*before, *labels.values()], labels
    )
    if FLAGS.output is None:
        print(text, end="")
        return
    path = pathlib.Path(FLAGS.output)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    shown = ", ".join(f"{label} {version}" for label, version in labels.items())
    print(f"{path}: {shown}; versions {sorted({*before, *labels.values()})}")


if __name__ == "__main__":
    command_line.run(main)
