"""Logged scores are compared with those of the release's ranker where its ads are unchanged."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving import impressions, live, operations, releases, requests
from serving.operations import findings, release_check


@pytest.fixture
def log_of(tiny_bundle, tmp_path):
    """Writes answers of the release's ranker, of the given ads each, and returns the files."""

    def write(*answers):
        log = impressions.ImpressionLog(tmp_path)
        with release_check.ranker_of(tiny_bundle) as score:
            for ad_ids in answers:
                log.record(tiny_bundle.manifest, *logged(tiny_bundle, score, ad_ids))
        log.close()
        return sorted(tmp_path.glob(impressions.FILE_PATTERN))

    return write


def logged(release, score, ad_ids):
    """Returns a request and its answer; an ad that is not in the release scores 0.5."""
    request = requests.Request(user={"country": "CH"}, k=3)
    request = requests.Validator(release.manifest, 10, 1000).check(request)
    rows = release.ad_index.find(list(ad_ids))
    fields = requests.QueryFields(release.manifest.query_fields, release.manifest.ad_kinds)
    columns = fields.columns([fields.merge({}, {"country": "CH"})])
    scores = score(columns, release.ad_index.features(rows.clip(0)[None]))
    ads = [
        requests.RankedAd(
            rank=place + 1,
            ad_id=ad_id,
            utility=1.0,
            retrieval_score=0.5,
            propensity=1.0,
            fields=release.ad_index.listed([row])[0].fields if row >= 0 else {"advertiser": "new"},
            **{output: float(of[0][place]) if row >= 0 else 0.5 for output, of in scores.items()},
        )
        for place, (ad_id, row) in enumerate(zip(ad_ids, rows.tolist(), strict=True))
    ]
    answer = requests.Answer(
        request_id="r", bundle_version=release.version, ads=ads, degraded=None, order="utility",
        absent_heads=[], stage_ms={},
    )  # fmt: skip
    return request, answer


def test_answers_of_new_ads_alone_are_left_out(tiny_bundle, log_of):
    files = log_of(["new-1", "new-2"], ["ad-1", "new-1", "ad-2"])
    found = operations.compare_impressions(files, tiny_bundle, 10)
    assert found.startswith("2 ads of 1 logged answer have the scores of release 1;")
    assert found.endswith("; 3 ads that have changed since are left out")


def test_ads_whose_vectors_may_have_changed_are_left_out(tiny_bundle, log_of, tmp_path):
    release = releases.load(shutil.copytree(tiny_bundle.base, tmp_path / "bundles"))
    (ad,) = release.ad_index.listed(release.ad_index.find(["ad-1"]))
    live.LiveIndex(release).update([{"ad_id": "ad-1", "fields": ad.fields}])
    found = operations.compare_impressions(log_of(["ad-1", "ad-2"]), release, 10)
    assert found.startswith("1 ad of 1 logged answer ")
    release.close()


def test_a_log_of_new_ads_alone_is_skipped(tiny_bundle, log_of):
    with pytest.raises(findings.SkippedError, match="2 scored ads of release 1, none with the"):
        operations.compare_impressions(log_of(["new-1", "new-2"]), tiny_bundle, 10)


def test_a_log_may_have_files_of_a_release_with_other_fields(tiny_bundle, log_of, tmp_path):
    (file,) = log_of(["ad-1", "ad-2"])
    table = impressions.read_file(file).drop_columns(["country", "_bundle_version"])
    versions = pa.array([tiny_bundle.version + 1] * table.num_rows)
    other = tmp_path / "other.parquet"
    pq.write_table(table.append_column("_bundle_version", versions), other)
    found = operations.compare_impressions([file, other], tiny_bundle, 10)
    assert found.startswith("2 ads of 1 logged answer have the scores of release 1;")
