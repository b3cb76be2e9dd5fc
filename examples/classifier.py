"""A classifier on a running node, asked over the network by the client of Triton.

grey serve &
python examples/classifier.py [HOST:PORT]
"""

import subprocess
import sys

import digits
import tritonclient.http as triton

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000"
images, labels = digits.train("digits.onnx")

command = [sys.executable, "-m", "grey", "--url", f"http://{address}", "model", "add", "digits", "digits.onnx"]
subprocess.run(command, check=True)

with triton.InferenceServerClient(address, concurrency=8) as client:
    print(client.get_model_metadata("digits")["inputs"])
    # A request each, as they would come from many users: the node runs together what is there together.
    pending = []
    for image in images:
        pixels = triton.InferInput("pixels", [1, 64], "FP32")
        pixels.set_data_from_numpy(image[None])
        pending.append(client.async_infer("digits", [pixels]))
    answers = [p.get_result().as_numpy("probabilities").argmax() for p in pending]

right = sum(answer == label for answer, label in zip(answers, labels, strict=True))
print(f"{right} of {len(labels)} images are recognised")
