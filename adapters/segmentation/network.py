"""`model.onnx` run by onnxruntime on the processor: checked against its description before the first use.

The file is read once; what was hashed is what is run. Weights kept beside the file ("external data") are therefore not
followed, and one file is the whole model.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from adapters.segmentation.description import MODEL, MOST_BYTES, Description, unusable
from service.errors import SpineprintError, ToolMissingError

#: Two cores are what the service may count on.
THREADS = 2
_FLOAT = "tensor(float)"
_INSTALL = (
    "Install it: `.venv/bin/python -m pip install --require-hashes -r requirements/segmentation.txt`. "
    "Or take [isolation] segmentation_model out of the configuration."
)


class Network(Protocol):
    """One patch to the scores of all classes."""

    def __call__(self, patch: NDArray[np.float32]) -> NDArray[np.float32]:
        """`patch` (D, H, W) normalised grey values -> (C, D, H, W) scores before softmax."""
        ...


class OnnxNetwork:
    """The network of one folder.

    Raises
    ------
    ToolMissingError
        `tool.segmentation_runtime`: onnxruntime is not installed; `tool.segmentation_model`: the file is missing,
        damaged, another one than was described, or does not do what was described.
    """

    def __init__(self, folder: Path, description: Description) -> None:
        self._runtime = _onnxruntime()
        self._description = description
        content = _content(folder / MODEL, description)
        self.session = self._session(content)
        self._input, self._output = _names(self.session, description)

    @property
    def runtime(self) -> str:
        return f"onnxruntime {self._runtime.__version__}"

    def __call__(self, patch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raises SpineprintError, `segmentation.failed`."""
        expected = (1, len(self._description.classes), *self._description.patch)
        try:
            found = self.session.run([self._output], {self._input: patch[None, None]})[0]
        except self._errors() as error:
            raise _failed(f"It stopped on this CT ({type(error).__name__}).") from error
        if found.shape != expected:
            raise _failed(f"It answered {found.shape} numbers where {expected} were expected.")
        if not np.isfinite(found).all():
            raise _failed("It answered numbers that are none.")
        return cast("NDArray[np.float32]", found[0])

    def _session(self, content: bytes) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        options.execution_mode = self._runtime.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        # Waiting threads would take the core that the rest of the work could use, and the arena keeps its peak.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4
        try:
            return self._runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except self._errors() as error:
            raise unusable(
                f"{MODEL} is no model that onnxruntime {self._runtime.__version__} can run "
                f"({type(error).__name__}): it is damaged, in several files, or of a newer kind."
            ) from error

    def _errors(self) -> tuple[type[Exception], ...]:
        """What the runtime raises; its own classes have no common base but Exception."""
        state = self._runtime.capi.onnxruntime_pybind11_state
        own = [c for c in vars(state).values() if isinstance(c, type) and issubclass(c, Exception)]
        return (*own, RuntimeError, ValueError)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ToolMissingError(
            "onnxruntime, which runs the segmentation model, is not installed.",
            next_step=_INSTALL,
            code="tool.segmentation_runtime",
        ) from error
    return onnxruntime


def _content(path: Path, description: Description) -> bytes:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise unusable(f"{MODEL} is longer than 2 GiB, which no such file can be.")
        content = path.read_bytes()
    except OSError as error:
        raise unusable(
            f"There is no {MODEL} in the folder of the segmentation model that can be read."
        ) from error
    if hashlib.sha256(content).hexdigest() != description.sha256:
        raise unusable(
            f"{MODEL} is not the file that model.json describes: its SHA-256 differs.",
            "Copy both files again from where they were converted, or convert again; do not change the hash by hand.",
        )
    return content


def _names(session: Any, description: Description) -> tuple[str, str]:
    """Of the one input and the one output, once their shapes are as described."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise unusable(
            f"{MODEL} has {len(inputs)} inputs and {len(outputs)} outputs; one image in and one set of scores out "
            "is what can be used."
        )
    for end, what, channels in (
        (inputs[0], "takes", 1),
        (outputs[0], "gives", len(description.classes)),
    ):
        expected = (1, channels, *description.patch)
        fits = len(end.shape) == 5 and all(
            not isinstance(found, int) or found == wanted
            for found, wanted in zip(end.shape, expected, strict=True)
        )
        if end.type != _FLOAT or not fits:
            raise unusable(
                f"{MODEL} {what} {end.type} of {list(end.shape)}, but model.json describes {_FLOAT} of "
                f"{list(expected)}."
            )
    return str(inputs[0].name), str(outputs[0].name)


def _failed(message: str) -> SpineprintError:
    return SpineprintError(
        f"The segmentation model failed. {message}",
        next_step="Check the model on a CT it is known to work on, or convert it again.",
        code="segmentation.failed",
        retryable=True,
    )
