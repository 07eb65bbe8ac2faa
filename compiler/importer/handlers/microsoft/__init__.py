"""Operators of onnxruntime's domain, com.microsoft."""
