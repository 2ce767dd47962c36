"""One reader per benchmark: official annotation files in, Episodes out; no media file is opened.

A reader is a file of this package, and is found here under the name of its class.
"""

from importlib import import_module
from pkgutil import iter_modules

from datamodules.benchmarks.base import Benchmark as Benchmark
from datamodules.benchmarks.base import readers

for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)
globals().update(readers())
