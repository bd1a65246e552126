"""The input of Classify, Regress and MultiInference: examples, and a context that they share.

References: TensorFlow Serving, `apis/input.proto` and `servables/tensorflow/util.cc`
    (`InputToSerializedExampleTensor`).
"""

import numpy as np
from tensorflow_serving.apis import input_pb2

from serving import saved_model


def serialized(request_input: input_pb2.Input) -> np.ndarray:
    """Returns the examples as a vector of bytes, each with the context merged into it.

    Raises:
        StatusError: INVALID_ARGUMENT if there are none.
    """
    if request_input.WhichOneof("kind") == "example_list_with_context":
        both = request_input.example_list_with_context
        # Messages that follow each other are one message in which the later values hold.
        context = both.context.SerializeToString()
        values = [context + example.SerializeToString() for example in both.examples]
    else:
        values = [item.SerializeToString() for item in request_input.example_list.examples]
    if not values:
        raise saved_model.invalid_argument("Input is empty.")
    array = np.empty(len(values), object)
    array[:] = values
    return array
