"""The columns of Outbrain's log, and their join to the clicks.

Shapes: B displays or ads to look up.
"""

import pathlib
import threading
import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.columns import recode
from tfrecords.formats.files import delimited
from tfrecords.formats.outbrain import tables

CLICK_COLUMNS = ("display_id", "ad_id", "clicked")
# Column of the display -> its source column in events.csv.
EVENT_COLUMNS = {
    "uuid": "uuid", "document_id": "document_id", "platform": "platform",
    "geo_location": "geo_location", "country": "geo_location", "state": "geo_location",
    "dma": "geo_location", "timestamp": "timestamp", "time": "timestamp", "hour": "timestamp",
    "weekday": "timestamp",
}  # fmt: skip
# Column of a document -> its file.
DOCUMENT_FILES = {
    "source_id": "documents_meta.csv", "publisher_id": "documents_meta.csv",
    "publish_time": "documents_meta.csv", "age_days": "documents_meta.csv",
    "category_id": "documents_categories.csv", "categories": "documents_categories.csv",
    "topic_id": "documents_topics.csv", "topics": "documents_topics.csv",
}  # fmt: skip
PROMOTED_COLUMNS = ("ad_document_id", "campaign_id", "advertiser_id")
DISPLAY_COLUMNS = (*EVENT_COLUMNS, *DOCUMENT_FILES)
AD_COLUMNS = ("ad_id", *PROMOTED_COLUMNS, *(f"ad_{name}" for name in DOCUMENT_FILES))
LIST_COLUMNS = ("categories", "topics", "ad_categories", "ad_topics")

EVENTS = "events.csv"
PROMOTED = "promoted_content.csv"
META = "documents_meta.csv"
# Column of the values in each file of lists, and the column for the lists.
_LISTED = {
    "documents_categories.csv": ("category_id", "categories"),
    "documents_topics.csv": ("topic_id", "topics"),
}
_GEO = {"country": 0, "state": 1, "dma": 2}
_EVENT_TYPES = {
    "uuid": pa.string(), "document_id": tables.ID, "timestamp": tables.ID,
    "platform": delimited.STRINGS, "geo_location": delimited.STRINGS,
}  # fmt: skip
# Tables in use, by the identity of their files: a log and its ads share them.
_shared: weakref.WeakValueDictionary[tuple[object, ...], tables.Table] = (
    weakref.WeakValueDictionary()
)
_lock = threading.Lock()


class Joiner:
    """Looks up columns of displays and ads in Kaggle's files, which are read on first use."""

    def __init__(self, paths: Mapping[str, pathlib.Path], wanted: Sequence[str]) -> None:
        self._paths = paths
        self._wanted = set(wanted)
        self._read: dict[str, tables.Table] = {}

    @property
    def files(self) -> tuple[pathlib.Path, ...]:
        """Files of the columns."""
        names = [EVENTS] if self._wanted & set(DISPLAY_COLUMNS) else []
        names += [PROMOTED] if self._wanted & set(AD_COLUMNS) else []
        names += [
            file for name, file in DOCUMENT_FILES.items() if self._wanted & {name, f"ad_{name}"}
        ]
        return tuple(self._paths[n] for n in dict.fromkeys(names) if n in self._paths)

    def displays(self, names: Sequence[str], rows: np.ndarray) -> dict[str, pa.Array]:
        """Returns columns of the displays at some rows [B] of the events."""
        documents = self.table(EVENTS).numbers("document_id", rows)
        return {
            n: self._document(n, documents) if n in DOCUMENT_FILES else self._event(n, rows)
            for n in names
        }

    def ads(self, names: Sequence[str], ids: np.ndarray) -> dict[str, pa.Array]:
        """Returns columns of some ads [B]; -1 is unknown."""
        promoted = self.table(PROMOTED)
        rows = promoted.keys.find(ids)
        documents = promoted.numbers("document_id", rows)
        result = {}
        for name in names:
            if name == "ad_id":
                result[name] = tables.id_texts(ids)
            elif name in PROMOTED_COLUMNS:
                numbers = promoted.numbers(name.removeprefix("ad_"), rows)
                result[name] = tables.id_texts(numbers)
            else:
                result[name] = self._document(name.removeprefix("ad_"), documents)
        return result

    def _event(self, name: str, rows: np.ndarray) -> pa.Array:
        source = EVENT_COLUMNS[name]
        if source == "timestamp":
            return _time(name, self.table(EVENTS).numbers(source, rows))
        if source == "document_id":
            return tables.id_texts(self.table(EVENTS).numbers(source, rows))
        texts = self.table(EVENTS).values(source, rows)
        if name == "uuid":
            # A dictionary of the uuids of these rows, which are few of all uuids in the log.
            return texts.cast(pa.string()).dictionary_encode()
        if name == "platform":
            return recode(texts, _platform)
        if name in _GEO:
            return recode(texts, lambda value: _part(value, _GEO[name]))
        return recode(texts, _known)

    def _document(self, name: str, documents: np.ndarray) -> pa.Array:
        table = self.table(DOCUMENT_FILES[name])
        rows = table.keys.find(documents)
        if name in LIST_COLUMNS:
            lists = table.values(name, rows)
            return pa.ListArray.from_arrays(lists.offsets, lists.values)  # Null becomes empty.
        if name not in ("publish_time", "age_days"):
            return tables.id_texts(table.numbers(name, rows))
        seconds = table.numbers("publish_time", rows)
        numbers = seconds if name == "publish_time" else tables.age_days(seconds)
        return pa.array(numbers, from_pandas=True)

    def table(self, file: str) -> tables.Table:
        """Returns a table with one row per key: displays, ads or documents."""
        with _lock:
            if file not in self._read:
                key = self._identity(file)
                kept = _shared.get(key)
                self._read[file] = _shared[key] = self._load(file) if kept is None else kept
            return self._read[file]

    def _load(self, file: str) -> tables.Table:
        path = self._paths.get(file)
        if file == EVENTS:
            return tables.read_table(path, "display_id", self._event_types())
        if file == PROMOTED:
            names = ("document_id", "campaign_id", "advertiser_id")
            return tables.read_table(path, "ad_id", dict.fromkeys(names, tables.ID))
        if file != META:
            return tables.read_lists(path, *_LISTED[file])
        ids = dict.fromkeys(("source_id", "publisher_id"), tables.ID)
        meta = tables.read_table(path, "document_id", {**ids, "publish_time": delimited.STRINGS})
        seconds = tables.published_seconds(meta.columns["publish_time"])
        return tables.Table(meta.keys, {**meta.columns, "publish_time": seconds})

    def _identity(self, file: str) -> tuple[object, ...]:
        path = self._paths.get(file)
        if path is None or not path.is_file():
            return (file,)
        stat = path.stat()
        columns = self._event_types() if file == EVENTS else ()
        return (file, path.resolve(), stat.st_mtime_ns, stat.st_size, *columns)

    def _event_types(self) -> Mapping[str, pa.DataType]:
        sources = {EVENT_COLUMNS[name] for name in self._wanted if name in EVENT_COLUMNS}
        if self._wanted & set(DOCUMENT_FILES):
            sources.add("document_id")
        return {name: kind for name, kind in _EVENT_TYPES.items() if name in sources}


def _time(name: str, timestamps: np.ndarray) -> pa.Array:
    """Returns a column derived from timestamps [B], milliseconds since the log's origin."""
    missing = timestamps < 0
    milliseconds = timestamps.astype(np.int64) + tables.ORIGIN_MILLISECONDS
    if name in ("hour", "weekday"):
        stamps = pa.array(milliseconds, pa.timestamp("ms"), mask=missing)
        return pc.hour(stamps) if name == "hour" else pc.day_of_week(stamps)
    return pa.array(timestamps if name == "timestamp" else milliseconds / 1_000, mask=missing)


def _known(value: str) -> str | None:
    value = value.strip()
    return None if value in tables.NOT_KNOWN else value


def _platform(value: str) -> str | None:
    known = _known(value)
    return None if known is None else known.removesuffix(".0")


def _part(geo_location: str, place: int) -> str | None:
    parts = geo_location.split(">")
    return _known(parts[place]) if place < len(parts) else None
