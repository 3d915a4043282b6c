"""Latency benchmarks: same process, same inputs, systems timed alternately, compilation excluded."""
