"""From the record of a run to what a person looks at: pictures, and one HTML page.

It knows records alone, no networks and no training. `plots` draws RUN/plots/*.png, `write` makes
the page of one or several runs. Open `page.py` first; `story.py` reads records, `tables.py` and
`curves.py` show them.
"""

from .page import render, write
from .pictures import folder_of, plots, regions

PAGE = "report.html"
"""Name of the page in a run folder."""

__all__ = ["PAGE", "folder_of", "plots", "regions", "render", "write"]
