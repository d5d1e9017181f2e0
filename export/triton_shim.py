"""Triton Python backend: run the model.onnx beside this file with ONNX Runtime, one run for each shape."""

import os
from collections import defaultdict
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        # Several models share these cores: a thread that waits by spinning halves what the others do.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.outputs = [output.name for output in self.session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        arrays = [pb_utils.get_input_tensor_by_name(request, self.input).as_numpy() for request in requests]
        by_shape: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, array in enumerate(arrays):
            by_shape[array.shape[1:]].append(index)
        responses: list[Any] = [None] * len(requests)
        for indices in by_shape.values():
            for index, response in zip(indices, self._run([arrays[i] for i in indices]), strict=True):
                responses[index] = response
        return responses

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
