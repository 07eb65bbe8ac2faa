"""Modules on NVIDIA GPUs: code images, devices, programs as launches, arrays in and out without copies. cupy is imported late."""
