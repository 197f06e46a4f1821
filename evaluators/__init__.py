"""Generation, the benchmarks, the judge and the statistics of a score. Knows nothing of training or search."""
