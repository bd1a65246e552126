"""The scores of held-out requests by training code equal the served scores."""

import dataclasses

import numpy as np
import pytest
import split_logs
import tensorflow as tf

from serving.export import held_out_requests
from tfrec import calibration, config, exported, ranking
from tfrec.calibration import curves

pytestmark = pytest.mark.slow


def test_scores_of_held_out_requests_equal_the_served_scores(tmp_path):
    """Positions are ignored; calibrators and the log's down-sampling are applied."""
    schema = dataclasses.replace(split_logs.SCHEMA, negative_keep_rate=0.2)
    data_set = split_logs.convert(tmp_path / "log", schema=schema)
    sizes = config.RankerConfig(
        field_dim=4, model_dim=8, num_blocks=1, num_heads=2, feed_forward_dim=8
    )
    ranker = ranking.build_ranker(data_set, sizes)
    rng = np.random.default_rng(0)
    for variable in ranker.trainable_variables:
        variable.assign_add(rng.normal(scale=0.2, size=variable.shape).astype(np.float32))
    calibrators = calibration.Calibrators(
        {"click": curves.Platt(0.8, -0.3), "revenue": curves.Platt(1.2, 0.1)}
    )
    found = list(held_out_requests._scored(data_set, ranker, calibrators, 20))
    assert len(found) == 20
    serve = exported.RankerModule(data_set.fitted, ranker, calibrators).serve
    catalog = data_set.catalog()
    row_of_ad = {ad: row for row, ad in enumerate(catalog.ad_ids.to_pylist())}
    for request, fields in zip(found, data_set.sample_requests(), strict=False):
        assert request.fields == fields
        served = serve(
            user=tf.constant([fields["user"]]),
            hour=tf.constant([float(fields["hour"])]),
            interests=tf.constant([fields["interests"]]),
            ad_features=tf.constant(
                np.asarray(catalog.features)[None, [row_of_ad[ad] for ad in request.ad_ids]]
            ),
        )
        assert served.keys() == request.scores.keys()
        for name, values in served.items():
            np.testing.assert_allclose(request.scores[name], values[0], rtol=1e-4, atol=1e-6)
