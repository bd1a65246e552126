"""Whether a service takes requests, or is about to end."""


class Lifecycle:
    """What the HTTP server and the application know of each other.

    Attributes:
        draining: True from the first signal to end: not ready, connections are given up after
            their answer, and requests are still answered.
    """

    def __init__(self) -> None:
        self.draining = False
