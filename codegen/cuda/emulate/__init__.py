"""Generated CUDA kernels on the CPU: the same source, compiled by g++ with a header that plays the device."""
