r"""Checks a running model server and service against a release bundle.

    tfrec doctor --workdir=workdir/quickstart
    tfrec doctor --bundle=/srv/bundles --norows --model_server=10.0.0.7:8500 --service=
    tfrec doctor --workdir=workdir/quickstart --impression_log=workdir/impressions
    tfrec doctor --service=https://ads.example:443 --token_file=workdir/token \
        --tls_authorities=workdir/authorities.pem
    tfrec doctor --workdir=workdir/quickstart --json

Takes half a minute. By default it checks the servers that tfrec serve starts; an empty address
skips a server. It checks:

- all files and the probes of the bundle, and the journal of its live updates;
- whether the model server is reachable, serves the version, has the right signatures and reproduces
  the probes;
- whether the service is ready, serves the release and answers;
- whether the servers' scores of held-out rows of --workdir agree with the training code's
  (--norows skips this, and so does --bundle without --workdir);
- with --impression_log, whether the latest logged scores of the release agree with its ranker's.

Each check prints ok, or the finding, the expected value and the remedy. The exit status is 1 if a
check failed.
"""

from __future__ import annotations

import asyncio
import functools
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags

from serving import errors
from serving.cli.flags import access_flags, bundle_flags

if TYPE_CHECKING:
    from serving import export, operations, releases

flags.adopt_module_key_flags(access_flags)
flags.adopt_module_key_flags(bundle_flags)
flags.DEFINE_string(
    "model_server",
    "127.0.0.1:8500",
    "host:port of the model server's gRPC API; several separated by commas, or dns:///NAME:PORT, "
    "are checked one by one.",
)
flags.DEFINE_string("service", "http://127.0.0.1:8080", "URL of the recommendation service.")
flags.DEFINE_bool("rows", True, "Compare scores of held-out rows of --workdir.")
flags.DEFINE_integer(
    "num_requests", 64, "Maximum number of held-out requests to compare.", lower_bound=1
)
flags.DEFINE_string(
    "impression_log",
    None,
    "Impression log to compare: its directory, or a comma-separated list or pattern of its files.",
)
flags.DEFINE_integer(
    "num_answers", 256, "Maximum number of logged answers to compare.", lower_bound=1
)
flags.DEFINE_float("timeout_seconds", 10.0, "Timeout of each call, in seconds.", lower_bound=0.001)
flags.DEFINE_bool("json", False, "Print only the findings, as JSON.")
FLAGS = flags.FLAGS


def main() -> None:
    from serving import operations

    found = []
    for finding in _findings():
        found.append(finding)
        if not FLAGS.json:
            print(operations.finding_as_text(finding), flush=True)
    if FLAGS.json:
        print(json.dumps(operations.findings_as_json(found), indent=1))
    else:
        print(operations.summary(found))
    if operations.any_failed(found):
        sys.exit(1)


def _reads_rows() -> bool:
    """Returns whether to compare rows; with --bundle, only if --workdir is given, too."""
    return FLAGS.rows and (FLAGS.bundle is None or FLAGS["workdir"].present > 0)


def _findings() -> Iterator[operations.DoctorFinding]:
    from serving import operations, releases
    from serving.cli import impression_files

    base = bundle_flags.bundle_base()
    token = access_flags.token()
    version = FLAGS.version or releases.stable(base)
    loaded: list[releases.Bundle] = []

    def check() -> str:
        # A release that is loaded is not pruned during the checks.
        loaded.append(releases.load(base, version))
        return "; ".join(operations.check_release(base, version))

    release_finding = operations.finding_of(f"release {version} of {base}", check)
    yield release_finding
    if release_finding.status != "ok":
        return
    (release,) = loaded
    yield operations.finding_of(
        f"live updates of release {version}", lambda: operations.check_updates(release)
    )
    logged: list[export.LoggedRequest] = []
    if _reads_rows():
        workdir = pathlib.Path(FLAGS.workdir)

        def read() -> str:
            logged.extend(operations.read_logged_requests(workdir, release, FLAGS.num_requests))
            return f"{len(logged)} held-out requests scored by the trained ranker"

        yield operations.finding_of(f"work directory {workdir}", read)
    if FLAGS.impression_log:
        yield operations.finding_of(
            f"impression log {FLAGS.impression_log}",
            lambda: operations.compare_impressions(
                impression_files.find("impression_log", FLAGS.impression_log),
                release,
                FLAGS.num_answers,
            ),
        )
    if FLAGS.model_server:
        yield from _model_servers(release, logged)
    if FLAGS.service:
        try:
            service = operations.ServiceCheck(
                FLAGS.service, release, FLAGS.timeout_seconds, token, FLAGS.tls_authorities
            )
        except errors.TfrecClientError as error:
            yield operations.DoctorFinding(f"service {FLAGS.service}", "failed", str(error))
            return
        yield from service.look()
        if logged:
            yield operations.finding_of(
                f"service {FLAGS.service}, held-out rows",
                lambda: operations.compare_over_rest(logged, release, service),
            )
        service.close()
    release.close()


def _model_servers(
    release: releases.Bundle, logged: list[export.LoggedRequest]
) -> Iterator[operations.DoctorFinding]:
    """Yields the findings of each model server; for several, also how many can be used."""
    from serving import operations, ranker

    addresses: list[str] = []

    def find() -> str:
        addresses.extend(asyncio.run(ranker.find_servers(FLAGS.model_server)))
        return f"{len(addresses)} model servers: {', '.join(addresses)}"

    found = operations.finding_of(f"replicas of {FLAGS.model_server}", find)
    if found.status == "failed" or len(addresses) > 1:
        yield found
    usable = []
    for address in addresses:
        server = operations.ModelServerCheck(address, release, FLAGS.timeout_seconds)
        findings = list(server.look())
        server.close()
        yield from findings
        if not operations.any_failed(findings):
            usable.append(address)
        if logged:
            yield operations.finding_of(
                f"model server {address}, held-out rows",
                functools.partial(operations.compare_over_grpc, logged, release, address),
            )
    if len(addresses) > 1:
        yield operations.DoctorFinding(
            f"replicas of {FLAGS.model_server}",
            "ok" if usable else "failed",
            f"{len(usable)} of {len(addresses)} can be used: {', '.join(usable) or 'none'}",
        )
