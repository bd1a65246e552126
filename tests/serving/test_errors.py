import copy
import pickle

import pytest

from serving import errors


@pytest.mark.parametrize(
    "error",
    [
        errors.TfrecClientError("no"),
        errors.ClientConnectionError("no"),
        errors.ClientTimeoutError("no"),
        errors.ClientReplyError("no"),
        errors.ClientRequestError(400, "invalid_request", "no"),
        errors.ClientOverloadedError(429, "overloaded", "no"),
        errors.ClientServiceError(503, "user_store", "no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_client_errors_can_be_pickled_and_copied(error):
    error.add_note("in worker 3")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is type(error)
        # The status, the code and the note.
        assert vars(other) == vars(error)
        assert (str(other), other.code) == ("no", error.code)
