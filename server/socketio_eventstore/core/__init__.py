"""Sessions, the commit queue and the fan-out: the base of the adapter and the transports."""
