"""Describes a converted data set and its problems in a data card.

    tfrec inspect_dataset --workdir=workdir/quickstart
    tfrec inspect_dataset --data=workdir/criteo/data --output=card.html
    tfrec inspect_dataset --workdir=workdir/quickstart --json

Takes seconds for a million rows. Prints a data card (warnings with remedies, splits, labels,
fields, drift, ads, rejected rows) and writes it with figures to WORKDIR/data_card.html.
"""

import pathlib

from absl import flags

flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory; its data set is in data/.")
flags.DEFINE_string("data", None, "Converted data set; default: WORKDIR/data.")
flags.DEFINE_string("output", None, "HTML file; default: data_card.html next to the data set.")
flags.DEFINE_bool("json", False, "Print only the data card, as JSON.")
FLAGS = flags.FLAGS


def main() -> None:
    from tfrecords import card, files, reader

    workdir = pathlib.Path(FLAGS.workdir)
    directory = pathlib.Path(FLAGS.data) if FLAGS.data else workdir / "data"
    output = pathlib.Path(FLAGS.output or directory.parent / "data_card.html")
    built = card.build_card(reader.DataSet(directory))
    # Printed first, so that it can be read even where the file cannot be written.
    print(built.model_dump_json() if FLAGS.json else card.render_text(built), flush=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    files.write(output, card.render_html(built))
    if not FLAGS.json:
        print(f"\nData card with figures: {output}")
