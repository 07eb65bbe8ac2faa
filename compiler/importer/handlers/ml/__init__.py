"""Operators of ai.onnx.ml: linear models, kernels, trees, encoders."""
