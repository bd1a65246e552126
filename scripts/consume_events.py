"""Moves events from a stream of Redis or Valkey into the user store.

The same as `tfrec consume_events`.
"""

import launch

if __name__ == "__main__":
    launch.command("consume_events")
