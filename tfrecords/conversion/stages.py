"""The stages of a conversion, chunk by chunk; `convert` runs them one after another.

Shapes: B rows of a chunk, R requests and L shown ads of a shard, N ads.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tqdm

from tfrecords import columns, formats, reader, records, terminal
from tfrecords.conversion import (
    catalogue,
    dataset_json,
    fitting,
    label_window,
    negatives,
    packing,
    parsed_rows,
    splitting,
    time_profile,
    workspace,
)
from tfrecords.schema import Schema


@dataclasses.dataclass(frozen=True)
class StageOptions:
    """What the result depends on beside the log and its schema.

    Attributes:
        split: How the requests are split.
        sampled_negatives: Ads drawn as not clicked for each click.
        engagement_window_seconds: How long an engagement can take; 0: no time.

    Raises:
        ValueError: An option is not allowed.
    """

    split: splitting.SplitOptions
    sampled_negatives: int = 0
    engagement_window_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.sampled_negatives < 0:
            raise ValueError(f"sampled_negatives must be 0 or more, got {self.sampled_negatives}.")


class Stages:
    """The stages of one conversion; each resumes from the notes in the workspace."""

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
                "sampled_negatives draws ads that the user has not clicked, so the schema must "
                "name a user_key."
            )
        label_window.check(schema, options.engagement_window_seconds, options.sampled_negatives)
        self._log = opened
        self._schema = schema
        self._space = space
        self._options = options
        self._workers = workers
        self._progress = progress

    def parse(self, check: Callable[[Sequence[dict[str, Any]]], None]) -> list[dict[str, Any]]:
        """Parses the log, and returns the notes of its chunks.

        Args:
            check: Raises ValueError if what was parsed so far is hopeless.
        """
        whole = self._space.note("parsed")
        if whole is None:
            notes: list[dict[str, Any]] = []
            with self._bar("reading the log", 0, "rows") as bar:
                chunks = enumerate(self._log.chunks())
                for note in workspace.in_threads(self._parse, chunks, self._workers):
                    notes.append(note)
                    bar.update(note["lines"])
                    check(notes)
            if not notes:
                raise ValueError(f"{self._log.files[0]} holds no rows below its header.")
            whole = self._space.once("parsed", 0, lambda: {"chunks": notes})
        return whole["chunks"]

    def _parse(self, numbered: tuple[int, formats.Chunk]) -> dict[str, Any]:
        index, chunk = numbered
        return self._space.once("parse", index, lambda: self._parse_chunk(index, chunk))

    def _parse_chunk(self, index: int, chunk: formats.Chunk) -> dict[str, Any]:
        is_labelled = parsed_rows.is_labelled(self._schema, chunk)
        rows, faults = parsed_rows.normalise(self._schema, self._log.parse(chunk), is_labelled)
        if len(rows) + len(faults) != chunk.num_rows:
            raise RuntimeError(
                f"{chunk.path}, line {chunk.first_line}: {chunk.num_rows} rows gave {len(rows)} "
                f"good and {len(faults)} rejected ones."
            )
        rows.save(self._space.path("parse", index, ".rows"))
        numbers = sorted(faults)
        quarantine = self._space.path("parse", index, ".rejected")
        with quarantine.open("wb") as file:
            raws = self._log.raw(chunk, numbers) if numbers else []
            for line, raw in zip(numbers, raws, strict=True):
                raw = raw.replace(b"\n", b"\\n")
                file.write(f"{chunk.path}\t{line}\t{faults[line]}\t".encode() + raw + b"\n")
        return {
            "lines": chunk.num_rows,
            "rows": len(rows),
            "rejected": len(faults),
            "part": chunk.part,
            "examples": [f"{chunk.path}, line {line}: {faults[line]}" for line in numbers[:3]],
        }

    def split(self, parsed: Sequence[dict[str, Any]]) -> None:
        """Groups the rows into requests and splits them."""
        self._chunk_ends = np.cumsum([chunk["rows"] for chunk in parsed])
        self._num_chunks = len(parsed)

        def column(name: str, wanted: bool) -> np.ndarray | None:
            parts = [self._rows(i).array(name) for i in range(self._num_chunks)] if wanted else []
            return np.concatenate(parts) if wanted else None

        schema = self._schema
        parts = [columns.SPLITS.index(chunk["part"] or "train") for chunk in parsed]
        by_file = any(chunk["part"] for chunk in parsed)
        keys = splitting.Keys(
            num_rows=int(self._chunk_ends[-1]),
            request=column(parsed_rows.REQUEST, schema.request_key is not None),
            time=column(parsed_rows.TIME, schema.time is not None),
            user=column(parsed_rows.USER, schema.user_key is not None),
            split=column(parsed_rows.SPLIT, schema.split is not None),
            file=np.repeat(np.array(parts, np.uint8), [c["rows"] for c in parsed])
            if by_file
            else None,
        )
        self._requests = splitting.assign(keys, self._options.split)
        self._is_train = self._requests.row_splits() == 0
        window = self._options.engagement_window_seconds
        self._unknown_after = label_window.begin(keys, self._is_train, window)
        self._keys = keys if self._options.sampled_negatives else None
        self._profile = time_profile.Bins.of(keys)
        # A request belongs to the chunk in which it begins.
        self._request_ends = self._chunk_ends
        if self._requests.starts is not None:
            first_rows = self._requests.first_rows()
            self._request_ends = np.searchsorted(first_rows, self._chunk_ends, side="left")

    def count(self) -> None:
        """Counts what the training rows hold."""
        spans = [self._span(index) for index in range(self._num_chunks)]
        num_train = [int(self._is_train[first:last].sum()) for first, last in spans]

        def count(index: int) -> dict[str, Any]:
            rows, first, last = self._rows(index), *self._span(index)
            is_train = self._is_train[first:last]
            counts = fitting.count_chunk(
                self._schema, rows, is_train, sum(num_train[:index]), sum(num_train)
            )
            ads = catalogue.count_chunk(rows, is_train, first)
            arrays = {f"field/{name}": values for name, values in counts.items()}
            arrays.update({f"ads/{name}": values for name, values in vars(ads).items()})
            arrays.update({f"profile/{k}": v for k, v in self._profile.count(rows, first).items()})
            np.savez(self._space.path("count", index, ".npz"), **arrays)  # type: ignore[arg-type]
            return {}

        self._each("count", count, "counting")

    def fit(self, more_ads: pa.Table | None) -> None:
        """Fits the encoder and collects the catalogue.

        Args:
            more_ads: Ads to add to those of the log, or None.
        """
        indices = range(self._num_chunks)
        chunks = [
            fitting.Chunk(
                functools.partial(self._counts_of_field, index),
                functools.partial(self._strings, index),
            )
            for index in indices
        ]
        fitted = fitting.fit(self._schema, chunks, self._workers)
        self._fitted, self._num_distinct = fitted.schema, fitted.num_distinct
        ad_counts = catalogue.merge(
            catalogue.Counts(**self._counts(index, "ads")) for index in indices
        )
        self._ads = catalogue.collect(
            self._schema, ad_counts, self._chunk_ends, self._rows, more_ads
        )
        self._time = self._profile.add(self._counts(index, "profile") for index in indices)
        output = self._space.output
        self._fitted.save(output / "encoder")
        self._ads.save(output / "catalogue", self._fitted)
        features = np.load(output / "catalogue" / "ad_features.npy")
        self._packer = packing.Packer(self._fitted, self._ads, features)

    def pack(self) -> None:
        """Encodes the rows."""

        def pack(index: int) -> dict[str, Any]:
            rows = self._rows(index)
            packed = self._packer.pack(rows)
            young = 0
            if self._unknown_after is not None:
                times = rows.array(parsed_rows.TIME)
                young = label_window.withhold(packed, times, self._unknown_after)
            packing.save(packed, self._space.path("pack", index))
            return {"changed_ads": self._packer.num_changed_ads(packed), "young": young}

        self._each("pack", pack, "encoding")

    def write(self) -> dict[str, Any]:
        """Writes the shards, and returns the splits' entries for `dataset.json`."""
        sampler = self._sampler()

        def write(index: int) -> dict[str, Any]:
            entries = {
                split: entry
                for number, split in enumerate(splitting.SPLITS)
                if (entry := self._write_shard(index, number, sampler)) is not None
            }
            varying = dataset_json.add([entry.pop("varying") for entry in entries.values()])
            users = sum(entry.pop("other_users") for entry in entries.values())
            return {**entries, "varying": varying, "other_users": users}

        notes = self._each("write", write, "writing records")
        return {
            split: dataset_json.split_entry([note[split] for note in notes if split in note])
            for split in splitting.SPLITS
        }

    def _write_shard(
        self, index: int, split: int, sampler: negatives.NegativeSampler | None
    ) -> dict[str, Any] | None:
        first, last = (
            (int(self._request_ends[index - 1]) if index else 0),
            self._request_ends[index],
        )
        chosen = self._requests.splits[first:last] == split
        if not chosen.any():
            return None
        lengths = self._requests.lengths(first, last)
        rows = self._requests.rows(first, last)[np.repeat(chosen, lengths)]
        lengths = lengths[chosen]
        seed = (self._options.split.seed, split, index)
        if split == 0:
            rows, lengths = records.shuffled(rows, lengths, seed)
        packed = packing.gather(self._packed, self._chunk_ends, rows, lengths)
        varying, other_users = self._packer.num_varying(
            self._packed, self._chunk_ends, rows, lengths, packed
        )
        sampled = 0
        if sampler is not None:
            packed, sampled = sampler.extend(packed, rows, split, seed)
        name = f"{splitting.SPLITS[split]}-{index:05d}.tfrecord"
        shard = records.write_shard(self._space.output / name, packed)
        return {**shard, "sampled": sampled, "varying": varying, "other_users": other_users}

    def _sampler(self) -> negatives.NegativeSampler | None:
        if self._keys is None:
            return None
        packed = [self._packed(index) for index in range(self._num_chunks)]
        users = [self._rows(i).array(parsed_rows.USER) for i in range(self._num_chunks)]
        shown = {name: np.concatenate([p[name] for p in packed]) for name in self._packer.catalogue}
        log_ = negatives.Log(
            np.concatenate(users),
            np.concatenate([p["ad_row"] for p in packed]),
            np.concatenate([p["click"] for p in packed]) == 1,
            self._is_train,
            splitting.ranks(self._keys),
            shown if any(self._notes("pack", "changed_ads")) else None,
        )
        return negatives.NegativeSampler(
            self._options.sampled_negatives, self._packer.catalogue, log_
        )

    def finish(self, source: dict[str, Any], splits: dict[str, Any]) -> None:
        """Writes what describes the data set, `dataset.json` last."""
        output = self._space.output
        with (output / "rejected.tsv").open("wb") as file:
            for index in range(self._num_chunks):
                file.write(self._space.path("parse", index, ".rejected").read_bytes())
        samples = dataset_json.sample_requests(
            self._schema, self._requests, self._chunk_ends, self._rows
        )
        (output / "sample_requests.json").write_text(json.dumps(samples))
        summary = {"num_distinct": self._num_distinct, "time": self._time}
        workspace.write_json(output / "profile.json", summary)
        described = {
            "format_version": reader.FORMAT_VERSION,
            "fingerprint": self._fitted.fingerprint(),
            "schema": self._schema.to_json(),
            "source": source,
            "spec": packing.spec(self._fitted).to_json(),
            "num_ads": len(self._ads),
            "impressions_of_changed_ads": sum(self._notes("pack", "changed_ads")),
            "rows_of_varying_query_fields": dataset_json.add(self._notes("write", "varying")),
            "rows_of_other_users": sum(self._notes("write", "other_users")),
            "split": {**dataclasses.asdict(self._options.split), "kind": self._requests.kind},
            "sampled_negatives": self._options.sampled_negatives,
            "engagement_window_seconds": self._options.engagement_window_seconds,
            "rows_inside_engagement_window": sum(self._notes("pack", "young")),
            "splits": splits,
            "sha256": {name: records.sha256(output / name) for name in dataset_json.CHECKED_FILES},
        }
        workspace.write_json(output / "dataset.json", described)

    def _rows(self, index: int) -> parsed_rows.Rows:
        return parsed_rows.load_rows(self._space.path("parse", index, ".rows"))

    def _strings(self, index: int, name: str) -> columns.Strings:
        path = self._space.path("parse", index, ".rows")
        return parsed_rows.load_strings(path, parsed_rows.string_names(self._schema).index(name))

    def _notes(self, stage: str, key: str) -> list[Any]:
        """Returns what a stage noted of each chunk."""
        notes = [self._space.note(stage, index) for index in range(self._num_chunks)]
        return [note[key] for note in notes if note is not None]

    def _packed(self, index: int) -> records.Packed:
        return packing.load(self._space.path("pack", index))

    def _span(self, index: int) -> tuple[int, int]:
        """Returns the log's first row of a chunk, and the row past its last."""
        return (int(self._chunk_ends[index - 1]) if index else 0), int(self._chunk_ends[index])

    def _counts(self, index: int, kind: str) -> dict[str, np.ndarray]:
        """Returns what was counted of a chunk: `field`, `ads` or `profile`."""
        with np.load(self._space.path("count", index, ".npz")) as arrays:
            names = [key for key in arrays.files if key.startswith(f"{kind}/")]
            return {key.split("/", 1)[1]: arrays[key] for key in names}

    def _counts_of_field(self, index: int, name: str) -> np.ndarray:
        # One field at a time: those of all together would grow with the log.
        with np.load(self._space.path("count", index, ".npz")) as arrays:
            return arrays[f"field/{name}"]

    def _each(
        self, stage: str, work: Callable[[int], dict[str, Any]], task: str
    ) -> list[dict[str, Any]]:
        """Runs a stage on every chunk and returns its notes."""
        notes = []
        with self._bar(task, int(self._chunk_ends[-1]), "rows") as bar:

            def once(index: int) -> dict[str, Any]:
                return self._space.once(stage, index, lambda: work(index))

            indices = range(self._num_chunks)
            for index, note in enumerate(workspace.in_threads(once, indices, self._workers)):
                first, last = self._span(index)
                notes.append(note)
                bar.update(last - first)
        return notes

    def _bar(self, task: str, total: int, unit: str) -> tqdm.tqdm:
        return terminal.progress_bar(task, unit, total or None, self._progress)
