"""Publishes, verifies, promotes, rolls back, canaries, lists and prunes releases.

    tfrec release --workdir=workdir/quickstart
    tfrec release --bundle=/srv/bundles --action=publish --source=workdir/quickstart
    tfrec release --bundle=/srv/bundles --action=verify --version=4
    tfrec release --bundle=/srv/bundles --action=canary --version=4 --share=0.1
    tfrec release --bundle=/srv/bundles --action=promote --version=4
    tfrec release --bundle=/srv/bundles --action=rollback
    tfrec release --bundle=/srv/bundles --action=prune --keep=3

Takes seconds. Running services (tfrec serve) follow within about a second, without a failed
request. Each action is atomic, even if it is killed. A concurrent one is refused, or waits up to
--wait_seconds.

list        Lists all releases, the newest first; --json for programs.
publish     Publishes a release of --source with the next version here. --source is a work
            directory, which is exported first, or another base directory of bundles
            (--source_version; default: its stable release). The release becomes stable at once if
            no release was ever promoted here.
verify      Checks every file, and the probes of query tower, index, ad tower and ranker.
promote     Makes --version the stable release.
rollback    Makes the previous stable release stable again, and ends the canary.
canary      Gives --version a --share of the users, and all requests with "release": "canary".
end_canary  Lets the stable release answer all requests again.
prune       Removes all but the newest --keep releases, the stable one, the one that a rollback
            goes to, the canary, and those that a process has loaded.

Each release has its own live updates: apply those that a newly promoted one lacks again.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from serving.cli import shared_flags
from tfrecords import terminal

if TYPE_CHECKING:
    from serving import releases

shared_flags.define_release()
shared_flags.define_force()
flags.DEFINE_enum(
    "action",
    "list",
    ["list", "publish", "verify", "promote", "rollback", "canary", "end_canary", "prune"],
    "Action; see above.",
)
flags.DEFINE_string(
    "source", None, "publish: work directory or base directory of bundles; default: --workdir."
)
flags.DEFINE_integer(
    "source_version", None, "publish: version of the release in --source.", lower_bound=1
)
flags.DEFINE_float("share", 0.1, "canary: share of users, in [0, 1].", 0.0, 1.0)
flags.DEFINE_integer("keep", 3, "prune: number of newest releases to keep.", lower_bound=1)
flags.DEFINE_float(
    "wait_seconds",
    0.0,
    "Maximum time to wait for a concurrent action, in seconds.",
    lower_bound=0.0,
)
flags.DEFINE_bool("json", False, "list: print JSON.")
FLAGS = flags.FLAGS
FLAGS["version"].help = (
    "Release version; required by promote and canary. Default of verify: the stable release, or "
    "the latest one if none was ever promoted."
)
# Flags of some actions -> these actions.
_USED_BY = {
    "version": ("verify", "promote", "canary"),
    "source": ("publish",),
    "source_version": ("publish",),
    "share": ("canary",),
    "keep": ("prune",),
    "json": ("list",),
}


def main() -> None:
    from serving import operations, releases

    for name, actions in _USED_BY.items():
        if FLAGS[name].present and FLAGS.action not in actions:
            raise ValueError(
                f"--{name} has no effect on --action={FLAGS.action}: expected "
                f"{' or '.join(f'--action={action}' for action in actions)}. Leave it out, or "
                "choose another action."
            )
    base = shared_flags.bundle_base()
    if FLAGS.action == "list":
        rows = releases.list_releases(base)
        print(json.dumps(rows, indent=1) if FLAGS.json else _table(rows))
    elif FLAGS.action == "publish":
        _publish(base)
    elif FLAGS.action == "verify":
        version = FLAGS.version or releases.stable(base)
        for line in operations.check_release(base, version):
            print(f"release {version}: {line}")
    elif FLAGS.action == "prune":
        pruned = releases.prune(base, FLAGS.keep, FLAGS.wait_seconds)
        print(f"removed: {_listed(pruned.removed)}")
        if pruned.in_use:
            print(f"kept because a process has loaded them: {_listed(pruned.in_use)}")
    else:
        _change(base)


def _change(base: pathlib.Path) -> None:
    from serving import releases

    wait = FLAGS.wait_seconds
    if FLAGS.action in ("promote", "canary") and FLAGS.version is None:
        raise ValueError(
            f"--action={FLAGS.action} requires --version=N; --action=list shows the versions."
        )
    if FLAGS.action == "promote":
        change = releases.promote(base, FLAGS.version, wait)
    elif FLAGS.action == "canary":
        change = releases.start_canary(base, FLAGS.version, FLAGS.share, wait)
    elif FLAGS.action == "rollback":
        change = releases.roll_back(base, wait)
    else:
        change = releases.end_canary(base, wait)
    print(f"before: {_describe(change.before)}")
    print(f"now:    {_describe(change.after)}")


def _publish(base: pathlib.Path) -> None:
    from serving import releases, workflow

    source, source_version = pathlib.Path(FLAGS.source or FLAGS.workdir), FLAGS.source_version
    if (source / "steps").is_dir():
        if source_version is not None:
            raise ValueError("--source_version requires a base directory of bundles as --source.")
        # Exported if needed.
        exported = workflow.open_stages(source).export(force=FLAGS.force)
        source, source_version = exported.base, exported.version
    elif not (source / "manifests").is_dir() and (source / "bundle" / "manifests").is_dir():
        source = source / "bundle"
    if source.resolve() == base.resolve():
        # The export has already published it here.
        version = source_version or releases.latest(base)
    else:
        version = releases.copy_release(
            source,
            source_version,
            base,
            gate=_check,
            wait_seconds=FLAGS.wait_seconds,
        ).version
    print(f"release {version} is published in {base}")
    pointer = releases.read_pointer(base)
    if pointer is not None and pointer.stable != version:
        print(
            f"release {pointer.stable} remains stable; to switch to release {version}, use "
            f"--action=promote --version={version}, or --action=canary first"
        )


def _check(base: pathlib.Path, copied: releases.Bundle) -> dict[str, Any]:
    """Evaluates a release, and prints what was forced and what was not compared."""
    from serving import export

    judged = export.check_copied_release(base, copied, FLAGS.force)
    for line in judged["refusals"]:
        print(f"forced: {line}")
    for line in judged["notes"]:
        print(line)
    return judged


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows of `releases.list_releases` as a text table."""
    head = ("release", "role", "in use", "created (UTC)", "ads", "MB", "click NE", "notes")
    cells = []
    for row in rows:
        role = row["role"] or ""
        if row["share"] is not None:
            role = f"{role} {row['share']:.1%}"
        in_use = {True: "yes", False: "no", None: "?"}[row["in_use"]]
        start = [str(row["version"]), role, in_use]
        if row["problem"] is not None:
            cells.append([*start, "", "", "", "", row["problem"]])
            continue
        figures = (row["validation"] or {}).get("click", {}).get("normalized_entropy")
        cells.append(
            [
                *start,
                row["created"][:19].replace("T", " "),
                f"{row['num_ads']:,}",
                f"{row['bytes'] / 1e6:,.1f}",
                "–" if figures is None else f"{figures:.4f}",
                _notes(row),
            ]
        )
    return terminal.text_table(head, cells, left=(0, 1, 2, 3, 7))


def _notes(row: Mapping[str, Any]) -> str:
    notes = ["published with --force"] if row["forced"] else []
    if not row["heads"]:
        notes.append("no ranker")
    if row["weak_heads"]:
        notes.append(f"weak: {', '.join(row['weak_heads'])}")
    return "; ".join(notes)


def _describe(pointer: releases.Pointer | None) -> str:
    if pointer is None:
        return "releases.json could not be read"
    text = f"release {pointer.stable} is stable"
    if pointer.canary is None:
        return text
    return f"{text}, canary {pointer.canary} answers {pointer.share:.1%} of the users"


def _listed(versions: tuple[int, ...]) -> str:
    return ", ".join(map(str, versions)) or "none"
