"""The indexes that a catalogue of N ads may have, to be measured against each other."""

import dataclasses

from serving.index.kinds import MIN_ADS_TO_TRAIN, IndexConfig
from tfrecords import terminal

KINDS_TO_TRY = ("Flat", "IVF", "IVFSQ8", "IVFPQ", "IVFPQbf16", "HNSW", "HNSWSQ8")
# Graphs are built on one thread, so that they are the same every time: an hour at a million.
MAX_GRAPH_ADS = 200_000


def structures_to_try(
    targets: IndexConfig,
    num_ads: int,
    kinds: list[str] | None,
    num_lists: list[str | None],
) -> list[IndexConfig]:
    """Returns the indexes to try.

    Raises:
        ValueError: A kind is unknown.
    """
    if kinds is None:
        small = num_ads <= MAX_GRAPH_ADS
        kinds = [kind for kind in KINDS_TO_TRY if small or not kind.startswith("HNSW")]
    if num_ads < MIN_ADS_TO_TRAIN:
        kinds = [kind for kind in kinds if kind in ("Flat", "HNSW")] or ["Flat"]
    unknown = set(kinds) - set(KINDS_TO_TRY)
    if unknown:
        first = min(unknown)
        raise ValueError(
            f"--kinds: expected some of {', '.join(KINDS_TO_TRY)}, got {first!r}."
            f"{terminal.suggestion_for(first, KINDS_TO_TRY)}"
        )
    tried = []
    for kind in kinds:
        stored = "SQ8" if kind.endswith("SQ8") else "float"
        refine = "SQbf16" if kind.endswith("bf16") else targets.refine
        name = kind.removesuffix("SQ8").removesuffix("bf16")
        config = dataclasses.replace(targets, kind=name, storage=stored, refine=refine)
        cells = num_lists if kind.startswith("IVF") else [None]
        for count in cells:
            lists = None if count is None else int(count)
            tried.append(dataclasses.replace(config, num_lists=lists))
    return tried
