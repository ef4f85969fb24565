"""The page in a real browser: everything is shown, nothing is fetched, nothing sticks out."""

import json
import shutil

import pytest
import small

from layerparallel import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
QUIET = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--disable-dev-shm-usage",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no Chromium and chromedriver here: apt-get install chromium chromium-driver",
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("chromium")
    for argument in (*QUIET, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, plain_run, adaptive_run):
    """Pages of one run, of two, and of six."""
    folder, both = tmp_path_factory.mktemp("pages"), [plain_run, adaptive_run]
    return {count: report.write((both * 3)[:count], folder / f"{count}.html") for count in (1, 2, 6)}


def seen(browser, page, width, scheme):
    """Show a page in a window of some width; what the browser says of it."""
    colours = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": colours})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("performance")
    browser.get(page.as_uri())
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


# What is asked of the page: pictures with their sizes, and texts of drawings with theirs.
SHOWN = """
const all = (what, within = document) => [...within.querySelectorAll(what)];
const box = (each) => {
  const r = each.getBoundingClientRect();
  return [r.left, r.right, r.width, r.height];
};
const long = (path) => path.getTotalLength() > 20 && box(path)[2] > 5;
const written = (text) => {
  const svg = text.ownerSVGElement, [from, to, width] = box(svg), [left, right] = box(text);
  const scale = width / svg.viewBox.baseVal.width;
  const size = parseFloat(getComputedStyle(text).fontSize) * scale;
  return [text.textContent, size, left - from, to - right];
};
all('details').forEach((each) => each.open = true);
const body = getComputedStyle(document.body);
return {
  inner: document.documentElement.clientWidth,
  page: document.documentElement.scrollWidth,
  images: all('img').map((each) => [each.complete ? each.naturalWidth : 0, ...box(each)]),
  drawings: all('figure > svg').map(box),
  curves: all('.panel > svg').map((svg) => all('path', svg).filter(long).length),
  texts: all('figure > svg text').map(written),
  bars: all('.bar').map((bar) => [...bar.children].map((part) => box(part)[2])),
  keys: all('.panel .legend li').map((each) => [each.textContent, ...box(each)]),
  samples: all('.panel .legend svg').map((each) => [...box(each), each.querySelectorAll('path').length]),
  unlike: all('.unlike').map((each) => [each.textContent, ...box(each)]),
  tables: all('.table').map((each) => [...box(each), each.scrollWidth]),
  colours: [body.color, body.backgroundColor],
};
"""


def brightness(colour):
    red, green, blue = (int(part) for part in colour.strip("rgb()").split(","))
    return (0.3 * red + 0.6 * green + 0.1 * blue) / 255


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "light"), (1280, "dark")])
def test_the_page_shows_everything_and_fetches_nothing(browser, pages, width, scheme, count):
    page = pages[count]
    requests = seen(browser, page, width, scheme)
    assert page.as_uri() in requests
    assert all(url == page.as_uri() or url.startswith("data:") for url in requests), requests
    found = browser.execute_script(SHOWN)
    assert browser.get_log("browser") == []

    assert found["page"] <= found["inner"] <= width
    assert len(found["images"]) == count
    panels = 10 if count == 1 else 13
    drawings = 2 * count
    assert len(found["drawings"]) == panels + drawings
    assert len(found["curves"]) == panels
    assert min(found["curves"]) >= 4  # frame, grid and at least one curve
    for natural, *box in found["images"]:
        assert natural > 0
        inside(box, found["inner"])
    for box in found["drawings"]:
        inside(box, found["inner"])
    for left, right, *_ in found["tables"]:  # what is wider than its box scrolls within it
        assert 0 <= left < right <= found["inner"]
    for text, size, left, right in found["texts"]:
        assert size >= 9, text
        assert min(left, right) >= -1, text
    assert len(found["keys"]) == len(found["samples"]) >= panels
    for text, left, right, *_ in found["keys"]:
        assert text.strip()
        assert 0 <= left < right <= found["inner"]
    assert all(wide > 30 and high > 5 and drawn for _, _, wide, high, drawn in found["samples"])
    assert len(found["unlike"]) == count - 1
    for text, left, right, _, high in found["unlike"]:
        assert "layers 16 / 8, then 16; epochs 4 / 2 + 4" in text
        assert 0 <= left < right <= found["inner"]
        assert high > 20
    assert len(found["bars"]) == 2 * count
    assert max(sum(bar) for bar in found["bars"]) > 0.6 * found["inner"]
    assert all(min(bar) >= 1 for bar in found["bars"])  # every part is seen, however short
    ink, paper = map(brightness, found["colours"])
    assert (ink < 0.2 and paper > 0.9) if scheme == "light" else (ink > 0.8 and paper < 0.2)


def inside(box, width):
    left, right, wide, high = box
    assert 0 <= left < right <= width
    assert wide > 200
    assert high > 100


def test_a_narrow_page_has_tables_that_scroll_in_their_own_boxes(browser, pages):
    seen(browser, pages[6], 400, "light")
    found = browser.execute_script(SHOWN)
    assert found["page"] <= found["inner"]
    assert any(scroll > width + 100 for _, _, width, _, scroll in found["tables"])


def test_a_deep_hierarchy_is_drawn_legibly(browser, tmp_path):
    options = {"depth": 128, "levels": 7, "coarsening": 2, "cycle": "W", "relaxation": 1}
    short = {"epochs": 1, "training": 40, "serial_epochs": 0, "forward_cycles": 3}
    run = small.shown(tmp_path / "run", **options, **short)
    seen(browser, report.write([run], tmp_path / "page.html"), 400, "light")
    found = browser.execute_script(SHOWN)
    assert found["page"] <= found["inner"]
    assert "level 3: 6 coarse steps" in [text for text, *_ in found["texts"]]
    assert all(size >= 9 and min(rest) >= -1 for _, size, *rest in found["texts"])
