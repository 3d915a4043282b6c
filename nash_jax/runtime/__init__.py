"""Devices, processes, files, locks, progress and the compilation cache."""
