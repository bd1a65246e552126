"""The stages of a conversion, which work on chunks; `convert` runs them in order.

Shapes: B rows of a chunk, R requests and L shown ads of a shard, N ads.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tqdm

from tfrecords import columns, encoding, files, formats, reader, records, terminal
from tfrecords.conversion import (
    catalog,
    dataset_json,
    event_join,
    event_rates,
    fitting,
    label_window,
    negatives,
    packing,
    parsed_rows,
    splitting,
    text_vectors,
    time_profile,
    user_events,
    workspace,
)
from tfrecords.events import Events
from tfrecords.schema import MISSING_LABEL, Field, Schema
from tfrecords.splits import SPLITS, SplitOptions

# Attributes of `SplitLog` that some logs do not have.
_OPTIONAL_ATTRIBUTES = ("unknown_after", "order", "request_times", "row_times", "rated_until")


@dataclasses.dataclass(frozen=True)
class StageOptions:
    """Options on which the result depends, in addition to the log and its schema.

    Attributes:
        split: Options of the split.
        sampled_negatives: Number of sampled negatives per click.
        engagement_window_seconds: Maximum delay of an engagement; 0: none.

    Raises:
        ValueError: An option is not allowed.
    """

    split: SplitOptions
    sampled_negatives: int = 0
    engagement_window_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.sampled_negatives < 0:
            raise ValueError(f"sampled_negatives must be 0 or more, got {self.sampled_negatives}.")


@dataclasses.dataclass(frozen=True)
class SplitLog:
    """A parsed log, its rows grouped into requests and split.

    Attributes:
        chunk_ends: Number of rows up to the end of each chunk [chunks].
        request_ends: Number of requests that begin up to the end of each chunk [chunks].
        requests: The requests and their splits.
        is_train: Whether a row is a training row [rows of the log].
        train_ends: Number of training rows up to the end of each chunk [chunks].
        unknown_after: Engagement and revenue of later rows are not known yet; None: all are known.
        rows_after_end: Number of rows whose time is after the end of the log, see `label_window`.
        repeated_rows: Number of rows that equal an earlier one, see `splitting.count_repeated`.
        long_requests: Number of requests whose rows are more than a day apart.
        bins: Bins of the time profile.
        keys: Keys of the rows; None if no negatives are sampled.
        order: Ranks of the requests in time [R]; None: they are in the order of the log.
        request_times: Times of the requests in seconds [R]; None without histories and rates.
        row_times: Times of the rows' requests in seconds [rows of the log]; None without rates.
        rated_until: Times in seconds [2] of the catalog's rates, in measurements and in releases;
            None without rates.
        units_per_second: Units of the log's times in a second.
        num_users: Number of users; 0 without a user key.
        requests_of_most_active_user: Requests of the user that has the most.
    """

    chunk_ends: np.ndarray
    request_ends: np.ndarray
    requests: splitting.Requests
    is_train: np.ndarray
    train_ends: np.ndarray
    unknown_after: float | None
    rows_after_end: int
    repeated_rows: int
    long_requests: int
    bins: time_profile.Bins
    keys: splitting.RowKeys | None
    order: np.ndarray | None
    request_times: np.ndarray | None
    row_times: np.ndarray | None
    rated_until: np.ndarray | None
    units_per_second: float
    num_users: int
    requests_of_most_active_user: int

    @property
    def num_chunks(self) -> int:
        return len(self.chunk_ends)

    def rows_of(self, index: int) -> slice:
        """Returns the rows of a chunk."""
        return _span(self.chunk_ends, index)

    def requests_of(self, index: int) -> slice:
        """Returns the requests that begin in a chunk."""
        return _span(self.request_ends, index)


def save_split(split: SplitLog, path: pathlib.Path) -> None:
    """Writes a split log as NumPy arrays, atomically; `load_split` reads it back."""
    parts = {"log": split, "requests": split.requests, "bins": split.bins, "keys": split.keys}
    arrays = {
        f"{part}/{name}": value
        for part, stored in parts.items()
        if stored is not None
        for name, value in vars(stored).items()
        if value is not None and name not in parts
    }
    with files.replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def load_split(path: pathlib.Path) -> SplitLog:
    """Reads the files of `save_split`."""
    parts: dict[str, dict[str, Any]] = {"log": {}, "requests": {}, "bins": {}, "keys": {}}
    for key, array in files.read_arrays(path).items():
        part, name = key.split("/")
        parts[part][name] = array if array.ndim else array.item()
    requests = {"order": None, "starts": None, **parts["requests"]}
    return SplitLog(
        **{**dict.fromkeys(_OPTIONAL_ATTRIBUTES), **parts["log"]},
        requests=splitting.Requests(**requests),
        bins=time_profile.Bins(**parts["bins"]),
        keys=splitting.RowKeys(**parts["keys"]) if parts["keys"] else None,
    )


@dataclasses.dataclass(frozen=True)
class FittedLog:
    """Results of fitting on the training rows of a log.

    Attributes:
        schema: The fitted schema.
        ads: The ad catalog.
        num_distinct: Number of distinct values of each field.
        time: Rows and labels over time.
    """

    schema: encoding.FittedSchema
    ads: catalog.CatalogAds
    num_distinct: Mapping[str, int]
    time: records.TimeProfile


class Stages:
    """The stages of one conversion, which resume from the notes in the workspace.

    The result of a stage is passed to the next one; data as large as the log stays in files of the
    workspace.

    Args:
        opened: The log.
        schema: Its schema.
        space: The workspace.
        options: Options of the conversion.
        workers: Number of threads.
        progress: Whether to show progress bars.

    Raises:
        ValueError: The schema does not allow an option.
    """

    def __init__(
        self,
        opened: formats.Log,
        schema: Schema,
        space: workspace.Workspace,
        options: StageOptions,
        workers: int,
        progress: bool,
    ) -> None:
        if options.sampled_negatives and schema.user_key is None:
            raise ValueError(
                "sampled_negatives samples ads that the user has not clicked: name a user_key in "
                "the schema."
            )
        if options.sampled_negatives and schema.rates:
            raise ValueError(
                "sampled_negatives and rates cannot be combined: a rate needs impressions that "
                f"were not clicked. Leave {schema.rates[0].name!r} out of the schema."
            )
        label_window.check(schema, options.engagement_window_seconds, options.sampled_negatives)
        self._log = opened
        self._schema = schema
        self._space = space
        self._options = options
        self._workers = workers
        self._progress = progress

    def users_table(self, parsed: Sequence[dict[str, Any]]) -> records.TableKeys | None:
        """Returns the keys of the table of users that is joined to the log, or None.

        Args:
            parsed: Notes of the parsed chunks.
        """
        keys: records.TableKeys | None = getattr(self._log, "users_table", None)
        found = [chunk["users"] for chunk in parsed if chunk["users"] is not None]
        if keys is None:
            return None
        examples = dict.fromkeys(key for chunk_users in found for key in chunk_users["examples"])
        return keys.model_copy(
            update={
                "looked_up": sum(chunk_users["rows"] for chunk_users in found),
                "unmatched": sum(chunk_users["unmatched"] for chunk_users in found),
                "unmatched_examples": list(examples)[:3],
            }
        )

    def parse(self, check: Callable[[Sequence[dict[str, Any]]], None]) -> list[dict[str, Any]]:
        """Parses the log, and returns the notes of its chunks.

        Args:
            check: Raises ValueError if too many of the rows so far are rejected.
        """
        whole = self._space.note("parsed")
        if whole is None:
            notes: list[dict[str, Any]] = []
            with self._bar("reading the log", 0) as bar:
                chunks = enumerate(self._log.chunks())
                for note in terminal.in_threads(self._parse, chunks, self._workers):
                    notes.append(note)
                    bar.update(note["lines"])
                    check(notes)
            if not notes:
                raise ValueError(
                    f"{self._log.files[0]} has no rows; expected at least one, below the header if "
                    "it has one."
                )
            whole = self._space.once("parsed", 0, lambda: {"chunks": notes})
        return whole["chunks"]

    def _parse(self, numbered: tuple[int, formats.Chunk]) -> dict[str, Any]:
        index, chunk = numbered
        return self._space.once("parse", index, lambda: self.parse_chunk(index, chunk))

    def parse_chunk(self, index: int, chunk: formats.Chunk) -> dict[str, Any]:
        """Parses a chunk, and returns its note."""
        is_labeled = parsed_rows.is_labeled(self._schema, chunk)
        parsed = self._log.parse(chunk)
        num_rows = chunk.num_rows if parsed.num_rows is None else parsed.num_rows
        matches, user_key = parsed.users, self._schema.user_key
        float_users = user_key and columns.count_whole_floats(parsed.table[user_key])
        anonymous = parsed.table.num_rows - float_users[1] if float_users else 0
        clicks_above_1 = columns.count_clicks_above_1(self._schema, parsed.table)
        other_events: dict[str, int] = {}
        if self._schema.events is not None:
            parsed, other_events = event_join.without_unknown_types(parsed, self._schema.events)
        rows, faults = parsed_rows.normalize(self._schema, parsed, index, is_labeled)
        rows.save(self._space.path("parse", index, ".rows"))
        numbers = sorted(faults)
        quarantine = self._space.path("parse", index, ".rejected")
        with quarantine.open("wb") as file:
            raws = self._log.raw(chunk, numbers) if numbers else []
            for line, raw in zip(numbers, raws, strict=True):
                raw = raw.replace(b"\n", b"\\n")
                place = f"{chunk.path}\t{formats.line_of(line)}"
                reason = faults[line].replace("\n", " ").replace("\t", " ")
                file.write(f"{place}\t{reason}\t".encode() + raw + b"\n")
        has_times = parsed_rows.TIME in rows.columns.column_names
        times = columns.count_units(rows.array(parsed_rows.TIME)) if has_times else {}
        return {
            "lines": num_rows,
            "rows": len(rows),
            "other_events": other_events,
            "rejected": len(faults),
            "times": times,
            "clicks_above_1": clicks_above_1,
            "float_users": float_users,
            "anonymous": anonymous,
            "users": None if matches is None else dataclasses.asdict(matches),
            "part": chunk.part,
            "examples": [
                f"{chunk.path}, line {formats.line_of(line)}: {faults[line]}"
                for line in numbers[:3]
            ],
        }

    def split(self, parsed: Sequence[dict[str, Any]]) -> SplitLog:
        """Groups the rows into requests and splits them; rows of events are joined first."""
        # All stages read times in the same unit, that of most rows of any event type.
        units = columns.units_per_second(dataset_json.add([chunk["times"] for chunk in parsed]))
        if self._schema.events is not None:
            others = dataset_json.add([chunk["other_events"] for chunk in parsed])
            parsed = self._space.once("join", 0, lambda: self._join(parsed, units))["chunks"]
            if not any(chunk["rows"] for chunk in parsed):
                raise ValueError(_without_impressions(self._schema.events, others))
        chunk_ends = np.cumsum([chunk["rows"] for chunk in parsed])

        def column(name: str, is_present: bool) -> np.ndarray | None:
            parts = [self._rows(i).array(name) for i in range(len(parsed))] if is_present else []
            return np.concatenate(parts) if is_present else None

        schema = self._schema
        # The views of a user at one time are a request, even without a key.
        has_requests = parsed_rows.REQUEST in self._rows(0).columns.column_names
        parts = [SPLITS.index(chunk["part"] or "train") for chunk in parsed]
        by_file = any(chunk["part"] for chunk in parsed)
        keys = splitting.RowKeys(
            num_rows=int(chunk_ends[-1]),
            request=column(parsed_rows.REQUEST, has_requests),
            time=column(parsed_rows.TIME, schema.time is not None),
            user=column(parsed_rows.USER, schema.user_key is not None),
            split=column(parsed_rows.SPLIT, schema.split is not None),
            file=np.repeat(np.array(parts, np.uint8), [c["rows"] for c in parsed])
            if by_file
            else None,
        )
        requests = splitting.assign(keys, self._options.split)
        is_train = requests.row_splits() == 0
        # A request belongs to the chunk of its first row.
        request_ends = chunk_ends
        if requests.starts is not None:
            request_ends = np.searchsorted(requests.first_rows(), chunk_ends, side="left")
        spans = (_span(chunk_ends, index) for index in range(len(parsed)))
        window = self._options.engagement_window_seconds
        unknown_after, rows_after_end = label_window.find(keys, is_train, window, units)
        times = None
        if (schema.histories or schema.rates) and keys.time is not None:
            times = splitting.request_times(keys.time, requests) / units
        row_times = rated_until = None
        if schema.rates and times is not None:
            row_times = requests.by_row(times)
            labels = column(parsed_rows.LABEL_COLUMNS["click"], True)
            assert labels is not None
            is_labeled = labels != MISSING_LABEL
            rated_until = _rated_until(row_times, is_labeled, requests)
        split = SplitLog(
            chunk_ends,
            request_ends,
            requests,
            is_train,
            np.cumsum([is_train[span].sum() for span in spans]),
            unknown_after,
            rows_after_end,
            self._repeated_rows(keys, len(parsed), units),
            0 if keys.time is None else splitting.count_long(keys.time, requests, units),
            time_profile.Bins.of(keys),
            keys if self._options.sampled_negatives else None,
            splitting.order_in_time(keys, requests),
            times,
            row_times,
            rated_until,
            units,
            *_count_users(keys.user, requests),
        )
        self._sort_rated_events(split)
        return split

    def _repeated_rows(self, keys: splitting.RowKeys, num_chunks: int, units: float) -> int:
        """Counts repeated impressions; repeated events are left out when they are joined."""
        if self._schema.events is not None or keys.time is None:
            return 0
        names = [parsed_rows.LABEL_COLUMNS[label] for label in self._schema.labels]
        if self._schema.position is not None:
            names.append(parsed_rows.POSITION)
        parts: list[list[np.ndarray]] = []
        for rows in map(self._rows, range(num_chunks)):
            ads = rows.strings[parsed_rows.AD].fingerprints[rows.array(parsed_rows.AD)]
            parts.append([ads, *map(rows.array, names)])
        compared = [np.concatenate(values) for values in zip(*parts, strict=True)]
        return splitting.count_repeated(keys, compared, units)

    def _join(self, parsed: Sequence[dict[str, Any]], units_per_second: float) -> dict[str, Any]:
        """Joins the events of all chunks, and returns the notes of the chunks of impressions."""
        events = self._schema.events
        assert events is not None
        paths = [self._space.path("parse", i, ".rows") for i in range(len(parsed))]
        chunks = [parsed_rows.load_rows(path) for path in paths]
        has_times = self._schema.time is not None
        keep_times = bool(self._schema.histories or self._schema.rates)
        event_rows = event_join.event_rows(chunks, units_per_second)
        joined = event_join.join(event_rows, events, has_times, keep_times)
        notes, start = [], 0
        for index, (note, rows) in enumerate(zip(parsed, chunks, strict=True)):
            span = slice(start, start + len(rows))
            kept = event_join.impressions(rows, joined, span, events)
            kept.save(self._space.path("join", index, ".rows"))
            notes.append({**note, "rows": len(kept)})
            start = span.stop
        return {
            "chunks": notes,
            "joined": joined.num_joined,
            "unmatched": joined.num_unmatched,
            "repeated": joined.num_repeated,
            "late": {label: lateness.model_dump() for label, lateness in joined.late.items()},
        }

    def event_counts(self, parsed: Sequence[dict[str, Any]]) -> records.EventCounts | None:
        """Returns the counts of rows by outcome in a log of events, or None."""
        note = self._space.note("join")
        if note is None:
            return None
        others = dataset_json.add([chunk["other_events"] for chunk in parsed])
        events = self._schema.events
        by_user = events is not None and events.view and self._schema.request_key is None
        return records.EventCounts(
            joined=note["joined"],
            unmatched=note["unmatched"],
            others=others,
            repeated=note["repeated"],
            late=note["late"],
            anonymous=sum(chunk["anonymous"] for chunk in parsed) if by_user else 0,
        )

    def count(self, split: SplitLog) -> None:
        """Counts values, ads and labels of the training rows."""
        self._each("count", split, lambda index: self.count_chunk(split, index), "counting")

    def count_chunk(self, split: SplitLog, index: int) -> dict[str, Any]:
        """Counts a chunk's values, ads and labels in training, and its rates; returns its note."""
        rows, span = self._rows(index), split.rows_of(index)
        rates = self._rates_of(split, index)
        is_train = split.is_train[span]
        num_before = _span(split.train_ends, index).start
        counts = fitting.count_chunk(
            self._schema,
            rows.with_numbers(rates),
            is_train,
            num_before,
            int(split.train_ends[-1]),
        )
        ads = catalog.count_chunk(rows, is_train, span.start)
        profile = split.bins.count(rows, span.start)
        parts = {"field": counts, "ads": ads, "rate": rates, "profile": profile}
        arrays = {
            f"{kind}/{name}": values
            for kind, named in parts.items()
            for name, values in named.items()
        }
        np.savez(self._space.path("count", index, ".npz"), **arrays)  # type: ignore[arg-type]
        return {}

    def fit(self, split: SplitLog, more_ads: pa.Table | None) -> FittedLog:
        """Fits the encoder, collects the catalog, sorts the events of users, and writes them.

        Args:
            split: The log.
            more_ads: Table of additional ads, or None.
        """
        chunks = range(split.num_chunks)
        fitted, num_distinct = fitting.fit(
            self._schema, split.num_chunks, self._counts_of_field, self._strings, self._workers
        )
        ad_counts = catalog.merge(self._counts(index, "ads") for index in chunks)
        ads = catalog.collect(self._schema, ad_counts, split.chunk_ends, self._rows, more_ads)
        if split.rated_until is not None:
            ads = catalog.with_rates(ads, self._rates, *split.rated_until)
        time = split.bins.add(self._counts(index, "profile") for index in chunks)
        self._encode_texts(fitted, split.num_chunks)
        self._sort_events(split)
        fitted.save(self._space.output / "encoder")
        ads.save(self._space.output / "catalog", fitted)
        return FittedLog(fitted, ads, num_distinct, time)

    def packer(self) -> packing.Packer:
        """Returns the encoder of rows, given the files that `fit` wrote, here or in a worker."""
        directory = self._space.output / "catalog"
        fitted, ads = encoding.load(self._space.output / "encoder"), catalog.load(directory)
        texts = {
            field.name: text_vectors.TextVectors(self._space.path("texts", number, ".npy"))
            for number, field in enumerate(self._text_fields)
        }
        events = {
            field.name: user_events.load(field, self._space.path("histories", number))
            for number, field in enumerate(self._schema.histories)
        }
        ad_features = files.read_array(directory / "ad_features.npy")
        return packing.Packer(fitted, ads, ad_features, texts, events)

    @property
    def _text_fields(self) -> list[Field]:
        """Text fields of requests; text fields of ads are encoded in the catalog."""
        return [field for field in self._schema.query_fields if field.kind == "text"]

    def _encode_texts(self, fitted: encoding.FittedSchema, num_chunks: int) -> None:
        """Encodes each distinct text of the requests once."""
        encoder = encoding.Encoder(fitted, self._text_fields)
        for number, field in enumerate(self._text_fields):
            write = functools.partial(
                text_vectors.write_text_vectors,
                encoder,
                field,
                (self._strings(index, field.name) for index in range(num_chunks)),
                self._space.path("texts", number, ".npy"),
            )
            self._space.once("texts", number, write)

    def _sort_rated_events(self, split: SplitLog) -> None:
        """Sorts the impressions and events of each value for the rates."""
        chunks = [functools.partial(self._rows, index) for index in range(split.num_chunks)]
        is_train = [split.is_train[split.rows_of(index)] for index in range(split.num_chunks)]
        window = event_rates.Window(
            self._options.engagement_window_seconds, split.units_per_second, split.unknown_after
        )
        for number, field in enumerate(self._schema.rates):
            directory = self._space.path("rates", number)
            write = functools.partial(event_rates.write, field, chunks, is_train, window, directory)
            self._space.once("rates", number, write)

    @functools.cached_property
    def _rates(self) -> list[event_rates.EventRates]:
        return [
            event_rates.load(field, self._space.path("rates", number))
            for number, field in enumerate(self._schema.rates)
        ]

    def _rates_of(self, split: SplitLog, index: int) -> dict[str, np.ndarray]:
        """Returns the rates [B] of the rows of a chunk, by field."""
        if split.row_times is None:
            return {}
        rows, times = self._rows(index), split.row_times[split.rows_of(index)]
        return {rate.field.name: rate.for_rows(rows, times) for rate in self._rates}

    def _sort_events(self, split: SplitLog) -> None:
        """Sorts the events of users for the histories."""
        chunks = [functools.partial(self._rows, index) for index in range(split.num_chunks)]
        for number, field in enumerate(self._schema.histories):
            directory = self._space.path("histories", number)
            write = functools.partial(
                user_events.write, field, chunks, split.units_per_second, directory
            )
            self._space.once("histories", number, write)

    def pack(self, split: SplitLog, packer: packing.Packer) -> None:
        """Encodes the rows."""
        self._each("pack", split, lambda index: self.pack_chunk(split, packer, index), "encoding")

    def pack_chunk(self, split: SplitLog, packer: packing.Packer, index: int) -> dict[str, Any]:
        """Encodes the rows of a chunk, and returns its note."""
        rows = self._rows(index)
        packed = packer.pack(rows.with_numbers(self._counts(index, "rate")))
        young = 0
        if split.unknown_after is not None:
            times = rows.array(parsed_rows.TIME)
            young = label_window.withhold(packed, times, split.unknown_after)
        packing.save(packed, self._space.path("pack", index))
        return {"changed_ads": packer.num_changed_ads(packed), "young": young}

    def write(self, split: SplitLog, packer: packing.Packer) -> dict[str, records.SplitDescription]:
        """Writes the shards, and returns the descriptions of the splits by name."""
        sampler = self.sampler(split, packer)
        notes = self._each(
            "write",
            split,
            lambda index: self.write_chunk(split, packer, sampler, index),
            "writing records",
        )
        return {
            name: dataset_json.describe_split(
                [records.ShardDescription(**note[name]) for note in notes if name in note]
            )
            for name in SPLITS
        }

    def write_chunk(
        self,
        split: SplitLog,
        packer: packing.Packer,
        sampler: negatives.NegativeSampler | None,
        index: int,
    ) -> dict[str, Any]:
        """Writes the shards of the requests that begin in a chunk, and returns its note."""
        entries = {
            name: entry
            for number, name in enumerate(SPLITS)
            if (entry := self._write_shard(split, packer, sampler, index, number)) is not None
        }
        return {
            **{name: shard.model_dump() for name, (shard, _, _) in entries.items()},
            "varying": dataset_json.add([varying for _, varying, _ in entries.values()]),
            "other_users": sum(users for _, _, users in entries.values()),
            "users_return": sampler is not None and sampler.users_return,
        }

    def _write_shard(
        self,
        split: SplitLog,
        packer: packing.Packer,
        sampler: negatives.NegativeSampler | None,
        index: int,
        number: int,
    ) -> tuple[records.ShardDescription, dict[str, int], int] | None:
        """Writes the requests of a split that begin in a chunk.

        Returns:
            The shard and the results of `Packer.num_varying`, or None without requests.
        """
        span = split.requests_of(index)
        chosen = split.requests.splits[span] == number
        if not chosen.any():
            return None
        lengths = split.requests.lengths(span.start, span.stop)
        rows = split.requests.rows(span.start, span.stop)[np.repeat(chosen, lengths)]
        lengths = lengths[chosen]
        seed = (self._options.split.seed, number, index)
        order = np.arange(len(lengths))
        if number == 0:
            rows, lengths, order = records.shuffled(rows, lengths, seed)
        packed = packing.gather(self._packed, split.chunk_ends, rows, lengths)
        varying, other_users = packer.num_varying(
            self._packed, split.chunk_ends, rows, lengths, packed
        )
        numbers = span.start + np.flatnonzero(chosen)[order]
        packed[records.ORDER] = numbers if split.order is None else split.order[numbers]
        if split.request_times is not None:
            packed = packer.with_histories(packed, split.request_times[numbers])
        sampled = 0
        if sampler is not None:
            packed, sampled = sampler.extend(packed, rows, number, seed)
        name = f"{SPLITS[number]}-{index:05d}.tfrecord"
        shard = records.write_shard(self._space.output / name, packed, sampled)
        return shard, varying, other_users

    def sampler(self, split: SplitLog, packer: packing.Packer) -> negatives.NegativeSampler | None:
        """Returns the sampler of negatives over all packed chunks, or None without negatives."""
        if split.keys is None:
            return None
        indices = range(split.num_chunks)
        packed = [self._packed(index) for index in indices]
        users = [self._rows(index).array(parsed_rows.USER) for index in indices]
        shown = {name: np.concatenate([p[name] for p in packed]) for name in packer.catalog}
        log = negatives.LoggedRows(
            np.concatenate(users),
            np.concatenate([p["ad_row"] for p in packed]),
            np.concatenate([p["click"] for p in packed]) == 1,
            split.requests.row_splits(),
            splitting.ranks(split.keys),
            shown if any(self._notes(split, "pack", "changed_ads")) else None,
        )
        return negatives.NegativeSampler(self._options.sampled_negatives, packer.catalog, log)

    def finish(
        self,
        split: SplitLog,
        fitted: FittedLog,
        packer: packing.Packer,
        source: records.SourceDescription,
        splits: dict[str, records.SplitDescription],
    ) -> None:
        """Writes the files that describe the data set, `dataset.json` last.

        Args:
            split: The log.
            fitted: Results of fitting on it.
            packer: Encoder of rows.
            source: Description of the log.
            splits: Descriptions of the splits.
        """
        output = self._space.output
        with (output / "rejected.tsv").open("wb") as file:
            for index in range(split.num_chunks):
                file.write(self._space.path("parse", index, ".rejected").read_bytes())

        def raw_histories(requests: np.ndarray, users: np.ndarray) -> list[dict[str, Any]]:
            assert split.request_times is not None
            return packer.raw_histories(users, split.request_times[requests])

        samples = dataset_json.sample_requests(
            self._schema, split.requests, split.chunk_ends, self._rows, raw_histories
        )
        files.write_json(output / "sample_requests.json", samples)
        profile = records.Profile(num_distinct=dict(fitted.num_distinct), time=fitted.time)
        files.write_json(output / "profile.json", profile.model_dump(exclude_none=True))
        table = source.ads_table
        description = records.DataSetDescription(
            format_version=reader.FORMAT_VERSION,
            fingerprint=fitted.schema.fingerprint(),
            schema=self._schema.to_json(),
            source=source,
            spec=packing.spec(fitted.schema),
            num_ads=len(fitted.ads),
            ads_not_in_table=0 if table is None else table.unmatched,
            impressions_of_changed_ads=sum(self._notes(split, "pack", "changed_ads")),
            rows_of_varying_query_fields=dataset_json.add(self._notes(split, "write", "varying")),
            rows_of_other_users=sum(self._notes(split, "write", "other_users")),
            num_users=split.num_users,
            float_user=_float_user(self._notes(split, "parse", "float_users")),
            requests_of_most_active_user=split.requests_of_most_active_user,
            split=dataclasses.replace(self._options.split, kind=split.requests.kind),
            sampled_negatives=self._options.sampled_negatives,
            users_return=any(self._notes(split, "write", "users_return")),
            engagement_window_seconds=self._options.engagement_window_seconds,
            rows_inside_engagement_window=sum(self._notes(split, "pack", "young")),
            rows_after_end_of_log=split.rows_after_end,
            repeated_rows=split.repeated_rows,
            long_requests=split.long_requests,
            rows_with_clicks_above_1=sum(self._notes(split, "parse", "clicks_above_1")),
            times_by_unit=dataset_json.add(self._notes(split, "parse", "times")),
            splits=splits,
            sha256={name: files.sha256(output / name) for name in dataset_json.CHECKED_FILES},
        )
        files.write_json(output / "dataset.json", description.to_json())

    def _rows_path(self, index: int) -> pathlib.Path:
        stage = "parse" if self._schema.events is None else "join"
        return self._space.path(stage, index, ".rows")

    def _rows(self, index: int) -> parsed_rows.Rows:
        return parsed_rows.load_rows(self._rows_path(index))

    def _strings(self, index: int, name: str) -> columns.Strings:
        position = parsed_rows.string_names(self._schema).index(name)
        (strings,) = parsed_rows.load_strings(self._rows_path(index), [position])
        return strings

    def _notes(self, split: SplitLog, stage: str, key: str) -> list[Any]:
        """Returns an entry of the notes of a stage."""
        notes = [self._space.note(stage, index) for index in range(split.num_chunks)]
        return [note[key] for note in notes if note is not None]

    def _packed(self, index: int) -> records.Packed:
        return packing.load(self._space.path("pack", index))

    def _counts(self, index: int, kind: str) -> dict[str, np.ndarray]:
        """Returns the counts of a kind in a chunk: `field`, `ads`, `rate` or `profile`."""
        path = self._space.path("count", index, ".npz")
        arrays = files.read_arrays(path, lambda key: key.startswith(f"{kind}/"))
        return {key.split("/", 1)[1]: array for key, array in arrays.items()}

    def _counts_of_field(self, index: int, name: str) -> np.ndarray:
        # One field at a time, so that memory does not grow with the log.
        array_name = f"field/{name}"
        path = self._space.path("count", index, ".npz")
        return files.read_arrays(path, lambda key: key == array_name)[array_name]

    def _each(
        self, stage: str, split: SplitLog, work: Callable[[int], dict[str, Any]], task: str
    ) -> list[dict[str, Any]]:
        """Runs a stage on every chunk and returns its notes."""
        notes = []
        with self._bar(task, int(split.chunk_ends[-1])) as bar:

            def once(index: int) -> dict[str, Any]:
                return self._space.once(stage, index, lambda: work(index))

            indices = range(split.num_chunks)
            for index, note in enumerate(terminal.in_threads(once, indices, self._workers)):
                rows = split.rows_of(index)
                notes.append(note)
                bar.update(rows.stop - rows.start)
        return notes

    def _bar(self, task: str, total: int) -> tqdm.tqdm:
        return terminal.progress_bar(task, "rows", total or None, self._progress)


def _without_impressions(events: Events, others: Mapping[str, int]) -> str:
    """Returns the message about a log of events without impressions.

    `others` has the number of rows of each type that the schema does not name.
    """
    kind = "view" if events.view else "click"
    found = [f"{name} ({count:,} rows)" for name, count in others.items()]
    return (
        f"No row is an impression: expected rows whose {events.column!r} is one of "
        f"{list(getattr(events, kind))}, the types of {kind}s in the schema; types that it does "
        f"not name: {terminal.format_list(found) or 'none'}. Correct events in the schema."
    )


def _float_user(notes: Sequence[tuple[int, int, str | None] | None]) -> str | None:
    """Returns a user id such as 118.0 if nearly all are, given `count_whole_floats` by chunk."""
    found = [note for note in notes if note is not None]
    num_floats, num_users = sum(note[0] for note in found), sum(note[1] for note in found)
    is_nearly_all = num_floats >= columns.NEARLY_ALL * num_users
    return next((note[2] for note in found if note[2]), None) if is_nearly_all else None


def _count_users(users: np.ndarray | None, requests: splitting.Requests) -> tuple[int, int]:
    """Returns the number of users, and the number of requests of the most active user."""
    if users is None:
        return 0, 0
    counts = np.unique(users[requests.first_rows()], return_counts=True)[1]
    return len(counts), int(counts.max(initial=0))


def _rated_until(
    times: np.ndarray, is_labeled: np.ndarray, requests: splitting.Requests
) -> np.ndarray:
    """Returns the times of the last request that is not a test request, and of the log's end.

    Rows without a label do not count, and neither do times far beyond nearly all other rows.
    """
    end = np.nextafter(label_window.span(times[is_labeled])[1], np.inf) if is_labeled.any() else 0.0
    measured = times[is_labeled & (requests.row_splits() != SPLITS.index("test"))]
    return np.array([measured[measured <= end].max(initial=-np.inf), end])


def _span(ends: np.ndarray, index: int) -> slice:
    return slice(int(ends[index - 1]) if index else 0, int(ends[index]))
