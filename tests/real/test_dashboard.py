"""The page of a node in a real Chromium: it loads, lives, can be used with the keyboard alone and read by everybody."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from chromium import chromium, expect, opened, skip_without_chromium
from http_requests import ask

from kodectl.api.dashboard import FOLDER, POLICY, files

ROOT = Path(__file__).parents[2]
SHORT = 12
"""Digits of an id that the page shows."""
WELL = "#link[data-state=live]"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def pair(shared_nodes) -> tuple:
    """A node, and one that is linked to it."""
    first = shared_nodes.start("first")
    second = shared_nodes.start("second", "--bootstrap", first.enode)
    assert shared_nodes.kodectl("node", "wait", "--for", "peers=1", "--datadir", str(first.datadir)).returncode == 0
    return first, second


def row_of(node) -> str:
    return f"tr:has(button[title='{node.id}'])"


# -- as files ----------------------------------------------------------------------------------------------------------


def test_files_come_whole_with_a_type_an_etag_and_a_strict_policy(pair):
    types = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
    paths = {"/": "text/html; charset=utf-8"}
    paths |= {f"/dashboard/{name}": types[Path(name).suffix] for name in files() if not name.endswith(".html")}
    for path, media_type in paths.items():
        response, body = ask(pair[0], path)
        assert (response.status, response.getheader("Content-Type")) == (200, media_type)
        assert body == (FOLDER / (path.rpartition("/")[2] or "index.html")).read_bytes()
        assert response.getheader("Content-Security-Policy") == POLICY
        assert response.getheader("X-Content-Type-Options") == "nosniff"
        assert response.getheader("Cross-Origin-Resource-Policy") == "same-origin"
        again, nothing = ask(pair[0], path, **{"If-None-Match": response.getheader("ETag")})
        assert (again.status, nothing) == (304, b"")
        head, nothing = ask(pair[0], path, "HEAD")
        assert (head.status, nothing) == (200, b"")


def test_the_policy_lets_nothing_in_that_the_node_does_not_serve():
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert {value for name, value in rules.items() if name.endswith("-src")} == {"'none'", "'self'"}
    assert rules["frame-ancestors"] == rules["form-action"] == rules["base-uri"] == "'none'"
    assert "unsafe" not in POLICY


@pytest.mark.parametrize("name", ["nothing.js", "..%2fdashboard.py", "%2e%2e", "index.html%00", "style.css.map"])
def test_there_is_nothing_else(pair, name):
    response, body = ask(pair[0], f"/dashboard/{name}")
    assert response.status == 404
    assert b"route_not_found" in body


def test_the_files_need_nothing_from_elsewhere_and_make_no_markup_of_text():
    for name, file in files().items():
        text = file.content.decode()
        elsewhere = set(re.findall(r"(?:https?:)?//[a-z0-9][\w.-]*\.[a-z]{2,}", text)) - {"http://www.w3.org"}
        assert not elsewhere, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), (
            name
        )
    page = files()["index.html"].content.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    for path in re.findall(r'(?:src|href)="(/dashboard/[^"]+)"', page):
        assert path.removeprefix("/dashboard/") in files()
    for script in [file.content.decode() for name, file in files().items() if name.endswith(".js")]:
        for name in re.findall(r'from "\./([^"]+)"', script):
            assert name in files()


def test_an_installed_package_has_the_files(tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    installed = {path.name: path.read_bytes() for path in (tmp_path / "kodectl" / "api" / "dashboard").iterdir()}
    assert installed == {name: file.content for name, file in files().items()}


# -- as a page ---------------------------------------------------------------------------------------------------------


@skip_without_chromium
def test_it_loads_without_a_complaint_and_asks_nobody_else(browser, pair):
    first, second = pair
    with opened(browser, first.api) as (page, witness):
        page.wait_for_selector(WELL)
        page.wait_for_selector("#verdict[data-level=well]")
        assert page.inner_text("#verdict-text").startswith("1 peer, ")
        page.wait_for_selector(f"{row_of(second)} >> text=direct")
        page.wait_for_selector(".bucket i.taken", state="attached")
        page.wait_for_selector(".events >> text=linked")
        assert page.inner_text("#who").count(first.id[:SHORT]) >= 1
        assert witness.complaints == []
        assert witness.hosts == {first.api}


@skip_without_chromium
def test_a_peer_appears_and_disappears_live(browser, pair, shared_nodes):
    first = pair[0]
    with opened(browser, first.api) as (page, witness):
        page.wait_for_selector(WELL)
        third = shared_nodes.start("third", "--bootstrap", first.enode)
        page.wait_for_selector(row_of(third))
        assert page.locator(".ring .peer:not(.going)").count() == 2
        assert "2 peers" in page.inner_text("#verdict-text")
        page.wait_for_selector(f".events li >> text={third.id[:SHORT]} linked")
        assert third.leave() == 0
        page.wait_for_selector(row_of(third), state="detached")
        page.wait_for_selector(f".events li >> text={third.id[:SHORT]} gone")
        expect(page.locator(".ring .peer:not(.going)")).to_have_count(1)
        assert witness.complaints == []


@skip_without_chromium
def test_plots_move_with_what_is_sent(browser, pair, shared_nodes):
    first, second = pair
    with opened(browser, first.api) as (page, _):
        traffic = page.get_by_role("slider", name="Traffic")
        expect(traffic).to_have_attribute("aria-valuetext", re.compile("B/s"))
        payload = shared_nodes.environment["HOME"] + "/payload"
        Path(payload).write_bytes(os.urandom(200_000))
        sent = shared_nodes.kodectl("node", "broadcast", "--type", "block", payload, "--datadir", str(second.datadir))
        assert sent.returncode == 0, sent.stderr
        expect(page.locator(".events li:has(.topic.message)")).to_contain_text(f"by {second.id[:SHORT]}")
        with_payloads, without = (
            ask(first, f"/api/events?topics=block&payloads={which}")[1] for which in ("yes", "no")
        )
        assert len(with_payloads) > 200_000 > 2_000 > len(without)
        assert b'"payload":' not in without
        # 200 kB in one sample of two seconds, or in two.
        expect(traffic).to_have_attribute(
            "aria-valuetext", re.compile(r"received .*; most (5|6|7|8|9|1[0-9])\d\.\d kB/s")
        )


@skip_without_chromium
def test_a_lookup_finds_a_node_and_says_when_there_is_none(browser, pair):
    first, second = pair
    with opened(browser, first.api) as (page, witness):
        page.wait_for_selector(WELL)
        page.fill("#lookup-id", second.enode)
        page.press("#lookup-id", "Enter")
        page.wait_for_selector(f"#lookup-result >> text=Found {second.id[:SHORT]}")
        absent = ("0" if second.id[0] != "0" else "f") + second.id[1:]
        page.fill("#lookup-id", absent)
        page.click("#lookup-go")
        page.wait_for_selector("#lookup-result >> text=No node with the id")
        page.fill("#lookup-id", "<img src=x onerror=alert(1)>")
        page.click("#lookup-go")
        page.wait_for_selector("#lookup-result >> text=That is no node id")
        assert page.get_attribute("#lookup-id", "aria-invalid") == "true"
        assert page.evaluate("document.activeElement.id") == "lookup-id"
        assert witness.complaints == []


@skip_without_chromium
def test_a_lonely_node_says_what_to_do(browser, shared_nodes):
    lonely = shared_nodes.start("lonely")
    with opened(browser, lonely.api) as (page, witness):
        page.wait_for_selector("#verdict[data-level=poor]")
        assert page.inner_text("#verdict-text") == "No peers"
        told = page.inner_text("#peers")
        assert "kodectl doctor" in told
        assert f"kodectl node run --bootstrap '{lonely.enode}'" in told
        assert "kodectl node rediscover" in page.inner_text("#buckets")
        assert witness.complaints == []


@pytest.mark.slow
@skip_without_chromium
def test_it_goes_on_when_the_node_comes_back(browser, shared_nodes):
    node = shared_nodes.start("returning")
    with opened(browser, node.api) as (page, _):
        page.wait_for_selector(WELL)
        assert node.leave() == 0
        page.wait_for_selector("#verdict-text >> text=The node does not answer")
        assert "kodectl node run" in page.inner_text("#verdict-more")
        shared_nodes.start("returning", "--api", node.api)
        page.wait_for_selector("#verdict-text >> text=No peers")
        page.wait_for_selector(WELL)
        page.wait_for_selector(".events >> text=the node was started anew")


@skip_without_chromium
def test_without_a_websocket_it_polls(browser, pair, shared_nodes):
    first = pair[0]
    with browser.new_context() as window:
        page = window.new_page()
        page.route_web_socket("**/ws", lambda socket: socket.close())
        page.goto(f"http://{first.api}/")
        page.wait_for_selector("#link[data-state=polled]")
        guest = shared_nodes.start("guest", "--bootstrap", first.enode)
        page.wait_for_selector(f".events li >> text={guest.id[:SHORT]} linked")
        assert guest.leave() == 0
        page.wait_for_selector(f".events li >> text={guest.id[:SHORT]} gone")


@skip_without_chromium
def test_with_a_token_it_asks_for_it_and_keeps_it_for_the_tab_alone(browser, shared_nodes):
    token = "5e" * 32
    datadir = Path(shared_nodes.environment["HOME"]) / "guarded"
    datadir.mkdir(mode=0o700)
    (datadir / "api.token").write_text(token)
    (datadir / "api.token").chmod(0o600)
    node = shared_nodes.start("guarded", "--api-token", "required")
    assert ask(node, "/api/network/status")[0].status == 401
    assert ask(node, "/")[0].status == 200
    with opened(browser, node.api) as (page, witness):
        page.wait_for_selector("#token[open]")
        assert page.evaluate("document.activeElement.id") == "token-text"
        page.keyboard.press("Escape")
        page.fill("#token-text", "wrong" * 10)
        page.keyboard.press("Enter")
        page.wait_for_selector("#token-trouble >> text=does not take this token")
        page.fill("#token-text", token)
        page.keyboard.press("Enter")
        page.wait_for_selector("#verdict-text >> text=No peers")
        page.wait_for_selector("#link[data-state=polled]")
        page.reload()
        page.wait_for_selector("#verdict-text >> text=No peers")
        assert token in page.evaluate("Object.values(sessionStorage)")
        assert token not in page.evaluate("JSON.stringify(localStorage) + document.cookie + document.body.innerHTML")
        assert not any(token in url for url in witness.requests)


# -- for everybody -----------------------------------------------------------------------------------------------------

UNNAMED = """() => [...document.querySelectorAll('button, input, select, a, [role=slider], [role=img], svg, img, table, dialog')]
  .filter((one) => one.checkVisibility() && !one.closest('[aria-hidden=true]'))
  .filter((one) => !(one.getAttribute('aria-label') || one.hasAttribute('alt')
      || one.labels?.length || one.textContent.trim()
      || document.getElementById(one.getAttribute('aria-labelledby'))?.textContent))
  .map((one) => one.outerHTML.slice(0, 120))"""

BROKEN_REFERENCES = """() => [...document.querySelectorAll('[aria-labelledby], [aria-describedby], [for]')]
  .flatMap((one) => ['aria-labelledby', 'aria-describedby', 'for'].flatMap((name) => (one.getAttribute(name) ?? '').split(' ')))
  .filter((id) => id && !document.getElementById(id))"""

HEADINGS = (
    "() => [...document.querySelectorAll('h1, h2, h3')].filter((h) => h.checkVisibility()).map((h) => +h.tagName[1])"
)

DUPLICATES = """() => { const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);
  return ids.filter((id, index) => ids.indexOf(id) !== index); }"""

SMALL_TARGETS = """() => [...document.querySelectorAll('button, input, select')].filter((one) => one.checkVisibility())
  .map((one) => [one.closest('label') ?? one, one]).filter(([box]) => box.getBoundingClientRect().height < 24)
  .map(([, one]) => one.outerHTML.slice(0, 80))"""

FAINT = """() => {
  const pixel = Object.assign(document.createElement('canvas'), { width: 1, height: 1 });
  const canvas = pixel.getContext('2d', { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const linear = [r, g, b].map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let checked = 0;
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    const one = walker.currentNode.parentElement;
    // What stands on a dark disc in the picture has no background of its own to compute.
    if (!text || !one.checkVisibility() || one.closest('.unseen, noscript, script, title, option, .ring .self')) continue;
    const style = getComputedStyle(one);
    const ink = rgb(one.closest('svg') ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(one))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    checked += 1;
    if (contrast < 4.5) found.push(`${contrast.toFixed(2)} ${one.className.baseVal ?? one.className}: ${text}`);
  }
  return [checked, found];
}"""
"""WCAG 2.2, 1.4.3, by its formula, of every text that is drawn."""


@skip_without_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_and_every_text_stands_out(browser, pair, scheme):
    first, second = pair
    with opened(browser, first.api, color_scheme=scheme) as (page, _):
        page.wait_for_selector(WELL)
        page.click(f"button[title='{second.id}']")
        page.fill("#lookup-id", second.id)
        page.press("#lookup-id", "Enter")
        page.wait_for_selector(".outcome")
        page.click("summary")
        assert page.evaluate(UNNAMED) == []
        assert page.evaluate(BROKEN_REFERENCES) == []
        assert page.evaluate(DUPLICATES) == []
        assert page.evaluate(SMALL_TARGETS) == []
        levels = page.evaluate(HEADINGS)
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        assert page.locator("main").count() == page.locator("header").count() == page.locator("footer").count() == 1
        assert page.get_attribute("html", "lang") == "en"
        checked, faint = page.evaluate(FAINT)
        assert checked > 80
        assert faint == []


@skip_without_chromium
def test_the_keyboard_reaches_and_works_everything(browser, pair):
    first, second = pair
    with opened(browser, first.api) as (page, _):
        page.wait_for_selector(WELL)
        page.wait_for_selector(row_of(second))
        reached = tab_through(page)
        wanted = page.evaluate(
            "[...document.querySelectorAll('a, button, input, select, [tabindex=\"0\"]')]"
            ".filter((one) => one.checkVisibility()).length"
        )
        assert len(reached) == wanted
        assert all(outline for _, outline in reached), "whoever has the focus shows it"

        page.focus(f"button[title='{second.id}']")
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#chosen >> text={second.id}")
        assert page.get_attribute(f"button[title='{second.id}']", "aria-pressed") == "true"
        page.keyboard.press("Enter")
        expect(page.locator("#chosen > *")).to_have_count(0)

        page.focus("[role=slider]")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("PageDown")
        assert page.inner_text("#plots-when") == "1 min 2 s ago"
        assert page.get_attribute("[role=slider]", "aria-valuenow") == "-62"
        page.keyboard.press("Escape")
        assert page.inner_text("#plots-when") == "now"

        page.focus("th[aria-sort] button")
        page.keyboard.press("Enter")
        assert page.get_attribute("th:has(button:focus)", "aria-sort") == "descending"

        page.focus(".chip >> nth=1 >> input")
        page.keyboard.press("Space")
        expect(page.locator(".topic.peer")).to_have_count(0)


def tab_through(page) -> list[tuple[str, bool]]:
    """What Tab goes to, from the beginning to the end, and whether it is seen to have the focus."""
    look = """() => { const one = document.activeElement; const style = getComputedStyle(one);
      if (one === document.body) return null;
      const first = one.dataset.passed === undefined; one.dataset.passed = '';
      const seen = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
      return first ? [one.outerHTML.slice(0, 80), seen] : null; }"""
    reached: list[tuple[str, bool]] = []
    page.evaluate("document.body.focus()")
    while True:
        page.keyboard.press("Tab")
        found = page.evaluate(look)
        if found is None or len(reached) > 200:
            return reached
        reached.append(tuple(found))


@skip_without_chromium
def test_it_fits_a_phone(browser, pair):
    first, second = pair
    with opened(browser, first.api, viewport={"width": 360, "height": 740}) as (page, _):
        page.wait_for_selector(WELL)
        page.click(f"button[title='{second.id}']")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        size = "parseFloat(getComputedStyle(e).fontSize) * (e.getScreenCTM?.().a ?? 1)"
        sizes = page.evaluate(f"[...document.querySelectorAll('.ring-label, .tick, .index, td')].map((e) => {size})")
        assert min(sizes) >= 10


@skip_without_chromium
def test_a_theme_is_chosen_and_kept(browser, pair):
    with opened(browser, pair[0].api, color_scheme="light") as (page, _):
        paper: Callable[[], str] = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
        light = paper()
        page.select_option("#theme", "dark")
        dark = paper()
        assert dark != light
        page.reload()
        assert paper() == dark
        page.select_option("#theme", "")
        assert paper() == light


@skip_without_chromium
def test_whoever_wants_no_motion_sees_none(browser, pair):
    with opened(browser, pair[0].api, reduced_motion="reduce") as (page, _):
        page.wait_for_selector(".ring .peer")
        assert page.evaluate("getComputedStyle(document.querySelector('.ring .peer')).transitionDuration") == "0s"
        assert page.evaluate("document.getAnimations().length") == 0
