r"""Requests ranked ads from a release bundle or a running service.

    tfrec inference --workdir=workdir/quickstart --demo
    tfrec inference --workdir=workdir/quickstart --request=request.json
    tfrec inference --input=requests.jsonl --output=answers.jsonl
    tfrec inference --server=http://127.0.0.1:8080 --request=request.json
    tfrec inference --server=https://ads.example:443 --token_file=token --request=request.json
    tfrec inference --workdir=workdir/quickstart --demo --explain \
        --rules='{"caps": [{"field": "category", "max": 2}], "exploration": {"share": 0.1}}'

A request is JSON: {"user": {…}, "context": {…}, "k": 10, "weights": {"click": 1, "revenue": 2},
"filters": {"conditions": [{"field": "advertiser", "none_of": ["a3"]}], "excluded_ads": ["ad-8"]},
"rules": {"caps": [{"field": "advertiser", "max": 2}]}, "seen": {"ads": {"ad-9": 3}}}.
Takes seconds: it verifies the bundle and starts the embedded model server, unless --ranker_address
gives a running one. --input is a file with one request per line; --output gets the answers in the
same order, with {"error": …} for a refused request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from serving import errors
from serving.cli import command_line, shared_flags
from serving.requests import Request, parse

if TYPE_CHECKING:
    from serving import client, orchestrator

    Service = orchestrator.Orchestrator | client.AsyncClient

shared_flags.define_access()
shared_flags.define_release()
shared_flags.define_filters()
shared_flags.define_rules()
flags.DEFINE_string("ranker_address", None, "host:port of a running model server, or of several.")
flags.DEFINE_string("server", None, "URL of a running tfrec serve to use instead of a bundle.")
flags.DEFINE_bool("demo", False, "Rank ads for a held-out request of the bundle.")
flags.DEFINE_string("request", None, "JSON file with a request, or - for standard input.")
flags.DEFINE_string("input", None, "File with one JSON request per line.")
flags.DEFINE_string("output", None, "File for the answers of --input, one per line.")
flags.DEFINE_integer("k", None, "Number of ads to return for requests without k.", lower_bound=1)
flags.DEFINE_bool("explain", False, "Explain the position of each ad and the effects of the rules.")
flags.DEFINE_bool("json", False, "Print answers as JSON.")
FLAGS = flags.FLAGS

# Concurrent requests share calls to the towers and to the ranker.
_MAX_CONCURRENT = 16
_REFUSALS = (errors.InvalidRequestError, errors.OverloadedError, errors.TfrecClientError)


def main() -> None:
    modes = [name for name in ("demo", "request", "input") if FLAGS[name].value]
    if len(modes) != 1:
        raise ValueError("Give one of --demo, --request=FILE and --input=FILE --output=FILE.")
    if bool(FLAGS.input) != bool(FLAGS.output):
        raise ValueError("--input and --output: expected both or neither.")
    if FLAGS.input and pathlib.Path(FLAGS.input).resolve() == pathlib.Path(FLAGS.output).resolve():
        raise ValueError(f"--output={FLAGS.output} is the file of --input; name another file.")
    if FLAGS.server and FLAGS.impression_log:
        raise ValueError(
            "--impression_log cannot be combined with --server; set it for tfrec serve."
        )
    if FLAGS.server and FLAGS.demo:
        raise ValueError("--demo requires a bundle; with --server use --request=FILE.")
    asyncio.run(_run())


async def _run() -> None:
    if FLAGS.server:
        from serving import client

        async with client.AsyncClient(
            FLAGS.server, token=shared_flags.token(), verify=FLAGS.tls_authorities or True
        ) as server:
            await _serve(server)
        return
    from serving import operations

    base = shared_flags.bundle_base()
    with contextlib.ExitStack() as stack:
        log = None
        if FLAGS.impression_log is not None:
            from serving import impressions

            log = impressions.ImpressionLog(FLAGS.impression_log, shared_flags.log_config())
            stack.callback(log.close)
        async with operations.open_service(
            base, FLAGS.version, FLAGS.ranker_address, impressions=log
        ) as service:
            if FLAGS.demo:
                probe = service.release.manifest.probes["requests"][0]
                await _answer(service, Request(context=probe))
            else:
                await _serve(service)


async def _serve(service: Service) -> None:
    if FLAGS.input:
        await _answer_file(service, pathlib.Path(FLAGS.input), pathlib.Path(FLAGS.output))
        return
    text = (
        sys.stdin.read()
        if FLAGS.request == "-"
        else command_line.read_text(pathlib.Path(FLAGS.request))
    )
    await _answer(service, _parse(text, FLAGS.request))


async def _answer(service: Service, request: Request) -> None:
    from serving import operations

    answer = await service.recommend(_with_flags(request))
    print(json.dumps(answer.to_json()) if FLAGS.json else operations.describe_answer(answer))


async def _answer_file(service: Service, source: pathlib.Path, target: pathlib.Path) -> None:
    """Answers a request per line; the answers have the order of the requests."""
    lines = command_line.read_lines(source)
    places = asyncio.Semaphore(_MAX_CONCURRENT)

    async def answer(number: int, line: str) -> dict[str, Any]:
        async with places:
            try:
                request = _with_flags(_parse(line, f"line {number}"))
                return (await service.recommend(request)).to_json()
            except (ValueError, *_REFUSALS) as error:
                return {"error": str(error)}

    answers = await asyncio.gather(*(answer(n, line) for n, line in enumerate(lines, 1)))
    with target.open("w", encoding="utf-8") as output:
        output.writelines(json.dumps(answer) + "\n" for answer in answers)
    refused = sum("error" in answer for answer in answers)
    print(f"Requests answered in {target}: {len(lines) - refused:,} of {len(lines):,}")
    if refused:
        command_line.fail(f"Requests refused: {refused:,}; see the reasons in {target}.")


def _parse(text: str, place: str) -> Request:
    value = command_line.parse_json(text, place, "a JSON request")
    try:
        return parse(Request, value)
    except errors.InvalidRequestError as error:
        raise ValueError(f"{place}: {error}") from error


def _with_flags(request: Request) -> Request:
    """Adds the values of the flags that the request does not set."""
    objects = {name: command_line.json_of_flag(name) for name in ("filters", "rules")}
    flagged = {"k": FLAGS.k, **objects}
    missing = {
        name: value
        for name, value in flagged.items()
        if value is not None and getattr(request, name) is None
    }
    return parse(Request, {**dict(request), **missing, "explain": request.explain or FLAGS.explain})
