"""The modalities that V-LynX adds to video: one frozen object per kind of signal."""
