"""A release's ranker in this process: what `ranker_client` asks a server for, without one.

Shapes: B requests, C candidates, F columns of ad features.
"""

import asyncio
import os
import pathlib
import weakref
from concurrent import futures

import numpy as np

from serving import bundle, errors, query_fields
from serving.embedded import rpc_status, session_runner

_SIGNATURE = "serving_default"


class LocalRanker:
    """Scores candidates with the SavedModel of a release.

    Attributes:
        address: `this process`.
        version: Of the release.
    """

    address = "this process"

    def __init__(self, release: bundle.Bundle, num_threads: int | None = None) -> None:
        """Loads the SavedModel.

        Args:
            release: Has the ranker.
            num_threads: Calls at once; None = one for each core.

        Raises:
            RankerUnavailableError: It cannot be loaded.
        """
        self.version = release.version
        path = pathlib.Path(release.base) / "ranker" / str(release.version)
        try:
            self._runner = session_runner.SessionRunner(
                os.fspath(path), config=session_runner.session_config()
            )
        except rpc_status.StatusError as error:
            raise errors.RankerUnavailableError(
                f"{path}: the ranker cannot be loaded: {error}. Export the bundle again."
            ) from error
        signature = self._runner.signature_defs[_SIGNATURE]
        self._inputs = {name: info.name for name, info in signature.inputs.items()}
        self._outputs = {
            name: signature.outputs[name].name for name in release.manifest.outputs.values()
        }
        self._executor = futures.ThreadPoolExecutor(
            num_threads or os.cpu_count() or 1, thread_name_prefix="ranker"
        )
        self._finalizer = weakref.finalize(self, self._runner.close)

    def connection(self) -> int:
        """Returns 1: it is always the same model."""
        return 1

    async def predict(
        self, columns: query_fields.Columns, ad_features: np.ndarray, timeout_seconds: float
    ) -> dict[str, np.ndarray]:
        """Scores candidates; arguments and results as `RankerClient.predict`.

        Raises:
            RankerDeadlineError: The time is over.
            RankerReplyError: The model refuses the inputs, or gives what is not finite.
        """
        running = asyncio.get_running_loop().run_in_executor(
            self._executor, self._run, columns, ad_features
        )
        try:
            return await asyncio.wait_for(running, max(0.0, timeout_seconds))
        except TimeoutError as error:
            raise errors.RankerDeadlineError(
                f"The ranker of this process did not answer within {timeout_seconds * 1000:.0f} ms."
            ) from error

    async def close(self) -> None:
        """Ends the threads; calls that run are waited for."""
        self._executor.shutdown(wait=True)

    def _run(self, columns: query_fields.Columns, ad_features: np.ndarray) -> dict[str, np.ndarray]:
        feeds = {
            self._inputs[name]: column
            if isinstance(column, np.ndarray)
            else np.array(column, dtype=object)
            for name, column in columns.items()
        }
        feeds[self._inputs["ad_features"]] = ad_features
        try:
            found = self._runner.run(feeds, list(self._outputs.values()))
        except Exception as error:
            raise errors.RankerReplyError(
                f"The ranker of this process refused the call: {error}"
            ) from error
        scores = {name: found[tensor] for name, tensor in self._outputs.items()}
        for name, values in scores.items():
            if not np.isfinite(values).all():
                raise errors.RankerReplyError(
                    f"The ranker's {name} holds values that are not finite."
                )
        return scores
