"""Lines of pandas that read the files of a table, and join files whose rows differ."""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from tfrecords import formats
from tfrecords.schema_inference import known_names
from tfrecords.schema_inference.sample import writing
from tfrecords.schema_inference.sample.file_columns import HEADED_ROWS, MAX_HEADERS

_ZERO_FIRST = re.compile(r"0\d+")
_OF_EVENTS = re.compile("(event|action|activity|interaction|behaviou?r)(_(type|name|kind|code))?")
_CLICK = "click"


def refuse_tables(paths: Sequence[pathlib.Path]) -> None:
    """Raises if the files of a log are tables of different rows, such as impressions and clicks.

    Raises:
        ValueError: Some files have no ad, or clicks or conversions by their names; the message has
            the lines that write the events or join the tables, and names those that it cannot join.
    """
    tables: dict[frozenset[str], list[pathlib.Path]] = {}
    step = -(-len(paths) // MAX_HEADERS)
    for path in dict.fromkeys((*paths[::step], paths[-1])):
        names = frozenset(name for name in formats.column_names(path, ()) if name)
        tables.setdefault(names, []).append(path)
    ads = {names: {name for name in names if _is_ad(name)} for names in tables}
    folder = os.path.commonpath([path.parent for path in paths])
    path_outcomes = {path: _outcome(os.path.relpath(path, folder)) for path in paths}
    if any(
        _lacks_events(names, [path_outcomes[p] for p in members])
        for names, members in tables.items()
    ):
        _refuse_events(path_outcomes)
    outcomes = {n: _outcome(os.path.relpath(members[0], folder)) for n, members in tables.items()}
    main = max(
        tables,
        key=lambda n: (bool(ads[n]), _has_user(n), not outcomes[n], _has_label(n), len(n)),
    )
    further = [names for names in tables if names != main]
    for names in further:
        common = {n for n in names & main if known_names.plain_words(n) not in known_names.TIMES}
        if common and common <= ads[main] and not outcomes[names]:
            raise ValueError(
                f"{tables[names][0]} has only the key {', '.join(map(repr, sorted(common)))} of "
                f"the columns of {tables[main][0]}; expected the files of one table. If it is a "
                f"table of ads, give it as --ads_path={tables[names][0]}."
            )
    others = [
        names
        for names in further
        if ads[names].isdisjoint(ads[main]) or (outcomes[names] and not outcomes[main])
    ]
    lines: list[str] = []
    notes: list[str] = []
    joined: list[frozenset[str]] = []
    # Tables that share a key with the log come first: conversions may have the key of a click.
    for other in sorted(others, key=lambda names: not _shared_keys(main, names)):
        words = map(known_names.plain_words, main & other)
        log, shared = main, _shared_keys(main, other)
        if not shared:
            log = next((table for table in joined if _shared_keys(table, other)), main)
            shared = _shared_keys(log, other)
            lines += _key_lines(tables[log], _shared_keys(main, log), shared[:1])
        if not shared or any(map(_OF_EVENTS.fullmatch, words)):
            return
        label = outcomes[other] or known_names.plain_words(tables[other][0].stem)
        found = _joining(tables[log], tables[other], shared[: 1 if log != main else None], label)
        lines += found
        joined.append(other)
        if not found:
            notes.append(
                f"\n{tables[other][0]} has only the keys {shared}, which do not identify a row of "
                f"{tables[log][0]}. Write its rows into the log as events, such as purchases: see "
                "'Events' in docs/data.md."
            )
    if not lines and not notes:
        return
    problem = f"{tables[others[0]][0]} and {tables[main][0]} have different rows; "
    problem += "expected the files of one table."
    if not lines:
        raise ValueError(problem + "".join(notes))
    program = "\n".join(
        ("import pandas as pd", f"log = {_reading_all(tables[main])}", *lines,
         "log.to_csv('log.csv', index=False)")
    )  # fmt: skip
    raise ValueError(
        f"{problem} Join them before the conversion, for example with pandas:\n{program}"
        + "".join(notes)
    )


def _lacks_events(names: frozenset[str], outcomes: Sequence[str | None]) -> bool:
    """Returns whether only the names of files with the same columns distinguish their events."""
    return len({*outcomes}) > 1 and not _has_label(names)


def _has_label(names: frozenset[str]) -> bool:
    """Returns whether a column has the types of events, or clicks."""
    words = [known_names.plain_words(name) for name in names]
    cores = {known_names.core(word.split("_")) for word in words}
    return any(map(_OF_EVENTS.fullmatch, words)) or not cores.isdisjoint(known_names.CLICKS)


def _has_user(names: frozenset[str]) -> bool:
    words = map(known_names.plain_words, names)
    return any(known_names.user_rank(word, word) is not None for word in words)


def _refuse_events(outcomes: Mapping[pathlib.Path, str | None]) -> None:
    """Raises an error on files of different events, given the label that each name implies."""
    parts = "".join(
        f"    {reading(path, ())}.assign(event={outcome or 'view'!r}),\n"
        for path, outcome in outcomes.items()
    )
    raise ValueError(
        "By their names, the files hold different events, such as "
        f"{' and '.join(str(path) for path in [*outcomes][:2])}, but no column says which. Write "
        "the events into one file before the conversion, for example with pandas:\n"
        f"import pandas as pd\nlog = pd.concat([\n{parts}])\nlog.to_csv('log.csv', index=False)"
    )


def reading(path: pathlib.Path, header: Sequence[str]) -> str:
    """Returns the expression that reads a file, perhaps without a header line, with pandas."""
    if formats.is_parquet(path):
        return f"pd.read_parquet({str(path)!r})"
    if formats.is_json(path):
        return f"pd.read_json({str(path)!r}, lines=True, dtype=False)"
    delimiter = formats.text_layout(path, ())[0].delimiter
    options = f", names={list(header)}" if header else ""
    names = header or formats.column_names(path, ())
    values = _first_values(
        path, [name for name in names if name and names.count(name) == 1], header
    )
    # As numbers, ids such as 007 would lose their zeros.
    texts = {
        name: "str" for name, cells in values.items() if any(map(_ZERO_FIRST.fullmatch, cells))
    }
    options += f", dtype={texts}" if texts else ""
    return f"pd.read_csv({str(path)!r}, sep={delimiter!r}{options})"


def _reading_all(paths: Sequence[pathlib.Path]) -> str:
    """Returns the expression that reads the files of a table with pandas."""
    expression = reading(paths[0], ())
    if len(paths) == 1:
        return expression
    template = expression.replace(repr(str(paths[0])), "path")
    return f"pd.concat({template} for path in {[str(path) for path in paths]})"


def _shared_keys(names: frozenset[str], others: frozenset[str]) -> list[str]:
    """Returns the columns of two tables that may be keys, sorted."""
    return sorted(name for name in names & others if _is_key(name))


def _key_lines(
    table: Sequence[pathlib.Path], log_keys: Sequence[str], shared: Sequence[str]
) -> list[str]:
    """Returns the lines that bring the key of a further table from a joined table into the log."""
    if not shared:
        return []
    (key,), by = shared, log_keys[0]
    rows = f"other.drop_duplicates({by!r}).set_index({by!r})"
    return [f"other = {_reading_all(table)}", f"log[{key!r}] = log[{by!r}].map({rows}[{key!r}])"]


def _joining(
    log: Sequence[pathlib.Path], other: Sequence[pathlib.Path], shared: Sequence[str], label: str
) -> list[str]:
    """Returns the lines that join a table with the log by the most distinctive shared column.

    The label, if any, is the outcome of a row of the log that each row of the table has.
    """
    read = {path: _first_values(path, shared) for path in (log[0], other[0])}
    key = max(shared, key=lambda name: len(set(read[log[0]][name])))
    # Rows without a click may lack the id of a click.
    log_keys, table_keys = ([v for v in read[path][key] if v] for path in (log[0], other[0]))
    first = f"other = {_reading_all(other)}"
    # Several rows of the log have one row of the table.
    if len(set(log_keys)) < 0.9 * len(log_keys):
        joined = f"log.merge(other, on={key!r}, how='left', suffixes=('', '_other'))"
        return [first, f"log = {joined}"] if len(set(table_keys)) == len(table_keys) else []
    lines = [first, f"log[{label!r}] = log[{key!r}].isin(other[{key!r}]).astype(int)"]
    names = [name for name in formats.column_names(other[0], ()) if name not in shared]
    amounts = (*known_names.REVENUES, *known_names.PRICES)
    words = {name: known_names.plain_words(name).split("_") for name in names}
    amount = next((name for name in names if known_names.core(words[name]) in amounts), None)
    if amount is not None and label != _CLICK:
        total = f"other.groupby({key!r})[{amount!r}].sum()"
        lines.append(f"log['revenue'] = log[{key!r}].map({total}).fillna(0)")
    return lines


def _outcome(path: str) -> str | None:
    """Returns a name for the label of a file of clicks or conversions by its path, or None."""
    words = known_names.plain_words(path).split("_")
    if not {*known_names.CLICKS}.isdisjoint(words):
        return _CLICK
    return next((word for word in words if word in known_names.ENGAGEMENTS), None)


def _is_ad(name: str) -> bool:
    return known_names.ad_rank(known_names.plain_words(name)) is not None


def _is_key(name: str) -> bool:
    words = known_names.id_last(known_names.plain_words(name))
    return re.fullmatch(f".*{known_names.KEY}", words) is not None


def _first_values(
    path: pathlib.Path, names: Sequence[str], header: Sequence[str] = ()
) -> dict[str, list[str]]:
    types = dict.fromkeys(names, formats.STRINGS)
    opened = formats.open_table(path, types, names, names, HEADED_ROWS, tuple(header))
    chunk = next(iter(opened.chunks()), None)
    if chunk is None:
        return {name: [] for name in names}
    table = opened.parse(chunk).table
    return {name: writing.texts_of(table[name]) for name in names}
