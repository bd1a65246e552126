"""Reads the bearer token that a service requires."""

import os

_VARIABLE = "TFREC_TOKEN"


def read_token(path: str | None) -> str | None:
    """Returns the bearer token from a file or the environment variable TFREC_TOKEN, or None.

    Args:
        path: File with the token. None: use the environment variable.

    Raises:
        ValueError: The token is empty or not valid in a header.
        OSError: The file cannot be read.
    """
    if path is not None:
        with open(path, encoding="utf-8", errors="replace") as file:
            token, source = file.read().strip(), path
    elif _VARIABLE in os.environ:
        token, source = os.environ[_VARIABLE].strip(), f"the environment variable {_VARIABLE}"
    else:
        return None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"The token in {source} is not valid ({len(token)} characters); expected printable "
            "ASCII characters without spaces. Create one with `openssl rand -hex 32`."
        )
    return token
