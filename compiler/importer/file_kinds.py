"""Files that are given in the place of an ONNX model, told by their first bytes: what each is, and what to do about it."""

from __future__ import annotations

from ...runtime.archive import is_module

HEAD = 64  # bytes that `other_kind` looks at
_TORCH = "Export the network with torch.onnx.export."
_TENSORFLOW = "Convert the network with tf2onnx."
_KINDS = (  # where a file has which bytes; none of these can begin an ONNX model
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the file itself", "Fetch it with git lfs pull."),
    (0, b"PK\x03\x04", "is a zip archive, such as a PyTorch checkpoint", _TORCH),
    (0, b"\x80\x02", "is a pickle, such as a PyTorch checkpoint", _TORCH),
    (0, b"\x80\x03", "is a pickle, such as a scikit-learn model", "Convert the model with skl2onnx."),
    (0, b"\x80\x04", "is a pickle, such as a scikit-learn model", "Convert the model with skl2onnx."),
    (0, b"\x1f\x8b", "is compressed by gzip", "Unpack it."),
    (0, b"\x89HDF", "is an HDF5 file, such as a Keras model", _TENSORFLOW),
    (4, b"TFL3", "is a TensorFlow Lite model", _TENSORFLOW),
    (4, b"ORTM", "is a model in onnxruntime's own format", "Give the .onnx file that it was made of."),
    (0, b"GGUF", "is a GGUF file, which holds weights alone", "Give an ONNX model; mlc.Precision(weights=…) takes its weights from GGUF."),
    (4, b"\0\0\0\0{", "is a safetensors file, which holds weights alone", _TORCH),
    (0, b"<", "is a web page or XML", "Download or export the model itself."),
    (0, b"\x93NUMPY", "is a NumPy array", "Inputs are given by --input NAME=FILE.npy."),
)


def other_kind(head: bytes) -> tuple[str, str] | None:
    """What a file that begins like this is, if it is known and no ONNX model, and what to do."""
    if is_module(head):
        return "is a compiled module", "mlc.load, `mlc run` and `mlc bench` take it."
    return next(((what, remedy) for at, start, what, remedy in _KINDS if head.startswith(start, at)), None)
