r"""Checks a running model server and service against a release bundle.

    python scripts/doctor.py --workdir=workdir/quickstart
    python scripts/doctor.py --bundle=/srv/bundles --norows --model_server=10.0.0.7:8500 --service=
    python scripts/doctor.py --workdir=workdir/quickstart --impression_log=workdir/impressions
    python scripts/doctor.py --service=https://ads.example:443 --token_file=workdir/token \
        --tls_authorities=workdir/authorities.pem
    python scripts/doctor.py --workdir=workdir/quickstart --json

Half a minute. Looks at what scripts/serve.py starts, unless told otherwise; an empty address leaves
that server out. Checked are: every byte and the probes of the bundle; of the model server whether
it is reachable, serves the version, has the signatures and reproduces the probes, by gRPC and REST;
of the service readiness, release and answers; and with a work directory the scores of logged,
held-out rows, by the training code and by the servers. With --impression_log also what was shown:
the logged scores of the release's latest answers against its own ranker's.

Each check says ok, or what was expected, what came and what to do. Exit status 1 if one failed.
"""

import json
import pathlib
import sys
from collections.abc import Iterator

from absl import flags

from serving import errors, export, operations, releases
from serving.cli import impression_files
from serving.cli.flags import bundle_flags
from serving.service import read_token

flags.adopt_module_key_flags(bundle_flags)
flags.DEFINE_string("model_server", "127.0.0.1:8500", "host:port of the model server's gRPC.")
flags.DEFINE_string("model_server_rest", "127.0.0.1:8501", "host:port of its REST API.")
flags.DEFINE_string("service", "http://127.0.0.1:8080", "URL of the recommendation service.")
flags.DEFINE_string(
    "token", None, "Bearer token of the service; every user of the machine can read it here."
)
flags.DEFINE_string(
    "token_file", None, "File with the bearer token; default: the variable TFREC_TOKEN, or none."
)
flags.DEFINE_string(
    "tls_authorities",
    None,
    "PEM file of the certificates to trust an https --service by, its own where it signed itself; "
    "default: those that public authorities signed.",
)
flags.DEFINE_bool("rows", True, "Compare scores of held-out rows of --workdir.")
flags.DEFINE_integer("num_requests", 64, "Held-out requests that are compared.", lower_bound=1)
flags.DEFINE_string(
    "impression_log",
    None,
    "Compare the scores of this log of scripts/serve.py: its directory, or files of it.",
)
flags.DEFINE_integer("num_answers", 256, "Latest logged answers that are compared.", lower_bound=1)
flags.DEFINE_float("timeout_seconds", 10.0, "Of each call.", lower_bound=0.001)
flags.DEFINE_bool("json", False, "Print JSON.")
FLAGS = flags.FLAGS


def main() -> None:
    found = []
    for finding in _look():
        found.append(finding)
        if not FLAGS.json:
            print(operations.findings_as_text([finding]).rsplit("\n", 1)[0], flush=True)
    if FLAGS.json:
        print(json.dumps(operations.findings_as_json(found), indent=1))
    else:
        print(operations.findings_as_text(found).rsplit("\n", 1)[1])
    if operations.any_failed(found):
        sys.exit(1)


def _look() -> Iterator[operations.Finding]:
    base = bundle_flags.bundle_base()
    token = FLAGS.token or read_token(FLAGS.token_file)
    version = FLAGS.version or releases.stable(base)
    whole = operations.finding_of(
        f"release {version} of {base}", lambda: "; ".join(operations.check_release(base, version))
    )
    yield whole
    if whole.status != "ok":
        return
    release = releases.load(base, version)
    logged = list[export.LoggedRequest]()
    if FLAGS.rows:
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
        server = operations.ModelServerCheck(
            FLAGS.model_server, FLAGS.model_server_rest or None, release, FLAGS.timeout_seconds
        )
        yield from server.look()
        server.close()
        if logged:
            yield operations.finding_of(
                f"model server {FLAGS.model_server}, held-out rows",
                lambda: operations.compare_over_grpc(logged, release, FLAGS.model_server),
            )
    if FLAGS.service:
        try:
            service = operations.ServiceCheck(
                FLAGS.service, release, FLAGS.timeout_seconds, token, FLAGS.tls_authorities
            )
        except errors.TfrecClientError as error:
            yield operations.Finding(f"service {FLAGS.service}", "failed", str(error))
            return
        yield from service.look()
        if logged:
            yield operations.finding_of(
                f"service {FLAGS.service}, held-out rows",
                lambda: operations.compare_over_rest(logged, release, service),
            )
        service.close()
    release.close()
