"""Recipes: complete trainings, by name.

A recipe is a frozen dataclass of options; it builds a `Run` from data, network and method. It must not
know the command line. Open `base.py` first, and `catalogue.py` for the names.

```python
from layerparallel import recipes

run = recipes.get("level-sets")(depth=256).build()
```
"""

from .catalogue import Recipe, get, names, rebuild

__all__ = ["Recipe", "get", "names", "rebuild"]
