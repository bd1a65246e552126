"""Shows what a converted data set holds and what is wrong with it.

    tfrec inspect_dataset --workdir=workdir/quickstart
    tfrec inspect_dataset --data=workdir/criteo/data --output=card.html
    tfrec inspect_dataset --workdir=workdir/quickstart --json

Seconds for a million rows. Prints a data card (warnings with remedies, splits, labels, fields,
drift, ads, rejected rows) and writes it with figures as one HTML page, WORKDIR/data_card.html.
"""

import json
import pathlib

from absl import flags

flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory; its data set is in data/.")
flags.DEFINE_string("data", None, "A converted data set; default: WORKDIR/data.")
flags.DEFINE_string("output", None, "The page; default: data_card.html beside the data set.")
flags.DEFINE_bool("json", False, "Print the card as JSON and nothing else.")
FLAGS = flags.FLAGS


def main() -> None:
    from tfrecords import card, reader

    workdir = pathlib.Path(FLAGS.workdir)
    directory = pathlib.Path(FLAGS.data) if FLAGS.data else workdir / "data"
    output = pathlib.Path(FLAGS.output or directory.parent / "data_card.html")
    built = card.build_card(reader.DataSet(directory))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(card.render_html(built), encoding="utf-8")
    if FLAGS.json:
        print(json.dumps(built))
    else:
        print(card.render_text(built))
        print(f"\nThe page with figures: {output}")
