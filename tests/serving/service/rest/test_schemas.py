"""The models of the API document."""

from typing import get_args

from serving.service.rest import schemas
from tfrecords.schema import KINDS, NUMERIC_LIST


def test_a_raw_field_can_have_every_kind():
    kinds = get_args(schemas.RawField.model_fields["kind"].annotation)
    # A history has a list of values, a list of ages and a list of events.
    assert set(kinds) == {*KINDS, NUMERIC_LIST} - {"history"}
