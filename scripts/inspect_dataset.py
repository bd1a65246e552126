"""Shows what a converted data set holds and what is wrong with it.

The same as `tfrec inspect_dataset`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("inspect_dataset")
