"""The only code that imports torch: SAM, the CNN, their weights and devices."""

import os

# torch caches a plan of every convolution for each of the last 1,024 shapes. Fields of different sizes and scales
# keep adding shapes, and their plans take more than a gigabyte, though few of them are used again.
for _variable in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_variable, "128")
