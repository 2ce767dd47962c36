"""Modalities beyond the paper's, each in 40 lines: starting points for your own.

They are aligned, checked and reported like the others. No benchmark asks about them.
"""

from datamodules.gallery.events import Events as Events
from datamodules.gallery.imu import Imu as Imu
from datamodules.gallery.thermal import Thermal as Thermal
