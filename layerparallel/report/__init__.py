"""From the record of a run to what a person looks at: pictures, and one HTML page.

`plots` draws RUN/plots/*.png, `write` makes the page of one or several runs. The page is made of the
record alone; what it holds is read by `story`, drawn by `curves`, `stages`, `subnetworks`,
`tradeoff` (with `drawing`) and `cycle`, put in tables by `tables`, and laid out by page.html.
"""

from layerparallel.report.page import render, write
from layerparallel.report.pictures import folder_of, plots, regions

PAGE = "report.html"
"""Name of the page in a run folder."""

__all__ = ["PAGE", "folder_of", "plots", "regions", "render", "write"]
