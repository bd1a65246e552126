"""Shows the contents and problems of a converted data set.

The same as `tfrec inspect_dataset`.
"""

import launch

if __name__ == "__main__":
    launch.command("inspect_dataset")
