"""Kernels of a decoding step on CPUs, in C++, called by XLA from inside the compiled loop."""
