"""Raw ads as rows of the catalog's table."""

import pyarrow as pa
import pytest

from serving.index import AD_ID
from serving.live import ad_rows


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        # `tfrec export` divides by the largest value, so that any vector fits into float16.
        (pa.float16(), [[0.25, -1.0], None, None]),
        # `tfrec publish` keeps vectors as in the table of ads.
        (pa.float32(), [[0.5, -2.0], [0.0, 0.0], None]),
    ],
)
def test_a_vector_is_stored_as_the_release_stores_it(type_, expected):
    schema = pa.schema({AD_ID: pa.string(), "vector": pa.list_(type_, 2)})
    rows = ad_rows.AdRows([{"name": "vector", "kind": "dense", "length": 2}], schema)
    ads = [
        {"ad_id": "a", "fields": {"vector": [0.5, -2.0]}},
        {"ad_id": "b", "fields": {"vector": [0.0, 0.0]}},
        {"ad_id": "c"},
    ]
    assert rows.check(ads)["vector"].to_pylist() == expected
