"""The only code that imports torch: SAM, the CNN, their weights and devices."""

import os

# torch keeps a plan of every convolution for each of the last 1,024 shapes that it met. Fields of different sizes and
# scales have ever new shapes, and their plans come to more than a gigabyte; a few of each are used again.
for _variable in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_variable, "128")
