"""Shows the content of a converted data set, and problems in it.

The same as `tfrec inspect_dataset`.
"""

import launch

if __name__ == "__main__":
    launch.command("inspect_dataset")
