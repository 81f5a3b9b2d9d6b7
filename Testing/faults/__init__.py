"""`make faults`: every fault of the matrix on real processes with toy updates, so that final weights are known."""
