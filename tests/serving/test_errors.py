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
def test_errors_of_the_clients_reach_another_process_as_they_were_raised(error):
    error.add_note("in worker 3")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is type(error)
        # The status, the code and the note.
        assert vars(other) == vars(error)
        assert (str(other), other.code) == ("no", error.code)
