"""The flags with which a command calls a service that requires a token or has a certificate."""

from absl import flags

from serving.cli import bearer_token

flags.DEFINE_string(
    "token",
    None,
    "Bearer token of the service. Other users of the machine can see it; prefer --token_file.",
)
flags.DEFINE_string(
    "token_file",
    None,
    "File with the bearer token; default: the environment variable TFREC_TOKEN, or no token.",
)
flags.DEFINE_string(
    "tls_authorities",
    None,
    "PEM file of the certificates to trust for an HTTPS service, such as a self-signed "
    "certificate; default: the public authorities.",
)


def token() -> str | None:
    """Returns the bearer token, or None.

    Raises:
        OSError, ValueError: See `bearer_token.read_token`.
    """
    return flags.FLAGS.token or bearer_token.read_token(flags.FLAGS.token_file)
