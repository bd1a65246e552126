"""The pages in a real browser: Debian's chromium, driven by Playwright."""

import contextlib
import functools
import json

import httpx
import pytest
import requirements
import serving_fixtures
from playwright import sync_api as playwright

from serving import index, orchestrator, ranker, releases, requests, users
from serving.service import release_router

pytestmark = [pytest.mark.browser, requirements.NEEDS_BROWSER]
TOKEN = "a-secret"
# The machine of a test may be busy.
TIMEOUT_MS = 30_000
playwright.expect.set_options(timeout=TIMEOUT_MS)
expect = playwright.expect


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        # Tests may run as root, where chromium has no sandbox.
        options = {
            "executable_path": requirements.BROWSER,
            "args": ["--no-sandbox", "--disable-gpu"],
        }
        chromium = driver.chromium.launch(**options)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def tab_of(browser):
    """Returns the page with some options, and the errors of its scripts.

    Tests share it: opening another one takes longer than most of them.
    """

    @functools.cache
    def open_tab(has_clock=False, **options):
        problems = []

        def note(message):
            # The browser itself logs each refusal of the service.
            if message.type == "error" and "Failed to load resource" not in message.text:
                problems.append(message.text)

        context = browser.new_context(**options)
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        if has_clock:
            page.clock.install()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", note)
        return page, problems

    return open_tab


@pytest.fixture
def open_console(tab_of):
    """Opens a page of a service; at the end, fails if a script of the page has failed."""
    opened = []

    def open_page(url, path="console", width=1280, height=900, routes=None, **options):
        page, problems = tab_of(**options)
        opened.append((page, problems))
        page.set_viewport_size({"width": width, "height": height})
        for pattern, handler in (routes or {}).items():
            page.route(pattern, handler)
        page.goto(f"{url}/{path}")
        return page

    yield open_page
    for page, problems in opened:
        page.evaluate("sessionStorage.clear()")
        # A handler that still runs fails once the page is left.
        page.unroute_all(behavior="ignoreErrors")
        page.goto("about:blank")
        assert not problems


@pytest.fixture
def page(service_url, open_console):
    """The console of the tiny release, with its first answer."""
    opened = open_console(service_url)
    answered(opened)
    return opened


def answered(page, text="ads from release"):
    """Waits until the page shows an answer."""
    # Each check of `expect` that fails describes the whole page, which takes long.
    page.locator("#status", has_text=text).wait_for()


def shown_ads(page):
    return page.locator("#ads > tr").evaluate_all("rows => rows.map((row) => row.dataset.ad)")


def asked(url, **request):
    answer = httpx.post(f"{url}/v1/recommend", json=request, timeout=30).json()
    return [ad["ad_id"] for ad in answer["ads"]]


def sample(place=0):
    return {k: v for k, v in serving_fixtures.PROBE_REQUESTS[place].items() if v is not None}


def send_json(page, request):
    """Sends a request as the user writes it; a string is sent as it is."""
    text = request if isinstance(request, str) else json.dumps(request)
    page.evaluate("document.getElementById('json-view').open = true")
    page.fill("#json", text)
    page.get_by_role("button", name="Recommend").click()


def sent(page):
    """Returns the request that the page shows."""
    return json.loads(page.input_value("#json"))


def field(page, name):
    return page.get_by_label(name, exact=True)


def columns(page):
    return page.locator("#columns th").all_inner_texts()


def test_the_console_shows_the_answer_to_a_sample_request(service_url, page):
    assert shown_ads(page) == asked(service_url, context=sample())
    assert page.inner_text("#release") == "Release 1 · 300 ads"
    expect(page.locator("#health")).to_have_text("ready")
    assert "300 ads → 300 candidates → 10 ads from release 1 in" in page.inner_text("#status")
    assert columns(page) == ["", "", "Ad", "click", "engagement", "revenue", "utility", ""]
    stages = page.locator("#stages td:first-child").all_inner_texts()
    assert stages[:4] == ["query tower", "index", "features", "ranker"]
    assert stages[-1] == "total"
    about = page.inner_text("#about").split("\n")
    assert "click: auc\t0.7500 (0.7000 to 0.8000)" in about
    assert "version\t1 (stable)" in about


def test_the_reasons_of_an_ad_add_up_to_its_utility(service_url, page):
    send_json(page, {"weights": {"click": 2, "engagement": 0, "revenue": -1}, "k": 1})
    expect(page.locator("#ads > tr")).to_have_count(1)
    first = page.locator("#ads > tr").first
    first.locator("summary").click()
    answer = httpx.post(f"{service_url}/v1/recommend", json=sent(page), timeout=30).json()
    (ad,) = answer["ads"]
    reason = first.locator("li").first.inner_text()
    assert reason.startswith("Utility ")
    assert "× 2.000" in reason
    assert "× -1.000" in reason
    assert ad["utility"] == pytest.approx(2 * ad["click_probability"] - ad["expected_revenue"])
    shown = float(first.locator(".utility b").inner_text())
    assert shown == pytest.approx(ad["utility"], abs=0.001)
    assert "Retrieval: " in first.locator("li").nth(1).inner_text()


def test_a_chosen_sample_and_its_candidates_are_one_request(service_url, open_console):
    posted = []

    def note(route):
        if route.request.method == "POST":
            posted.append(json.loads(route.request.post_data))
        route.continue_()

    page = open_console(service_url, routes={"**": note})
    answered(page)
    page.select_option("#sample", "2")
    first = page.locator("#ads > tr").first
    expect(first).to_have_attribute("data-ad", asked(service_url, context=sample(2))[0])
    assert field(page, "age").input_value() == "-3.5"
    assert len(posted) == 2
    assert posted[1]["context"] == sample(2)
    assert posted[1]["dry_run"] is posted[1]["explain"] is posted[1]["candidates"] is True
    # A changed sample can be chosen again.
    field(page, "age").fill("7")
    field(page, "age").press("Tab")
    expect(page.locator("#sample")).to_have_js_property("selectedIndex", -1)
    page.select_option("#sample", "2")
    expect(field(page, "age")).to_have_value("-3.5")


def test_a_slider_previews_the_order_and_the_service_confirms_it(service_url, page):
    before = shown_ads(page)
    # Read in the same turn of the page's event loop, before any request can be sent.
    at_once = page.evaluate(
        """() => {
            const slider = document.getElementById("weight-revenue");
            slider.value = 5;
            slider.dispatchEvent(new Event("input"));
            return [...document.querySelectorAll("#ads > tr")].map((row) => row.dataset.ad);
        }"""
    )
    expected = asked(service_url, context=sample(), weights={"revenue": 5})
    assert at_once == expected != before
    answered(page)
    assert shown_ads(page) == expected
    moves = page.locator("#ads .rank small").all_inner_texts()
    assert len(moves) == 10
    assert any(text.startswith("▲") for text in moves)
    page.click("#default-weights")
    expect(page.locator("#ads > tr").first).to_have_attribute("data-ad", before[0])
    assert "weights" not in sent(page)


def test_the_console_works_with_the_keyboard_alone(service_url, page):
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.id")
        if focused == "weight-click":
            break
    assert focused == "weight-click"
    page.keyboard.press("Home")
    answered(page)
    assert page.evaluate("document.activeElement.id") == "weight-click"
    expected = asked(service_url, context=sample(), weights={"click": 0})
    expect(page.locator("#ads > tr").first).to_have_attribute("data-ad", expected[0])
    first, second = shown_ads(page)[:2]
    page.locator("#ads summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#ads li").first.is_visible()
    page.get_by_label(f"Exclude {first}").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#filters")).to_contain_text(f"not {first}")
    expect(page.locator(f"#ads > tr[data-ad='{first}']")).to_have_count(0)
    # The next ad took the place of the excluded one, and the focus.
    label = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(label) == f"Exclude {second}"


def test_filters_are_added_from_the_form_and_from_ads_and_removed(service_url, page):
    page.select_option("#ad-field", "price")
    page.fill("#value", "20")
    page.press("#value", "Enter")
    conditions = [{"field": "price", "at_most": 20}]
    # Prices are row / 2, but for each seventh, which has none: of the rows 0 to 40, 35.
    answered(page, "35 candidates")
    assert shown_ads(page) == asked(
        service_url, context=sample(), filters={"conditions": conditions}
    )
    assert sent(page)["filters"] == {"conditions": conditions}
    page.get_by_text("price is at most 20").click()
    answered(page, "300 candidates")
    page.select_option("#ad-field", "category")
    options = page.locator("#values option").evaluate_all("nodes => nodes.map((n) => n.value)")
    assert set(options) == {"c0", "c1", "c2", "c3"}
    for value in ("c1", "c3"):
        page.fill("#value", value)
        page.click("#add-filter")
    # Rows with a remainder of 1 or 3 by 4 that are not multiples of 5: 2 x 75 - 2 x 15.
    answered(page, "120 candidates")
    assert sent(page)["filters"] == {"conditions": [{"field": "category", "any_of": ["c1", "c3"]}]}
    page.get_by_text("category is one of c1, c3").click()
    answered(page, "300 candidates")
    first = page.locator("#ads > tr").first
    first.locator("summary").click()
    first.get_by_label("Only advertiser").click()
    (condition,) = sent(page)["filters"]["conditions"]
    assert condition["any_of"][0] in page.inner_text("#filters")


def test_a_request_can_be_written_as_json_and_errors_are_shown(service_url, page):
    failure = page.locator("[role=alert]#failure")
    send_json(page, '{"k": 3,}')
    expect(failure).to_contain_text("not valid JSON")
    # Text that is not a request yet is not lost.
    assert page.input_value("#json") == '{"k": 3,}'
    send_json(page, {"context": {"contry": "CH"}})
    expect(failure).to_contain_text("contry")
    assert len(shown_ads(page)) == 10
    send_json(page, {"user": {"country": "CH"}, "k": 3})
    expect(page.locator("#ads > tr")).to_have_count(3)
    expect(failure).to_be_hidden()
    assert shown_ads(page) == asked(service_url, user={"country": "CH"}, k=3)
    assert field(page, "k").input_value() == "3"
    assert field(page, "country").input_value() == "CH"
    field(page, "age").fill("forty")
    field(page, "age").press("Tab")
    expect(failure).to_contain_text("age")
    send_json(page, {"k": 3, "filters": {"allowed_ads": []}})
    expect(page.locator("#ads > tr")).to_have_count(0)
    expect(page.locator("#shortage")).to_contain_text("3")


STRANGE = [None, -0.5, "text", [], [None, [7]], {"": None}, {"a": {"b": []}}]


def test_no_json_breaks_the_controls(service_url, page):
    # Two candidates are drawn sooner than 300.
    send_json(page, {"filters": {"allowed_ads": ["ad-1", "ad-2"]}})
    expect(page.locator("#ads > tr")).to_have_count(2)
    texts = []
    for value in STRANGE:
        texts += [
            json.dumps(value),
            # The fields of the user are those of the context.
            json.dumps(dict.fromkeys(requests.Request.model_fields.keys() - {"user"}, value)),
            json.dumps({"user": value}),
            json.dumps(
                {
                    "user": {"age": value},
                    "filters": {"conditions": value, "excluded_ads": value},
                }
            ),
        ]
    page.evaluate(
        """(texts) => {
            const json = document.getElementById("json");
            for (const text of texts) {
                json.value = text;
                json.dispatchEvent(new Event("change"));
                document.getElementById("weight-click").dispatchEvent(new Event("input"));
                document.querySelector("#ads button").click();
                document.querySelector("#filters button")?.click();
            }
        }""",
        texts,
    )
    send_json(page, {})
    expected = asked(service_url)
    expect(page.locator("#ads > tr").first).to_have_attribute("data-ad", expected[0])
    expect(page.locator("#failure")).to_be_hidden()


@pytest.fixture
def serving_without_ranker(tiny_bundle):
    """(URL, port) of a service whose ranker does not run, but can be started at the port."""
    port = serving_fixtures.free_port()
    service = serving_fixtures.make_orchestrator(tiny_bundle, f"127.0.0.1:{port}")
    with serving_fixtures.serve_app(service) as url:
        yield url, port


def test_a_degraded_answer_is_marked_until_the_ranker_is_back(
    tiny_base, serving_without_ranker, open_console
):
    url, port = serving_without_ranker
    page = open_console(url)
    notice = page.locator("[role=alert]#degraded")
    expect(notice).to_contain_text(f"127.0.0.1:{port}")
    expect(page.locator("#weight-click")).to_be_disabled()
    expect(page.locator("#health")).not_to_have_text("ready")
    assert len(shown_ads(page)) == 10
    assert columns(page) == ["", "", "Ad", "retrieval score", ""]
    with serving_fixtures.serve_ranker(tiny_base, port):
        serving_fixtures.wait_until_ready(url)
        page.get_by_role("button", name="Recommend").click()
        expect(notice).to_be_hidden()
        assert "utility" in columns(page)
        expect(page.locator("#weight-click")).to_be_enabled()
    page.get_by_role("button", name="Recommend").click()
    expect(notice).to_be_visible()


@contextlib.contextmanager
def serving_with_token(tiny_bundle, ranker_address):
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with serving_fixtures.serve_app(service, token=TOKEN) as url:
        yield url


def test_the_page_asks_for_the_token_and_reports_a_service_that_is_gone(
    tiny_bundle, ranker_address, open_console
):
    with serving_with_token(tiny_bundle, ranker_address) as url:
        page = open_console(url)
        problem = page.locator("#token-problem")
        expect(problem).to_have_text("This service requires a token.")
        assert page.evaluate("document.activeElement.id") == "token"
        page.fill("#token", "a-secre")
        page.keyboard.press("Enter")
        expect(problem).to_have_text("The service refused this token.")
        expect(page.locator("#app")).to_be_hidden()
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        answered(page)
        page.reload()
        answered(page)
    page.get_by_role("button", name="Recommend").click()
    expect(page.locator("#failure")).to_contain_text("does not answer")
    assert len(shown_ads(page)) == 10


def test_the_page_asks_again_when_the_service_is_back(service_url, open_console):
    page = open_console(service_url, has_clock=True)
    answered(page)
    for pattern in ("**/readyz", "**/v1/*"):
        page.route(pattern, lambda route: route.abort())
    page.get_by_role("button", name="Recommend").click()
    expect(page.locator("#failure")).to_contain_text("does not answer")
    page.clock.run_for(5_000)
    expect(page.locator("#health")).to_have_text("no answer")
    page.unroute_all()
    page.clock.run_for(5_000)
    expect(page.locator("#health")).to_have_text("ready")
    expect(page.locator("#failure")).to_be_hidden()


@pytest.fixture(scope="module")
def canary_url(trainings_base):
    """A service of two releases of different trainings; the second is a canary."""
    with serving_fixtures.serve_ranker(trainings_base, all_versions=True) as server:
        stable, canary = (
            serving_fixtures.make_orchestrator(
                releases.load(trainings_base, version), f"127.0.0.1:{server.port}"
            )
            for version in (1, 2)
        )
        router = release_router.ReleaseRouter(stable)
        router.route(stable, canary, 0.5)
        with serving_fixtures.serve_app(router) as url:
            serving_fixtures.wait_until_ready(url)
            yield url


def test_the_canary_can_be_asked_with_the_same_request(canary_url, open_console):
    page = open_console(canary_url)
    answered(page, "ads from release 1")
    stable = asked(canary_url, context=sample(), release="stable")
    canary = asked(canary_url, context=sample(), release="canary")
    assert shown_ads(page) == stable != canary
    assert "1 (stable), 2 (canary)" in page.inner_text("#about")
    send_json(page, {**sent(page), "release": "canary"})
    answered(page, "ads from release 2")
    assert shown_ads(page) == canary
    assert page.inner_text("#release") == "Release 2 · 300 ads"
    assert sent(page) == {"context": sample(), "release": "canary"}


HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


@pytest.fixture(scope="module")
def hostile_url(tmp_path_factory):
    """A service with one head, whose ads have markup, very long texts and line breaks as values."""
    num_ads = 40
    with pytest.MonkeyPatch.context() as patch:
        table = serving_fixtures.ads_table

        def ads_table(number):
            ads = table(number)
            values = {
                index.AD_ID: [f"{HOSTILE}{row}" for row in range(number)],
                "advertiser": ["x" * 3000] * number,
                "category": [
                    (HOSTILE, "\"'&amp;\u202e\u0000", "two\nlines")[row % 3]
                    for row in range(number)
                ],
            }
            for place, name in enumerate(ads.column_names):
                if name in values:
                    ads = ads.set_column(place, name, [values[name]])
            return ads

        patch.setattr(serving_fixtures, "ads_table", ads_table)
        base = tmp_path_factory.mktemp("hostile") / "bundles"
        recipe = serving_fixtures.Recipe(num_ads=num_ads, heads=("click",))
        serving_fixtures.publish(base, recipe)
    with serving_fixtures.serve_ranker(base) as server:
        service = serving_fixtures.make_orchestrator(
            releases.load(base), f"127.0.0.1:{server.port}"
        )
        with serving_fixtures.serve_app(service) as url:
            serving_fixtures.wait_until_ready(url)
            yield url


@pytest.fixture
def pictured_url(tmp_path):
    """A service whose ads show titles, prices, and picture URLs of which some are not valid."""
    pictures = [
        "/console/icon.svg",
        "javascript:alert(1)",
        "data:image/png;base64,AA",
        None,
        HOSTILE,
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            serving_fixtures,
            "_shown",
            lambda row: json.dumps(
                {
                    "title": f"{HOSTILE}{row}" if row % 5 else f"Shoe {row}",
                    "image_url": pictures[row % 5],
                    "price": row / 2,
                }
            ),
        )
        serving_fixtures.publish(tmp_path, serving_fixtures.Recipe(num_ads=10, heads=()))
    with serving_fixtures.serve_app(
        orchestrator.Orchestrator(releases.load(tmp_path), None)
    ) as url:
        yield url


def test_titles_and_pictures_are_shown_and_only_http_urls_are_loaded(pictured_url, open_console):
    page = open_console(pictured_url)
    answered(page)
    expect(page.locator("#ads > tr")).to_have_count(10)
    for item in page.locator("#ads > tr").all():
        row = int(item.get_attribute("data-ad").removeprefix("ad-"))
        assert item.locator("strong").inner_text() == (
            f"{HOSTILE}{row}" if row % 5 else f"Shoe {row}"
        )
        assert item.locator(".name > small").inner_text() == f"ad-{row}"
        assert f"price {row / 2:g}" in item.locator("p").inner_text()
        # The markup is a relative address that does not exist; its picture is removed.
        item.scroll_into_view_if_needed()
        expect(item.locator("img")).to_have_count(0 if row % 5 else 1)
        if row % 5 == 0:
            source = item.locator("img").get_attribute("src")
            assert source == f"{pictured_url}/console/icon.svg"
    assert page.title() == "tfrec console"


def test_markup_is_shown_as_text_and_absent_heads_are_named(hostile_url, open_console):
    page = open_console(hostile_url)
    answered(page)
    assert shown_ads(page) == asked(hostile_url, context=sample())
    assert HOSTILE in page.inner_text("#ads")
    for summary in page.locator("#ads summary").all():
        summary.click()
    condition = {"field": "category", "any_of": ["two\nlines"]}
    page.get_by_label("Only category two lines").first.click()
    # The 13 of the rows 0 to 39 that leave a remainder of 2 when divided by 3.
    answered(page, "13 candidates")
    assert sent(page)["filters"] == {"conditions": [condition]}
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "tfrec console"
    assert "No engagement or revenue head" in page.inner_text("#heads")
    assert columns(page) == ["", "", "Ad", "click", "utility", ""]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"heads": ()}, "This release has no ranker: ads are in retrieval order."),
        ({"weak": {"revenue": "3 of 40 rows are positive."}}, "3 of 40 rows are positive."),
    ],
)
def test_a_release_without_a_ranker_or_with_a_weak_head_is_described(
    open_console, tmp_path, recipe, words
):
    serving_fixtures.publish(tmp_path, serving_fixtures.Recipe(**recipe))
    release = releases.load(tmp_path)
    scorer = ranker.LocalRanker(release) if release.manifest.has_ranker else None
    with serving_fixtures.serve_app(orchestrator.Orchestrator(release, scorer)) as url:
        serving_fixtures.wait_until_ready(url)
        page = open_console(url)
        answered(page)
        assert words in page.inner_text("#heads")
        expect(page.locator("#degraded")).to_have_text("")
        assert shown_ads(page) == asked(url, context=sample())
        assert page.is_visible("#weights-box") is release.manifest.has_ranker


@pytest.mark.parametrize("which", ["service_url", "hostile_url"])
def test_the_page_fits_a_phone_and_names_its_controls(which, request, open_console):
    page = open_console(
        request.getfixturevalue(which), width=360, height=740, has_touch=True, is_mobile=True
    )
    answered(page)
    page.locator("#ads summary").first.tap()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    nameless = page.locator("input, select, textarea, button").evaluate_all(
        """nodes => nodes.filter((node) => !node.labels?.length
            && !node.getAttribute("aria-label") && !node.textContent.trim())
            .map((node) => node.outerHTML)"""
    )
    assert not nameless
    ids = page.locator("[id]").evaluate_all("nodes => nodes.map((node) => node.id)")
    assert len(ids) == len(set(ids))


def test_the_api_page_asks_for_the_token_and_sends_requests_to_this_service_only(
    tiny_bundle, ranker_address, open_console
):
    with serving_with_token(tiny_bundle, ranker_address) as url:
        requested = []

        def note(route):
            requested.append(route.request.url)
            route.continue_()

        page = open_console(url, path="docs", routes={"**": note})
        page.get_by_role("button", name="Authorize").first.click()
        page.locator(".auth-container input").fill(TOKEN)
        page.locator(".auth-container button[type=submit]").click()
        page.locator(".btn-done").click()
        route = page.locator("#operations-default-recommend")
        route.locator(".opblock-summary-control").click()
        route.get_by_role("button", name="Try it out").click()
        route.locator("textarea").fill('{"k": 3}')
        route.get_by_role("button", name="Execute").click()
        status = route.locator(".live-responses-table tbody .response-col_status")
        expect(status).to_have_text("200")
        assert all(address.startswith(url) for address in requested if "data:" not in address)


@pytest.fixture
def stored_url(tiny_bundle, ranker_address, tmp_path):
    """A service of the tiny release with a user store."""
    config = serving_fixtures.PATIENT_USERS
    metrics = orchestrator.ServiceMetrics()
    store = users.open_store(f"sqlite:{tmp_path}/users.db", config)
    data = orchestrator.UserData(store, config, metrics)
    service = serving_fixtures.make_orchestrator(
        tiny_bundle, ranker_address, users=data, metrics=metrics
    )
    with serving_fixtures.serve_app(service) as url:
        serving_fixtures.wait_until_ready(url)
        yield url


def test_the_status_of_the_user_data_is_shown(stored_url, open_console):
    page = open_console(stored_url)
    answered(page)
    assert "User data" not in page.inner_text("#status")
    cap = {"max": 1, "event": "click"}
    request = {"user_id": "u", "rules": {"frequency_caps": [cap, {**cap, "field": "category"}]}}
    send_json(page, request)
    answered(page, "User data: unknown.")
    events = [
        {"event_id": ad_id, "user_id": "u", "ad_id": ad_id, "event": "click"}
        for ad_id in ("ad-2", "ad-6")
    ]
    httpx.post(f"{stored_url}/v1/events", json={"events": events}, timeout=30)
    send_json(page, request)
    answered(page, "User data: found.")
    # The category is row % 4.
    text = "Rules: ads at a frequency cap: 2; category at a frequency cap: 1."
    assert page.inner_text("#shortage") == text
    # On one time line, the store comes first.
    assert page.locator("#stages td").first.inner_text() == "users"
