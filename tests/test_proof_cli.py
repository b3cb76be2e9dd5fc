"""Proofs by the command line: asked for, verified offline, explained, replayed, and every forgery refused."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GreyNode
from support.proofs import hash_of

NOT_VALID = 4
# By way of a 64-bit float the last number would be rounded twice, to another FP32 than the node's.
NUMBERS = "1,2,3,4,5,6,7,8,0.5,0.25,-0.0,1e-45,1,1,1,1.00000017881393432617187499"
REQUEST = '{"id":"a","inputs":[{"name":"x","datatype":"FP32","shape":[2,8],"data":[%s]}]}'


def offline(*args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The command line where no node can be reached."""
    command = [sys.executable, "-m", "grey", *args]
    env = os.environ | {"GREY_URL": "http://127.0.0.1:1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == code, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout.splitlines()[-1]


def failed(*args: str) -> list[str]:
    """The checks that fail when this is verified."""
    verdict = json.loads(offline("--json", "proof", "verify", *args, code=NOT_VALID).stdout)
    assert verdict["overall"] == "not valid"
    assert len(verdict["checks"]) == 21
    return [c["name"] for c in verdict["checks"] if c["result"] == "fail"]


@dataclass
class Proven:
    """A node, and what one proven request left behind: x.json, y.json, proof.json, bundle.proof."""

    node: GreyNode
    folder: Path
    model: Path
    said: str
    key: str

    def at(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def view(self) -> Any:
        return json.loads((self.folder / "proof.json").read_text())

    @property
    def bundle(self) -> bytes:
        return base64.b64decode(self.view["proof"])

    @property
    def nonce(self) -> str:
        nonce: str = self.view["nonce"]
        return nonce

    def write(self, name: str, content: bytes | str | dict[str, Any]) -> str:
        if isinstance(content, dict):
            content = json.dumps(content)
        (self.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return self.at(name)

    def forged(self, old: bytes, new: bytes) -> str:
        """The bundle with other bytes, of the same length so that it can still be read."""
        assert old in self.bundle
        assert len(old) == len(new)
        assert old != new
        return self.write("forged.proof", self.bundle.replace(old, new))


@contextmanager
def proxy(node: GreyNode, rewrite: Callable[[Any], None]) -> Iterator[tuple[str, list[str]]]:
    """Between the command line and a node, changing what inferences are answered: its address, and the paths."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.forward(None)

        def do_POST(self) -> None:
            self.forward(self.rfile.read(int(self.headers["Content-Length"])))

        def forward(self, body: bytes | None) -> None:
            paths.append(self.path)
            reply = node.request(self.command, self.path, body)
            answer = reply.body
            if self.path.endswith("/infer"):
                parsed = reply.json
                rewrite(parsed)
                answer = json.dumps(parsed).encode()
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: standard error is the test's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", paths
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Proven]:
    folder = tmp_path_factory.mktemp("proof cli")
    node = GreyNode(folder / "data")
    node.add("mlp", models / "mlp.onnx")
    (folder / "x.json").write_text(REQUEST % NUMBERS)
    kept = ["--output", str(folder / "y.json"), "--prove", str(folder / "proof.json")]
    said = node.cli("infer", "mlp", "--input", str(folder / "x.json"), *kept).stdout
    key = node.request("GET", "/grey/v1/node").json["proofs"]["node_key"]
    made = Proven(node, folder, models / "mlp.onnx", said, key)
    made.write("bundle.proof", made.bundle)
    yield made
    node.kill()


def flipped(data: bytes, at: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_the_command_that_is_printed_verifies(proven: Proven) -> None:
    assert "\ny FP32 [2, 3]\n" in proven.said
    [command] = re.findall(r"^verify with: grey (.*)$", proven.said, re.MULTILINE)
    args = shlex.split(command)
    assert f"--software-key {proven.key}" in command
    assert last_line(offline(*args)) == "valid"
    verdict = json.loads(offline("--json", *args).stdout)
    results = {c["name"]: c["result"] for c in verdict["checks"]}
    for check in ["measurement", "key-binding", "session", "signature", "input-hash", "output-hash", "nonce", "view"]:
        assert results[check] == "pass", check


def test_the_bundle_alone_verifies_as_well(proven: Proven) -> None:
    model_hash = hashlib.sha256(proven.model.read_bytes()).hexdigest()
    args = ["proof", "verify", proven.at("bundle.proof"), "--software-key", proven.key, "--input", proven.at("x.json")]
    done = offline(*args, "--model-hash", f"sha256-file:{model_hash}", "--max-age", "3600")
    assert last_line(done) == "valid"
    assert re.search(r"^view +skipped", done.stdout, re.MULTILINE)


def test_without_a_key_nothing_is_valid(proven: Proven) -> None:
    done = offline("proof", "verify", proven.at("proof.json"), code=NOT_VALID)
    assert last_line(done) == "not valid: measurement: nothing expected"
    assert "--software-key" in done.stderr
    anybody = offline("proof", "verify", proven.at("proof.json"), "--software-key", "any")
    assert f"any node's key was accepted; this one's is {proven.key}" in anybody.stdout


def test_forged_bytes_are_refused(proven: Proven) -> None:
    trust = ["--software-key", proven.key]
    view = proven.view
    signature = base64.b64decode(view["signature"])
    known = bytes.fromhex
    forgeries = {
        "model id": (b"\x63mlp", b"\x63mlq"),
        "model hash": (known(view["model_hash"]), flipped(known(view["model_hash"]), 31)),
        "input hash": (known(view["input_hash"]), flipped(known(view["input_hash"]))),
        "output hash": (known(view["output_hash"]), flipped(known(view["output_hash"]))),
        "engine": (b"onnxruntime", b"onnxruntimf"),
        "signature": (signature, flipped(signature, 5)),
    }
    for what, (old, new) in forgeries.items():
        assert failed(proven.forged(old, new), *trust) == ["signature"], what
    # The manifest's random id stands behind its first members; the evidence binds it.
    start = proven.bundle.index(b"grey.session.v1") + len(b"grey.session.v1\x02\x50")
    session_id = proven.bundle[start : start + 16]
    assert failed(proven.forged(session_id, flipped(session_id)), *trust) == ["key-binding", "session"]
    node_key = known(proven.key)
    assert failed(proven.forged(node_key, flipped(node_key)), *trust) == ["measurement", "key-binding"]
    cut = proven.write("cut.proof", proven.bundle[:-1])
    assert failed(cut, *trust) == ["well-formed"]
    assert last_line(offline("proof", "verify", cut, *trust, code=NOT_VALID)).startswith("not valid: well-formed: ")


def test_another_s_material_is_refused_by_its_check(proven: Proven) -> None:
    proof, trust = proven.at("proof.json"), ["--software-key", proven.key]
    x = proven.write("x2.json", REQUEST % NUMBERS.replace("0.25", "0.26"))
    assert failed(proof, *trust, "--input", x) == ["input-hash"]
    answer = json.loads((proven.folder / "y.json").read_text())
    answer["outputs"][0]["data"][1] += 1e-3
    y = proven.write("y2.json", answer)
    assert failed(proof, *trust, "--output", y) == ["output-hash"]
    other = base64.b64encode(b"another nonce").decode()
    assert failed(proof, *trust, "--nonce", other) == ["nonce"]
    assert failed(proof, *trust, "--session-nonce", other) == ["key-binding"]
    assert failed(proof, "--software-key", "00" * 32) == ["measurement"]
    assert failed(proof, *trust, "--expected-measurement", "00" * 32) == ["measurement"]
    assert failed(proof, "--expected-mrenclave", "00" * 32) == ["measurement"]
    assert failed(proof, *trust, "--model-hash", "00" * 32) == ["model-hash"]
    assert failed(proof, *trust, "--now", "5") == ["session"]
    later = str(proven.view["timestamp"] + 100)
    assert failed(proof, *trust, "--max-age", "60", "--now", later) == ["freshness"]
    salt = base64.b64encode(b"s" * 32).decode()
    assert failed(proof, *trust, "--input", proven.at("x.json"), "--salt", salt) == ["input-hash"]
    archival = offline("proof", "verify", proof, *trust, "--mode", "archival", code=NOT_VALID)
    assert last_line(archival) == "valid at claimed time"


def test_a_view_that_lies_is_refused(proven: Proven) -> None:
    lies = proven.write("lies.json", proven.view | {"model_id": "better"})
    assert failed(lies, "--software-key", proven.key) == ["view"]
    more = proven.write("more.json", proven.view | {"accuracy": 1})
    assert failed(more, "--software-key", proven.key) == ["view"]
    shown = offline("proof", "show", lies).stdout
    assert "mlp version 1" in shown
    assert "Careful" in shown
    assert "better" not in shown


def test_policy_and_known_files(proven: Proven) -> None:
    proof = proven.at("proof.json")
    policy = proven.write("policy.yaml", f"software_keys: ['{proven.key}']\nexecution: slot\nmax_age: 3600\n")
    known = proven.write("known.json", {"nonce": proven.nonce, "request": {"model_id": "mlp", "parameters": {}}})
    offline("proof", "verify", proof, "--policy", policy, "--known", known, "--input", proven.at("x.json"))
    contradicts = offline("proof", "verify", proof, "--policy", policy, "--software-key", "any", code=2)
    assert "--software-key contradicts 'software_keys'" in contradicts.stderr
    known = proven.write("known.json", {"request": {"model_id": "other"}})
    assert failed(proof, "--policy", policy, "--known", known) == ["request"]
    portable = proven.write("policy.yaml", "software_keys: any\nexecution: portable\n")
    assert failed(proof, "--policy", portable) == ["execution"]
    bad = proven.write("policy.yaml", "software_keys: some\n")
    message = offline("proof", "verify", proof, "--policy", bad, code=1).stderr
    assert f"{bad}: policy/software_keys: expected a list, or 'any', found the text 'some'" in message


def test_keys_are_named_or_any(proven: Proven) -> None:
    both = ["proof", "verify", proven.at("proof.json"), "--software-key", "any", "--software-key", "00" * 32]
    assert "expected either 'any' or keys, found 'any' and 0000" in offline(*both, code=2).stderr


def test_files_that_are_no_proofs(proven: Proven) -> None:
    missing = offline("proof", "verify", proven.at("none.json"), code=1)
    assert missing.stderr.startswith("error: cannot read ")
    request = offline("proof", "verify", proven.at("x.json"), code=1)
    assert "it has no member 'proof'" in request.stderr
    swapped = ["proof", "verify", proven.at("proof.json"), "--software-key", "any", "--output", proven.at("x.json")]
    assert "it has no 'outputs'" in offline(*swapped, code=1).stderr
    text = json.dumps(proven.view)
    for content, found in [
        (f"[{text}]", "a list in JSON"),
        (b"\xef\xbb\xbf" + text.encode(), "a byte order mark at its start"),
        (proven.view["proof"] + "\n", "a bundle in base64"),
        ("proof", "another text"),
        (text.encode("utf-16"), "neither text nor a map in CBOR"),
    ]:
        file = proven.write("none.json", content)
        for verb in ("verify", "show"):
            said = offline("proof", verb, file, code=1).stderr
            assert f"{file} is no proof: expected an object in JSON, or a bundle, found {found}\n" in said
    large = proven.write("large.json", proven.view | {"more": "x" * (7 << 20)})
    said = offline("proof", "verify", large, "--software-key", "any", code=1).stderr
    assert re.search(r"large\.json is no proof: expected JSON of at most \d+ bytes, found \d+$", said, re.MULTILINE)


def test_a_proof_is_explained(proven: Proven) -> None:
    shown = offline("proof", "show", proven.at("bundle.proof")).stdout
    exact = [proven.view["task_id"], proven.view["model_hash"], proven.key, proven.nonce, "mlp version 1"]
    for part in [*exact, " UTC", "SOFTWARE", "onnxruntime", "What it does not say", "Nothing of this was verified"]:
        assert part in shown, part
    assert json.loads(offline("--json", "proof", "show", proven.at("bundle.proof")).stdout) == proven.view


def test_a_replay_gives_the_same_bytes(proven: Proven) -> None:
    args = ["proof", "replay", proven.at("proof.json"), "--input", proven.at("x.json")]
    done = proven.node.cli(*args, "--output", proven.at("y.json"))
    assert done.stdout.startswith("reproduced: the same bytes again; model mlp version 1, class ")
    assert "output y: the same bytes, 6 elements" in done.stdout
    answer = proven.node.cli_json(*args)
    assert (answer["result"], answer["profile_differences"]) == ("reproduced", [])
    x = proven.write("x2.json", REQUEST % NUMBERS.replace("0.25", "0.26"))
    wrong = proven.node.cli("proof", "replay", proven.at("proof.json"), "--input", x, code=1)
    assert "these are not the inputs of the proof" in wrong.stderr
    away = offline("proof", "replay", proven.at("proof.json"), "--input", proven.at("x.json"), code=3)
    assert "cannot reach a node" in away.stderr


def test_a_replay_that_differs_says_in_what(proven: Proven) -> None:
    """A node takes a proof at its word, so a forged one shows what a replay that differs looks like."""
    output_hash = bytes.fromhex(proven.view["output_hash"])
    forged = proven.forged(output_hash, flipped(output_hash))
    done = proven.node.cli("proof", "replay", forged, "--input", proven.at("x.json"), code=NOT_VALID)
    assert done.stdout.startswith("differs: ")
    assert f"here {output_hash.hex()}" in done.stdout
    version = proven.view["exec"]["engine_version"].encode()
    other = b"0" + version[1:]
    both = proven.bundle.replace(version, other).replace(output_hash, flipped(output_hash))
    forged = proven.write("forged.proof", both)
    done = proven.node.cli("proof", "replay", forged, "--input", proven.at("x.json"), code=NOT_VALID)
    assert done.stdout.startswith("profile-differs: ")
    assert f"engine_version: recorded {other.decode()}, here {version.decode()}" in done.stdout


def test_a_replay_tells_by_how_much_numbers_differ(proven: Proven) -> None:
    """Recorded outputs of which one is the next larger float."""
    y = json.loads((proven.folder / "y.json").read_text())
    outputs = [{k: t[k] for k in ("name", "datatype", "shape", "data")} for t in y["outputs"]]
    values = np.array(outputs[0]["data"], np.float32)
    values[1] = np.nextafter(values[1], np.float32(np.inf))
    outputs[0]["data"] = values.tolist()
    forged = proven.forged(bytes.fromhex(proven.view["output_hash"]), hash_of(outputs))
    args = ["proof", "replay", forged, "--input", proven.at("x.json")]
    args += ["--output", proven.write("y2.json", {"outputs": outputs})]
    said = proven.node.cli(*args, code=NOT_VALID).stdout
    assert re.search(
        r"^output y: 1 of 6 elements differ; at most by \S+ absolute, \S+ relative, 1 unit in the last place$",
        said,
        re.MULTILINE,
    ), said
    told = json.loads(proven.node.cli("--json", *args, code=NOT_VALID).stdout)["output_differences"]
    assert [(d["differing"], d["largest_ulps"]) for d in told] == [(1, 1)]


def test_salted_proofs_need_their_salt(proven: Proven) -> None:
    salt = proven.write("salt", bytes(range(32)))
    proof, x, y = proven.at("salted.proof"), proven.at("x.json"), proven.at("salted-y.json")
    nonce = base64.b64encode(b"my own nonce").decode()
    asked = ["infer", "mlp", "--input", x, "--output", y, "--prove", proof, "--salt", salt, "--nonce", nonce]
    assert nonce in proven.node.cli(*asked).stdout
    verify = ["proof", "verify", proof, "--software-key", proven.key, "--input", x, "--output", y, "--nonce", nonce]
    unsalted = offline(*verify, code=NOT_VALID)
    assert last_line(unsalted) == "not valid: input-hash: not checked, needs the salt"
    assert "--salt" in unsalted.stderr
    assert last_line(offline(*verify, "--salt", f"@{salt}")) == "valid"
    replay = ["proof", "replay", proof, "--input", x]
    assert "the proof is salted" in proven.node.cli(*replay, code=2).stderr
    proven.node.cli(*replay, "--salt", base64.b64encode(bytes(range(32))).decode(), "--output", y)


def test_what_a_request_says_itself_counts(proven: Proven) -> None:
    nonce = base64.b64encode(b"of the file").decode()
    request = json.loads(REQUEST % NUMBERS) | {"parameters": {"grey_prove": True, "grey_nonce": nonce}}
    x, proof = proven.write("own.json", request), proven.at("own-proof.json")
    proven.node.cli("infer", "mlp", "--input", x, "--prove", proof)
    offline("proof", "verify", proof, "--software-key", proven.key, "--input", x, "--nonce", nonce)
    other = base64.b64encode(b"of the flag").decode()
    differs = proven.node.cli("infer", "mlp", "--input", x, "--prove", proof, "--nonce", other, code=2)
    assert "--nonce and the request's parameter 'grey_nonce' differ" in differs.stderr
    x = proven.write("own.json", request | {"parameters": {"grey_prove": False}})
    assert "grey_prove: false" in proven.node.cli("infer", "mlp", "--input", x, "--prove", proof, code=2).stderr


def test_an_answer_to_something_else_is_refused(proven: Proven) -> None:
    """A node, or whoever sits before it, whose word is not what was asked for."""

    def rewritten(**members: Any) -> Callable[[Any], None]:
        return lambda answer: answer.update(members)

    def outputs(answer: Any) -> None:
        answer["outputs"][0]["data"][0] += 1

    def session(name: str) -> Callable[[Any], None]:
        return lambda answer: answer["parameters"].update(grey_session=name)

    another = "the node's answer is not one of this request: "
    lies: list[tuple[Callable[[Any], None], str, int]] = [
        # Whether '1' is a label of that version is asked.
        (rewritten(model_version="2"), f"{another}model_version: expected '1', found '2'", 2),
        (rewritten(model_version=1), f"{another}model_version: expected '1', found 1", 1),
        (lambda answer: answer.pop("model_version"), f"{another}model_version: expected '1', found none", 1),
        (rewritten(model_name="mlq"), f"{another}model_name: expected 'mlp', found 'mlq'", 1),
        (rewritten(id="b"), f"{another}id: expected 'a', found 'b'", 1),
        (lambda answer: answer.pop("id"), f"{another}id: expected 'a', found none", 1),
        (outputs, "the node's proof is not one of this answer: output-hash: ", 2),
        (session("00" * 31), "the node's session name (grey_session) cannot be read: expected 64 hex digits", 1),
        (session("../models/" + "a" * 54), "the node's session name (grey_session) cannot be read: ", 1),
    ]
    files = {name: proven.at(f"lie-{name}") for name in ("y.json", "proof.json")}
    args = ["infer", "mlp", "--version", "1", "--input", proven.at("x.json")]
    args += ["--output", files["y.json"], "--prove", files["proof.json"]]
    for rewrite, says, requests in lies:
        with proxy(proven.node, rewrite) as (url, paths):
            refused = offline("--url", url, *args, code=3)
        assert says in refused.stderr
        assert refused.stdout == ""
        assert len(paths) == requests, paths
        assert not any(Path(file).exists() for file in files.values())
    with proxy(proven.node, lambda _: None) as (url, paths):
        offline("--url", url, *args)
    assert [p.partition("?")[0].rpartition("/")[0] for p in paths] == ["/v2/models/mlp/versions/1", "/grey/v1/sessions"]


def test_no_file_is_lost(proven: Proven) -> None:
    """What cannot be written, or would cost a file, is refused before anything is sent."""
    x = proven.write("kept.json", REQUEST % NUMBERS)
    (proven.folder / "link.json").symlink_to(x)
    salt = proven.write("kept-salt", bytes(32))
    new, proof = proven.at("new.json"), proven.at("new-proof.json")
    refused: list[tuple[list[str], int, str]] = [
        (["--prove", new, "--output", new], 2, f"--prove would overwrite {new}, which --output names as well"),
        (["--prove", x], 2, f"--prove would overwrite {x}, which --input names as well"),
        (["--output", x], 2, "which --input names as well"),
        (["--output", proven.at("link.json"), "--prove", proof], 2, "which --input names as well"),
        (["--prove", salt, "--salt", salt], 2, "which --salt names as well"),
        (["--prove", "-"], 2, "--prove: expected the name of a file to write, found '-'"),
        (["--output", "-"], 2, "--output: expected the name of a file to write, found '-'"),
        (["--output", new, "--prove", proven.at("missing/proof.json")], 1, "cannot write "),
        (["--output", proven.at("missing/y.json"), "--prove", proof], 1, "cannot write "),
        (["--output", str(proven.folder), "--prove", proof], 1, "cannot write "),
    ]
    for args, code, says in refused:
        # Nothing is sent: no node could be reached.
        assert says in offline("infer", "mlp", "--input", x, *args, code=code).stderr
    unreached = offline("infer", "mlp", "--input", x, "--output", new, "--prove", proof, code=3)
    assert "cannot reach a node" in unreached.stderr
    assert not any(Path(file).exists() for file in (new, proof, "-"))
    assert Path(x).read_text() == REQUEST % NUMBERS
    assert Path(salt).read_bytes() == bytes(32)


def test_what_came_from_standard_input_is_in_no_command(proven: Proven) -> None:
    proof, y = proven.at("piped.json"), proven.at("piped-y.json")
    args = ["infer", "mlp", "--input", "-", "--output", y, "--prove", proof]
    said = proven.node.cli(*args, stdin=REQUEST % NUMBERS).stdout
    assert "the inputs can be verified only if they are kept" in said
    [command] = re.findall(r"^verify with: grey (.*)$", said, re.MULTILINE)
    assert "--input" not in command
    verified = offline(*shlex.split(command))
    assert last_line(verified) == "valid"
    assert re.search(r"^input-hash +skipped", verified.stdout, re.MULTILINE)


def test_the_name_decides_the_form(proven: Proven) -> None:
    for name, is_bundle in [("a.proof", True), (".proof", True), ("a.proof.json", False), ("proof", False)]:
        proven.node.cli("infer", "mlp", "--input", proven.at("x.json"), "--prove", proven.at(name))
        assert (Path(proven.at(name)).read_bytes()[:1] != b"{") == is_bundle, name


def test_values_are_shown_whole(proven: Proven) -> None:
    name = "long" * 30
    proven.node.add(name, proven.model)
    proven.node.cli("infer", name, "--input", proven.at("x.json"), "--prove", proven.at("long.json"))
    assert f" {name} version 1\n" in offline("proof", "show", proven.at("long.json")).stdout
    replayed = proven.node.cli("proof", "replay", proven.at("long.json"), "--input", proven.at("x.json")).stdout
    assert f"model {name} version 1, " in replayed


def test_a_key_of_tenants_tags_has_32_bytes(start: Any, tmp_path: Path, models: Path) -> None:
    key = tmp_path / "tags"
    tags = []
    key.write_bytes(b"k" * 32)
    (tmp_path / "x.json").write_text(REQUEST % NUMBERS)
    for name in ["a", "b"]:
        node = start(name, config=f"tenant_tag_key_file: {key}\n")
        node.add("mlp", models / "mlp.onnx")
        proof = str(tmp_path / f"{name}.json")
        node.cli("infer", "mlp", "--input", str(tmp_path / "x.json"), "--prove", proof)
        tags.append(re.findall(r"tenant tag +(\w+)", offline("proof", "show", proof).stdout))
    assert tags[0] == tags[1]
    assert len(tags[0]) == 1
    for content, found in [(b"k" * 31, "31"), (b"k" * 33, "more")]:
        key.write_bytes(content)
        with pytest.raises(RuntimeError, match=rf"\(tenant_tag_key_file\): expected exactly 32 bytes, found {found}"):
            start("c", config=f"tenant_tag_key_file: {key}\n")
