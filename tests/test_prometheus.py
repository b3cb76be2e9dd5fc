"""A real Prometheus scrapes a real node; `promtool` lints what it reads."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import LONG_WAIT_S, GreyNode, wait_until

PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
# What each Prometheus asks for first, without and with native histograms.
OPENMETRICS_FIRST = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
OPENMETRICS_FIRST += "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
PROTOBUF_FIRST = f"{PROTOBUF},{OPENMETRICS_FIRST.replace('1.0.0', '1.0.0;q=0.8')}"


class Prometheus:
    """A `prometheus` that scrapes one node four times a second."""

    def __init__(self, folder: Path, target: str, *flags: str) -> None:
        config = folder / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 250ms, scrape_timeout: 250ms}\n"
            f"scrape_configs: [{{job_name: grey, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        self.log = folder / "prometheus.log"
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, "--web.listen-address=127.0.0.1:0", *flags], stderr=log)
        try:
            found = wait_until(lambda: re.search(r'"Listening on" address=(\S+)', self.log.read_text()), "prometheus")
            self.address = found[1]
            wait_until(lambda: "ready to receive web requests" in self.log.read_text(), "prometheus to be ready")
        except BaseException:
            self.stop()
            raise

    def get(self, path: str, **query: str) -> Any:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=LONG_WAIT_S) as answer:
            return json.load(answer)["data"]

    def query(self, text: str) -> dict[str, float]:
        """Values by the labels that are Grey's own."""
        found = {}
        for series in self.get("query", query=text)["result"]:
            labels = {k: v for k, v in series["metric"].items() if k not in {"__name__", "instance", "job"}}
            found[", ".join(f"{k}={v}" for k, v in sorted(labels.items()))] = float(series["value"][1])
        return found

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(LONG_WAIT_S)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[GreyNode]:
    """A node after six requests: five answers, two of them proven, and one refusal."""
    node = GreyNode(tmp_path_factory.mktemp("used") / "data")
    lint(metrics(node, "text/plain"))  # before anything was asked
    node.add("mlp", models / "mlp.onnx")
    wait_until(lambda: node.show("mlp")["proofs"]["self_test"] != "not ended", "the self-test")
    x = {"name": "x", "datatype": "FP32", "shape": [2, 8], "data": [1] * 16}
    for tenant, prove in [("acme", False), ("acme", True), ("acme", True), ("umbrella", False), ("umbrella", False)]:
        body = {"inputs": [x], "parameters": {"grey_prove": prove}}
        assert node.infer("mlp", body, {"Grey-Tenant": tenant}).status == 200
    assert node.infer("mlp", {"inputs": [x | {"name": "q"}]}).status == 400
    yield node
    node.kill()


def metrics(node: GreyNode, accept: str | None, **headers: str) -> bytes:
    reply = node.request("GET", "/metrics", headers=({"Accept": accept} if accept else {}) | headers)
    assert reply.status == 200
    return gzip.decompress(reply.body) if reply.headers["Content-Encoding"] == "gzip" else reply.body


def lint(text: bytes) -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), text.decode()


def families(body: bytes) -> list[str]:
    """The names in a body of protobuf messages, each behind its length; a name is a message's first field."""

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = body[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    names, at = [], 0
    while at < len(body):
        end = number()
        end += at
        assert body[at] == 1 << 3 | 2
        at += 1
        length = number()
        names.append(body[at : at + length].decode())
        at = end
    assert at == len(body)
    return names


def test_promtool_finds_nothing_to_say(used: GreyNode) -> None:
    text = metrics(used, "text/plain")
    assert b"grey_ai_inferences_total{" in text
    lint(text)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html, */*;q=0.8", "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS_FIRST, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (
            PROTOBUF_FIRST,
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
        ),
    ],
)
def test_the_format_is_the_one_that_was_asked_for(used: GreyNode, accept: str | None, kind: str) -> None:
    reply = used.request("GET", "/metrics", headers={"Accept": accept} if accept else {})
    assert reply.headers["Content-Type"] == kind
    assert reply.headers["Vary"] == "accept, accept-encoding"
    assert reply.headers["Content-Encoding"] is None
    assert metrics(used, accept, **{"Accept-Encoding": "gzip"})[:100] == reply.body[:100]
    if "protobuf" in kind:
        names = families(reply.body)
    else:
        names = re.findall(r"^# TYPE (\S+) ", reply.body.decode(), re.MULTILINE)
        assert reply.body.endswith(b"# EOF\n") == ("openmetrics" in kind)
    # OpenMetrics names a counter's family without the suffix of its series.
    assert {n.removesuffix("_total") for n in names} == {
        "grey_ai_" + name
        for name in [
            *("inference_duration_seconds", "queue_duration_seconds", "execute_duration_seconds", "batch_size"),
            *("inferences", "engine_restarts", "quarantined", "queue_rows", "rejected"),
            *("proofs", "proof_duration_seconds", "inflight_bytes", "models_loaded"),
        ]
    }


@pytest.fixture(scope="module")
def scrapers(used: GreyNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Prometheus]]:
    """One that reads OpenMetrics and one that reads protobuf. It takes each five seconds to begin."""
    started: dict[str, Prometheus] = {}
    try:
        for name, flags in [("openmetrics", ()), ("protobuf", ("--enable-feature=native-histograms",))]:
            started[name] = Prometheus(tmp_path_factory.mktemp(name), used.netloc, *flags)
        yield started
    finally:
        for prometheus in started.values():
            prometheus.stop()


@pytest.mark.parametrize("reads", ["openmetrics", "protobuf"])
def test_prometheus_scrapes(scrapers: dict[str, Prometheus], reads: str) -> None:
    prometheus = scrapers[reads]
    wait_until(lambda: prometheus.query("count_over_time(up[1m]) >= 3"), "three scrapes")
    (target,) = prometheus.get("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert prometheus.query("min_over_time(up[1m])") == {"": 1}

    assert prometheus.query("grey_ai_inferences_total") == {
        "model=mlp, status=ok, tenant=acme, version=1": 3,
        "model=mlp, status=ok, tenant=umbrella, version=1": 2,
    }
    assert prometheus.query("grey_ai_rejected_total") == {"reason=invalid_argument": 1}
    of_mlp = "model=mlp, version=1"
    for histogram in ["inference_duration_seconds", "queue_duration_seconds"]:
        assert prometheus.query(f"grey_ai_{histogram}_count") == {of_mlp: 5}
    # The probe's and the self-test's runs are no inferences.
    assert prometheus.query("grey_ai_batch_size_sum / grey_ai_batch_size_count") == {of_mlp: 2}
    assert prometheus.query("histogram_quantile(1, grey_ai_batch_size_bucket)") == {of_mlp: 2}
    assert 0 < prometheus.query("histogram_quantile(0.5, grey_ai_inference_duration_seconds_bucket)")[of_mlp] < 30
    assert prometheus.query("sum(grey_ai_proofs_total)") == {"": 2}
    assert prometheus.query("grey_ai_models_loaded") == {"": 1}
    assert prometheus.query("grey_ai_queue_rows") == {of_mlp: 0}

    kinds = {m["metric"].removesuffix("_total"): m["type"] for m in prometheus.get("targets/metadata")}
    for name, kind in [("batch_size", "histogram"), ("inferences", "counter"), ("inflight_bytes", "gauge")]:
        assert kinds[f"grey_ai_{name}"] == kind
    assert not [line for line in prometheus.log.read_text().splitlines() if "level=warn" in line]


def test_the_page_tells_what_there_is(used: GreyNode, scrapers: dict[str, Prometheus], tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
    told = dict(re.findall(r"^\| `(grey_ai_\w+)` \| (\w+) \|", page, re.MULTILINE))
    there = re.findall(r"^# TYPE (\S+) (\w+)$", metrics(used, "text/plain").decode(), re.MULTILINE)
    assert told == dict(there)

    config = tmp_path / "prometheus.yml"
    config.write_text(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    checked = subprocess.run(["promtool", "check", "config", str(config)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr

    (questions,) = re.findall(r"```promql\n(.*?)```", page, re.DOTALL)
    asked = [line for line in questions.splitlines() if not line.startswith("#")]
    assert len(asked) == 4
    for question in asked:
        # Refused, and so raised, if it is no PromQL; the node answered nothing while it was watched, so no numbers.
        scrapers["openmetrics"].query(question)
