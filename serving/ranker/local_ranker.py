"""Runs a release's ranker in this process, with the interface of `RankerClient`.

Shapes: B requests, C candidates, F columns of ad features.
"""

import asyncio
import os
import pathlib
from concurrent import futures

import numpy as np

from serving import errors, releases, requests
from serving.ranker import ranker_client


class LocalRanker:
    """Scores candidates with the SavedModel of a release.

    Attributes:
        address: `this process`, for messages.
        version: Release version.
    """

    address = "this process"

    def __init__(self, release: releases.Bundle) -> None:
        """Loads the SavedModel.

        Args:
            release: The loaded release.

        Raises:
            RankerError: The SavedModel cannot be loaded.
        """
        self.version = release.version
        self._outputs = list(release.manifest.outputs.values())
        path = pathlib.Path(release.base) / "ranker" / str(release.version)
        try:
            self._model = releases.RankerModel(
                path,
                release.manifest.query_fields,
                release.ad_index.num_fields,
                self._outputs,
            )
        except errors.BundleError as error:
            raise errors.RankerError(f"{path}: {error}") from error
        self._executor = futures.ThreadPoolExecutor(
            os.cpu_count() or 1, thread_name_prefix="ranker"
        )

    async def predict(
        self,
        columns: requests.Columns,
        ad_features: np.ndarray,
        timeout_seconds: float,
    ) -> dict[str, np.ndarray]:
        """Scores candidates; see `RankerClient.predict`.

        Raises:
            RankerDeadlineError: The call took longer than `timeout_seconds`.
            RankerReplyError: The model rejects the inputs, or no score of an output is finite.
        """
        running = asyncio.get_running_loop().run_in_executor(
            self._executor, self.score, columns, ad_features
        )
        try:
            return await asyncio.wait_for(running, max(0.0, timeout_seconds))
        except TimeoutError as error:
            raise errors.RankerDeadlineError(
                "The ranker of this process did not answer within "
                f"{requests.milliseconds_text(timeout_seconds * 1000)}."
            ) from error

    async def close(self) -> None:
        """Waits for running calls, and frees the model."""
        self.free()

    def free(self) -> None:
        """Does the same as `close`, without an event loop."""
        self._executor.shutdown(wait=True)
        self._model.free()

    def score(self, columns: requests.Columns, ad_features: np.ndarray) -> dict[str, np.ndarray]:
        """Does the same as `predict`, in the calling thread and without a deadline."""
        try:
            scores = self._model.score(columns, ad_features, self._outputs)
        except Exception as error:
            raise errors.RankerReplyError(
                f"The ranker of this process rejected the call: {error}"
            ) from error
        for name, values in scores.items():
            ranker_client.check_finite(name, values)
        return scores
