r"""Publishes models of any framework, and a table of ads, as the next release.

    tfrec publish --query_tower=models/query_tower --ad_tower=models/ad_tower \
        --ranker=models/ranker --ads_path=ads.parquet --schema_path=schema.json \
        --requests=requests.jsonl --bundle=bundles
    tfrec serve --bundle=bundles

The models are SavedModels with the signature serving_default:

query_tower  raw query fields -> query_embedding [B, D]
ad_tower     raw ad fields -> ad_embedding [B, D] and, if wanted, ad_features [B, F] int32
ranker       raw query fields and ad_features [B, C, F] -> [B, C] of each head, such as
             click_probability, engagement_probability and expected_revenue; without a ranker,
             ads are in retrieval order

docs/howto/publish_models.md describes them. Takes seconds, or minutes with a million ads. Every ad
is embedded, and the search is tuned on --requests until it reaches the target recall. If a model,
an ad or a request is invalid, nothing is published. The release has no training data, so checks
that need it are skipped.
"""

from __future__ import annotations

import logging
import pathlib
from typing import TYPE_CHECKING, Any

from absl import flags

from serving.cli import command_line, shared_flags

if TYPE_CHECKING:
    import pyarrow as pa

    from tfrecords.schema import Schema

flags.DEFINE_string("query_tower", None, "SavedModel of the query tower.", required=True)
flags.DEFINE_string("ad_tower", None, "SavedModel of the ad tower.", required=True)
flags.DEFINE_string("ranker", None, "SavedModel of the ranker; default: no ranker.")
flags.DEFINE_string(
    "ads_path",
    None,
    "Table of ads: Parquet, CSV, TSV or JSON lines with the columns of the schema's ad_key and ad "
    "fields, or the Arrow file of a release.",
    required=True,
)
flags.DEFINE_string("schema_path", None, "Schema file (JSON) of the fields.", required=True)
flags.DEFINE_string(
    "requests",
    None,
    "File with one JSON request per line, as clients will send them.",
    required=True,
)
flags.DEFINE_string("bundle", None, "Base directory of bundles to publish into.", required=True)
shared_flags.define_index()
flags.DEFINE_float(
    "wait_seconds", 0.0, "Maximum time to wait for another publish, in seconds.", lower_bound=0.0
)
flags.DEFINE_bool("json", False, "Print only the release, as JSON.")
FLAGS = flags.FLAGS


def main() -> None:
    from serving import releases
    from tfrecords.schema import load_schema

    # Commands hide warnings of libraries; these are about the index and the models.
    logging.getLogger(releases.__name__).setLevel(logging.WARNING)
    schema = load_schema(FLAGS.schema_path)
    release = releases.publish_models(
        FLAGS.bundle,
        query_tower=FLAGS.query_tower,
        ad_tower=FLAGS.ad_tower,
        ranker=FLAGS.ranker,
        ads=_read_ads(pathlib.Path(FLAGS.ads_path), schema),
        schema=schema,
        sample_requests=_read_requests(pathlib.Path(FLAGS.requests)),
        index_config=shared_flags.index_config(),
        wait_seconds=FLAGS.wait_seconds,
    )
    if FLAGS.json:
        found = {"bundle": FLAGS.bundle, "version": release.version, "index": release.index}
        command_line.print_json({**found, "heads": release.present_heads})
        return
    print(
        f"release {release.version} is published in {FLAGS.bundle}: {release.index['num_ads']:,} "
        f"ads, index {release.index['kind']}, "
        + (f"heads {', '.join(release.present_heads)}" if release.has_ranker else "no ranker")
    )
    stable = releases.stable(FLAGS.bundle)
    if stable != release.version:
        print(
            f"release {stable} remains stable; to switch, use tfrec release --action=promote "
            f"--version={release.version}, or --action=canary first"
        )


def _read_ads(path: pathlib.Path, schema: Schema) -> pa.Table:
    from pyarrow import feather

    from tfrecords import formats

    if path.suffix in (".arrow", ".feather") and path.is_file():
        return feather.read_table(path)
    return formats.FORMATS.get("tabular").read_ads(formats.Files((), ads=path), schema)


def _read_requests(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the raw query fields of each request."""
    from serving import requests

    found = []
    for number, line in enumerate(command_line.read_lines(path), 1):
        place = f"{path}, request {number}"
        value = command_line.parse_json(line, place, "a JSON request")
        request = requests.parse(requests.Request, value, place)
        found.append({**(request.user or {}), **(request.context or {})})
    if not found:
        raise ValueError(
            f"--requests: expected a file with one JSON request per line, as clients will send "
            f"them, got {path} without any. They tune the index and verify the release."
        )
    return found
