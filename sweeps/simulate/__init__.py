"""Simulated sweeps: the real search, stage graph and ledger, with a response surface in the place of training."""
