"""Triton Python backend: run the model.onnx beside this file with ONNX Runtime, one run for each shape."""

import json
import os
from collections import defaultdict
from contextlib import suppress
from typing import Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at the import
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from cpus import available_cpus  # the file beside this one
from numpy.typing import NDArray


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        self.folder = args["model_repository"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = available_cpus()
        # Several models share these cores: a thread that waits by spinning halves what the others do.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = os.path.join(self.folder, args["model_version"], "model.onnx")
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.outputs = [output.name for output in self.session.get_outputs()]
        parameters = json.loads(args["model_config"])["parameters"]
        self.tubelet_frames = int(parameters["tubelet_frames"]["string_value"])
        self.max_tubelets = "max_tubelets" in parameters and int(parameters["max_tubelets"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return a response to each request; one that fails leaves the others of its batch alone."""
        responses: list[Any] = [None] * len(requests)
        by_shape: defaultdict[tuple[int, ...], dict[int, NDArray[Any]]] = defaultdict(dict)
        for index, request in enumerate(requests):
            array = pb_utils.get_input_tensor_by_name(request, self.input).as_numpy()
            fault = self._fault(array.shape[1])
            if fault:
                error = pb_utils.TritonError(fault, pb_utils.TritonError.INVALID_ARG)
                responses[index] = pb_utils.InferenceResponse(error=error)
            else:
                by_shape[array.shape[1:]][index] = array
        for arrays in by_shape.values():
            for index, response in zip(arrays, self._run(list(arrays.values())), strict=True):
                responses[index] = response
        return responses

    def _fault(self, length: int) -> str:
        """Return why an input of this many frames, or tubelets' features, is not taken; empty if it is."""
        t, most = self.tubelet_frames, self.max_tubelets
        if most:
            came = f"{length} tubelets ({length * t} frames) came"
            taken = f"1 to {most} tubelets are taken (frames: a multiple of {t} from {t} to {most * t})"
            return "" if 1 <= length <= most else f"{came}; {taken}"
        if length and length % t == 0:
            return ""
        return f"{length} frames came; a multiple of {t} is taken, at least {t}{self._ensemble_limits()}"

    def _ensemble_limits(self) -> str:
        """Return the most frames of each ensemble, where the repository's manifest lies beside the models."""
        limits = ""
        with suppress(OSError, ValueError, LookupError), open(f"{self.folder}/../manifest.json") as file:
            for head, entry in json.load(file)["heads"].items():
                most = entry["dimensions"]["max_tubelets"] * self.tubelet_frames
                limits += f", at most {most} by the ensemble sfavivit_{head}"
        return limits

    def _run(self, arrays: list[NDArray[Any]]) -> list[Any]:
        """Responses to requests whose arrays [b, ...] differ in b alone: one batch."""
        try:
            values: Any = self.session.run(self.outputs, {self.input: np.concatenate(arrays)})
        except Exception as error:
            failure = pb_utils.TritonError(" ".join(str(error).split()))
            return [pb_utils.InferenceResponse(error=failure) for _ in arrays]
        ends = np.cumsum([len(array) for array in arrays])[:-1]
        parts = zip(*(np.split(value, ends) for value in values), strict=True)
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(*pair) for pair in zip(self.outputs, part, strict=True)]
            )
            for part in parts
        ]
