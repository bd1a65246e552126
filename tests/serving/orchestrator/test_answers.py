import dataclasses
import json

import numpy as np

from serving import manifest, requests
from serving.orchestrator import answers, candidates


def test_a_head_that_the_manifest_adds_is_a_score_of_each_ad(tiny_bundle):
    known = tiny_bundle.manifest
    heads = (
        *known.heads,
        manifest.ReleaseHead("install", "install_probability", "probability"),
        manifest.ReleaseHead("share", "share_probability", "probability", trained=False),
    )
    release = dataclasses.replace(
        tiny_bundle, manifest=dataclasses.replace(known, heads=heads, probes=_probes(known))
    )
    valid = requests.Validator(release.manifest, 2, 1000).check(requests.Request())
    found = candidates.RequestCandidates(
        release.ad_index, np.arange(3), np.array([0.3, 0.2, 0.1], np.float32)
    )
    # 0.5 of each head but the last, so that utilities are 1.5 and the install probability.
    scores = dict.fromkeys(("click", "engagement", "revenue"), np.full(3, 0.5, np.float32))
    scores["install"] = np.array([0.125, 0.25, 0.5], np.float32)
    answer = answers.compose(release, valid, found, scores, {})
    assert [(ad.utility, ad.install_probability) for ad in answer.ads] == [(2, 0.5), (1.75, 0.25)]
    assert [ad.show for ad in answer.ads] == [
        {"title": "Ad 2", "stock": 2},
        {"title": "Ad 1", "stock": 1},
    ]
    written = json.loads(answer.model_dump_json())
    assert requests.Answer.model_validate(written) == answer
    assert written["ads"][0]["install_probability"] == 0.5
    assert written["ads"][0]["share_probability"] is None
    assert written["absent_heads"] == ["share"]


def _probes(release):
    """Returns probes with scores of the added head."""
    scores = release.probes["scores"]
    return {
        **release.probes,
        "scores": {**scores, "install_probability": scores["click_probability"]},
    }
