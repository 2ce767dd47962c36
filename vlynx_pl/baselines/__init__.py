"""Methods that V-LynX is compared with."""

from vlynx_pl.baselines.pave import TemporalPatch

__all__ = ["TemporalPatch"]
