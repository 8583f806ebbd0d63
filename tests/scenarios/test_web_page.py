"""The live page in a real browser: it shows what the job tells, controls it, and loads nothing from elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

import kvbatch
from kvbatch.metrics_listener import MetricsListener, serve_metrics
from support.stores import numbered, write_store
from support.watched_job import MIB, ControlledFake

WAIT_SECONDS = 60.0
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None,
    reason="no headless browser: apt-get install chromium chromium-driver (make test does)",
)


class Page:
    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, listener: MetricsListener) -> None:
        self.driver.get(listener.url)
        self.until(lambda: self.text("version") != "")

    def until(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.driver, WAIT_SECONDS).until(lambda _: condition())

    def text(self, name: str) -> str:
        return self.driver.find_element(By.ID, name).text

    def shows(self, name: str, text: str) -> None:
        self.until(lambda: text in self.text(name))

    def click(self, name: str) -> None:
        button = self.driver.find_element(By.ID, name)
        self.until(button.is_enabled)
        button.click()

    def count(self, selector: str) -> int:
        return len(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def points(self, chart: str, line: str = "first") -> list[tuple[float, float]]:
        """Where the line of a chart goes, in pixels."""
        path = self.driver.find_element(By.CSS_SELECTOR, f"#{chart} path.{line}").get_attribute("d") or ""
        pairs = [point.split() for point in path.replace("M", "L").split("L") if point]
        return [(float(x), float(y)) for x, y in pairs]

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def loaded(self) -> list[str]:
        """Every address that something was asked of."""
        names: list[str] = self.driver.execute_script(
            "return performance.getEntries().filter((e) => ['resource', 'navigation'].includes(e.entryType))"
            ".map((e) => e.name)"
        )
        return names


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1200,1500",
        "--disable-background-networking",
        "--disable-component-update",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options, Service(DRIVER))
    yield made
    made.quit()


@pytest.fixture
def page(driver: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    made = Page(driver)
    # What the page of the test before complains of, when its job is gone, is no concern of this one's.
    driver.get("about:blank")
    made.complaints()
    yield made
    # To be looked at in pytest's folder of temporary files: no test sees that a page is ugly.
    driver.save_screenshot(str(tmp_path_factory.mktemp("screenshot") / "page.png"))


@pytest.fixture
def job() -> ControlledFake:
    return ControlledFake()


@pytest.fixture
def listener(job: ControlledFake) -> Iterator[MetricsListener]:
    made = serve_metrics(job, "127.0.0.1:0")
    yield made
    made.stop()


def test_the_page_shows_a_job_as_it_goes_on(job: ControlledFake, listener: MetricsListener, page: Page) -> None:
    job.begin()
    page.open(listener)
    assert page.text("job") == "nightly"
    page.shows("lane", "the source is not compacted")
    for number in range(30):
        job.sample(seconds=3.0 + number / 2, bytes_per_second=(50.0 + number) * MIB, batch_bytes=(1 + number % 8) * MIB)
    job.bus.publish("range", range=2, state="started")
    job.bus.publish("throttle", reason="rate-limit")
    job.bus.publish("retry", attempt=3, retry=1, retries=8, wait_seconds=0.2, error="the cable <b>fell</b> out")
    page.shows("messages", "attempt 3 failed, retry 1 of 8 in 0.2 s: the cable <b>fell</b> out")
    page.shows("retries", "1 retry")
    page.shows("throttle", "now: rate-limit")
    assert page.text("range-counts") == "4 waiting, 1 started, 2 complete"
    assert [page.count(f"#ranges i.{state}") for state in ("waiting", "started", "complete")] == [4, 1, 2]
    assert page.text("share") == "50 %"
    assert "79.0 MiB/s" in page.text("rate-now")
    assert page.text("throttled").split() == ["rate-limit", "7", "%", "window", "1", "%"]
    assert page.text("stages").split()[:3] == ["network", "40", "%"]
    assert page.text("bottleneck") == "bottleneck: network"
    assert page.text("streams").split("\n") == ["0 3 10.0 MiB 28.0 MiB rate-limit", "1 4 21.0 MiB 28.0 MiB"]
    totals = page.text("totals")
    for figure in ("1,250,000", "lz4, ratio 2.50", "16 frames", "1.2 ms", "20.0 MiB/s"):
        assert figure in totals

    rising = page.points("throughput")
    assert len(rising) == 30
    assert [x for x, _ in rising] == sorted(x for x, _ in rising)
    assert [y for _, y in rising] == sorted((y for _, y in rising), reverse=True), "up is more"
    assert len({y for _, y in page.points("throughput", "second")}) == 1
    assert len({y for _, y in page.points("batch")}) == 8
    assert page.complaints() == []

    job.end()
    page.until(lambda: page.text("state") == "done")
    page.shows("share", "100 %")
    assert page.text("streams") == ""


@pytest.mark.parametrize(("lane", "name"), [("files", "bytes of files"), ("sst", "keys and values")])
def test_bytes_of_files_are_not_called_keys_and_values(
    job: ControlledFake, listener: MetricsListener, page: Page, lane: str, name: str
) -> None:
    job.begin(lane=lane)
    job.sample(seconds=3.0)
    page.open(listener)
    page.shows("raw-name", name)
    page.shows("totals", name)


def test_the_page_loads_nothing_from_elsewhere(job: ControlledFake, listener: MetricsListener, page: Page) -> None:
    job.begin()
    page.open(listener)
    loaded = page.loaded()
    assert listener.url in loaded
    assert [name for name in loaded if not name.startswith(listener.url)] == []
    assert page.complaints() == [], "the policy of the page stopped something"


def test_pause_resume_and_a_rate(job: ControlledFake, listener: MetricsListener, page: Page) -> None:
    page.open(listener)
    page.click("pause")
    page.until(lambda: page.text("state") == "paused")
    assert not page.driver.find_element(By.ID, "pause").is_enabled()
    page.click("resume")
    page.until(lambda: page.text("state") == "running")
    rate = page.driver.find_element(By.ID, "rate")
    rate.send_keys("20MiB/s")
    page.click("set-rate")
    page.until(lambda: len(job.asked) == 3)
    assert job.asked == ["paused", "running", {"rate_limit": "20MiB"}]
    rate.clear()
    rate.send_keys("nonsense")
    page.click("set-rate")
    page.shows("answer", "give a size like 20MiB")


def test_a_page_for_reading_only_has_no_controls(job: ControlledFake, page: Page) -> None:
    listener = serve_metrics(job, "0.0.0.0:0")
    try:
        page.driver.get(f"http://127.0.0.1:{listener.port}/")
        page.shows("job", "nightly")
        assert not page.driver.find_element(By.ID, "controls").is_displayed()
        assert page.complaints() == []
    finally:
        listener.stop()


def test_a_page_whose_job_is_gone_says_so(listener: MetricsListener, page: Page) -> None:
    page.open(listener)
    listener.stop()
    page.until(lambda: page.text("state") == "disconnected")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_nothing_is_wider_than_the_page_and_all_can_be_read(
    scheme: str, width: int, job: ControlledFake, listener: MetricsListener, page: Page
) -> None:
    emulate = page.driver.execute_cdp_cmd
    emulate("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    emulate(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 1500, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        job.begin(ranges=1000)
        job.bus.publish("warning", message="/a/long/path" * 30)
        for number in range(5):
            job.sample(seconds=2.0 + number)
        page.open(listener)
        assert page.count("#ranges i") == 1000
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
        colours = page.driver.execute_script(
            "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
        )
        ink, ground = (sum(int(part) for part in colour[4:-1].split(",")) for colour in colours)
        assert (ink > ground) == (scheme == "dark")
        assert abs(ink - ground) > 450
    finally:
        emulate("Emulation.clearDeviceMetricsOverride", {})
        emulate("Emulation.setEmulatedMedia", {"features": []})


def test_a_real_migration(tmp_path: Path, page: Page) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(2000, value=b"v" * 200)})
    migration = kvbatch.migrate(source, tmp_path / "copy", state_dir=tmp_path / "state", range_bytes="64KiB")
    with serve_metrics(migration, "127.0.0.1:0") as listener:
        summary = migration.wait(WAIT_SECONDS)
        page.open(listener)
        assert page.text("job") == summary.job
        assert page.text("state") == "done"
        assert page.count("#ranges i.complete") == summary.ranges > 1
        assert "2,000" in page.text("totals")
        assert page.complaints() == []
