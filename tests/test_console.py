"""The page at `/`, in a real browser (Debian's Chromium), and what serves it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import GreyNode
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright
from support import models as makers
from support.proofs import node_key

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
MARKUP = '<img src=x onerror="document.title=1">'
VERIFY = "/grey/v1/verify"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "no chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = launch(playwright, path)
        yield browser
        browser.close()


def launch(playwright: Playwright, path: str) -> Browser:
    return playwright.chromium.launch(executable_path=path)


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[GreyNode]:
    """A node as it comes: with a page that changes nothing."""
    node = GreyNode(tmp_path_factory.mktemp("console") / "data")
    node.add("mlp", models / "mlp.onnx", "--label", "stable")
    node.add("softmax", models / "softmax_over_rows.onnx")
    node.add("large", models / "identity_int64.onnx")
    yield node
    node.kill()


@contextmanager
def opened(chromium: Browser, node: GreyNode, **options: Any) -> Iterator[Page]:
    """A page that complained of nothing."""
    context: BrowserContext = chromium.new_context(**options)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text))
    page.on("pageerror", lambda e: complaints.append(str(e)))
    page.on("requestfailed", lambda r: complaints.append(f"{r.url}: {r.failure}"))
    page.goto(node.url)
    expect(page.locator("#health")).to_have_text("ready")
    try:
        yield page
        # Also what the content security policy blocks is told there.
        assert complaints == []
    finally:
        context.close()


def card(page: Page, key: str) -> Any:
    return page.locator(f'[data-model="{key}"]')


def run(page: Page, model: str, body: str | None = None) -> None:
    page.get_by_label("Model", exact=True).select_option(f"{model}/1")
    expect(page.locator("#infer-body")).to_have_value(re.compile('"inputs"'))
    if body is not None:
        page.locator("#infer-body").fill(body)
    page.get_by_role("button", name="Run", exact=True).click()


def test_the_page_shows_the_node_and_its_models(chromium: Browser, reading: GreyNode) -> None:
    shown = reading.show("mlp")
    with opened(chromium, reading) as page:
        mlp = card(page, "mlp/1")
        expect(mlp).to_contain_text("ready")
        expect(mlp.locator(".labels .badge")).to_have_text(["latest", "stable"])
        expect(mlp).to_contain_text(f"sha256-file:{shown['model_hash']}")
        expect(mlp).to_contain_text("rows do not mix (probed)")
        expect(mlp.locator(".hosts tbody tr")).to_have_count(1)
        expect(mlp.locator(".hosts tbody")).to_contain_text(str(shown["hosts"][0]["pid"]))
        expect(mlp.locator(".hosts tbody")).to_contain_text("MiB")
        expect(card(page, "softmax/1")).to_contain_text("one request at a time")
        expect(card(page, "softmax/1")).to_contain_text("rows mix")
        expect(page.locator("#node")).to_contain_text("SOFTWARE")
        expect(page.locator("#node")).to_contain_text(node_key(reading))
        x = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 8], "data": [0.5] * 24}]}
        before = reading.request("GET", "/grey/v1/status").json["models"]
        [batches] = [m["batch_rows"]["counts"][2] for m in before if m["id"] == "mlp"]
        assert reading.infer("mlp", x).status == 200
        figure = mlp.get_by_role("img", name=re.compile(rf"Batch size: .*up to 4: {batches + 1}"))
        expect(figure).to_be_visible()
        expect(mlp.get_by_role("img", name=re.compile(r"Latency: up to "))).to_be_visible()


def test_the_form_proves_and_its_line_verifies_offline(chromium: Browser, reading: GreyNode, tmp_path: Path) -> None:
    with opened(chromium, reading, permissions=["clipboard-read", "clipboard-write"]) as page:
        run(page, "mlp")
        expect(page.locator("#verdict")).to_have_text("valid")
        checks = page.locator(".checks tbody tr")
        expect(checks).to_have_count(21)
        results = {row.locator("th").inner_text(): row.locator(".result").inner_text() for row in checks.all()}
        for name in ["signature", "model-hash", "input-hash", "output-hash", "nonce", "key-binding"]:
            assert results[name].endswith("pass"), results
        assert not [r for r in results.values() if r.endswith("fail")]
        for link in page.locator(".downloads a").all():
            with page.expect_download() as download:
                link.click()
            download.value.save_as(tmp_path / download.value.suggested_filename)
        page.get_by_role("button", name="Copy the line").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        line = page.evaluate("navigator.clipboard.readText()")
    assert line == page_text(line)
    words = shlex.split(line)
    assert words[:3] == ["grey", "proof", "verify"]
    verified = offline(words, tmp_path)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert verified.stdout.splitlines()[-1] == "valid"
    # With another answer it does not.
    [answer] = tmp_path.glob("*.answer.json")
    answer.write_text(re.sub(r'"data":\[0\.\d', '"data":[0.0', answer.read_text(), count=1))
    assert "not valid: output-hash" in offline(words, tmp_path).stdout


def page_text(line: str) -> str:
    """The line as a shell reads it: one command, nothing to expand."""
    assert not set(line) & set("$`\"'\\|&;<>()*?[]#~%\n"), line
    return line


def offline(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *words]
    env = {"PATH": "/usr/bin:/bin", "GREY_URL": "http://127.0.0.1:1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=env)


def test_numbers_keep_their_digits(chromium: Browser, reading: GreyNode) -> None:
    with opened(chromium, reading) as page:
        numbers = "9007199254740993, -9223372036854775808"
        run(page, "large", f'{{"inputs":[{{"name":"x","datatype":"INT64","shape":[1,2],"data":[{numbers}]}}]}}')
        expect(page.locator(".output code")).to_have_text(numbers)
        expect(page.locator("#verdict")).to_have_text("valid")


def test_a_nonce_and_a_salt_of_the_author_are_used(chromium: Browser, reading: GreyNode) -> None:
    parameters = {"grey_nonce": "AAECAwQFBgcICQoLDA0ODw==", "grey_salt": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="}
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [1] * 8}]
    with opened(chromium, reading) as page:
        run(page, "mlp", json.dumps({"inputs": inputs, "parameters": parameters}))
        expect(page.locator("#verdict")).to_have_text("valid")
        line = page.locator("#verify-command").inner_text()
        assert f"--nonce {parameters['grey_nonce']}" in line
        assert f"--salt {parameters['grey_salt']}" in line


def test_mistakes_are_told(chromium: Browser, reading: GreyNode) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(reading.url)
    alert = page.locator("#result").get_by_role("alert")
    run(page, "mlp", "{")
    expect(alert).to_contain_text("no JSON object")
    run(page, "mlp", '{"inputs": []}')
    expect(alert).to_contain_text("'x'")
    run(page, "mlp", '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,7],"data":[1,2,3,4,5,6,7]}]}')
    expect(alert).to_contain_text("[1, 7]")
    context.close()


def test_names_are_never_markup(chromium: Browser, start: Any, tmp_path: Path) -> None:
    node = start()
    made = makers.model(
        [makers.h.make_node("Identity", [MARKUP], ["</code><script>document.title=2</script>"])],
        [makers.value(MARKUP, makers.T.FLOAT, ["N", 2])],
        [makers.value("</code><script>document.title=2</script>", makers.T.FLOAT, ["N", 2])],
    )
    (tmp_path / "odd.onnx").write_bytes(made.SerializeToString())
    node.add("odd", tmp_path / "odd.onnx", "--metadata", f"{MARKUP}={MARKUP}")
    with opened(chromium, node) as page:
        run(page, "odd")
        expect(page.locator("#verdict")).to_have_text("valid")
        assert MARKUP in json.loads(page.locator("#infer-body").input_value())["inputs"][0]["name"]
        expect(page.locator(".output strong")).to_have_text("</code><script>document.title=2</script>")
        assert page.locator("img").count() == 1
        assert page.locator("script").count() == 1
        assert page.title() == "Grey"


def test_the_policy_holds(chromium: Browser, reading: GreyNode) -> None:
    """Had anybody got markup into the page after all, the browser would not run it nor send anything away."""
    context = chromium.new_context()
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda m: said.append(m.text))
    injected = (
        '<script>window.ran = 1</script><img src="/x" onerror="window.ran = 2">'
        '<script src="data:text/javascript,window.ran=3"></script><img src="http://127.0.0.1:1/?secret">'
    )

    def inject(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("<main>", f"<main>{injected}"))

    page.route(reading.url + "/", inject)
    page.goto(reading.url)
    expect(page.locator("#health")).to_have_text("ready")
    assert page.evaluate("window.ran") is None
    for directive in ["script-src", "img-src"]:
        assert any("Content Security Policy" in s and directive in s for s in said), said
    script = "() => { try { document.body.innerHTML = '<b>'; return 'done' } catch (e) { return e.message } }"
    assert "TrustedHTML" in page.evaluate(script)
    context.close()


def test_a_page_that_reads_changes_nothing(chromium: Browser, reading: GreyNode) -> None:
    with opened(chromium, reading) as page:
        expect(card(page, "mlp/1")).to_be_visible()
        for verb in ["Load", "Unload", "Remove"]:
            assert page.get_by_role("button", name=verb).count() == 0
    # Nor does it where somebody else's code runs in it.
    context = chromium.new_context()
    page = context.new_page()
    page.goto(reading.url)
    script = "([m, u]) => fetch(u, {method: m}).then(async r => [r.status, await r.text()])"
    for method, path in [
        ("POST", "/grey/v1/models/mlp/unload"),
        ("DELETE", "/grey/v1/models/mlp/versions/1"),
        ("POST", "/v2/repository/models/mlp/unload"),
    ]:
        status, text = page.evaluate(script, [method, path])
        assert status == 403
        assert "console: write" in text
    context.close()
    assert reading.show("mlp")["state"] == "ready"


def test_a_page_that_may_write_loads_unloads_and_removes(chromium: Browser, start: Any, models: Path) -> None:
    node = start(config="console: write\n")
    node.add("mlp", models / "mlp.onnx")
    with opened(chromium, node) as page:
        mlp = card(page, "mlp/1")
        button = {
            v: mlp.get_by_role("button", name=f"{v} mlp version 1", exact=True) for v in ["load", "unload", "remove"]
        }
        expect(button["load"]).to_be_disabled()
        button["unload"].click()
        expect(mlp.locator("summary")).to_contain_text("unloaded")
        expect(mlp).to_contain_text("No host runs.")
        assert node.show("mlp")["state"] == "unloaded"
        button["load"].click()
        expect(mlp.locator("summary")).to_contain_text("ready")
        assert len(node.host_pids("mlp")) == 1
        dialog = page.get_by_role("dialog")
        button["remove"].click()
        expect(dialog).to_contain_text("mlp version 1 and its files")
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        button["remove"].click()
        dialog.get_by_role("button", name="Keep it").click()
        assert node.show("mlp")["state"] == "ready"
        button["remove"].click()
        dialog.get_by_role("button", name="Remove it").click()
        expect(page.locator("#models")).to_contain_text("No models yet.")
        assert node.request("GET", "/grey/v1/models").json["models"] == []


def test_a_node_that_goes_and_comes(chromium: Browser, start: Any, models: Path) -> None:
    node = start()
    context = chromium.new_context()
    page = context.new_page()
    page.goto(node.url)
    expect(page.locator("#models")).to_contain_text("No models yet.")
    node.add("mlp", models / "mlp.onnx")
    expect(card(page, "mlp/1")).to_contain_text("ready")
    node.stop()
    expect(page.locator("#health")).to_have_text("the node cannot be reached")
    expect(card(page, "mlp/1")).to_be_visible()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_is_legible(chromium: Browser, reading: GreyNode, scheme: Any, width: int) -> None:
    with opened(chromium, reading, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        run(page, "mlp")
        expect(page.locator("#verdict")).to_have_text("valid")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", light))) > 3 * 128) == (scheme == "light")
        # WCAG 2.2, 1.4.3: 4.5 to 1 for text.
        for selector in ["body", ".quiet", ".badge.good", "#infer-run", ".checks .pass .result", "dt", "a:not(.skip)"]:
            assert contrast(page, selector) >= 4.5, selector


def contrast(page: Page, selector: str) -> float:
    """Of an element's text with what lies behind it."""
    script = """(s) => {
      const element = document.querySelector(s);
      let behind = element;
      while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
      return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
    }"""

    def luminance(colour: str) -> float:
        parts = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(c) for c in page.evaluate(script, selector)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_the_keyboard_is_enough(chromium: Browser, reading: GreyNode) -> None:
    with opened(chromium, reading) as page:
        expect(page.locator("#infer-body")).to_have_value(re.compile('"inputs"'))
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the inference form")).to_be_focused()
        page.keyboard.press("Enter")
        for _ in range(2):
            page.keyboard.press("Tab")
        expect(page.locator("#infer-body")).to_be_focused()
        page.keyboard.press("Control+Enter")
        expect(page.locator("#verdict")).to_have_text("valid")
        for control in page.locator(
            "button:visible, select:visible, textarea:visible, input:visible, meter:visible"
        ).all():
            named = control.evaluate("e => e.textContent || e.ariaLabel || e.labels?.length")
            assert named, control


def test_who_gets_what_at_the_root(reading: GreyNode) -> None:
    for headers in [{}, {"Accept": "*/*"}, {"Accept": "application/json"}]:
        about = reading.request("GET", "/", headers=headers)
        assert about.status == 200
        assert about.headers["Content-Type"] == "application/json"
        assert about.json["name"] == "grey"
        for path in about.json["links"].values():
            assert reading.request("GET", path).status == 200, path
    page = reading.request("GET", "/", headers=HTML)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "accept" in page.headers["Vary"]
    for own in ["/", "/console/console.js", "/console/console.css", "/console/icon.svg"]:
        policy = reading.request("GET", own, headers=HTML).headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
    assert reading.request("GET", "/console/none.js").status == 404
    assert reading.request("POST", "/", "{}").status == 405


def test_no_foreign_name_and_no_foreign_page(reading: GreyNode) -> None:
    """A name that somebody else made resolve to this machine is not this node's, whatever the method."""
    for method, path in [("GET", "/"), ("GET", "/grey/v1/status"), ("GET", "/console/console.js"), ("POST", VERIFY)]:
        refused = reading.request(method, path, "{}" if method == "POST" else None, HTML | {"Host": "evil.example"})
        assert refused.status == 403, path
        assert "the console and what it shows are not open to host 'evil.example'" in refused.error
        foreign = HTML | {"Origin": "http://evil.example"}
        assert reading.request(method, path, "{}" if method == "POST" else None, foreign).status == 403, path


def test_without_a_console_there_is_none(start: Any) -> None:
    node = start(config="console: off\n")
    assert node.request("GET", "/", headers=HTML).headers["Content-Type"] == "application/json"
    assert node.request("GET", "/console/console.js").status == 404
    assert node.request("GET", "/grey/v1/status").json["console"] == "off"
