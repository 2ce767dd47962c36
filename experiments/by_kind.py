"""How right a run is on each kind of the toy world's 3D questions, for several runs side by side.

``python -m experiments.by_kind runs/*/eval-scanqa/predictions-test.jsonl``
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from datamodules.toyworld.questions import COMPARISONS, ONE_OBJECT, THREE_D, kind_of


def accuracies(path: Path) -> dict[str, tuple[float, int]]:
    """Kind → percentage of answers that are the reference, and the number of questions."""
    right: dict[str, list[bool]] = defaultdict(list)
    for line in path.read_text().splitlines():
        row = json.loads(line)
        # SQA3D puts a situation before its question.
        kind = kind_of(row["question"].splitlines()[0].rsplit(". ", 1)[-1])
        right[kind].append(row["prediction"] in row["references"])
    return {kind: (100 * sum(of) / len(of), len(of)) for kind, of in right.items()}


def main() -> None:
    """Print a column for each file of predictions."""
    table = Table("kind", "N", title="exact answers, %")
    columns = {path: accuracies(Path(path)) for path in sys.argv[1:]}
    for path in columns:
        table.add_column(str(Path(path).parent), justify="right", overflow="fold")
    for kind in (*ONE_OBJECT, *COMPARISONS, *THREE_D):
        counts = {found[kind][1] for found in columns.values() if kind in found}
        figures = [f"{found[kind][0]:.1f}" if kind in found else "" for found in columns.values()]
        table.add_row(kind, "/".join(map(str, counts)), *figures, end_section=kind == "above")
    Console().print(table)


if __name__ == "__main__":
    main()
