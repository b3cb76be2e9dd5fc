"""A classifier on a running node, asked over the network by many at once.

With a node under way (`grey serve`): python examples/classifier.py [URL]
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import digits
import grey

CALLERS = 16

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
images, labels = digits.train("digits.onnx")

with grey.Client(url) as client, ThreadPoolExecutor(CALLERS) as callers:
    model = client.add("digits", "digits.onnx")
    print(f"{model.id} version {model.version} is {model.state}: {model.inputs[0]} to {model.outputs[0]}")
    # A call for each image, as they would come from many users: the node runs together what is there together.
    results = list(callers.map(lambda image: client.infer("digits", {"pixels": image[None]}), images))

answers = [int(result["probabilities"].argmax()) for result in results]
right = sum(answer == label for answer, label in zip(answers, labels, strict=True))
print(f"{right} of {len(labels)} images are recognised")

# Inputs that are not the model's are refused, with what was expected.
with grey.Client(url) as client:
    try:
        client.infer("digits", {"pixels": images[:, :8]})
    except grey.InvalidArgument as e:
        print(e)
