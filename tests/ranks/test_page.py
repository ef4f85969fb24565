"""The program on the page about many processes runs as the page says."""

from __future__ import annotations

from pathlib import Path

import pool as pools

PAGE = Path(__file__).parents[2] / "docs" / "ranks.md"


def test_the_pages_program_runs_by_torchrun(tmp_path: Path):
    code = PAGE.read_text().partition("```python\n")[2].partition("```")[0]
    assert "lp.distribute" in code
    script = tmp_path / "script.py"
    line = 'f"{net.group.rank} {loss.item()}\\n"'  # in one piece: the ranks share one output
    telling = f"    print({line}, end='')\n    stop()\n"
    script.write_text(code.replace("    stop()\n", telling))
    done = pools.torchrun(2, script)
    assert done.returncode == 0, done.stdout
    lines = sorted(line.split() for line in done.stdout.splitlines() if line[:1] in "01")
    assert [rank for rank, _ in lines] == ["0", "1"]
