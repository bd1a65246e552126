"""The flag of the user store."""

from absl import flags

from serving.cli import command_line

flags.DEFINE_string(
    "user_store",
    None,
    "Store of profiles and histories of users: sqlite:PATH, or redis://HOST:PORT/DATABASE for "
    "Redis or Valkey; default: the environment variable TFREC_USER_STORE. With a store, a service "
    "completes requests that have a user_id, and accepts events.",
)


def user_store() -> str | None:
    """Returns the address of the user store, or None.

    Raises:
        ValueError: The address is not valid.
        UserStoreError: The store cannot be opened.
    """
    from serving import users

    address = command_line.address_of_flag("user_store")
    if address is not None:
        try:
            with command_line.require_extra("redis"):
                users.check_store(address)
        except ValueError as error:
            raise ValueError(f"--user_store, or TFREC_USER_STORE: {error}") from error
    return address
