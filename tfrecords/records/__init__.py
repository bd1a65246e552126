"""The stored records, many requests per `tf.train.Example`: written, verified and batched."""

from tfrecords.records.batching import (
    Batch,
    clicked_pairs,
    cut_batches,
    cut_by_length,
    pad_lists,
    permute,
    thin_unclicked,
)
from tfrecords.records.description import (
    DataSetDescription,
    EventCounts,
    Profile,
    ShardDescription,
    SourceDescription,
    SplitDescription,
    TimeProfile,
)
from tfrecords.records.spec import (
    USER,
    Packed,
    Spec,
    columns_of,
    decode,
    narrowest,
    pack,
    unpack,
    unpack_sides,
)
from tfrecords.records.stored_files import (
    check_file,
    check_files,
    read_arrow,
    read_json,
    write_arrow,
)
from tfrecords.records.writer import is_per_request, shuffled, write_shard

__all__ = [
    "USER",
    "Batch",
    "DataSetDescription",
    "EventCounts",
    "Packed",
    "Profile",
    "ShardDescription",
    "SourceDescription",
    "Spec",
    "SplitDescription",
    "TimeProfile",
    "check_file",
    "check_files",
    "clicked_pairs",
    "columns_of",
    "cut_batches",
    "cut_by_length",
    "decode",
    "is_per_request",
    "narrowest",
    "pack",
    "pad_lists",
    "permute",
    "read_arrow",
    "read_json",
    "shuffled",
    "thin_unclicked",
    "unpack",
    "unpack_sides",
    "write_arrow",
    "write_shard",
]
