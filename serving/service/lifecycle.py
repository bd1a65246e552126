"""The lifecycle state of a service."""


class Lifecycle:
    """State shared by the HTTP server and the application.

    Attributes:
        draining: True after the first signal: the service is not ready, still answers requests,
            and closes each connection after its response.
    """

    def __init__(self) -> None:
        self.draining = False
