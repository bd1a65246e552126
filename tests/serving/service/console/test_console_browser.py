"""The console in a real browser: Debian's chromium, driven by Playwright."""

import json

import httpx
import pytest
import requirements
import serving_fixtures
from playwright import sync_api as playwright

from serving import index, releases, requests

pytestmark = [pytest.mark.browser, requirements.NEEDS_BROWSER]
TOKEN = "a-secret"
SECONDS_30 = 30_000
# The machine of a test may be busy.
playwright.expect.set_options(timeout=SECONDS_30)


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


@pytest.fixture
def open_console(browser):
    """Opens the console of a service; at the end no script of the page may have failed."""
    opened, problems = [], []

    def noted(message):
        # The browser itself notes each refusal of the service.
        if message.type == "error" and "Failed to load resource" not in message.text:
            problems.append(message.text)

    def opening(url, width=1280, height=900, **options):
        context = browser.new_context(
            viewport={"width": width, "height": height}, reduced_motion="reduce", **options
        )
        opened.append(context)
        context.set_default_timeout(SECONDS_30)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", noted)
        page.goto(f"{url}/console")
        return page

    yield opening
    for context in opened:
        context.close()
    assert not problems


def answered(page, text="ads from release"):
    """Waits until the page says that an answer has come."""
    playwright.expect(page.locator("#status")).to_contain_text(text)


def shown_ads(page):
    return page.locator("#ads > li").evaluate_all("items => items.map((item) => item.dataset.ad)")


def asked(url, **request):
    answer = httpx.post(f"{url}/v1/recommend", json=request, timeout=30).json()
    return [ad["ad_id"] for ad in answer["ads"]]


def sample(place=0):
    return {k: v for k, v in serving_fixtures.PROBE_REQUESTS[place].items() if v is not None}


def type_in(page, selector, text):
    page.fill(selector, text)
    page.press(selector, "Tab")


def test_it_loads_and_recommends_for_a_sample_request(service_url, open_console):
    page = open_console(service_url)
    answered(page)
    assert shown_ads(page) == asked(service_url, context=sample())
    assert page.locator("#release").inner_text() == "Release 1 · 300 ads"
    playwright.expect(page.locator("#health-text")).to_have_text("Ready")
    assert page.locator("#funnel strong").all_inner_texts() == ["300", "300", "10"]
    assert page.locator("#scatter circle").count() == 300
    assert page.locator("#scatter circle.chosen").count() == 10
    stages = page.locator("#stages .stage-name").all_inner_texts()
    assert stages[:4] == ["Query tower", "Index search", "Ad features", "Ranker"]
    assert page.locator("#ads > li").first.locator(".score .label").all_inner_texts() == [
        *("Click", "Engage", "Revenue", "Utility")
    ]


def test_another_sample_is_another_answer(service_url, open_console):
    page = open_console(service_url)
    answered(page)
    page.select_option("#sample", "2")
    page.wait_for_function("() => !document.querySelector('.busy')")
    playwright.expect(page.locator("#ads > li").first).to_have_attribute(
        "data-ad", asked(service_url, context=sample(2))[0]
    )
    assert page.input_value("#fields [data-place='context.age']") == "-3.5"


def test_a_slider_changes_the_order_at_once_and_the_service_confirms_it(service_url, open_console):
    page = open_console(service_url)
    answered(page)
    before = shown_ads(page)
    # Read in the same turn of the page's event loop: nothing can have been asked yet.
    at_once = page.evaluate(
        """() => {
            const slider = document.getElementById("weight-revenue");
            slider.value = 5;
            slider.dispatchEvent(new Event("input"));
            return [...document.querySelectorAll("#ads > li")].map((item) => item.dataset.ad);
        }"""
    )
    expected = asked(service_url, context=sample(), weights={"revenue": 5})
    assert at_once == expected != before
    answered(page, "Confirmed by the service: the same order.")
    assert shown_ads(page) == expected
    moves = page.locator("#ads .move").all_inner_texts()
    assert len(moves) == 10
    assert any(text.startswith("▲") for text in moves)
    page.click("#even")
    playwright.expect(page.locator("#ads > li").first).to_have_attribute("data-ad", before[0])


def test_it_is_used_by_keyboard_alone(service_url, open_console):
    page = open_console(service_url)
    answered(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the ads"
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.id")
        if focused == "weight-click":
            break
    assert focused == "weight-click"
    page.keyboard.press("Home")
    answered(page, "Confirmed by the service")
    assert shown_ads(page) == asked(service_url, context=sample(), weights={"click": 0})
    first = shown_ads(page)[0]
    page.locator(f"[aria-label='Details of {first}']").focus()
    page.keyboard.press("Enter")
    details = page.locator("#ads > li").first.locator(".details")
    assert details.is_visible()
    assert "Utility" in details.inner_text()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#excluded")).to_contain_text(first)
    playwright.expect(page.locator(f"#ads > li[data-ad='{first}']")).to_have_count(0)


def test_filters_and_rules_leave_what_they_allow(service_url, open_console):
    page = open_console(service_url)
    answered(page)
    page.click("#add-filter")
    page.get_by_label("Ad field").select_option("price")
    type_in(page, "input[aria-label='Value of price']", "20")
    conditions = [{"field": "price", "at_most": 20}]
    expected = asked(service_url, context=sample(), filters={"conditions": conditions})
    playwright.expect(page.locator("#ads > li").first).to_have_attribute("data-ad", expected[0])
    # Prices are row / 2, but for each seventh, which has none: of the rows 0 to 40, 35.
    playwright.expect(page.locator("#funnel strong").nth(1)).to_have_text("35")
    page.click("summary:has-text('Rules')")
    page.select_option("#cap-field", "=advertiser")
    type_in(page, "#cap-max", "1")
    playwright.expect(page.locator("#ads > li")).to_have_count(9)
    playwright.expect(page.locator("#shortage")).to_contain_text("advertiser")
    page.get_by_label("Remove this condition").click()
    playwright.expect(page.locator("#funnel strong").nth(1)).to_have_text("300")


def test_what_the_service_refuses_stands_beside_what_caused_it(service_url, open_console):
    page = open_console(service_url)
    answered(page)
    age = "[data-place='context.age']"
    type_in(page, age, "forty")
    beside = page.locator(".field", has=page.locator(age)).locator(".problem")
    playwright.expect(beside).to_contain_text("expected a finite number or null, got 'forty'")
    assert page.get_attribute(age, "aria-invalid") == "true"
    assert page.get_attribute(age, "aria-describedby") == beside.get_attribute("id")
    assert "context.age" in page.locator("[role=alert] #failure").inner_text()
    assert len(shown_ads(page)) == 10
    type_in(page, age, "40")
    playwright.expect(page.locator("#failure")).to_be_hidden()
    playwright.expect(page.locator(".problem")).to_have_count(0)
    for selector, text, message in (
        ("#k", "0", "expected at least 1"),
        ("#k", "many", "k: expected an integer, got 'many'"),
        ("[data-place='weights.click']", "much", "expected a number, got 'much'"),
        ("#deadline_ms", "-3", "deadline_ms: expected more than 0"),
    ):
        type_in(page, selector, text)
        playwright.expect(page.locator(".problem")).to_contain_text(message)
        assert page.get_attribute(selector, "aria-invalid") == "true"
        type_in(page, selector, "")
        playwright.expect(page.locator(".problem")).to_have_count(0)


def test_a_request_is_written_as_json_and_its_mistakes_are_shown(service_url, open_console):
    page = open_console(service_url)
    answered(page)
    page.get_by_text("JSON", exact=True).click()
    assert page.evaluate("JSON.parse(document.getElementById('json').value).context") == sample()
    page.fill("#json", '{"k": 3,}')
    page.click("#recommend")
    playwright.expect(page.locator("#json-view .problem")).to_contain_text("This is no JSON")
    page.fill("#json", '{"context": {"contry": "CH"}}')
    page.click("#recommend")
    hint = "unknown field 'contry' (str). Did you mean 'country'?"
    playwright.expect(page.locator("#json-view .problem")).to_contain_text(hint)
    page.fill("#json", '{"user": {"country": "CH"}, "k": 3, "weights": 7}')
    page.click("#recommend")
    playwright.expect(page.locator("#json-view .problem")).to_contain_text("weights")
    page.fill("#json", '{"user": {"country": "CH"}, "k": 3}')
    page.click("#recommend")
    playwright.expect(page.locator("#ads > li")).to_have_count(3)
    assert shown_ads(page) == asked(service_url, user={"country": "CH"}, k=3)
    page.fill("#json", '{"user": {"country": "CH"}, "k": 3, "filters": {"allowed_ads": []}}')
    page.click("#recommend")
    playwright.expect(page.locator("#ads > li")).to_have_count(0)
    playwright.expect(page.locator("#shortage")).to_contain_text("3")
    page.get_by_text("Form", exact=True).click()
    assert page.input_value("#k") == "3"
    assert page.input_value("#fields [data-place='user.country']") == "CH"


STRANGE = [None, -0.5, "text", [], [None, [7]], {"": None}, {"a": {"b": []}}]


def test_no_json_breaks_the_controls(service_url, open_console):
    page = open_console(service_url)
    answered(page)
    page.get_by_text("JSON", exact=True).click()
    places = ["%s", *(f'{{"{name}": %s}}' for name in request_keys())]
    places += ['{"filters": {"conditions": %s}}', '{"filters": {"excluded_ads": %s}}']
    places += ['{"rules": {"caps": %s}}', '{"rules": {"exploration": %s}}', '{"user": {"age": %s}}']
    texts = [place % json.dumps(value) for place in places for value in STRANGE]
    page.evaluate(
        """texts => {
            const json = document.getElementById("json");
            for (const text of texts) {
                json.value = text;
                json.dispatchEvent(new Event("change"));
                document.getElementById("weight-click").dispatchEvent(new Event("input"));
                document.querySelector("[data-action=out]").click();
                document.getElementById("share").dispatchEvent(new Event("change"));
            }
        }""",
        texts,
    )
    page.fill("#json", "{}")
    page.click("#recommend")
    expected = asked(service_url)
    first = page.locator("#ads > li").first
    playwright.expect(first).to_have_attribute("data-ad", expected[0])
    assert shown_ads(page) == expected
    playwright.expect(page.locator("#failure")).to_be_hidden()


def request_keys():
    return list(requests.Request.model_fields)


def test_a_degraded_answer_is_shown_plainly_and_a_full_one_when_the_ranker_is_back(
    tiny_base, tiny_bundle, open_console
):
    port = serving_fixtures.free_port()
    service = serving_fixtures.make_orchestrator(tiny_bundle, f"127.0.0.1:{port}")
    with serving_fixtures.serve_app(service) as url:
        with serving_fixtures.serve_ranker(tiny_base, port):
            page = open_console(url)
            answered(page)
            assert page.locator("#degraded").is_hidden()
        page.click("#recommend")
        notice = page.locator("[role=alert] #degraded")
        playwright.expect(notice).to_contain_text("retrieval order, without scores")
        playwright.expect(notice).to_contain_text(f"127.0.0.1:{port}")
        playwright.expect(page.locator("#no-scores")).to_be_visible()
        playwright.expect(page.locator("#health-text")).to_have_text("Degraded")
        assert len(shown_ads(page)) == 10
        assert set(page.locator("#ads .score .label").all_inner_texts()) == {"Retrieval score"}
        # A slider has nothing to weigh, and breaks nothing.
        page.focus("#weight-click")
        page.keyboard.press("ArrowRight")
        with serving_fixtures.serve_ranker(tiny_base, port):
            for _ in range(60):
                page.click("#again")
                page.wait_for_function("() => !document.querySelector('.busy')")
                if notice.is_hidden():
                    break
                page.wait_for_timeout(500)
            assert notice.is_hidden()
            assert page.locator("#ads .score.utility").count() == 10


def test_it_asks_for_the_token_and_says_when_it_is_wrong(tiny_bundle, ranker_address, open_console):
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with serving_fixtures.serve_app(service, token=TOKEN) as url:
        page = open_console(url)
        problem = page.locator("#token-panel .problem")
        playwright.expect(problem).to_have_text("This service asks for a token.")
        assert page.evaluate("document.activeElement.id") == "token"
        for wrong in ("a-secre", "schlüssel☃"):
            page.fill("#token", wrong)
            page.keyboard.press("Enter")
            playwright.expect(page.locator("#token-panel .problem")).to_be_visible()
            playwright.expect(page.locator("#app")).to_be_hidden()
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        answered(page)
        assert len(shown_ads(page)) == 10
        page.reload()
        answered(page)


def test_a_service_that_went_away_is_named(tiny_bundle, ranker_address, open_console):
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with serving_fixtures.serve_app(service) as url:
        page = open_console(url)
        answered(page)
    page.click("#recommend")
    playwright.expect(page.locator("#failure")).to_contain_text("does not answer")
    playwright.expect(page.locator("#health-text")).to_have_text("No answer")
    assert len(shown_ads(page)) == 10


HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


@pytest.fixture(scope="module")
def hostile_url(tmp_path_factory):
    """A release with one head, whose ads have markup, very long and two-line texts as values."""
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
                # Seconds, none of which has four digits that tell it.
                "price": [
                    1_600_012_345.0 + 54_321 * row if row else float("nan") for row in range(number)
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
            yield url


def test_values_with_markup_are_shown_as_text_and_absent_heads_are_named(hostile_url, open_console):
    page = open_console(hostile_url)
    answered(page)
    assert shown_ads(page) == asked(hostile_url, context=sample())
    assert page.locator("#ads h3").first.inner_text().startswith(HOSTILE)
    for button in page.locator("[data-action=details]").all():
        button.click()
    page.click("#add-filter")
    page.get_by_label("Ad field").select_option("category")
    page.locator("#conditions .chip").first.click()
    answered(page)
    page.get_by_label("Without category", exact=False).first.click()
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "tfrec console · release 1"
    assert "no engagement and no revenue head" in page.locator("#absent").inner_text()
    assert page.locator("#weights .weight").count() == 1
    labels = page.locator("#ads > li").first.locator(".score .label").all_inner_texts()
    assert labels == ["Click", "Utility"]


@pytest.mark.parametrize("which", ["service_url", "hostile_url"])
def test_it_fits_a_phone(which, request, open_console):
    page = open_console(request.getfixturevalue(which), 360, 740, has_touch=True, is_mobile=True)
    answered(page)
    page.locator("[data-action=details]").first.tap()
    page.locator("#add-filter").tap()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    small = page.locator("button:visible, select:visible, summary:visible").evaluate_all(
        "nodes => nodes.filter((node) => node.getBoundingClientRect().height < 24)"
        ".map((node) => node.outerHTML.slice(0, 80))"
    )
    assert not small


def test_every_control_has_a_name_and_every_id_is_there_once(service_url, open_console):
    page = open_console(service_url)
    answered(page)
    page.click("#add-filter")
    nameless = page.locator("input, select, textarea, button").evaluate_all(
        """nodes => nodes.filter((node) => !node.labels?.length
            && !node.getAttribute("aria-label") && !node.textContent.trim())
            .map((node) => node.outerHTML)"""
    )
    assert not nameless
    ids = page.locator("[id]").evaluate_all("nodes => nodes.map((node) => node.id)")
    assert len(ids) == len(set(ids))
    assert page.locator("[aria-live=polite]").count() == 1


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_it_follows_the_colours_of_the_system(service_url, open_console, scheme, is_dark):
    page = open_console(service_url, color_scheme=scheme)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red, green, blue = (int(part) for part in colour[4:-1].split(","))
    assert (red + green + blue < 384) == is_dark


def filters_sent(page):
    """Returns the filters of the request as the page has it."""
    page.get_by_text("JSON", exact=True).click()
    request = json.loads(page.input_value("#json"))
    page.get_by_text("Form", exact=True).click()
    return request.get("filters")


def test_a_value_of_two_lines_is_asked_for_as_it_is(hostile_url, open_console):
    page = open_console(hostile_url)
    answered(page)
    condition = {"field": "category", "any_of": ["two\nlines"]}
    expected = asked(hostile_url, context=sample(), filters={"conditions": [condition]})
    page.click("#add-filter")
    page.get_by_label("Ad field").select_option("category")
    page.locator("#conditions .chip", has_text="two").click()
    # Of the rows 0 to 39, the 13 with a remainder of 2 by 3.
    playwright.expect(page.locator("#funnel strong").nth(1)).to_have_text("13")
    assert shown_ads(page) == expected
    assert filters_sent(page) == {"conditions": [condition]}
    page.get_by_label("Remove this condition").click()
    playwright.expect(page.locator("#funnel strong").nth(1)).to_have_text("40")
    page.get_by_label("Details of", exact=False).first.click()
    without = page.get_by_label("Without category", exact=False).first
    value = without.get_attribute("aria-label").removeprefix("Without category ")
    without.click()
    left = 26 if value == HOSTILE else 27
    playwright.expect(page.locator("#funnel strong").nth(1)).to_have_text(str(left))


@pytest.mark.parametrize(
    "kept",
    [
        {"field": "category", "any_of": []},
        {"field": "category", "none_of": ["", " ", "c1\nc2"]},
        {"field": "price", "at_most": 20, "at_least": None, "none_of": [1]},
    ],
)
def test_a_condition_of_the_json_stays_as_it_is_when_another_is_added(
    service_url, open_console, kept
):
    page = open_console(service_url)
    answered(page)
    page.get_by_text("JSON", exact=True).click()
    page.fill("#json", json.dumps({"filters": {"conditions": [kept]}}))
    page.get_by_text("Form", exact=True).click()
    page.click("#add-filter")
    page.get_by_label("Ad field").last.select_option("price")
    type_in(page, "input[aria-label='Value of price']", "30")
    assert filters_sent(page) == {"conditions": [kept, {"field": "price", "at_most": 30}]}


def test_the_end_of_a_slider_leaves_none_of_the_ads_there_out(hostile_url, open_console):
    page = open_console(hostile_url)
    answered(page)
    page.click("#add-filter")
    page.get_by_label("Ad field").select_option("price")
    slider = page.get_by_label("is at most, price")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    highest = 1_600_012_345 + 54_321 * 39
    # All but the highest one and the missing one.
    playwright.expect(page.locator("#funnel strong").nth(1)).to_have_text("38")
    assert filters_sent(page) == {"conditions": [{"field": "price", "at_most": highest - 1}]}
    slider.focus()
    page.keyboard.press("End")
    playwright.expect(page.locator("#funnel strong").nth(1)).to_have_text("39")
    assert filters_sent(page) == {"conditions": [{"field": "price", "at_most": highest}]}


def test_a_text_that_is_no_json_yet_is_not_lost(service_url, open_console):
    page = open_console(service_url)
    answered(page)
    page.get_by_text("JSON", exact=True).click()
    page.fill("#json", '{"k": 3,}')
    page.get_by_text("Form", exact=True).click()
    assert page.is_visible("#json")
    assert page.input_value("#json") == '{"k": 3,}'
    assert page.is_checked("input[name=view][value=json]")
    playwright.expect(page.locator("#json-view .problem")).to_contain_text("This is no JSON")
    page.fill("#json", '{"k": 3}')
    page.get_by_text("Form", exact=True).click()
    assert page.input_value("#k") == "3"


def test_scores_that_come_back_with_a_slider_bring_their_candidates(
    tiny_base, tiny_bundle, open_console
):
    port = serving_fixtures.free_port()
    service = serving_fixtures.make_orchestrator(tiny_bundle, f"127.0.0.1:{port}")
    with serving_fixtures.serve_app(service) as url:
        page = open_console(url)
        playwright.expect(page.locator("#degraded")).to_be_visible()
        page.wait_for_function("() => !document.querySelector('.busy')")
        with serving_fixtures.serve_ranker(tiny_base, port):
            for _ in range(60):
                page.locator("#weight-revenue").focus()
                page.keyboard.press("ArrowRight")
                page.wait_for_timeout(700)
                page.wait_for_function("() => !document.querySelector('.busy')")
                if page.locator("#degraded").is_hidden():
                    break
            assert page.locator("#degraded").is_hidden()
            assert "up, its utility" in page.inner_text("#dot")
            assert "rules" not in page.inner_text("#status")


def test_the_place_of_who_works_by_keyboard_is_kept(service_url, open_console):
    page = open_console(service_url)
    answered(page)
    focused = "document.activeElement.dataset.part ?? document.activeElement.dataset.action"
    page.click("#add-filter")
    field = page.get_by_label("Ad field")
    field.focus()
    field.select_option("advertiser")
    assert page.evaluate(focused) == "field"
    page.locator("#conditions .chip").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate(focused) == "chip"
    playwright.expect(page.locator("#funnel strong").nth(1)).not_to_have_text("300")
    first, second = shown_ads(page)[:2]
    page.locator(f"[aria-label='Leave {first} out']").focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator(f"#ads > li[data-ad='{first}']")).to_have_count(0)
    label = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(label) == f"Leave {second} out"


def test_a_long_id_is_readable_in_full(hostile_url, open_console):
    page = open_console(hostile_url, 360, 740)
    answered(page)
    page.locator("[data-action=details]").first.click()
    heights = page.locator("#ads h3").first.evaluate(
        "node => [node.scrollHeight, node.clientHeight]"
    )
    assert heights[0] <= heights[1] + 1
    widths = page.locator("#ads h3").first.evaluate("node => [node.scrollWidth, node.clientWidth]")
    assert widths[0] <= widths[1]


def test_a_service_that_hangs_is_not_called_ready(service_url, open_console):
    page = open_console(service_url)
    answered(page)
    playwright.expect(page.locator("#health-text")).to_have_text("Ready")
    page.context.route("**/readyz", lambda _: None)
    page.context.route("**/v1/recommend", lambda _: None)
    page.click("#recommend")
    playwright.expect(page.locator("#status")).to_have_text("Waiting for the service…")
    playwright.expect(page.locator("#health-text")).to_have_text("No answer")


def test_a_page_that_came_before_its_service_starts_when_that_is_there(service_url, open_console):
    page = open_console(service_url)
    page.context.route("**/v1/bundle", lambda route: route.abort())
    page.reload()
    playwright.expect(page.locator("#failure")).to_contain_text("does not answer")
    page.context.unroute("**/v1/bundle")
    answered(page)
    playwright.expect(page.locator("#failure")).to_be_hidden()


def test_what_stands_in_for_a_value_is_as_readable_as_other_soft_text(service_url, open_console):
    page = open_console(service_url)
    answered(page)
    colours = page.locator("#k").evaluate(
        """node => {
            const style = getComputedStyle(node, "::placeholder");
            const soft = getComputedStyle(document.querySelector(".hint")).color;
            return [style.color, style.opacity, soft];
        }"""
    )
    assert colours == [colours[2], "1", colours[2]]


def test_the_api_is_described_and_tried_with_what_the_service_itself_has(
    tiny_bundle, ranker_address, open_console
):
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with serving_fixtures.serve_app(service, token=TOKEN) as url:
        page = open_console(url)
        asked_for = []
        page.on("request", lambda request: asked_for.append(request.url))
        page.get_by_role("link", name="API").click()
        problem = page.locator("#token-panel .problem")
        playwright.expect(problem).to_have_text("This service asks for a token.")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        headings = page.locator(".route h2")
        playwright.expect(headings).to_have_count(6)
        assert headings.first.inner_text() == "POST /v1/recommend"
        card = page.locator(".route").first
        assert json.loads(card.locator("textarea").input_value())["dry_run"] is True
        page.get_by_label("Send POST /v1/recommend", exact=True).click()
        playwright.expect(card.locator(".status")).to_contain_text("200 in")
        assert len(json.loads(card.locator("pre").inner_text())["ads"]) == 10
        card.locator("textarea").fill('{"k": 3,}')
        page.get_by_label("Send POST /v1/recommend", exact=True).click()
        playwright.expect(card.locator("pre")).to_contain_text("malformed_json")
        page.get_by_label("Send GET /metrics").click()
        last = page.locator(".route", has_text="/metrics").locator("pre")
        playwright.expect(last).to_contain_text("tfrec_")
        assert all(one.startswith(url) for one in asked_for)
        for summary in page.locator(".route summary").all():
            summary.evaluate("node => { node.parentElement.open = true; }")
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
