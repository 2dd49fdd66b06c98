"""The built book in a real browser: every page loads, nothing is missing, what was promised is there."""

import functools
import http.server
import os
import re
import shutil
import threading
from urllib.parse import urljoin, urlsplit

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CHROMIUM, reason="no chromium on PATH (or in $CHROMIUM) to open the book with"),
]
QUIET = [
    "--no-sandbox",  # a container has no user namespaces to make one of
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site(built):
    """Address of the built book, served on loopback."""
    handler = functools.partial(Silent, directory=str(built / "_build" / "html"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(built, site):
    """Address of every page of the book, from the files that were built."""
    html = built / "_build" / "html"
    names = [p.relative_to(html).as_posix() for p in html.rglob("*.html") if "_static" not in p.parts]
    return [urljoin(site, name) for name in sorted(names)]


@pytest.fixture(scope="module")
def visits(browser, pages):
    """What each page said on loading, and the links, images and figures that it holds."""
    seen = {}
    for address in pages:
        page = browser.new_page()
        complaints = []
        page.on("console", lambda m, c=complaints: c.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e, c=complaints: c.append(str(e)))
        page.on("requestfailed", lambda r, c=complaints: c.append(f"failed: {r.url}"))
        page.on(
            "response", lambda r, c=complaints: c.append(f"{r.status}: {r.url}") if r.status >= 400 else None
        )
        requests = []
        page.on("request", lambda r, q=requests: q.append(r.url))
        page.goto(address, wait_until="load")
        page.wait_for_timeout(150)
        seen[address] = {
            "complaints": complaints,
            "requests": requests,
            "links": page.eval_on_selector_all("a[href]", "all => all.map(a => a.href)"),
            "images": page.eval_on_selector_all(
                "article img", "all => all.map(i => [i.src, i.alt, i.naturalWidth])"
            ),
            "ids": page.eval_on_selector_all("[id]", "all => all.map(e => e.id)"),
            "text": page.inner_text("article") if page.query_selector("article") else "",
        }
        page.close()
    return seen


def test_pages_load_without_a_complaint(visits):
    assert len(visits) > 12
    assert {address: v["complaints"] for address, v in visits.items() if v["complaints"]} == {}


def test_nothing_is_fetched_from_outside(visits, site):
    outside = {
        r for v in visits.values() for r in v["requests"] if not r.startswith((site, "data:", "blob:"))
    }
    assert outside == set(), "the book must read offline"


def test_internal_links_resolve(visits, site, browser):
    context = browser.new_context()
    broken, checked = [], {}
    for address, visit in visits.items():
        for link in visit["links"]:
            if not link.startswith(site):
                continue
            target, fragment = link.split("#", 1) if "#" in link else (link, "")
            target = target.split("?")[0]
            if target not in checked:
                checked[target] = context.request.get(target).status
            if checked[target] != 200:
                broken.append((address, link))
            elif fragment and target in visits and fragment not in visits[target]["ids"]:
                broken.append((address, link))
    context.close()
    assert broken == []
    assert len(checked) > 20


def test_images_load_and_have_alternative_text(visits):
    images = [(address, *image) for address, v in visits.items() for image in v["images"]]
    assert len(images) >= 12, "the figures of both studies"
    assert [i for i in images if i[3] == 0] == [], "images that did not load"
    assert [i for i in images if len(i[2]) < 40] == [], "images without a description"


def test_every_figure_says_what_made_it_and_can_be_downloaded(visits):
    for address, visit in visits.items():
        figures = len(visit["images"])
        made = len(re.findall(r"Made by\s+notebooks/\S+\.ipynb\s+in\s+make book", visit["text"]))
        assert made >= figures, f"{address}: {figures} figures but {made} lines that say what made them"
        if figures:
            assert any(urlsplit(link).path.endswith(".pdf") for link in visit["links"])


def test_no_page_shows_a_library_warning_or_a_path_of_this_machine(visits):
    shown = [address for address, visit in visits.items() if "site-packages" in visit["text"]]
    assert shown == []


def test_landing_table_is_filled(visits, site):
    text = visits[urljoin(site, "index.html")]["text"]
    for study in ("photoz", "margformer", "astra", "kcorrection", "starsed"):
        assert study in text
    assert "91.58342971 %" in text and "27.1 %" in text
    assert re.search(r"σ_MAD = 0\.01\d\d", text)
    assert "not yet" not in text


def test_glued_numbers_are_rendered(visits, site):
    text = visits[urljoin(site, "photoz/intro.html")]["text"]
    assert re.search(r"9,999 real SDSS galaxies", text)
    assert re.search(r"= 1\d\d\.\d × 10", text)


def test_status_page_lists_every_notebook(visits, site):
    text = visits[urljoin(site, "status.html")]["text"]
    for name in (
        "photoz/1_data",
        "photoz/2_train",
        "photoz/3_results",
        "photoz/4_predict",
        "margformer/4_audit",
        "sky/1_sky",
        "sky/2_fidelity",
        "sky/3_real_pixels",
    ):
        assert re.search(rf"{name}\s+this run \(smoke\)\s+smoke\s+\S+ (s|min)", text), name


def test_search_finds_a_known_word(browser, site):
    page = browser.new_page()
    page.goto(urljoin(site, "search.html?q=extinction"))
    page.wait_for_selector("#search-results li", timeout=10_000)
    assert "sample" in page.inner_text("#search-results").lower()
    page.close()


def test_mathematics_is_set(browser, site):
    page = browser.new_page()
    page.goto(urljoin(site, "photoz/intro.html"))
    page.wait_for_selector("mjx-container", timeout=10_000)
    page.close()


def test_dark_mode(browser, site):
    shades = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(site)
        shades[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        context.close()
    assert shades["light"] != shades["dark"]


def test_injected_parameters_are_hidden(browser, site):
    page = browser.new_page()
    page.goto(urljoin(site, "photoz/2_train.html"))
    hidden = page.eval_on_selector_all(
        ".tag_injected-parameters", "all => all.map(e => getComputedStyle(e).display)"
    )
    assert hidden and set(hidden) == {"none"}
    page.close()
