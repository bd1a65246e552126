"""The life of one version of a model in the server: its state, its errors, its users."""

import dataclasses
import time
from collections.abc import Collection, Mapping
from typing import TypeAlias

from tensorflow_serving.apis import get_model_status_pb2

from serving import saved_model
from serving.model_server.models import servable

State: TypeAlias = get_model_status_pb2.ModelVersionStatus


@dataclasses.dataclass
class Version:
    """What the manager knows of a version.

    Attributes:
        state: one of `ModelVersionStatus.State`; an unloaded version stays listed as END.
        model: the loaded version, while it is AVAILABLE.
        error: why the last load failed.
        attempts: how many loads failed.
        retry_at: when to load again, by `time.monotonic`.
        users: how many requests run on it.
        gave_up: whether it failed too often to be tried again.
    """

    state: int = State.START
    model: servable.Servable | None = None
    error: saved_model.StatusError | None = None
    attempts: int = 0
    retry_at: float = 0.0
    users: int = 0
    gave_up: bool = False

    def serves(self) -> bool:
        """Returns whether requests may use it."""
        return self.model is not None and self.state == State.AVAILABLE

    def is_due(self) -> bool:
        """Returns whether it should be loaded now."""
        if self.gave_up or self.state == State.AVAILABLE:
            return False
        return time.monotonic() >= self.retry_at

    def note_failure(
        self, error: saved_model.StatusError, max_retries: int, retry_seconds: float
    ) -> None:
        """Records a failed load: another try is due later, or never."""
        self.error = error
        self.attempts += 1
        self.retry_at = time.monotonic() + retry_seconds
        if self.attempts > max_retries:
            self.gave_up, self.state = True, State.END

    def to_proto(self, number: int) -> get_model_status_pb2.ModelVersionStatus:
        """Returns the state as GetModelStatus reports it; a version still tried has no error."""
        error = self.error if self.state == State.END else None
        return get_model_status_pb2.ModelVersionStatus(
            version=number, state=self.state, status=error.to_proto() if error else {}
        )


def replaced(versions: Mapping[int, Version], aspired: Collection[int]) -> list[int]:
    """Returns what is to be unloaded now, the oldest first.

    That is what is not aspired, but for one version that serves while no aspired one does.

    References:
        TensorFlow Serving, `core/availability_preserving_policy.cc`.
    """
    others = sorted(versions.keys() - set(aspired))
    serving = [number for number in others if versions[number].serves()]
    serves_aspired = any(number in versions and versions[number].serves() for number in aspired)
    kept = serving[-1:] if aspired and not serves_aspired else []
    return [number for number in others if number not in kept]
