import dataclasses

from serving import manifest, requests


def test_a_request_without_weights_gets_those_of_the_release(tiny_bundle):
    # The weights of the heads in `tfrec.heads` when the release was exported.
    weights = {"click": 1.0, "engagement": 0.5, "revenue": 2.0}
    heads = tuple(
        manifest.ReleaseHead(head.label, head.output, head.kind, weights[head.label])
        for head in tiny_bundle.manifest.heads
    )
    release = dataclasses.replace(tiny_bundle.manifest, heads=heads)
    validator = requests.Validator(release, default_k=10, max_k=1000)
    assert validator.check(requests.Request()).weights == weights
    changed = validator.check(requests.Request(weights={"click": 3.0}))
    assert changed.weights == {**weights, "click": 3.0}
    # Each request has its own.
    assert validator.check(requests.Request()).weights == weights
