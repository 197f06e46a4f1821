"""The sweep: its configuration, search space, stage graph, ledger, balance point, report and command line."""
