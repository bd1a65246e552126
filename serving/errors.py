"""Every error of serving, in one tree; imports no TensorFlow, so that the client can use it.

    ServingError
      BundleError           a release cannot be published or loaded
      InvalidRequestError   the caller's request is refused
        RequestTypeError      a value has a wrong type, or a key is unknown
      InvalidAdError        an ad for a live index is refused
      ImpressionLogError    the log of what was shown cannot be written or joined
      WorkersError          the service's processes do not stay
      OverloadedError       more requests are in hand than can be answered in time
      RankerError           the ranker gives no usable scores
      TfrecClientError      what `serving.client` raises

`code` is the short name that REST errors carry.
"""


class ServingError(Exception):
    """Base of all errors raised by `serving`."""

    code = "serving_error"


class BundleError(ServingError):
    """A release bundle that cannot be published, verified or loaded."""

    code = "bundle_error"


class BundleNotFoundError(BundleError):
    """There is no manifest, so there is no published bundle."""

    code = "bundle_not_found"


class ManifestCorruptError(BundleError):
    """The manifest is not the one that was published."""

    code = "manifest_corrupt"


class ManifestFormatError(BundleError):
    """The manifest has a format version or content that this code does not know."""

    code = "manifest_format"


class ForeignPartError(BundleError):
    """A part of the bundle comes from another training or data set."""

    code = "foreign_part"


class MissingFileError(BundleError):
    """A file that the manifest lists is not there."""

    code = "missing_file"


class CorruptFileError(BundleError):
    """A file differs in size or checksum from the one that was published."""

    code = "corrupt_file"


class UnlistedFileError(BundleError):
    """A file lies in a bundle that the manifest does not list."""

    code = "unlisted_file"


class ProbeMismatchError(BundleError):
    """The bundle does not reproduce the answers recorded when it was exported."""

    code = "probe_mismatch"


class AdIndexError(BundleError):
    """The ad index cannot be built or opened."""

    code = "ad_index"


class LiveIndexError(BundleError):
    """The updates of a live index cannot be read or written."""

    code = "live_index"


class PublishError(BundleError):
    """A version cannot be published: taken, out of order, incomplete, or another publisher runs."""

    code = "publish_error"


class ReleaseRefusedError(BundleError):
    """The export gate refuses a ranker; the message says which head, by what, and what to do."""

    code = "release_refused"


class ReleasesFileError(BundleError):
    """`releases.json` cannot be read, so that nobody knows which release is stable."""

    code = "releases_file"


class InvalidRequestError(ServingError):
    """The request is refused; the message names the field, what was expected and what came.

    Attributes:
        status: HTTP status of the refusal.
    """

    code = "invalid_request"
    status = 400


class RequestTypeError(InvalidRequestError):
    """A value of the request has a wrong type, or a key is unknown or missing."""

    status = 422


class InvalidAdError(ServingError):
    """An ad for a live index is refused; the message names the field and what was expected."""

    code = "invalid_ad"


class ImpressionLogError(ServingError):
    """The log of what was shown cannot be written, or cannot be joined with feedback."""

    code = "impression_log"


class OverloadedError(ServingError):
    """The request is not taken, because too many are in hand; nothing of it was done."""

    code = "overloaded"


class WorkersError(ServingError):
    """The processes of the service end as soon as they are started."""

    code = "workers"


class RankerError(ServingError):
    """The ranker gave no scores that may be used."""

    code = "ranker_error"


class RankerUnavailableError(RankerError):
    """No model server answers at the address."""

    code = "ranker_unavailable"


class RankerDeadlineError(RankerError):
    """The model server did not answer in time."""

    code = "ranker_deadline"


class RankerVersionError(RankerError):
    """The model server does not serve the pinned version."""

    code = "ranker_version"


class RankerReplyError(RankerError):
    """The model server refused the call, or its reply cannot be used."""

    code = "ranker_reply"


class RankerMismatchError(RankerError):
    """The model server serves another model than the bundle's under the pinned version."""

    code = "ranker_mismatch"


class ServerStartError(ServingError):
    """The embedded model server could not start: a port, a configuration or a model."""


class TfrecClientError(ServingError):
    """Base of what `serving.client.Client` raises."""

    code = "client_error"


class ClientConnectionError(TfrecClientError):
    """The service cannot be reached, or the connection broke."""

    code = "connection"


class ClientTimeoutError(TfrecClientError):
    """The service did not answer within the client's time-out."""

    code = "timeout"


class ClientReplyError(TfrecClientError):
    """What answers at the address is no tfrec service."""

    code = "reply"


class ClientStatusError(TfrecClientError):
    """The service answered with an error.

    Attributes:
        status: HTTP status.
        code: The service's short name of the error.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ClientRequestError(ClientStatusError):
    """The service refused the request (4xx); sending it again will not help."""


class ClientOverloadedError(ClientStatusError):
    """The service has too much in hand (429) and did nothing of it; send it again later."""


class ClientServiceError(ClientStatusError):
    """The service failed or is not ready (5xx)."""
