"""A registry whose files change behind the node's back: nothing else is served under an old hash, each refusal says
what is wrong and where, and no other model suffers."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import GreyNode, wait_until
from onnx import numpy_helper
from support import models as made
from support.proofs import tensor

ROWS = 1 << 15
ZEROS = "0" * 64
# What may be read whatever its permissions say: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, as numbers.
OVERRIDES = (1, 2)
PR_CAPBSET_DROP = 24

# Nothing is tested in the background, for nodes with many models.
QUICK = "proofs: off\n"

Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture
def unprivileged(tmp_path: Path) -> str:
    """A Python that permissions hold for, also where the tests run as root."""
    if os.geteuid() != 0:
        return sys.executable
    wrapper = tmp_path / "python"
    wrapper.write_text(
        f"#!{sys.executable}\nimport ctypes, os, sys\n"
        f"for capability in {OVERRIDES}:\n    ctypes.CDLL(None).prctl({PR_CAPBSET_DROP}, capability, 0, 0, 0)\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])\n"
    )
    wrapper.chmod(0o755)
    return str(wrapper)


def row() -> bytes:
    return json.dumps({"inputs": [tensor("x", np.full((1, 8), 0.5, np.float32))]}).encode()


def ids(i: int) -> bytes:
    return json.dumps({"inputs": [tensor("ids", np.array([[i, i]]))]}).encode()


def answer(node: GreyNode, model: str, body: bytes | None = None) -> Any:
    reply = node.infer(model, body or row())
    assert reply.status == 200, reply.body
    return reply.json["outputs"][0]["data"]


def add(node: GreyNode, model: str, file: Path) -> None:
    """Without the start of a command line, for tests with many models."""
    added = node.request("POST", f"/grey/v1/models/{model}?file={file.name}&load=true", file.read_bytes())
    assert added.status in (200, 201), added.body


def others_are_served(node: GreyNode) -> None:
    assert answer(node, "other", ids(3)) == [6.0, 7.0, 6.0, 7.0]


def folder(node: GreyNode, model: str) -> Path:
    return node.data / "registry/models" / model


def stored(node: GreyNode, model: str, name: str = "mlp.onnx") -> Path:
    [file] = folder(node, model).glob(f"files/*/{name}")
    return file


def manifest(node: GreyNode, model: str) -> Path:
    return folder(node, model) / "versions/1/manifest.json"


def entry(node: GreyNode, model: str, sequence: int = 1) -> Path:
    return folder(node, model) / f"index/{sequence:012}.json"


def load(node: GreyNode, model: str) -> Any:
    return node.request("POST", f"/grey/v1/models/{model}/load")


def unload(node: GreyNode, model: str) -> None:
    assert node.request("POST", f"/grey/v1/models/{model}/unload").status == 200


def overwrite(file: Path, content: bytes) -> None:
    """In place: whoever has the file mapped sees it."""
    with file.open("r+b") as f:
        f.write(content)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    overwrite(file, bytes(content))


def replaced(file: Path, models: Path) -> None:
    new = file.with_name("new")
    shutil.copy(models / "simple.onnx", new)
    new.replace(file)


def linked(file: Path, target: Path) -> None:
    file.unlink()
    file.symlink_to(target)


def made_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


# By name, and what the error says beside names and hash.
CHANGES: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "same_size": (lambda f, _: flip(f), "was changed"),
    "longer": (lambda f, _: overwrite(f, f.read_bytes() + b"x"), "was changed"),
    "shorter": (lambda f, _: os.truncate(f, 100), "was changed"),
    "empty": (lambda f, _: os.truncate(f, 0), "was changed"),
    "another": (replaced, "was changed"),
    "link_elsewhere": (lambda f, models: linked(f, models / "simple.onnx"), "was changed"),
    "link_nowhere": (lambda f, models: linked(f, models / "nothing"), "is gone"),
    "deleted": (lambda f, _: f.unlink(), "is gone"),
    "a_folder": (lambda f, _: made_a_folder(f), "is gone"),
    "folder_gone": (lambda f, _: shutil.rmtree(f.parent), "is gone"),
    "all_gone": (lambda f, _: shutil.rmtree(f.parents[2]), "is gone"),
    "unreadable": (lambda f, _: f.chmod(0), "Permission denied"),
}
# Those that a restart loads by itself; the others were unloaded before.
RESTORED = {"same_size", "deleted", "unreadable"}


def test_a_model_file_that_changed_is_not_loaded(
    start: Callable[..., GreyNode], models: Path, unprivileged: str
) -> None:
    """While it serves, at a load, at a restart; and what is put back is served again."""
    node = start(python=unprivileged, config=QUICK)
    add(node, "other", models / "gather.onnx")
    for name in CHANGES:
        add(node, name, models / "mlp.onnx")
    add(node, "linked", models / "mlp.onnx")
    right = answer(node, "linked")
    whole = (models / "mlp.onnx").read_bytes()
    known = hashlib.sha256(whole).hexdigest()
    hosts = {name: node.host_pids(name) for name in CHANGES}
    files = {name: stored(node, name) for name in CHANGES}
    for name, (change, _) in CHANGES.items():
        change(files[name], models)
    # The same bytes from elsewhere are the same bytes.
    linked(stored(node, "linked"), models / "mlp.onnx")

    def refused(name: str, error: str) -> None:
        assert all(word in error for word in (f"model '{name}'", "version '1'", "'mlp.onnx'")), error
        assert f"SHA-256 {known} and {len(whole)} bytes" in error, f"{name}: what was expected: {error}"
        assert CHANGES[name][1] in error, f"{name}: {error}"

    for name in CHANGES:
        assert answer(node, name) == right, f"{name}: what is loaded goes on"
    for name in CHANGES.keys() - RESTORED:
        assert node.host_pids(name) == hosts[name]
        unload(node, name)
        failed = load(node, name)
        assert failed.status == 500, failed.body
        refused(name, failed.error)
    unload(node, "linked")
    assert load(node, "linked").status == 200
    assert answer(node, "linked") == right
    others_are_served(node)
    assert node.stop() == 0

    node = start(python=unprivileged, config=QUICK)
    for name in CHANGES:
        failed = node.infer(name, row()) if name in RESTORED else load(node, name)
        if name == "all_gone":
            assert failed.status == 404
            continue
        assert failed.status in (500, 503), failed.body
        refused(name, failed.error)
    assert answer(node, "linked") == right
    others_are_served(node)

    for name, file in files.items():
        if name != "all_gone":
            shutil.rmtree(file.parent, ignore_errors=True)
            file.parent.mkdir()
            file.write_bytes(whole)
            assert load(node, name).status == 200, name
            assert answer(node, name) == right


@pytest.mark.parametrize("name", ["same_size", "deleted"])
def test_a_host_that_dies_is_not_started_from_a_file_that_changed(
    start: Callable[..., GreyNode], models: Path, name: str
) -> None:
    node = start()
    add(node, "other", models / "gather.onnx")
    add(node, "m", models / "mlp.onnx")
    right = answer(node, "m")
    change, word = CHANGES[name]
    change(stored(node, "m"), models)
    os.kill(node.host_pids("m")[0], signal.SIGKILL)
    failed = node.infer("m", row())
    assert failed.status == 503, failed.body
    assert word in failed.error, "why no host starts: not that hosts died"
    assert "'mlp.onnx' of model 'm'" in failed.error
    assert "version '1'" in failed.error
    others_are_served(node)
    [place] = folder(node, "m").glob("files/*")
    shutil.copy(models / "mlp.onnx", place / "mlp.onnx")
    unload(node, "m")
    assert load(node, "m").status == 200
    assert answer(node, "m") == right


def edit(file: Path, change: Edit) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def forge(node: GreyNode, model: str, sequence: int, **changes: Any) -> None:
    """Another index entry behind the last."""
    document = json.loads(entry(node, model).read_text())
    entry(node, model, sequence).write_text(json.dumps(document | {"sequence": sequence} | changes))


def consistently(node: GreyNode, model: str, models: Path) -> None:
    """Another model's bytes, with their hash in the manifest: the index alone tells."""
    theirs = json.loads(manifest(node, "other").read_text())
    shutil.copy(models / "gather.onnx", stored(node, model))

    def change(document: dict[str, Any]) -> None:
        document["files"][0] |= {k: theirs["files"][0][k] for k in ("size", "sha256")}
        document["model_hash"] = theirs["model_hash"]

    edit(manifest(node, model), change)


MANIFEST = "models/{}/versions/1/manifest.json"
ENTRY = "models/{}/index/000000000001.json"
NEXT = "models/{}/index/000000000002.json"
THEIR_HASH = {"1": {"scheme": "sha256-file", "sha256": ZEROS}}


def in_manifest(change: Edit) -> Callable[[GreyNode, str, Path], None]:
    return lambda node, model, _: edit(manifest(node, model), change)


def in_entry(change: Edit) -> Callable[[GreyNode, str, Path], None]:
    return lambda node, model, _: edit(entry(node, model), change)


# By name, and what the error says after a restart.
DOCUMENTS: dict[str, tuple[Callable[[GreyNode, str, Path], Any], list[str]]] = {
    "model_hash": (in_manifest(lambda d: d["model_hash"].update(sha256=ZEROS)), [MANIFEST, ZEROS, "the index says"]),
    "file_hash": (in_manifest(lambda d: d["files"][0].update(sha256=ZEROS)), [MANIFEST, ZEROS, "contradicts itself"]),
    "file_size": (
        in_manifest(lambda d: d["files"][0].update(size=7)),
        ["model '{}'", "version '1'", "'mlp.onnx'", "7 bytes"],
    ),
    "file_path": (in_manifest(lambda d: d["files"][0].update(path="../x")), [MANIFEST, "invalid file name"]),
    "file_name": (
        in_manifest(lambda d: d["files"][0].update(path="x.onnx")),
        ["model '{}'", "version '1'", "'x.onnx'", "is gone"],
    ),
    "folder": (in_manifest(lambda d: d.update(upload="../../other")), [MANIFEST, "invalid upload '../../other'"]),
    "id": (in_manifest(lambda d: d.update(id="other")), [MANIFEST, "is not the manifest that the index means"]),
    "engine": (in_manifest(lambda d: d.update(engine="nothing")), ["model '{}'", "version '1'", "'nothing'"]),
    "format": (in_manifest(lambda d: d.update(format=2)), [MANIFEST, "has format 2", "up to 1"]),
    "manifest_cut": (lambda n, m, _: os.truncate(manifest(n, m), 100), [MANIFEST, "is not what Grey wrote"]),
    "manifest_gone": (lambda n, m, _: manifest(n, m).unlink(), [MANIFEST, "not found"]),
    "manifest_link": (
        lambda n, m, _: linked(manifest(n, m), manifest(n, "other")),
        [MANIFEST, "is not the manifest that the index means"],
    ),
    "manifest_unreadable": (lambda n, m, _: manifest(n, m).chmod(0), [MANIFEST, "Permission denied"]),
    "manifest_and_file": (consistently, [MANIFEST, "is not the manifest that the index means", "the index says"]),
    "entry_hash": (in_entry(lambda d: d["versions"].update(THEIR_HASH)), [MANIFEST, ZEROS, "the index says"]),
    "entry_number": (in_entry(lambda d: d.update(sequence=9)), [ENTRY, "it says that it is entry 9"]),
    "entry_latest": (in_entry(lambda d: d["labels"].update(latest="7")), [ENTRY, "'latest' means version '7'"]),
    "entry_cut": (lambda n, m, _: os.truncate(entry(n, m), 50), [ENTRY, "is not what Grey wrote"]),
    "forged_hash": (lambda n, m, _: forge(n, m, 2, versions=THEIR_HASH), [MANIFEST, ZEROS, "the index says"]),
    "forged_version": (
        lambda n, m, _: forge(n, m, 2, labels={"latest": "2"}),
        [NEXT, "'latest' means version '2', which does not exist"],
    ),
    "forged_nonsense": (lambda n, m, _: entry(n, m, 2).write_text("{}"), [NEXT, "is not what Grey wrote"]),
}


def test_a_document_that_changed_is_refused_by_name(
    start: Callable[..., GreyNode], models: Path, unprivileged: str, tmp_path: Path
) -> None:
    """A running node knows what it read; a restart refuses that model alone, and destroys nothing of it."""
    node = start(python=unprivileged, config=QUICK)
    add(node, "other", models / "gather.onnx")
    for name in DOCUMENTS:
        add(node, name, models / "mlp.onnx")
    right = answer(node, "model_hash")
    shutil.copytree(node.data, tmp_path / "kept")
    for name, (change, _) in DOCUMENTS.items():
        change(node, name, models)
    for name in DOCUMENTS:
        assert answer(node, name) == right, name
    for name in ("model_hash", "manifest_gone", "manifest_and_file", "entry_cut", "forged_hash"):
        unload(node, name)
        assert load(node, name).status == (500 if name == "manifest_and_file" else 200), name
    others_are_served(node)
    # Nothing is written over what somebody else wrote.
    failed = node.cli("model", "add", "forged_hash", str(models / "simple.onnx"), code=1)
    assert f"another node wrote {NEXT.format('forged_hash')} first" in failed.stderr
    assert node.stop() == 0

    node = start(python=unprivileged, config=QUICK)
    for name, (_, words) in DOCUMENTS.items():
        failed = node.infer(name, row())
        assert failed.status in (409, 500, 503), f"{name}: {failed.body!r}"
        assert all(word.format(name) in failed.error for word in words), f"{name}: {failed.error}"
    others_are_served(node)
    add(node, "new", models / "mlp.onnx")
    assert answer(node, "new") == right
    assert node.stop() == 0

    # What was not changed is still there, so that putting the rest back is enough.
    for name in DOCUMENTS:
        shutil.rmtree(folder(node, name) / "index")
        for part in ("index", "versions"):
            shutil.copytree(
                tmp_path / "kept/registry/models" / name / part, folder(node, name) / part, dirs_exist_ok=True
            )
    shutil.copy(models / "mlp.onnx", stored(node, "manifest_and_file"))
    node = start(python=unprivileged, config=QUICK)
    for name in DOCUMENTS:
        assert load(node, name).status == 200, name
        assert answer(node, name) == right


def test_entries_that_are_gone(start: Callable[..., GreyNode], models: Path) -> None:
    """The newest entry is the whole truth: an older one is not missed, and without the newest the one before counts."""
    node = start(config=QUICK)
    add(node, "other", models / "gather.onnx")
    for model in ("middle", "newest", "all"):
        for file in ("mlp", "simple", "gather"):
            add(node, model, models / f"{file}.onnx")
    entry(node, "middle", 2).unlink()
    entry(node, "newest", 3).unlink()
    for sequence in (1, 2, 3):
        entry(node, "all", sequence).unlink()
    for model in ("middle", "newest", "all"):
        assert answer(node, model, ids(3)) == [6.0, 7.0, 6.0, 7.0]
    assert node.stop() == 0
    node = start(config=QUICK)
    assert answer(node, "middle", ids(3)) == [6.0, 7.0, 6.0, 7.0]
    assert node.infer("middle/versions/1", row()).status == 200
    gone = node.infer("newest/versions/3", ids(3))
    assert gone.status == 404
    assert "model: 'newest' version '3' is not found; there are versions 1, 2" in gone.error
    assert node.infer("newest/versions/1", row()).status == 200
    assert node.infer("all", ids(3)).status == 404
    others_are_served(node)
    assert node.add("middle", models / "no_zero.onnx", probed=False)["version"] == "4"


def test_what_is_no_model_of_this_node_does_not_keep_it_from_starting(
    start: Callable[..., GreyNode], models: Path, unprivileged: str
) -> None:
    node = start(python=unprivileged, config=QUICK)
    add(node, "other", models / "gather.onnx")
    add(node, "shut", models / "mlp.onnx")
    registry = node.data / "registry/models"
    assert node.stop() == 0
    (registry / "lost+found").mkdir()
    (registry / ".Trash 1").mkdir()
    (registry / "stray.txt").write_text("no model")
    (registry / "shut/index/README").write_text("no entry")
    (registry / "shut").chmod(0)
    try:
        node = start(python=unprivileged, config=QUICK)
        others_are_served(node)
        refused = node.infer("shut", row())
        assert refused.status in (500, 503), refused.body
        assert "models/shut" in refused.error
        assert "Permission denied" in refused.error
        assert node.stop() == 0
    finally:
        (registry / "shut").chmod(0o700)
    node = start(python=unprivileged, config=QUICK)
    assert node.infer("shut", row()).status == 200


def looked_up(offset: int) -> tuple[bytes, bytes]:
    """A model that looks rows up in a table beside it, and that table: row i is `[2 i + offset, 2 i + 1 + offset]`."""
    table = numpy_helper.from_array((np.arange(ROWS * 2, dtype=np.float32) + offset).reshape(ROWS, 2), "table")
    weights = table.raw_data
    onnx.external_data_helper.set_external_data(table, location="weights.bin")
    table.ClearField("raw_data")
    table.data_location = onnx.TensorProto.EXTERNAL
    graph = made.h.make_graph(
        [made.h.make_node("Gather", ["table", "ids"], ["y"], axis=0)],
        "g",
        [made.value("ids", made.T.INT64, ["N", 2])],
        [made.value("y", made.T.FLOAT, ["N", 2, 2])],
        [table],
    )
    opset = made.h.make_opsetid("", made.OPSET)
    model = made.h.make_model(graph, opset_imports=[opset], ir_version=made.IR_VERSION)
    return model.SerializeToString(deterministic=True), weights


def with_weights(start: Callable[..., GreyNode], models: Path) -> tuple[GreyNode, bytes, bytes]:
    """A node that serves such a model, its table, and another of the same size."""
    node = start(config="allow_upload: true\nmodels:\n  m: {batch_axis: first}\n")
    add(node, "other", models / "gather.onnx")
    model, weights = looked_up(0)
    given = {"model.onnx": model, "weights.bin": weights}
    parameters = {f"file:1/{name}": base64.b64encode(content).decode() for name, content in given.items()}
    loaded = node.request("POST", "/v2/repository/models/m/load", json.dumps({"parameters": parameters}))
    assert loaded.status == 200, loaded.body
    return node, weights, looked_up(1000)[1]


def test_a_model_of_several_files_that_no_engine_takes_leaves_no_copies(
    start: Callable[..., GreyNode], models: Path
) -> None:
    node, _, _ = with_weights(start, models)
    unload(node, "m")
    edit(manifest(node, "m"), lambda document: document.update(engine="nothing"))
    assert node.stop() == 0
    node = start(config=QUICK)
    for _ in range(3):
        assert load(node, "m").status >= 400
    assert not list((node.data / "open").glob("*"))


@pytest.mark.parametrize("change", ["same size", "shorter", "deleted", "another file", "folder deleted"])
def test_weights_that_change_while_they_are_served(start: Callable[..., GreyNode], models: Path, change: str) -> None:
    """The runtime maps the files beside a model: what changes in them must not change the answers."""
    node, weights, wrong = with_weights(start, models)
    hosts = node.host_pids("m")
    file = stored(node, "m", "weights.bin")
    if change == "same size":
        overwrite(file, wrong)
    elif change == "shorter":
        os.truncate(file, 4096)
    elif change == "another file":
        file.with_name("new").write_bytes(wrong)
        file.with_name("new").replace(file)
    elif change == "deleted":
        file.unlink()
    else:
        shutil.rmtree(file.parent)
    for i in (3, ROWS // 2, ROWS - 1):
        assert answer(node, "m", ids(i)) == [2.0 * i, 2 * i + 1.0] * 2, change
    assert node.host_pids("m") == hosts
    unload(node, "m")
    failed = load(node, "m")
    assert failed.status == 500, failed.body
    for word in ("model 'm'", "version '1'", "weights.bin" if change != "folder deleted" else "model.onnx"):
        assert word in failed.error, failed.error
    assert f"{len(weights)} bytes" in failed.error or change == "folder deleted", failed.error
    others_are_served(node)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(weights)
    if change == "folder deleted":
        (file.parent / "model.onnx").write_bytes(looked_up(0)[0])
    assert load(node, "m").status == 200
    assert answer(node, "m", ids(3)) == [6.0, 7.0, 6.0, 7.0]


def test_weights_that_change_while_they_are_loaded(start: Callable[..., GreyNode], models: Path) -> None:
    """Bytes that were hashed are the bytes that are served, whenever others come between."""
    node, weights, wrong = with_weights(start, models)
    file = stored(node, "m", "weights.bin")
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            overwrite(file, wrong)
            stop.wait(0.01)
            overwrite(file, weights)
            stop.wait(0.03)

    thread = threading.Thread(target=change)
    thread.start()
    loads = served = 0
    try:
        while served < 10 and loads < 200:
            unload(node, "m")
            loaded = load(node, "m")
            loads += 1
            if loaded.status == 200:
                served += 1
                for i in (3, ROWS // 2, ROWS - 1):
                    assert answer(node, "m", ids(i)) == [2.0 * i, 2 * i + 1.0] * 2
            else:
                assert "'weights.bin' of model 'm' was changed" in loaded.error
    finally:
        stop.set()
        thread.join()
    assert served == 10, f"{served} of {loads} loads"
    overwrite(file, weights)
    unload(node, "m")
    assert load(node, "m").status == 200
    others_are_served(node)
    wait_until(lambda: not list((node.data / "open").glob("*")), "no copy to stay behind")
