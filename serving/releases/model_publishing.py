"""Publishes SavedModels of any framework as a release."""

import contextlib
import logging
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import tensorflow as tf

from serving import errors, manifest
from serving.index import AD_ID, IndexConfig
from serving.releases import ads_table, assembly, bundle, publishing
from tfrecords.schema import Schema

_logger = logging.getLogger(__name__)
_Path = str | os.PathLike[str]


def publish_models(
    base: _Path,
    *,
    query_tower: _Path,
    ad_tower: _Path,
    ranker: _Path | None = None,
    ads: pa.Table,
    schema: Schema,
    sample_requests: Sequence[Mapping[str, Any]],
    index_config: IndexConfig | None = None,
    metrics: Mapping[str, Any] | None = None,
    wait_seconds: float = 0.0,
) -> manifest.Manifest:
    """Publishes SavedModels and a table of ads as the next release.

    Embeds the ads, builds and tunes the index, and records the probes. If anything is invalid,
    nothing is published. docs/howto/publish_models.md describes the signatures.

    Args:
        base: Base directory of the bundles. Created if it does not exist.
        query_tower: SavedModel from raw query fields to `query_embedding` [B, D].
        ad_tower: SavedModel from raw ad fields to `ad_embedding` [B, D] and, optionally,
            `ad_features` [B, F] int32.
        ranker: SavedModel from raw query fields and `ad_features` [B, C, F] to [B, C] of each head.
            None: ads are in retrieval order.
        ads: The ads, with the columns of the schema's `ad_key`, joined by "|" if there are several,
            of its ad fields and those to show. The `ads.arrow` of a release is such a table, too.
            Null: missing.
        schema: Names, kinds and sides of the fields, the key of an ad, and, if wanted, the weights
            or values of the heads.
        sample_requests: Raw query fields of requests, as clients will send them. The first are the
            probes, and all together tune the index.
        index_config: Configuration of the index. None uses the defaults.
        metrics: Metrics of the models, for the manifest.
        wait_seconds: Maximum time to wait for another publish to end.

    Returns:
        The manifest of the release.

    Raises:
        BundleError: A SavedModel does not fit the schema or the others, fails, or returns values
            that cannot be served; or the index cannot be built.
        InvalidRequestError: The table of ads, or a sample request, does not fit the schema.
        PublishError: The release cannot be written, or another publish is running.
        ValueError: `schema` is not a schema.
    """
    if not isinstance(schema, Schema):
        raise ValueError(
            f"schema: expected a tfrecords.schema.Schema, got {type(schema).__name__}. Use "
            "tfrecords.schema.load_schema(path) or schema_from_json(object)."
        )
    sources = {"query_tower": query_tower, "ad_tower": ad_tower}
    if ranker is not None:
        sources["ranker"] = ranker
    directories = {part: _checked(part, path) for part, path in sources.items()}
    checked = ads_table.checked_ads(ads, schema)
    _warn_of_missing_ads(pathlib.Path(base), checked[AD_ID])
    inputs = assembly.ReleaseInputs(
        ads=checked,
        schema=schema,
        sample_requests=sample_requests,
        index_config=index_config,
        metrics=metrics or {},
        has_ranker=ranker is not None,
    )

    def write(staged: publishing.Staged) -> manifest.Content:
        for part, directory in directories.items():
            shutil.copytree(directory, getattr(staged, part), dirs_exist_ok=True)
        return assembly.assemble(staged, inputs)

    return publishing.publish(base, write, wait_seconds=wait_seconds)


def _warn_of_missing_ads(base: pathlib.Path, ids: pa.ChunkedArray) -> None:
    # There may be no release, or no valid releases.json.
    with contextlib.suppress(errors.BundleNotFoundError, errors.ReleasesFileError):
        if missing := ads_table.describe_missing_ads(base, bundle.stable(base), ids):
            _logger.warning("%s in the table of ads. Add those that are still shown.", missing)


def _checked(part: str, path: _Path) -> pathlib.Path:
    """Checks that a directory is a SavedModel before it is copied."""
    if not isinstance(path, str | os.PathLike):
        raise errors.BundleError(
            f"{part}: expected the directory of a SavedModel, got an object of the class "
            f"{type(path).__name__}. Save the model with tf.saved_model.save, and give the path."
        )
    directory = pathlib.Path(path)
    if tf.saved_model.contains_saved_model(str(directory)):
        return directory
    inside = sorted(path.parent.name for path in directory.glob("*/saved_model.pb"))
    hint = f" Did you mean {directory / inside[-1]}?" if inside else ""
    raise errors.BundleError(
        f"{part}: expected the directory of a SavedModel, got {directory}, which has no "
        f"saved_model.pb.{hint} Save the model with tf.saved_model.save."
    )
