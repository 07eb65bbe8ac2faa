"""Kernels to CUDA C++: jinja2 templates, compiled by NVRTC for named architectures, or by g++ for the emulation."""
