"""Data sets by name: generated, bundled, downloaded and checked, or a user's own folder; and batches.

It knows files and tensors; it must not know networks. Open `base.py` first, `sets.py` for the names.

```python
from layerparallel import data

digits = data.load("digits")
prepare = data.Preparation.of(digits, data.Augmentation(crop=1, flip=False))
for batch in data.Batches(digits, 64, torch.Generator().manual_seed(0), prepare):
    batch.x, batch.y, batch.index
```

Published files are looked for in the folder that the environment variable ``LAYERPARALLEL_DATA``
names (in one subfolder per set, or straight in it), then in the cache, and then they are downloaded.
"""

from .augment import Augmentation, Drawn, Preparation
from .base import Dataset
from .batches import Batch, Batches
from .sets import load, names

__all__ = [
    "Augmentation",
    "Batch",
    "Batches",
    "Dataset",
    "Drawn",
    "Preparation",
    "load",
    "names",
]
