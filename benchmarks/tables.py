"""Results as Markdown: python benchmarks/tables.py benchmarks/results/*.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def gradient(rows: list[Row]) -> str:
    """Per case and kind of weights the worst seed, then the figure of the case."""
    out = []
    for case in dict.fromkeys(row["case"] for row in rows):
        mine = [row for row in rows if row["case"] == case]
        figure = min(row["ratio"] for row in mine)
        for weights in dict.fromkeys(row["weights"] for row in mine):
            worst = min((r for r in mine if r["weights"] == weights), key=lambda r: r["ratio"])
            mark = "**" if worst["ratio"] == figure else ""
            out.append(
                [
                    case,
                    weights,
                    worst["setting"],
                    f"{worst['baseline_ms']:.1f} ({worst['baseline'].split()[0]})",
                    f"{worst['ours_ms']:.2f}",
                    f"{mark}{worst['ratio']:.2f}{mark}",
                    f"{worst['at_least']} / {worst['aim']}",
                    f"{worst['relative_error']:.1e}",
                    f"{worst['cosine']:.4f}",
                    f"{worst['worst_layer']:.1e}",
                    f"{worst['shortcut_cosine']:.3f}",
                ]
            )
    head = ["case", "weights", "setting", "serial ms", "ours ms", "ratio", "least / aim"]
    return table([*head, "error", "cosine", "worst layer", "shortcut cosine"], out)


def plain(rows: list[Row]) -> str:
    """Every key that any row has, as it stands."""
    keys = [k for k in dict.fromkeys(k for row in rows for k in row) if any(r.get(k) for r in rows)]

    def cell(value: Any) -> str:
        return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    return table(keys, [[cell(row.get(key)) for key in keys] for row in rows])


def main() -> int:
    for file in map(Path, sys.argv[1:]):
        rows = json.loads(file.read_text())
        print(f"\n## {file.stem}\n")
        print(gradient(rows) if file.stem == "gradient" else plain(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
