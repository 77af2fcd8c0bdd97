"""The table of metrics of docs/metrics.md, from the descriptions beside the code that computes them.

python -m recipe.knapsack.metric_table                  prints it
python -m recipe.knapsack.metric_table docs/metrics.md  writes it between the markers in that file
"""

from __future__ import annotations

import argparse
from pathlib import Path

from knapsack_rl.metrics import METRICS, TRAINER_METRICS

BEGIN, END = "<!-- metrics: begin -->", "<!-- metrics: end -->"


def metric_table() -> str:
    """Return the table as Markdown, one row per metric."""
    rows = ["| key | unit | what it is | when it looks wrong |", "|---|---|---|---|"]
    for key, description in {**METRICS, **TRAINER_METRICS}.items():
        cells = (f"`{key}`", description.unit, description.meaning, description.when_wrong)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def with_metric_table(text: str) -> str:
    """Return ``text`` with the table in place of what stands between the markers.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the text has no markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{metric_table()}\n{END}{after}"


def main(arguments: list[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="file to write the table into; without it, it is printed")
    options = parser.parse_args(arguments)
    if options.file is None:
        print(metric_table())
    else:
        options.file.write_text(with_metric_table(options.file.read_text()))


if __name__ == "__main__":
    main()
