"""Everything between a site and the coordinator; the only folder that may import flwr."""
