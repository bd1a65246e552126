r"""Checks a release, and the model server and service that should serve it.

    tfrec doctor --workdir=workdir/quickstart
    tfrec doctor --bundle=/srv/bundles --model_server=10.0.0.7:8500 --service=
    tfrec doctor --service=https://ads.example:443 --token_file=workdir/token \
        --tls_authorities=workdir/authorities.pem

By default it checks the servers that tfrec serve starts; an empty address skips a server. With
--workdir, the service's scores of held-out rows are compared with those of the training code
(--norows skips this). Exits with status 1 if a check failed.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags

from serving.cli import command_line, shared_flags

if TYPE_CHECKING:
    from serving import export, operations, releases

shared_flags.define_access()
shared_flags.define_release()
flags.DEFINE_list(
    "model_server",
    "127.0.0.1:8500",
    "host:port of the gRPC API of the model server, or of several, separated by commas.",
)
flags.DEFINE_string("service", "http://127.0.0.1:8080", "URL of the recommendation service.")
flags.DEFINE_bool("rows", True, "Compare scores of held-out rows of --workdir.")
flags.DEFINE_integer(
    "num_requests", 64, "Maximum number of held-out requests to compare.", lower_bound=1
)
flags.DEFINE_float("timeout_seconds", 10.0, "Timeout of each call, in seconds.", lower_bound=0.001)
flags.DEFINE_bool("json", False, "Print only the findings, as JSON.")
FLAGS = flags.FLAGS


def main() -> None:
    found = []
    for finding in _findings():
        found.append(finding)
        if not FLAGS.json:
            print(finding, flush=True)
    num_failed = sum(not finding.ok for finding in found)
    if FLAGS.json:
        command_line.print_json([dataclasses.asdict(finding) for finding in found])
    else:
        print(f"{len(found) - num_failed} ok, {num_failed} failed")
    if num_failed:
        sys.exit(1)


def _findings() -> Iterator[operations.DoctorFinding]:
    from serving import operations, releases

    check = operations.DoctorFinding.of
    base = shared_flags.bundle_base()
    version = FLAGS.version or releases.stable(base)
    loaded: list[releases.Bundle] = []

    def load() -> str:
        # A release that is loaded is not pruned during the checks.
        loaded.append(releases.load(base, version))
        return "; ".join(operations.check_release(base, version))

    release_finding = check(f"release {version} of {base}", load)
    yield release_finding
    if not release_finding.ok:
        return
    (release,) = loaded
    yield check("live updates", functools.partial(operations.check_updates, release))
    for address in FLAGS.model_server:
        yield check(
            f"model server {address}",
            functools.partial(
                operations.check_model_server, address, release, FLAGS.timeout_seconds
            ),
        )
    if FLAGS.service:
        yield from _service(release)
    release.close()


def _service(release: releases.Bundle) -> Iterator[operations.DoctorFinding]:
    from serving import client, errors, operations

    check, place = operations.DoctorFinding.of, f"service {FLAGS.service}"
    try:
        connected = client.Client(
            FLAGS.service,
            timeout_seconds=FLAGS.timeout_seconds,
            token=shared_flags.token(),
            verify=FLAGS.tls_authorities or True,
        )
    except (errors.TfrecClientError, OSError) as error:
        yield operations.DoctorFinding(place, False, str(error))
        return
    with connected:
        service = operations.ServiceCheck(connected, release)
        ready = check(f"{place}, ready", service.ready)
        yield ready
        if not ready.ok:
            return
        yield check(f"{place}, release", service.serves)
        yield check(f"{place}, a probe", service.answers)
        # With --bundle, only if --workdir is given, too.
        if FLAGS.rows and (FLAGS.bundle is None or FLAGS["workdir"].present):
            yield check(f"{place}, held-out rows", lambda: service.skew(_logged_requests(release)))


def _logged_requests(release: releases.Bundle) -> list[export.LoggedRequest]:
    # Loads training code, which the other checks do not need.
    from serving import export, operations

    training_id, logged = export.logged_requests(pathlib.Path(FLAGS.workdir), FLAGS.num_requests)
    if training_id != release.manifest.training_id:
        raise operations.CheckFailedError(
            f"{FLAGS.workdir} has training {training_id}, but release {release.version} has "
            f"{release.manifest.training_id}. Set --workdir to the one that the release was "
            "exported from, or use --norows."
        )
    return list(logged)
