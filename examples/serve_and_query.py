"""Serves an export on this machine, asks it for one image, and ends it.

    python examples/serve_and_query.py EXPORT IMAGE

EXPORT is a run's directory, or one of `keras-sgdr export`. The request is TensorFlow Serving's: against the real server
only the address is another.
"""

import base64
import json
import subprocess
import sys
import urllib.request
from pathlib import Path


def main(export: str, image: str) -> None:
    command = [sys.executable, "-c", "from keras_sgdr_cli.main import main; main()", "serve", export, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()  # "http://127.0.0.1:40123/ and http://127.0.0.1:40123/v1/models/pets; …"
            url = line.split(" and ")[1].split(";")[0]
            print("state:", json.load(urllib.request.urlopen(url))["model_version_status"][0]["state"])
            instance = {"b64": base64.b64encode(Path(image).read_bytes()).decode()}
            # `tolerant` tells in `status` what is wrong with an image, where `serving_default` refuses the request.
            request = {"signature_name": "tolerant", "instances": [instance]}
            reply = urllib.request.urlopen(f"{url}:predict", data=json.dumps(request).encode())
            (answer,) = json.load(reply)["predictions"]
        finally:
            server.terminate()
    if answer["status"]:
        print("no image:", answer["status"])
        return
    for name, probability in zip(answer["top_classes"], answer["top_probabilities"], strict=True):
        print(f"{probability:.4f} {name}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
