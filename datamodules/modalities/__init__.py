"""What V-LynX can be given beside video: a frozen object for each kind of signal."""
