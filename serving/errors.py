"""All errors of serving, in one tree. Imports no TensorFlow, so that the client can use it.

    ServingError
      BundleError           a release cannot be published or loaded
      InvalidRequestError   a request, or an ad of an update, is invalid
      ImpressionLogError    the impression log cannot be written or joined
      UserStoreError        the user store failed
      OverloadedError       a request cannot be answered in time
      RankerError           the ranker returned no usable scores
      ServerStartError      the service or the embedded model server cannot start
      TfrecClientError      base of the errors of `serving.client`

`code` is the short name of the error in REST responses: the class name in snake case, without
`Error`, unless the class gives another.
"""

import re
from typing import Any


class ServingError(Exception):
    """Base of all errors raised by `serving`."""

    code = "serving_error"

    def __init_subclass__(cls) -> None:
        if "code" not in vars(cls):
            cls.code = re.sub("(?<=.)(?=[A-Z])", "_", cls.__name__.removesuffix("Error")).lower()


class BundleError(ServingError):
    """A release bundle cannot be published, verified or loaded."""

    code = "bundle_error"


class BundleNotFoundError(BundleError):
    """The bundle is not published: it has no manifest."""


class IndexUnavailableError(BundleError):
    """The server of the ad index does not answer, or not in time."""


class LiveIndexError(BundleError):
    """The updates of a live index cannot be read or written."""


class PublishError(BundleError):
    """A release cannot be published, promoted or rolled back, or the export gate refused it."""

    code = "publish_error"


class ReleasesFileError(BundleError):
    """`releases.json` cannot be read, so the stable release is unknown."""


class InvalidRequestError(ServingError):
    """A request, or an ad of an update, is invalid; the message names what was expected."""


class ImpressionLogError(ServingError):
    """The impression log cannot be written, or cannot be joined with feedback."""


class UserStoreError(ServingError):
    """The user store cannot be opened, or did not answer a read or a write."""


class OverloadedError(ServingError):
    """The request cannot be answered in time, because too many others are in flight."""


class RankerError(ServingError):
    """The ranker returned no usable scores, or no model server answers at the address."""

    code = "ranker_error"


class RankerDeadlineError(RankerError):
    """The model server did not answer in time."""


class RankerBusyError(RankerError):
    """No model server had a free thread for the call."""


class RankerReplyError(RankerError):
    """The model server rejected the call, or its reply is unusable."""


class RankerMismatchError(RankerError):
    """The model served as the pinned version is not the bundle's ranker."""


class ServerStartError(ServingError):
    """The service or its model server cannot start, or its processes exit repeatedly."""


class TfrecClientError(ServingError):
    """Base of all errors raised by the clients in `serving.client`."""

    code = "client_error"


class ClientConnectionError(TfrecClientError):
    """The service cannot be reached, or the connection broke."""

    code = "connection"


class ClientTimeoutError(TfrecClientError):
    """The service did not answer within the client's timeout."""

    code = "timeout"


class ClientReplyError(TfrecClientError):
    """The response is not from a tfrec service, or belongs to a different request."""

    code = "reply"


class ClientStatusError(TfrecClientError):
    """The service answered with an error.

    Attributes:
        status: HTTP status.
        code: Short name of the error, from the service.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, only the message is pickled, and the error could not be unpickled.
        return type(self), (self.status, self.code, *self.args), vars(self)


class ClientRequestError(ClientStatusError):
    """The service rejected the request (4xx); retrying will not help."""


class ClientOverloadedError(ClientStatusError):
    """The service is overloaded (429) and did not process the request; retry later."""


class ClientServiceError(ClientStatusError):
    """The service failed or is not ready (5xx)."""
