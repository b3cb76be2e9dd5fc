"""Registering models from folders and several files, with labels and examples; validation."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import GreyNode, wait_until
from onnx import TensorProto, helper, numpy_helper

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [float(i) for i in range(8)]}]}


@pytest.fixture
def external(models: Path, tmp_path: Path) -> Path:
    """A folder with a model whose weights lie in a file of a folder below it."""
    folder = tmp_path / "external"
    (folder / "weights").mkdir(parents=True)
    model = onnx.load(models / "mlp.onnx")
    onnx.save_model(
        model,
        str(folder / "model.onnx"),
        save_as_external_data=True,
        location="weights/all.bin",
        size_threshold=0,
    )
    assert (folder / "weights" / "all.bin").stat().st_size > 0
    return folder


def outputs(reply: Any) -> list[float]:
    assert reply.status == 200, reply.body
    return list(reply.json["outputs"][0]["data"])


def versions(node: GreyNode, model: str) -> dict[str, list[str]]:
    return {m["version"]: m["labels"] for m in node.cli_json("model", "list") if m["id"] == model}


def picky() -> onnx.ModelProto:
    """Looks rows up that lie beyond what is made up, and wants 28 columns: it runs on its example alone."""
    table = np.random.default_rng(3).normal(size=(7, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Sub", ["ids", "five"], ["at"]),
        helper.make_node("Gather", ["table", "at"], ["rows"]),
        helper.make_node("Reshape", ["rows", "shape"], ["flat"]),
        helper.make_node("ReduceSum", ["flat", "axes"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "L"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(np.array(100, np.int64), "five"),
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([-1, 28, 3], np.int64), "shape"),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


PICKY = {"inputs": [{"name": "ids", "datatype": "INT64", "shape": [1, 28], "data": [100 + i % 7 for i in range(28)]}]}


def test_a_model_with_external_data(start: Any, models: Path, external: Path) -> None:
    node = start()
    node.add("plain", models / "mlp.onnx", probed=False)
    expected = outputs(node.infer("plain", BODY))
    added = node.add("folder", external)
    assert (added["state"], added["model_hash_scheme"]) == ("ready", "sha256-files")
    assert set(added["files"]) == {"model.onnx", "weights/all.bin"}
    assert outputs(node.infer("folder", BODY)) == expected
    assert node.show("folder")["batching"]["enabled"]
    # The same bytes again, as files one by one would be: another name for one of them is another model.
    same = node.cli("model", "add", "folder", str(external)).stdout
    assert same.startswith("folder version 1 is registered already (sha256-files:")
    # It lives through a restart, an unload and a load.
    node.cli("model", "unload", "folder")
    assert node.infer("folder", BODY).status == 503
    node.cli("model", "load", "folder")
    assert outputs(node.infer("folder", BODY)) == expected


def test_weights_that_did_not_come_are_named(node: GreyNode, external: Path) -> None:
    refused = node.cli("model", "add", "lone", str(external / "model.onnx"), code=1)
    assert "it keeps weights in other files, which did not come with it ('weights/all.bin')" in refused.stderr
    (external / "weights" / "all.bin").rename(external / "other.bin")
    refused = node.cli("model", "add", "lone", str(external), code=1)
    assert "('weights/all.bin'): give the folder with all its files" in refused.stderr
    assert node.request("GET", "/grey/v1/models/lone").status == 404


def test_a_form_is_what_curl_sends(start: Any, models: Path, external: Path) -> None:
    node = start()
    form = [
        "-F",
        f"file=@{external}/model.onnx",
        "-F",
        f"file=@{external}/weights/all.bin;filename=weights/all.bin",
        "-F",
        f"example={json.dumps(BODY)}",
    ]

    def post(query: str, *arguments: str) -> Any:
        command = ["curl", "-sS", "-w", "\n%{http_code}", *arguments, f"{node.url}/grey/v1/models/m{query}"]
        body, code = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rsplit("\n", 1)
        return int(code), json.loads(body)

    code, added = post("?load=false&label=canary&meta.k=v", *form)
    assert code == 201, added
    assert (added["labels"], added["example"], added["metadata"]) == (["canary", "latest"], True, {"k": "v"})
    assert outputs(node.infer("m/versions/canary", BODY))
    model = f"file=@{models}/mlp.onnx"
    for arguments, says in [
        (["-F", "other=1"], "unknown part 'other' of the form, expected file or example"),
        (["-F", "file=abc"], "a part 'file' of the form has no filename"),
        (["-F", f"{model};filename=../x.onnx"], "invalid file name '../x.onnx'"),
        (["-F", model, "-F", model], "file 'mlp.onnx' is given twice"),
        (["-F", f"{model};filename=a.bin"], "cannot tell the engine of 'a.bin'"),
        (["-F", model, "-F", "example={}"], "the example: "),
        (["-F", model, "-F", f"{model};filename=b.onnx"], "2 files are models (b.onnx, mlp.onnx)"),
        (["-F", model, "-F", 'example={"inputs":[]}'], "input 'x' for model 'm' is missing"),
        (["-H", "Content-Type: multipart/form-data", "--data-binary", "x"], "Content-Type is 'multipart/form-data'"),
        (["-H", "Content-Type: multipart/form-data; boundary=b", "--data-binary", "x"], "the form cannot be read"),
        (["--data-binary", "x"], "or a body of type multipart/form-data"),
    ]:
        code, refused = post("", *arguments)
        assert code == 400, (arguments, refused)
        assert says in refused["error"], (arguments, refused)
    assert versions(node, "m") == {"1": ["canary", "latest"]}


def test_a_form_without_an_end_registers_nothing(start: Any, models: Path) -> None:
    node = start()
    host, port = node.netloc.split(":")
    head = (
        "POST /grey/v1/models/m HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000000\r\n\r\n"
    )
    part = '--b\r\nContent-Disposition: form-data; name="file"; filename="m.onnx"\r\n\r\n'
    with socket.create_connection((host, int(port))) as gone:
        gone.sendall((head + part).encode() + (models / "mlp.onnx").read_bytes() + b"\r\n--b")
    with socket.create_connection((host, int(port))) as endless:
        # No part ever begins. What is read of it is bounded.
        endless.sendall((head + "--b\r\nX: ").encode())
        sent = 0
        try:
            while sent < 64 << 20:
                sent += endless.send(b"x" * (1 << 20))
        except OSError:
            pass
        endless.settimeout(30)
        answer = endless.recv(65536)
        assert b" 400 " in answer, answer[:500]
        assert b"has no part within" in answer, answer[:500]
    files = node.data / "registry" / "models" / "m"
    wait_until(lambda: not any(p.is_file() for p in files.rglob("*")), "the files to be swept")
    assert node.cli_json("model", "list") == []


def test_broken_forms_are_refused(start: Any, models: Path) -> None:
    """Forms with bytes changed, cut and doubled: each gets an answer, and none leaves a trace of half a version."""
    node = start()
    model = (models / "scalar.onnx").read_bytes()
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="m.onnx"\r\n\r\n'
    example = b'--b\r\nContent-Disposition: form-data; name="example"\r\n\r\n{"inputs":[]}\r\n'
    whole = example + head + model + b"\r\n--b--\r\n"
    random = Random(6)
    seen = set()
    for n in range(150):
        form = bytearray(whole if n % 2 else whole.removeprefix(example))
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(form) or 1)
            match random.randrange(4):
                case 0:
                    form[at : at + 1] = [random.randrange(256)]
                case 1:
                    del form[at:]
                    form += b"\r\n"
                case 2:
                    form[at:at] = form[at : at + 40]
                case _:
                    del form[at : at + random.randint(1, 30)]
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        reply = node.request("POST", f"/grey/v1/models/m{n}?load=false", bytes(form), headers)
        assert reply.status in {200, 201, 400, 413}, (n, reply.status, reply.body)
        seen.add(reply.status)
    assert {201, 400} <= seen
    registered = {m["id"] for m in node.cli_json("model", "list")}
    models_folder = node.data / "registry" / "models"
    wait_until(
        lambda: {f.relative_to(models_folder).parts[0] for f in models_folder.glob("*/files/*/*")} <= registered,
        "the files of refused forms to be swept",
    )


def test_labels_are_set_shown_moved_and_taken_away(start: Any, models: Path) -> None:
    node = start()
    node.cli("model", "add", "m", str(models / "mlp.onnx"), "--label", "stable", "--label", "eu")
    assert versions(node, "m") == {"1": ["eu", "latest", "stable"]}
    node.cli("model", "add", "m", str(models / "simple.onnx"), "--no-load")
    assert versions(node, "m") == {"1": ["eu", "stable"], "2": ["latest"]}
    assert node.infer("m/versions/stable", BODY).json["model_version"] == "1"
    # Rolled back by moving `latest`.
    assert node.cli("model", "label", "m", "latest", "--version", "stable").stdout == "m: latest is version 1\n"
    assert node.infer("m", BODY).json["model_version"] == "1"
    moved = node.cli_json("model", "label", "m", "stable", "--version", "2")
    assert (moved["version"], moved["labels"]) == ("2", ["stable"])
    assert "model      m version 2 (stable)" in node.cli("model", "show", "m", "--version", "stable").stdout
    assert node.cli("model", "label", "m", "eu", "--remove").stdout == "m: eu is no label any more\n"
    for arguments, code, says in [
        (["eu", "--remove"], 1, "model 'm' has no label 'eu'; there are latest, stable"),
        (["latest", "--remove"], 1, "cannot be taken away"),
        (["2", "--version", "1"], 2, "numbers are names of versions"),
        (["x", "--version", "9"], 1, "there are versions 1, 2, and labels stable"),
        (["a/b", "--version", "1"], 2, "invalid label"),
        (["x"], 2, "--version"),
    ]:
        assert says in node.cli("model", "label", "m", *arguments, code=code).stderr
    taken = node.cli("model", "add", "m", str(models / "gather.onnx"), "--version", "stable", code=1)
    assert "'stable' is a label of model 'm', and no version can have its name" in taken.stderr
    node.cli("model", "add", "m", str(models / "gather.onnx"), "--version", "beta", "--no-load")
    taken = node.cli("model", "label", "m", "beta", "--version", "1", code=1)
    assert "cannot have the label 'beta': 'beta' is the name of a version" in taken.stderr
    # Bytes that are there may get labels, too.
    node.cli("model", "add", "m", str(models / "mlp.onnx"), "--label", "stable")
    assert versions(node, "m")["1"] == ["stable"]
    stats = node.request("GET", "/v2/models/m/versions/stable/stats").json["model_stats"]
    assert [s["version"] for s in stats] == ["1"]
    # A removed version takes its labels with it, and a label may name what is removed.
    node.cli("model", "remove", "m", "--version", "stable")
    assert versions(node, "m") == {"2": [], "beta": ["latest"]}
    assert node.infer("m/versions/stable", BODY).status == 404


def test_labels_live_through_a_restart(start: Any, models: Path) -> None:
    node = start()
    node.add("m", models / "mlp.onnx", "--label", "stable", probed=False)
    node.stop()
    again = start()
    assert versions(again, "m") == {"1": ["latest", "stable"]}
    assert again.infer("m/versions/stable", BODY).status == 200


def test_an_example_shows_how_a_model_may_be_batched(start: Any, tmp_path: Path) -> None:
    node = start()
    model, example = tmp_path / "picky.onnx", tmp_path / "x.json"
    model.write_bytes(picky().SerializeToString())
    example.write_text(json.dumps(PICKY))
    node.add("m", model)
    without = node.show("m")
    assert not without["batching"]["enabled"]
    assert not without["example"]
    assert "does not run on made-up input" in without["batching"]["reason"]
    assert not json.loads(node.cli("--json", "model", "validate", "m", code=4).stdout)["valid"]
    given = node.cli("model", "add", "m", str(model), "--example", str(example))
    assert "note: the example is used from the next load on" in given.stderr
    assert node.cli_json("model", "validate", "m")["run"]["inputs"] == "example"
    node.cli("model", "unload", "m")
    node.cli("model", "load", "m")
    wait_until(lambda: "being probed" not in node.show("m")["batching"]["reason"], "the probe")
    shown = node.show("m")
    assert shown["batching"]["enabled"], shown["batching"]
    wait_until(lambda: node.show("m")["proofs"]["self_test"] != "not ended", "the self-test")
    assert node.show("m")["proofs"]["class"] is not None, node.show("m")["proofs"]
    # It is kept: another node on the folder knows it without running anything again.
    node.stop()
    again = start()
    wait_until(lambda: again.show("m")["state"] == "ready", "the model to be restored")
    assert again.show("m")["batching"] == shown["batching"]
    # Of its own, a new version is batched at once.
    again.add("n", model, "--example", str(example))
    assert again.show("n")["batching"]["enabled"]


def test_examples_that_do_not_fit(node: GreyNode, models: Path, tmp_path: Path) -> None:
    def refused(body: Any, code: int = 1) -> str:
        path = tmp_path / "x.json"
        path.write_text(body if isinstance(body, str) else json.dumps(body))
        return node.cli("model", "add", "ex", str(models / "gather.onnx"), "--example", str(path), code=code).stderr

    ids = {"name": "ids", "datatype": "INT64", "shape": [1, 2], "data": [0, 1]}
    assert "unexpected input 'x'" in refused(BODY)
    assert "x.json: expected an object in JSON" in refused("[]")
    assert "x.json: " in refused({"inputs": [ids | {"data": [1]}]})
    beyond = refused({"inputs": [ids | {"data": [0, 10**6]}]})
    assert "the model does not run on the example: " in beyond
    missing = node.cli("model", "add", "ex", str(models / "gather.onnx"), "--example", str(tmp_path / "no"), code=1)
    assert "cannot read" in missing.stderr
    assert node.request("GET", "/grey/v1/models/ex").status == 404


def test_a_changed_example_is_no_reason_not_to_serve(start: Any, models: Path, tmp_path: Path) -> None:
    example = tmp_path / "x.json"
    example.write_text(json.dumps(BODY))
    node = start()
    node.add("m", models / "mlp.onnx", "--example", str(example))
    node.stop()
    [kept] = (node.data / "registry" / "models" / "m" / "examples").iterdir()
    kept.write_bytes(b"changed")
    again = start()
    assert again.infer("m", BODY).status == 200
    assert "served as if it had no example: the example of model 'm' version '1' was changed" in again.log
    refused = again.cli("model", "validate", "m", code=1)
    assert "was changed" in refused.stderr
    again.cli("model", "add", "m", str(models / "mlp.onnx"), "--example", str(example))
    again.cli("model", "validate", "m")


def test_what_is_no_model_is_said_before_anything_is_sent(node: GreyNode, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    def refused(*arguments: str, code: int = 1) -> str:
        return node.cli("model", "add", "f", *arguments, code=code).stderr

    assert "folder is empty" in refused(str(folder))
    (folder / "readme.txt").write_text("x")
    (folder / "a.txt").write_text("x")
    assert "none of the 2 files is one that an engine opens" in refused(str(folder))
    (folder / "model.onnx").symlink_to(models / "mlp.onnx")
    link = refused(str(folder))
    assert "model.onnx is a symbolic link" in link
    assert "hint: copy the folder with what its links mean: cp -rL" in link
    os.mkfifo(tmp_path / "p.onnx")
    assert "p.onnx is a pipe" in refused(str(tmp_path / "p.onnx"))
    assert "expected one folder alone" in refused(str(folder), str(models / "mlp.onnx"), code=2)
    assert "cannot read" in refused(str(tmp_path / "none"))
    assert "key=value" in refused(str(models / "mlp.onnx"), "--metadata", "x", code=2).lower()


def test_validation_needs_no_node(models: Path, external: Path, tmp_path: Path) -> None:
    def validate(*arguments: str, code: int = 0) -> Any:
        command = [sys.executable, "-m", "grey", "model", "validate", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr

    found = validate(str(external), "--json")
    assert found["valid"], found
    assert found["batching"]["enabled"], found
    assert found["proofs"]["class"] == "invariant", found
    assert found["run"]["inputs"] == "made-up"
    assert found["run"]["outputs"][0]["shape"] == [1, 3]
    assert (external / "model.onnx").is_file(), "it is left as it is"
    text = validate(str(models / "softmax_over_rows.onnx"))
    assert "batching   off: rows mix" in text
    assert text.endswith("valid\n")
    assert "not valid: the model cannot be opened: " in validate(str(models / "truncated.onnx"), code=4)
    model, example = tmp_path / "picky.onnx", tmp_path / "x.json"
    model.write_bytes(picky().SerializeToString())
    assert "not valid: it does not run on made-up inputs: " in validate(str(model), code=4)
    example.write_text(json.dumps(PICKY))
    assert "run        on the example (ids INT64 [1,28])" in validate(str(model), "--example", str(example))
    example.write_text(json.dumps(BODY))
    assert "not valid: the example: unexpected input 'x'" in validate(str(model), "--example", str(example), code=4)
    assert "neither a model's name nor a file" in validate("./none.onnx", code=1)


def test_proofs_of_a_version_that_a_label_names(start: Any, models: Path, tmp_path: Path) -> None:
    node = start()
    node.add("m", models / "mlp.onnx", "--label", "stable")
    body = tmp_path / "x.json"
    body.write_text(json.dumps(BODY))
    proof = tmp_path / "p.json"
    answer = node.cli("infer", "m", "--version", "stable", "--input", str(body), "--prove", str(proof)).stdout
    assert "proven: m version 1 " in answer
