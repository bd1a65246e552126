"""Shows what a converted data set holds and what is wrong with it.

The same as `tfrec inspect_dataset`.
"""

import launch

if __name__ == "__main__":
    launch.command("inspect_dataset")
