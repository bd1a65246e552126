"""The log of Outbrain's click prediction (Kaggle 2016)."""

from tfrecords.formats.outbrain.columns_of_tables import CLICK_COLUMNS as HEADER
from tfrecords.formats.outbrain.log import check_schema, open_log, read_ads, schema

__all__ = ["HEADER", "check_schema", "open_log", "read_ads", "schema"]
