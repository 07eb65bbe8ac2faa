"""Every error a user of mlc can meet. The one leaf that all sub-packages may import."""

from __future__ import annotations

_LONGEST = 1000  # characters of a line: names and shapes in hostile models are of any length


class MlcError(Exception):
    """Base of all errors raised on purpose.

    Args:
        found: what was met, in the user's terms.
        expected: what would have been right ("" when obvious).
        remedy: what to do about it ("" when there is nothing to do).
        loc: the ONNX nodes, file or option concerned ("" when global).
    """

    def __init__(self, found: str, *, expected: str = "", remedy: str = "", loc: str = "") -> None:
        self.found, self.expected, self.remedy, self.loc = found, expected, remedy, loc
        super().__init__(found)

    def __str__(self) -> str:
        text = f"{self.loc}: {self.found}" if self.loc else self.found
        if self.expected:
            text += f"; expected {self.expected}"
        if self.remedy:
            text += (".\n" if "\n" in text else ". ") + self.remedy
        return "\n".join(line if len(line) <= _LONGEST else line[:_LONGEST] + "…" for line in text.split("\n"))


class OnnxImportError(MlcError):
    """The ONNX file cannot be read, is invalid, or uses something unsupported."""


class VerifyError(MlcError):
    """A graph or kernel breaks a rule of its specification (a bug in a pass, or hostile text)."""


class PassError(MlcError):
    """A pass could not finish."""


class ScheduleError(MlcError):
    """No schedule rule applies, or an option asks for an impossible one."""


class CodegenError(MlcError):
    """A kernel cannot be emitted for the target."""


class TargetError(MlcError):
    """Unknown target, or an instruction set this machine lacks."""


class ArtifactError(MlcError):
    """A `.mlc` file is corrupt, truncated, too new, or cannot be written."""


class InputError(MlcError):
    """Arrays given to `run` (or on the command line) do not fit the model."""


class SlowerWarning(UserWarning):
    """A module of lower precision was slower than float32 on this machine, and is not kept."""


class DeviceError(MlcError):
    """No usable GPU, a driver too old, device memory exhausted, an array on another device, or a kernel that faulted."""
