"""A page of another site, in a real Chromium, tries all that a page can against a node on this machine, and gets nowhere."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

import pytest
from chromium import chromium, expect, skip_without_chromium

pytestmark = skip_without_chromium

REBOUND = "rebound.test"
"""A name of the attacker's, which Chromium is told to find at `PROXY`."""
SITE = "attacker.test"
PROXY = "127.0.0.2"

ATTACKS = """async (node) => {
  const results = {};
  const attempt = async (name, act) => {
    try { results[name] = await act(); } catch (error) { results[name] = `refused: ${error.name}`; }
  };
  const json = { 'Content-Type': 'application/json' };
  const disconnect = `/api/network/disconnect/${node.peer}`;
  const act = async (path, more) => {
    const answer = await fetch(node.url + path, { method: 'POST', ...more });
    return answer.ok ? `DONE ${answer.status}` : `status ${answer.status}`;
  };
  const read = async (path, secret, more) => {
    const text = await (await fetch(node.url + path, more)).text();
    return text.includes(secret) ? `READ ${text}` : `nothing: ${text.slice(0, 60)}`;
  };
  const element = (tag, more) => new Promise((done) => {
    const one = Object.assign(document.createElement(tag), more);
    one.onload = () => done('LOADED');
    one.onerror = () => done('refused: error');
    document.body.append(one);
  });
  const status = '/api/network/status';
  await attempt('fetch', () => read(status, '"enode"'));
  await attempt('fetch with credentials', () => read(status, '"enode"', { credentials: 'include' }));
  await attempt('fetch without cors', () => read(status, '"enode"', { mode: 'no-cors' }));
  await attempt('page', () => read('/', '<title>kodectl'));
  await attempt('post nothing', () => act(disconnect, { mode: 'no-cors' }));
  await attempt('post text', () => act(disconnect, { body: '{}', headers: { 'Content-Type': 'text/plain' }, mode: 'no-cors' }));
  await attempt('post json', () => act(`/api/network/ban/${node.peer}`, { body: '{"seconds": 60}', headers: json }));
  await attempt('put', () => act('/api/dht/k', { method: 'PUT', headers: json, body: '{"value": "AAAA"}' }));
  await attempt('beacon', async () => {
    navigator.sendBeacon(node.url + disconnect);
    return 'nothing: it tells nothing';
  });
  await attempt('script', () => element('script', { src: node.url + status }));
  await attempt('module', () => element('script', { type: 'module', src: node.url + '/dashboard/main.js' }));
  await attempt('image', () => element('img', { src: node.url + '/dashboard/icon.svg' }));
  await attempt('style', () => element('link', { rel: 'stylesheet', href: node.url + '/dashboard/style.css' }));
  await attempt('websocket', () => new Promise((done) => {
    const socket = new WebSocket(node.url.replace('http', 'ws') + '/ws');
    socket.onopen = () => socket.send('{"op":"subscribe","since":0}');
    socket.onmessage = ({ data }) => done('READ ' + data);
    socket.onerror = () => done('refused: error');
  }));
  await attempt('event source', () => new Promise((done) => {
    const source = new EventSource(node.url + '/api/events?since=0');
    source.onmessage = ({ data }) => done('READ ' + data);
    source.onerror = () => { source.close(); done('refused: error'); };
  }));
  await attempt('form', () => new Promise((done) => {
    const frame = Object.assign(document.createElement('iframe'), { name: 'target' });
    const form = Object.assign(document.createElement('form'), { method: 'POST', enctype: 'text/plain' });
    Object.assign(form, { target: 'target', action: node.url + disconnect });
    frame.onload = () => {
      try { done(frame.contentDocument.body.innerText.includes('"disconnected":true') ? 'DONE' : 'nothing'); }
      catch { done('refused: another origin'); }
    };
    document.body.append(frame, form);
    form.submit();
  }));
  return results;
}"""
NUMBER_OF_ATTACKS = ATTACKS.count("await attempt(")


class Site:
    """An attacker's server. What comes for `REBOUND` and is not its own page goes on, byte for byte, to the node: that is
    what the node sees after the name has been rebound to this machine."""

    def __init__(self, node_address: tuple[str, int]) -> None:
        self._node = node_address
        self._sockets: list[socket.socket] = []
        # The port of the node, at another address: rebinding changes the address of a name, the port stays.
        self._listener = socket.create_server((PROXY, node_address[1]))
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        head = client.recv(65536)
        if head.startswith(b"GET /page "):
            page = b"<!doctype html><title>harmless</title><body>"
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            client.sendall(answer % len(page) + page)
            client.close()
            return
        with socket.create_connection(self._node) as node:
            node.sendall(head)
            threading.Thread(target=_copy, args=(client, node), daemon=True).start()
            _copy(node, client)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            one.close()
        self._accepting.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class HarmlessPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        page = b"<!doctype html><title>harmless</title><body>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served() -> Iterator[int]:
    """A page at another port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), HarmlessPage)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def pair(shared_nodes) -> tuple:
    first = shared_nodes.start("first")
    second = shared_nodes.start("second", "--bootstrap", first.enode)
    assert shared_nodes.kodectl("node", "wait", "--for", "peers=1", "--datadir", str(first.datadir)).returncode == 0
    return first, second


@pytest.fixture(scope="module")
def site(pair) -> Iterator[Site]:
    host, port = pair[0].api.split(":")
    one = Site((host, int(port)))
    yield one
    one.close()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    # Without the browser's own guard of local addresses, which is not in every browser: the node has to hold alone.
    rules = f"--host-resolver-rules=MAP {REBOUND} {PROXY}, MAP {SITE} 127.0.0.1"
    with chromium(rules, "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests") as one:
        yield one


def told(node, path: str) -> dict:
    with urlopen(f"http://{node.api}{path}", timeout=30) as answer:
        return json.load(answer)


@pytest.fixture
def untouched(pair) -> Iterator[None]:
    """The peer is the same as before, on the same link, and nothing was sent or kept."""

    def state() -> dict:
        stats = told(pair[0], "/api/network/stats")
        return {
            "peers": [peer["id"] for peer in told(pair[0], "/api/network/peers")["peers"]],
            "ended": stats["disconnects"],
            "records": stats["values"]["records"],
            "published": {name: count for name, count in stats["broadcast"].items() if count and name != "digests"},
        }

    before = state()
    assert before["peers"]
    yield
    assert state() == before


def attacked(browser, page_url: str, node_url: str, pair) -> dict[str, str]:
    with browser.new_context() as window:
        page = window.new_page()
        page.goto(page_url)
        return page.evaluate(ATTACKS, {"url": node_url, "peer": pair[1].id})


HARMLESS = re.compile(r"refused: |nothing|no$|status (?:4\d\d|0)$|DONE 0$")
"""What an attack may end with. `DONE 0` is the opaque answer without CORS: of it a page learns nothing, not even the status."""


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("localhost", "127.0.0.1"),
        pytest.param("127.0.0.1", "127.0.0.1", marks=pytest.mark.slow),
        pytest.param(SITE, "localhost", marks=pytest.mark.slow),
    ],
)
def test_a_page_of_another_origin_gets_nowhere(browser, pair, untouched, host, target):
    node_url = f"http://{target}:{pair[0].api.split(':')[1]}"
    with served() as port:
        results = attacked(browser, f"http://{host}:{port}/", node_url, pair)
    assert len(results) == NUMBER_OF_ATTACKS
    assert {name: result for name, result in results.items() if not HARMLESS.match(result)} == {}


def test_a_rebound_name_gets_nowhere(browser, pair, site, untouched):
    own = f"http://{REBOUND}:{pair[0].api.split(':')[1]}"
    results = attacked(browser, f"{own}/page", own, pair)
    assert len(results) == NUMBER_OF_ATTACKS
    assert results["fetch"].startswith('nothing: {"type":"urn:kodectl:error:host_not_allowed"')
    assert {name: result for name, result in results.items() if not HARMLESS.match(result)} == {}


def test_a_sandboxed_page_without_an_origin_gets_nowhere(browser, pair, untouched):
    with browser.new_context() as window, served() as port:
        page = window.new_page()
        page.goto(f"http://localhost:{port}/")
        page.evaluate(
            "document.body.append(Object.assign(document.createElement('iframe'),"
            " { sandbox: 'allow-scripts', srcdoc: '<body>', name: 'caged' }))"
        )
        expect(page.locator("iframe")).to_have_count(1)
        frame = page.frame("caged")
        frame.wait_for_load_state()
        results = frame.evaluate(ATTACKS, {"url": f"http://{pair[0].api}", "peer": pair[1].id})
    assert {name: result for name, result in results.items() if not HARMLESS.match(result)} == {}


@pytest.mark.parametrize("path", ["/", pytest.param("/api/network/status", marks=pytest.mark.slow)])
def test_no_frame_shows_a_node(browser, pair, untouched, path):
    with browser.new_context() as window, served() as port:
        page = window.new_page()
        page.goto(f"http://localhost:{port}/")
        with page.expect_console_message(lambda said: "frame-ancestors" in said.text or "X-Frame-Options" in said.text):
            page.evaluate(
                """(url) => new Promise((done) => {
                  const frame = Object.assign(document.createElement('iframe'), { src: url, name: 'node' });
                  frame.onload = done; document.body.append(frame); })""",
                f"http://{pair[0].api}{path}",
            )
        frame = page.frame("node")
        assert frame is None or "chrome-error" in frame.url or "kodectl" not in frame.content()


def test_a_link_to_the_dashboard_works(browser, pair):
    """The guard keeps out pages, not people: who follows a link arrives, and the other page keeps no hold of the window."""
    with browser.new_context() as window, served() as port:
        page = window.new_page()
        page.goto(f"http://localhost:{port}/")
        with window.expect_page() as coming:
            page.evaluate("(url) => { globalThis.opened = open(url); }", f"http://{pair[0].api}/")
        arrived = coming.value
        expect(arrived.locator("#verdict[data-level=well]")).to_have_count(1)
        assert page.evaluate("globalThis.opened.closed")
        assert arrived.evaluate("opener") is None
