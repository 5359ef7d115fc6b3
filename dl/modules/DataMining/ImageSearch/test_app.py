"""The page: what it answers, without gradio; and, with it, in a real browser."""

import asyncio
import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from dl.cli.testing import make_run
from dl.modules.CNN.ResNet import train as resnet
from dl.modules.DataMining.ImageSearch import app, index
from dl.modules.DataMining.ImageSearch.images import open_images
from dl.mytorch.config import UserError

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An index of 40 bright and dark gradients by a LeNet of random weights."""
    for i in range(40):
        (tmp_path / "images" / ("rising", "falling")[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = np.linspace(0, 150 + i, 28 * 28).reshape(28, 28).astype(np.uint8)
        Image.fromarray(pixels if i % 2 else pixels.T).save(tmp_path / "images" / ("rising", "falling")[i % 2] / f"{i}.png")
    run = make_run(tmp_path / "run", "CNN/LeNet")
    words = [tmp_path / "images", "--backbone", "lenet", "--weights", run, "--index", tmp_path / "index"]
    assert index.main([str(word) for word in words]) == 0
    return tmp_path / "index"


def unknown(path: Path) -> Path:
    """An image of noise."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)).save(path)
    return path


def odd_files(folder: Path) -> dict[str, str]:
    """Files that are no images to search with, and what the page says of each."""
    (folder / "text.png").write_text("no image", encoding="utf-8")
    (folder / "empty.png").touch()
    Image.new("1", (10_000, 5_000)).save(folder / "bomb.png")
    return {
        "text.png": "This file is not an image of a known format.",
        "empty.png": "This file is empty.",
        "bomb.png": "The image has 50 million pixels; at most 25 million are taken.",
    }


def test_a_known_image_an_unknown_one_and_none(source: Path, tmp_path: Path) -> None:
    opened = app.open_source(source, points=30)
    decision, nearest, chart = app.answer(opened, str(tmp_path / "images" / "rising" / "20.png"), "l1")
    assert decision.startswith("**Known, 5 of 5 nearest are rising") and [len(pair) for pair in nearest] == [2] * 5
    assert nearest[0][1].startswith("rising ") and nearest[0][0].shape == (128, 128, 3) and chart.shape == (800, 900, 3)
    decision, nearest, _ = app.answer(opened, str(unknown(tmp_path / "noise.png")), "cosine")
    assert decision.startswith("**I don't know this image: ") and len(nearest) == 5
    assert app.answer(opened, None, "l2")[:2] == ("Drop an image.", [])


def test_what_the_page_does_not_take_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, message in odd_files(tmp_path).items():
        with pytest.raises(UserError, match=message):
            app.checked(str(tmp_path / name))
    monkeypatch.setattr(app, "LARGEST_FILE", 2**20)
    (tmp_path / "large.png").write_bytes(bytes(3 * 2**20))
    with pytest.raises(UserError, match="The file has 3 MB; at most 1 MB are taken"):
        app.checked(str(tmp_path / "large.png"))


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("127.0.0.1:7860", True),
        ("localhost", True),
        ("LOCALHOST:80", True),
        ("evil.example:7860", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_the_page_answers_under_local_host_names_only(host: str, answered: bool, kind: str) -> None:
    seen, sent = [], []

    async def page_(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app.LocalOnly(page_)({"type": kind, "headers": [(b"host", host.encode())]}, None, send))
    assert bool(seen) == answered and bool(sent) != answered
    assert answered or sent[0].get("status", sent[0].get("code")) in (400, 1008)


def test_a_request_with_two_hosts_or_none_is_refused_and_the_start_of_the_server_is_not() -> None:
    sent = []

    async def page_(scope: dict[str, Any], receive: Any, send: Any) -> None:
        sent.append(scope["type"])

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("status"))

    for scope in ({"type": "lifespan"}, {"type": "http"}, {"type": "http", "headers": [(b"host", b"localhost")] * 2}):
        asyncio.run(app.LocalOnly(page_)(scope, None, send))
    assert sent == ["lifespan", 400, None, 400, None]


def test_ctrl_c_before_the_page_is_there_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "open_source", stopped)
    assert app.main([]) == 130 and capsys.readouterr().err == ""


@pytest.mark.parametrize("flags", [["--port", "0"], ["--port", "65536"], ["--points", "-1"]])
def test_flags_out_of_range_are_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit):
        app.main(flags)


@pytest.mark.slow
def test_gradio_refuses_other_hosts_and_deletes_uploads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setattr(app, "KEPT", 1)
    page_, port = app.create({"an index": None}), free_port()  # type: ignore[dict-item]
    monkeypatch.undo()  # the server listens on this machine
    try:
        app.launch(page_, port, prevent_thread_lock=True)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for host, status in ((f"127.0.0.1:{port}", 200), (f"localhost:{port}", 200), (f"evil.example:{port}", 400)):
            connection.request("GET", "/", headers={"Host": host})
            answered = connection.getresponse()
            answered.read()
            assert answered.status == status
        form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nbytes\r\n--x--\r\n'
        kind = {"Content-Type": "multipart/form-data; boundary=x", "Host": f"127.0.0.1:{port}"}
        connection.request("POST", "/gradio_api/upload", body=form, headers=kind)
        (uploaded,) = json.loads(connection.getresponse().read())
        assert Path(uploaded).exists()
        for _ in range(100):
            if not Path(uploaded).exists():
                break
            time.sleep(0.1)
        assert not Path(uploaded).exists()
    finally:
        page_.close()


def test_without_an_index_the_page_does_not_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["--index", str(tmp_path)]) == 1
    assert "holds no index" in capsys.readouterr().err


# ---- in a browser --------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture
def clothes(tmp_path: Path) -> Path:
    """An index of the bundled clothes by a ResNet that was trained on them."""
    data = "fashion_mnist-sample"
    resnet.main(resnet.Config(out=str(tmp_path / "run"), data=data, epochs=3, batch_size=128))
    assert index.main([data, "--weights", str(tmp_path / "run"), "--index", str(tmp_path / "index")]) == 0
    images = open_images(data, "test")
    for label in ("trouser", "bag"):
        image = images.read(images.labels.index(label))
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{label}.png")
    digit = Image.new("L", (28, 28))
    ImageDraw.Draw(digit).text((14, 14), "5", fill=255, font=ImageFont.load_default(size=26), anchor="mm")
    digit.save(tmp_path / "digit.png")
    return tmp_path / "index"


@pytest.fixture
def page(clothes: Path, tmp_path: Path) -> Iterator[str]:
    """Return the address of a page that runs in a separate process."""
    port = free_port()
    words = ["-m", "dl.modules.DataMining.ImageSearch.app", "--index", str(clothes), "--port", str(port), "--points", "300"]
    process = subprocess.Popen([sys.executable, *words], env={**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"})
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


class Browser:
    """Chromium over its debugging protocol: enough to open a page, choose a file, read and photograph."""

    def __init__(self, session: Any, websocket: Any) -> None:
        self.session, self.websocket, self.count = session, websocket, 0

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.count += 1
        await self.websocket.send_json({"id": self.count, "method": method, "params": parameters})
        while True:
            message = await self.websocket.receive_json(timeout=60)
            if message.get("id") == self.count:
                assert "error" not in message, message
                return message["result"]

    async def evaluate(self, script: str) -> Any:
        result = await self.send("Runtime.evaluate", expression=script, returnByValue=True)
        return result["result"].get("value")

    async def until(self, script: str, seconds: float = 120) -> Any:
        for _ in range(int(seconds * 5)):
            if value := await self.evaluate(script):
                return value
            await asyncio.sleep(0.2)
        raise AssertionError(f"{script} stayed false; the page says: {await self.evaluate('document.body.innerText')}")

    async def choose(self, path: Path) -> None:
        """Put a file into the upload, after taking out the one before."""
        await self.evaluate('document.querySelector(\'button[aria-label="Clear"], button[aria-label="Remove"]\')?.click()')
        await self.until("document.querySelector('input[type=file]') != null")
        root = (await self.send("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.send("DOM.querySelector", nodeId=root, selector="input[type=file]"))["nodeId"]
        await self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    async def photograph(self, path: Path) -> None:
        data = (await self.send("Page.captureScreenshot", captureBeyondViewport=True))["data"]
        path.write_bytes(base64.b64decode(data))


async def connect(session: Any, port: int) -> Browser:
    for _ in range(300):
        try:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                target = next(one for one in await answer.json() if one["type"] == "page")
                return Browser(session, await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=2**28))
        except (OSError, StopIteration):
            await asyncio.sleep(0.2)
    raise AssertionError("Chromium did not start")


async def drive(address: str, port: int, folder: Path, shots: Path) -> None:
    """Wait for the page, and visit it."""
    import aiohttp

    async with aiohttp.ClientSession() as session:
        for _ in range(600):  # until the page is there
            try:
                async with session.get(address):
                    break
            except OSError:
                await asyncio.sleep(0.2)
        browser = await connect(session, port)
        await visit(browser, address, folder, shots)
        await browser.websocket.close()


async def visit(browser: Browser, address: str, folder: Path, shots: Path) -> None:
    """Choose file after file, and wait for what the page says of each."""
    await browser.send("Page.navigate", url=address)
    await browser.until("document.body.innerText.includes('Drop an image')")
    (folder / "large.png").write_bytes(bytes(200 * 2**20))
    visits = {"trouser.png": "Known, 5 of 5 nearest are trouser", "digit.png": "I don't know this image"}
    visits |= odd_files(folder) | {"large.png": "exceed", "bag.png": "Known, 5 of 5 nearest are bag"}
    for path, message in ((folder / name, message) for name, message in visits.items()):
        await browser.choose(path)
        await browser.until(f"document.body.innerText.toLowerCase().includes({message.lower()!r})")
        count = "document.querySelectorAll('#nearest .grid-container img').length"
        if path.stem in ("trouser", "digit", "bag"):
            await browser.until(f"{count} == 5")
        await asyncio.sleep(1)
        await browser.photograph(shots / f"{path.stem}.png")


def has_the_app() -> bool:
    """Whether what the extra "app" asks for is installed."""
    try:
        return int(version("gradio").partition(".")[0]) >= 5 and find_spec("aiohttp") is not None
    except PackageNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None or not has_the_app(), reason="no Chromium, gradio 5 or aiohttp")
def test_the_page_in_chromium(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known image, a digit, a text, an empty file, 50 million pixels, 200 MB, and a known one again."""
    shots = Path(os.environ.get("SCREENSHOTS", tmp_path))
    port = free_port()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--remote-debugging-port={port}", "--window-size=1100,1500"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "about:blank"]
    browser = subprocess.Popen([CHROMIUM, *flags], stderr=subprocess.DEVNULL)
    monkeypatch.undo()  # this test needs the network of this machine
    try:
        asyncio.run(drive(page, port, tmp_path, shots))
    finally:
        browser.terminate()
        browser.wait()
