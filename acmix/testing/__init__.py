"""Cases, oracles and the one judge of an implementation: for tests and benchmarks alike."""
