"""The console in a real browser: Debian's chromium, driven by Playwright."""

import contextlib
import dataclasses
import functools
import json
import re
import shlex
import shutil

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
    return page.locator("#ads > li").evaluate_all("items => items.map((item) => item.dataset.ad)")


def candidates(page):
    return page.locator("#funnel strong").nth(1)


def asked(url, **request):
    answer = httpx.post(f"{url}/v1/recommend", json=request, timeout=30).json()
    return [ad["ad_id"] for ad in answer["ads"]]


def sample(place=0):
    return {k: v for k, v in serving_fixtures.PROBE_REQUESTS[place].items() if v is not None}


def type_in(page, selector, text):
    page.fill(selector, text)
    page.press(selector, "Tab")


def open_json(page):
    page.get_by_label("JSON", exact=True).check()


def open_form(page):
    page.get_by_label("Form", exact=True).click()


def filters_sent(page):
    """Returns the filters of the page's request."""
    open_json(page)
    request = json.loads(page.input_value("#json"))
    open_form(page)
    return request.get("filters")


def test_the_console_shows_the_answer_to_a_sample_request(service_url, page):
    assert shown_ads(page) == asked(service_url, context=sample())
    assert page.locator("#release").inner_text() == "Release 1 · 300 ads"
    expect(page.locator("#health")).to_have_text("ready")
    assert page.locator("#funnel strong").all_inner_texts() == ["300", "300", "10"]
    assert page.locator("#scatter circle").count() == 300
    assert page.locator("#scatter circle.shown").count() == 10
    stages = page.locator("#stages td:first-child").all_inner_texts()
    assert stages[:4] == ["query tower", "index", "features", "ranker"]
    labels = page.locator("#ads > li").first.locator(".score .quiet").all_inner_texts()
    assert labels == ["click", "engagement", "revenue", "utility"]
    assert "highest score among the 300 candidates: click " in page.inner_text("#scales")


def test_the_candidates_can_be_read_in_a_table_with_the_keyboard(page):
    page.locator("#candidate-list summary").press("Enter")
    rows = page.locator("#candidate-table tbody tr")
    expect(rows).to_have_count(300)
    cells = [row.split("\t") for row in rows.all_inner_texts()]
    ranks = {ad_id: rank for _, ad_id, _, rank in cells if rank}
    assert ranks == {ad_id: str(place) for place, ad_id in enumerate(shown_ads(page), 1)}
    # The ads of the answer are drawn last.
    (title,) = page.locator("#scatter title").all_text_contents()[-1:]
    rank, ad_id, utility, _ = next(row for row in cells if row[1] == title.split(":")[0].strip())
    assert title.strip() == f"{ad_id}: retrieval rank {rank}, utility {utility}"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "scroll"
    # It follows the answer.
    page.get_by_label(f"Exclude {ad_id}").click()
    expect(rows).to_have_count(299)


def test_an_answer_with_its_candidates_is_one_request(service_url, open_console):
    posted = []

    def note(route):
        if route.request.method == "POST":
            posted.append(json.loads(route.request.post_data))
        route.continue_()

    page = open_console(service_url, routes={"**": note})
    answered(page)
    with page.expect_response("**/v1/recommend"):
        page.select_option("#sample", "2")
    first = page.locator("#ads > li").first
    expect(first).to_have_attribute("data-ad", asked(service_url, context=sample(2))[0])
    assert page.input_value("[data-place='context.age']") == "-3.5"
    assert [request.get("k") for request in posted[-1:]] == [None]
    assert len(posted) <= 2


def test_a_slider_previews_the_order_and_the_service_confirms_it(service_url, page):
    before = shown_ads(page)
    # Read in the same turn of the page's event loop, before any request can be sent.
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
    answered(page, "The service confirms this order.")
    assert shown_ads(page) == expected
    moves = page.locator("#ads .rank small").all_inner_texts()
    assert len(moves) == 10
    assert any(text.startswith("▲") for text in moves)
    page.click("#default-weights")
    expect(page.locator("#ads > li").first).to_have_attribute("data-ad", before[0])


def test_the_console_works_with_the_keyboard_alone(service_url, page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the ads"
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.id")
        if focused == "weight-click":
            break
    assert focused == "weight-click"
    page.keyboard.press("Home")
    answered(page, "The service confirms this order.")
    assert page.evaluate("document.activeElement.id") == "weight-click"
    assert shown_ads(page) == asked(service_url, context=sample(), weights={"click": 0})
    first, second = shown_ads(page)[:2]
    page.get_by_label(f"Details of {first}").focus()
    page.keyboard.press("Enter")
    details = page.locator("#ads > li").first.locator(".tables")
    assert details.is_visible()
    assert "utility" in details.inner_text()
    page.get_by_label(f"Exclude {first}").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#excluded")).to_contain_text(first)
    expect(page.locator(f"#ads > li[data-ad='{first}']")).to_have_count(0)
    # The next ad took the place of the excluded one, and the focus.
    label = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(label) == f"Exclude {second}"


def test_filters_and_rules_are_applied(service_url, page):
    page.click("#add-filter")
    page.get_by_label("Ad field").select_option("price")
    type_in(page, "input[aria-label='Value of price']", "20")
    conditions = [{"field": "price", "at_most": 20}]
    expected = asked(service_url, context=sample(), filters={"conditions": conditions})
    expect(page.locator("#ads > li").first).to_have_attribute("data-ad", expected[0])
    # Prices are row / 2, but for each seventh, which has none: of the rows 0 to 40, 35.
    expect(candidates(page)).to_have_text("35")
    page.click("summary:has-text('Rules')")
    page.select_option("#caps-field", "=advertiser")
    type_in(page, "#caps-max", "1")
    expect(page.locator("#ads > li")).to_have_count(9)
    expect(page.locator("#shortage")).to_contain_text("advertiser")
    page.get_by_label("Remove this condition").click()
    expect(candidates(page)).to_have_text("300")


def test_every_error_is_shown_next_to_its_control(page):
    age = "[data-place='context.age']"
    type_in(page, age, "forty")
    message = page.locator("#fields .problem")
    expect(message).to_contain_text("expected a finite number or null, got 'forty'")
    assert page.get_attribute(age, "aria-invalid") == "true"
    assert page.get_attribute(age, "aria-describedby") == message.get_attribute("id")
    assert "context.age" in page.locator("[role=alert]#failure").inner_text()
    assert len(shown_ads(page)) == 10
    type_in(page, age, "40")
    expect(page.locator("#failure")).to_be_hidden()
    expect(page.locator(".problem")).to_have_count(0)
    faults = {
        "#k": ("many", "k: expected an integer, got 'many'"),
        "#exact-click": ("much", "expected a number, got 'much'"),
        "#deadline_ms": ("-3", "deadline_ms: expected more than 0"),
    }
    for selector, (text, _) in faults.items():
        type_in(page, selector, text)
    expect(page.locator("#failure li")).to_have_count(3)
    for selector, (_, text) in faults.items():
        described = page.get_attribute(selector, "aria-describedby")
        expect(page.locator(f"#{described}")).to_contain_text(text)


def test_the_list_of_errors_links_to_a_field_out_of_sight(service_url, open_console):
    def wide(route):
        bundle = route.fetch().json()
        extra = [{"name": f"extra_{place}", "kind": "numeric"} for place in range(101)]
        route.fulfill(json={**bundle, "query_fields": [*extra, *bundle["query_fields"]]})

    page = open_console(service_url, routes={"**/v1/bundle*": wide})
    answered(page)
    age = page.locator("[data-place='context.age']")
    type_in(page, "[data-place='context.age']", "forty")
    expect(page.locator("#fields .problem")).to_have_count(1)
    page.locator("#fields").evaluate("box => { box.scrollTop = 0; }")
    page.locator("#failure a").focus()
    page.keyboard.press("Enter")
    expect(age).to_be_focused()
    box, message = (page.locator(part).bounding_box() for part in ("#fields", "#fields .problem"))
    assert box["y"] <= message["y"]
    assert message["y"] + message["height"] <= box["y"] + box["height"]
    # The message does not move the control next to it.
    tops = [
        page.locator(f"[data-place='context.{name}']").bounding_box()["y"]
        for name in ("device", "age")
    ]
    assert abs(tops[0] - tops[1]) <= 1
    # The form is hidden.
    open_json(page)
    page.click("#recommend")
    expect(page.locator("#failure a")).to_have_count(0)
    expect(page.locator("#failure")).to_contain_text("context.age")


def test_a_request_can_be_written_as_json_and_its_errors_are_shown(service_url, page):
    open_json(page)
    assert page.evaluate("JSON.parse(document.getElementById('json').value).context") == sample()
    page.fill("#json", '{"k": 3,}')
    page.click("#recommend")
    expect(page.locator("#json-view .problem")).to_contain_text("This is not valid JSON")
    # Text that is not a request yet is not lost.
    open_form(page)
    assert page.is_visible("#json")
    assert page.input_value("#json") == '{"k": 3,}'
    page.fill("#json", '{"context": {"contry": "CH", "age": "old"}, "weights": {"clik": 1}}')
    page.click("#recommend")
    expect(page.locator("#failure li")).to_have_text(
        [
            re.compile("context: unknown field 'contry' .* Did you mean 'country'\\?"),
            re.compile("context.age: expected a finite number"),
            re.compile("weights: unknown head 'clik' .* Did you mean 'click'\\?"),
        ]
    )
    page.fill("#json", '{"user": {"country": "CH"}, "k": 3}')
    page.click("#recommend")
    expect(page.locator("#ads > li")).to_have_count(3)
    assert shown_ads(page) == asked(service_url, user={"country": "CH"}, k=3)
    page.fill("#json", '{"user": {"country": "CH"}, "k": 3, "filters": {"allowed_ads": []}}')
    page.click("#recommend")
    expect(page.locator("#ads > li")).to_have_count(0)
    expect(page.locator("#shortage")).to_contain_text("3")
    open_form(page)
    assert page.input_value("#k") == "3"
    assert page.input_value("[data-place='user.country']") == "CH"


STRANGE = [None, -0.5, "text", [], [None, [7]], {"": None}, {"a": {"b": []}}]


def test_no_json_breaks_the_controls(service_url, page):
    open_json(page)
    # Two candidates are drawn sooner than 300.
    page.fill("#json", '{"filters": {"allowed_ads": ["ad-1", "ad-2"]}}')
    page.click("#recommend")
    expect(page.locator("#ads > li")).to_have_count(2)
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
                    "rules": {"caps": value, "diversity": value, "exploration": value},
                }
            ),
        ]
    page.evaluate(
        """async (texts) => {
            const json = document.getElementById("json");
            for (const text of texts) {
                json.value = text;
                json.dispatchEvent(new Event("change"));
                // Controls are drawn after the event.
                await new Promise((resume) => setTimeout(resume, 1));
                document.getElementById("weight-click").dispatchEvent(new Event("input"));
                document.querySelector("#ads > li > button").click();
                document.getElementById("share").dispatchEvent(new Event("change"));
            }
        }""",
        texts,
    )
    page.fill("#json", "{}")
    page.click("#recommend")
    expected = asked(service_url)
    expect(page.locator("#ads > li").first).to_have_attribute("data-ad", expected[0])
    expect(page.locator("#failure")).to_be_hidden()
    assert shown_ads(page) == expected


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
    expect(notice).to_contain_text("retrieval order, without scores")
    expect(notice).to_contain_text(f"127.0.0.1:{port}")
    expect(page.locator("#weight-click")).to_be_disabled()
    expect(page.locator("#health")).not_to_have_text("ready")
    assert len(shown_ads(page)) == 10
    assert set(page.locator("#ads .score .quiet").all_inner_texts()) == {"retrieval score"}
    with serving_fixtures.serve_ranker(tiny_base, port):
        serving_fixtures.wait_until_ready(url)
        page.click("#degraded button")
        expect(notice).to_be_hidden()
        assert page.locator("#ads .score:has-text('utility')").count() == 10
        expect(page.locator("#weight-click")).to_be_enabled()
        assert "utility (vertical)" in page.inner_text("#legend")
        # Compared with the ranked answer to the same request, not with the degraded one.
        type_in(page, "#exact-revenue", "1.000001")
        answered(page, "The service confirms this order.")
        assert page.locator("#ads .rank small").all_inner_texts() == ["="] * 10
    page.click("#recommend")
    expect(notice).to_be_visible()
    expect(page.locator("#ads .rank small")).to_have_count(0)


def test_candidates_that_were_not_ranked_are_not_counted_as_retrieved(
    tiny_bundle, ranker_address, open_console
):
    failed = []

    def fail_once(reply):
        # The scores of all candidates, not only of the probes.
        if reply.outputs["click_probability"].tensor_shape.dim[1].size == 300 and not failed:
            failed.append(True)
            raise RuntimeError("failed by the test")

    with serving_fixtures.altering_server(ranker_address, fail_once) as address:
        service = serving_fixtures.make_orchestrator(tiny_bundle, address)
        with serving_fixtures.serve_app(service) as url:
            serving_fixtures.wait_until_ready(url)
            page = open_console(url)
            # The second call has half of the candidates.
            expect(page.locator("#degraded")).to_contain_text(
                "Ranked the best 150 of 300 retrieved"
            )
            funnel = page.locator("#funnel li")
            assert funnel.nth(1).inner_text().split() == ["150", "ranked", "candidates"]
            page.click("#recommend")
            expect(funnel.nth(1)).to_contain_text("retrieved candidates")


@contextlib.contextmanager
def serving_with_token(tiny_bundle, ranker_address):
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with serving_fixtures.serve_app(service, token=TOKEN) as url:
        yield url


def test_the_page_asks_for_the_token_and_reports_a_wrong_one_and_a_service_that_is_gone(
    tiny_bundle, ranker_address, open_console
):
    with serving_with_token(tiny_bundle, ranker_address) as url:
        page = open_console(url)
        problem = page.locator("#token-dialog .problem")
        expect(problem).to_have_text("This service requires a token.")
        assert page.evaluate("document.activeElement.id") == "token"
        page.fill("#token", "schlüssel☃")
        page.keyboard.press("Enter")
        expect(page.locator("dialog #token:invalid")).to_be_visible()
        page.fill("#token", "a-secre")
        page.keyboard.press("Enter")
        expect(problem).to_have_text("The service refused this token.")
        expect(page.locator("#app")).to_be_hidden()
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        answered(page)
        assert len(shown_ads(page)) == 10
        assert '"authorization: Bearer $TFREC_TOKEN"' in page.locator("#curl").text_content()
        assert TOKEN not in page.locator("#snippets").text_content()
        page.reload()
        answered(page)
    page.click("#recommend")
    expect(page.locator("#failure")).to_contain_text("does not answer")
    assert len(shown_ads(page)) == 10


def test_a_refusal_says_when_to_try_again_if_it_is_known(page):
    body = {"error": {"code": "overloaded", "message": "Too many requests."}}
    headers = {"retry-after": "1"}

    def refuse(route):
        route.fulfill(status=429, json=body, headers=headers)

    page.route("**/v1/recommend", refuse)
    for text in ("Too many requests. Try again in 1 s.", "Too many requests."):
        page.click("#recommend")
        expect(page.locator("#failure")).to_have_text(text)
        headers.clear()


def test_the_snippets_send_the_request_of_the_page(service_url, page):
    open_json(page)
    page.fill("#json", '{"user": {"country": "O\'Neill \\"é\\"\\n"}, "k": 3}')
    open_form(page)
    expect(page.locator("#python")).to_contain_text("O'Neill")
    expected = asked(service_url, user={"country": 'O\'Neill "é"\n'}, k=3)
    # curl may be missing, so its command is parsed like in a shell, and sent by httpx.
    command = shlex.split(page.locator("#curl").text_content().replace("\\\n", ""))
    assert command[:3] == ["curl", "-s", f"{service_url}/v1/recommend"]
    assert asked(service_url, **json.loads(command[-1])) == expected
    names = {}
    exec(page.locator("#python").text_content(), names)
    assert [ad.ad_id for ad in names["answer"].ads] == expected


HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


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


def test_the_canary_is_compared_with_the_stable_release(canary_url, open_console):
    page = open_console(canary_url)
    answered(page, "ads from release 1")
    stable = asked(canary_url, context=sample(), release="stable")
    canary = asked(canary_url, context=sample(), release="canary")
    assert shown_ads(page) == stable != canary
    expect(page.locator("#compared")).to_have_text(
        f"canary 2 also returns {len({*stable} & {*canary})} of these 10 ads."
    )
    first = page.locator("#ads > li").first.locator(".name p").nth(1)
    assert first.inner_text() == (
        f"rank {canary.index(stable[0]) + 1} in canary 2"
        if stable[0] in canary
        else "not returned by canary 2"
    )
    heads = page.locator("#quality th").all_inner_texts()
    assert heads == ["", "stable 1", "canary 2"]
    roles = page.locator("#releases td:nth-child(2)").all_inner_texts()
    assert roles == ["stable", "canary"]
    # Both columns are visible.
    quality = page.locator("section", has=page.locator("#quality"))
    assert quality.evaluate("card => card.scrollWidth <= card.clientWidth")
    page.select_option("#which", "canary")
    answered(page, "ads from release 2")
    assert shown_ads(page) == canary
    expect(page.locator("#compared")).to_contain_text("stable 1 also returns ")
    open_json(page)
    assert page.evaluate("JSON.parse(document.getElementById('json').value).release") == "canary"


def test_switching_releases_keeps_the_request(canary_url, open_console):
    page = open_console(canary_url)
    answered(page)
    page.select_option("#sample", "2")
    expect(page.locator("[data-place='context.age']")).to_have_value("-3.5")
    page.select_option("#which", "canary")
    answered(page, "ads from release 2")
    assert page.input_value("#sample") == "2"
    open_json(page)
    page.fill("#json", '{"user_id": "u1"}')
    open_form(page)
    answered(page, "ads from release 1")
    page.select_option("#which", "canary")
    answered(page, "ads from release 2")
    open_json(page)
    assert json.loads(page.input_value("#json")) == {"user_id": "u1", "release": "canary"}


@pytest.fixture
def changed_url(tiny_base, tmp_path):
    """A service whose canary has other fields and heads than its stable release."""
    base = shutil.copytree(tiny_base, tmp_path / "bundles")
    serving_fixtures.publish(base, serving_fixtures.Recipe(heads=("click", "revenue")))
    stable, canary = (releases.load(base, version) for version in (1, 2))
    answering = orchestrator.Orchestrator(stable, ranker.LocalRanker(stable))
    # Its validator has other fields than its models, so it refuses every request.
    scorer = ranker.LocalRanker(canary)
    fields, probes = (
        json.loads(json.dumps(part).replace('"device"', '"platform"'))
        for part in (canary.manifest.query_fields, canary.manifest.probes)
    )
    manifest = dataclasses.replace(canary.manifest, query_fields=fields, probes=probes)
    changed = dataclasses.replace(canary, manifest=manifest)
    router = release_router.ReleaseRouter(answering)
    router.route(answering, orchestrator.Orchestrator(changed, scorer))
    with serving_fixtures.serve_app(router) as url:
        serving_fixtures.wait_until_ready(url)
        yield url


def test_a_release_that_refuses_the_request_shows_its_own_fields(changed_url, open_console):
    page = open_console(changed_url)
    answered(page, "ads from release 1")
    refusal = "context: unknown field 'device' (str). "
    assert f"canary 2 has no answer to this request: {refusal}" in page.inner_text("#compared")
    assert "canary 2" not in page.inner_text("#ads")
    page.get_by_role("button", name="Add a condition").click()
    page.select_option("#which", "canary")
    expect(page.locator("#failure")).to_contain_text(refusal)
    expect(page.locator("#status")).to_have_text(
        "The answer below is the last one received, from release 1."
    )
    assert page.inner_text("#release") == "Release 2 · 300 ads"
    names = ["country", "platform", "age", "history one value per line"]
    labels = page.locator("#fields label")
    assert labels.all_inner_texts() == [*names, "device not a field of release 2"]
    assert page.locator("#weights label").all_inner_texts() == ["click", "revenue"]
    # The answer is drawn again, with the heads that both releases have.
    page.set_viewport_size({"width": 1200, "height": 900})
    scores = page.locator("#ads > li").first.locator(".score .quiet")
    expect(scores).to_have_text(["click", "revenue", "utility"])
    # Without its value, the field is no longer part of the request.
    type_in(page, "[data-place='context.device']", "")
    expect(labels).to_have_text(names)
    page.select_option("#which", "stable")
    answered(page, "ads from release 1 in")
    expect(page.locator("#failure")).to_be_empty()
    assert labels.all_inner_texts() == [name.replace("platform", "device") for name in names]


def test_a_rule_on_a_field_that_the_release_lacks_is_shown_and_can_be_removed(page):
    open_json(page)
    page.fill("#json", '{"rules": {"caps": [{"field": "genre", "max": 2}]}}')
    open_form(page)
    expect(page.locator("#failure")).to_contain_text("rules.caps[0].field: expected the name")
    assert page.locator("#caps-field option:checked").inner_text() == "genre"
    page.locator("#caps-field").select_option("default")
    expect(page.locator("#failure")).to_be_empty()
    assert "genre" not in page.inner_text("#rules")


def test_a_changed_sample_can_be_chosen_again(page):
    age = page.locator("[data-place='context.age']")
    page.select_option("#sample", "2")
    expect(age).to_have_value("-3.5")
    type_in(page, "[data-place='context.age']", "7")
    expect(page.locator("#sample")).to_have_js_property("selectedIndex", -1)
    page.select_option("#sample", "2")
    expect(age).to_have_value("-3.5")


def test_the_quality_in_the_manifest_is_shown_and_samples_are_named(page):
    rows = page.locator("#quality tbody tr").all_inner_texts()
    assert [re.split(r"\s+", row.strip()) for row in rows] == [
        ["click:", "AUC", "0.7500", "0.7000", "to", "0.8000"],
        ["click:", "predicted", "/", "observed", "1.050", "0.9000", "to", "1.200"],
        ["index", "recall@500", "against", "exact", "search", "1.000"],
    ]
    note = page.inner_text("#quality-note")
    assert "600 impressions in the test split" in note
    assert "95 % intervals" in note
    assert page.is_hidden("#which")
    # In the order of the release's fields.
    names = page.locator("#sample option").all_inner_texts()
    country = sample()["country"]
    assert names[0].startswith(f"1. country {country} · ")


def test_intervals_are_explained_only_if_there_are_any(service_url, open_console):
    def without_metrics(route):
        route.fulfill(json={**route.fetch().json(), "metrics": {}})

    page = open_console(service_url, routes={"**/v1/bundle*": without_metrics})
    answered(page)
    assert "index recall@500" in page.inner_text("#quality")
    assert page.inner_text("#quality-note") == ""


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
    expect(page.locator("#ads > li")).to_have_count(10)
    for item in page.locator("#ads > li").all():
        ad_id = item.get_attribute("data-ad")
        row = int(ad_id.removeprefix("ad-"))
        title = f"{HOSTILE}{row}" if row % 5 else f"Shoe {row}"
        assert item.locator("h3 > *").all_inner_texts() == [title, ad_id]
        # A long title does not hide the id.
        heading, shown_id = (item.locator(part).bounding_box() for part in ("h3", "h3 small"))
        assert shown_id["y"] + shown_id["height"] <= heading["y"] + heading["height"] + 1
        # The markup is a relative address that does not exist.
        if row % 5 in (1, 2, 3):
            assert item.locator("img").count() == 0
        elif row % 5 == 0:
            source = item.locator("img").get_attribute("src")
            assert source == f"{pictured_url}/console/icon.svg"
        else:
            # A picture that cannot be loaded is removed together with its column.
            item.scroll_into_view_if_needed()
            expect(item.locator(".name")).to_have_css("display", "block")
        shown = item.locator(".name p").first
        assert f"price {row / 2:g}" in shown.inner_text()
    assert page.locator("main script").count() == 0
    assert page.title() == "tfrec console · release 1"


def test_markup_is_shown_as_text_and_absent_heads_are_named(hostile_url, open_console):
    page = open_console(hostile_url)
    answered(page)
    assert shown_ads(page) == asked(hostile_url, context=sample())
    assert HOSTILE in page.locator("#ads h3").first.inner_text()
    for summary in page.locator("#ads summary").all():
        summary.click()
    page.get_by_label("Without category", exact=False).first.click()
    expect(page.locator("#conditions li")).to_have_count(1)
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "tfrec console · release 1"
    assert "no engagement or revenue head" in page.locator("#absent").inner_text()
    assert page.locator("#weights .row").count() == 1
    labels = page.locator("#ads > li").first.locator(".score .quiet").all_inner_texts()
    assert labels == ["click", "utility"]


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
        for summary in page.locator("#absent summary").all():
            assert summary.inner_text() == "revenue is weak"
            summary.click()
        expect(page.locator("#absent").get_by_text(words)).to_be_visible()
        expect(page.locator("#degraded")).to_have_text("")
        assert shown_ads(page) == asked(url, context=sample())
        expect(page.locator("#health")).to_have_text("ready")
        assert page.is_visible("#weights-box") is release.manifest.has_ranker


def test_a_filter_keeps_the_line_break_of_a_value(hostile_url, open_console):
    page = open_console(hostile_url)
    answered(page)
    condition = {"field": "category", "any_of": ["two\nlines"]}
    expected = asked(hostile_url, context=sample(), filters={"conditions": [condition]})
    for summary in page.locator("#ads summary").all():
        summary.click()
    page.get_by_label("Only category two lines").first.click()
    # The 13 of the rows 0 to 39 that leave a remainder of 2 when divided by 3.
    expect(candidates(page)).to_have_text("13")
    assert shown_ads(page) == expected
    assert filters_sent(page) == {"conditions": [condition]}
    page.get_by_label("Remove this condition").click()
    expect(candidates(page)).to_have_text("40")


@pytest.mark.parametrize("which", ["service_url", "hostile_url"])
def test_the_page_fits_a_phone(which, request, open_console):
    page = open_console(
        request.getfixturevalue(which), width=360, height=740, has_touch=True, is_mobile=True
    )
    answered(page)
    page.locator("#ads summary").first.tap()
    page.locator("#add-filter").tap()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    small = page.locator("button:visible, select:visible, summary:visible").evaluate_all(
        "nodes => nodes.filter((node) => node.getBoundingClientRect().height < 24)"
        ".map((node) => node.outerHTML.slice(0, 80))"
    )
    assert not small
    # The id of an ad is readable in full next to its open details.
    sizes = page.locator("#ads h3 span").first.evaluate(
        "({scrollHeight: a, clientHeight: b, scrollWidth: c, clientWidth: d}) => [a, b, c, d]"
    )
    assert sizes[0] <= sizes[1] + 1
    assert sizes[2] <= sizes[3]


@pytest.mark.parametrize("width", [400, 1400])
def test_long_field_names_are_readable_and_leave_room_for_values(service_url, open_console, width):
    long = "a_field_whose_name_is_longer_than_the_column_that_it_has_in_the_page_of"

    def renamed(route):
        body = (route.request.post_data or "").replace(f"{long}_", "")
        text = route.fetch(post_data=body or None).text()
        for name in ("advertiser", "device"):
            text = text.replace(f'"{name}"', f'"{long}_{name}"')
        route.fulfill(body=text, content_type="application/json")

    page = open_console(service_url, width=width, routes={"**/v1/*": renamed})
    answered(page)
    page.locator("#ads summary").first.click()
    row = page.locator("#ads > li").first.locator("tr", has_text=f"{long}_advertiser")
    buttons = row.locator("button").last.bounding_box()
    assert buttons["x"] + buttons["width"] <= width
    assert row.locator("td").nth(1).bounding_box()["width"] >= 60
    if page.locator("#query-fields").get_attribute("open") is None:
        page.locator("#query-fields summary").click()
    label = page.get_by_text(f"{long}_device", exact=True)
    sizes = label.evaluate("({scrollWidth, clientWidth}) => [scrollWidth, clientWidth]")
    assert sizes[0] <= sizes[1]


def test_every_control_has_a_name_and_every_id_is_unique(page):
    page.click("#add-filter")
    nameless = page.locator("input, select, textarea, button").evaluate_all(
        """nodes => nodes.filter((node) => !node.labels?.length
            && !node.getAttribute("aria-label") && !node.textContent.trim())
            .map((node) => node.outerHTML)"""
    )
    assert not nameless
    ids = page.locator("[id]").evaluate_all("nodes => nodes.map((node) => node.id)")
    assert len(ids) == len(set(ids))


def test_the_page_follows_the_color_scheme_and_uses_a_wide_window(page):
    colors = {}
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        colors[scheme] = sum(int(part) for part in re.findall(r"\d+", color)[:3])
    assert colors["dark"] < 384 < colors["light"]
    # Placeholders are as readable as other quiet text.
    assert page.locator("#k").evaluate(
        """node => {
            const style = getComputedStyle(node, "::placeholder");
            const quiet = getComputedStyle(document.querySelector(".quiet")).color;
            return style.color === quiet && style.opacity === "1";
        }"""
    )
    page.set_viewport_size({"width": 1920, "height": 1000})
    right = page.locator("aside").bounding_box()
    answer = page.locator("#answer").bounding_box()
    assert right["x"] >= answer["x"] + answer["width"]
    assert right["x"] + right["width"] > 1880


def test_adding_a_condition_keeps_those_that_the_form_cannot_show(page):
    kept = [
        {"field": "category", "any_of": []},
        {"field": "category", "none_of": ["", " ", "c1\nc2"]},
        {"field": "price", "at_most": 20, "at_least": None, "none_of": [1]},
    ]
    open_json(page)
    page.fill("#json", json.dumps({"filters": {"conditions": kept}}))
    open_form(page)
    page.click("#add-filter")
    page.get_by_label("Ad field").last.select_option("price")
    type_in(page, "#condition-3-0", "30")
    assert filters_sent(page) == {"conditions": [*kept, {"field": "price", "at_most": 30}]}


def test_values_of_candidates_are_suggested_and_the_focus_stays(page):
    page.click("#add-filter")
    field = page.get_by_label("Ad field")
    field.focus()
    field.select_option("category")
    value = page.locator("#condition-0-0")
    expect(value).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "condition-0-field"
    options = page.locator(f"#{value.get_attribute('list')} option")
    assert {option.get_attribute("value") for option in options.all()} == {"c0", "c1", "c2", "c3"}
    type_in(page, "#condition-0-0", "c1")
    type_in(page, "#condition-0-1", "c3")
    # Rows with a remainder of 1 or 3 by 4 that are not multiples of 5: 2 x 75 - 2 x 15.
    expect(candidates(page)).to_have_text("120")
    condition = {"field": "category", "any_of": ["c1", "c3"]}
    assert filters_sent(page) == {"conditions": [condition]}


def test_a_service_that_hangs_is_not_shown_as_ready(service_url, open_console):
    page = open_console(service_url, has_clock=True)
    answered(page)
    expect(page.locator("#health")).to_have_text("ready")
    page.route("**/readyz", lambda _: None)
    page.route("**/v1/recommend", lambda _: None)
    page.click("#recommend")
    # A second until the notice, five until the next poll, and 4.5 until its timeout.
    page.clock.run_for(1_000)
    expect(page.locator("#status")).to_have_text("Waiting for the service…")
    page.clock.run_for(10_000)
    expect(page.locator("#health")).to_have_text("no answer")


def test_the_notice_disappears_when_the_service_is_back(service_url, open_console):
    page = open_console(service_url, has_clock=True)
    answered(page)
    page.route("**/readyz", lambda route: route.abort())
    page.route("**/v1/recommend", lambda route: route.abort())
    page.click("#recommend")
    expect(page.locator("#failure")).to_contain_text("does not answer")
    page.clock.run_for(5_000)
    expect(page.locator("#health")).to_have_text("no answer")
    page.unroute_all()
    page.clock.run_for(5_000)
    expect(page.locator("#health")).to_have_text("ready")
    expect(page.locator("#failure")).to_be_hidden()
    answered(page)


def test_a_page_loaded_before_its_service_starts_once_the_service_answers(
    service_url, open_console
):
    routes = {"**/v1/bundle*": lambda route: route.abort()}
    page = open_console(service_url, routes=routes, has_clock=True)
    expect(page.locator("#failure")).to_contain_text("does not answer")
    page.unroute_all()
    page.clock.run_for(3_500)
    answered(page)
    expect(page.locator("#failure")).to_be_hidden()


def test_the_live_updates_are_described_with_their_rates(service_url, open_console):
    rates = {}

    def with_rates(route):
        bundle = route.fetch().json()
        route.fulfill(json={**bundle, "live": {**bundle["live"], "rates": rates}})

    page = open_console(service_url, routes={"**/v1/bundle*": with_rates})
    row = page.locator("#about tr").filter(has_text="live updates")
    expect(row).to_contain_text("removed or changed 0, num updates 0,")
    rates["hot"] = 3
    page.click("#recommend")
    expect(row).to_contain_text('removed or changed 0, rates {"hot":3}, num updates 0,')


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
    open_json(page)
    cap = {"max": 1, "event": "click"}
    request = {"user_id": "u", "rules": {"frequency_caps": [cap, {**cap, "field": "category"}]}}
    page.fill("#json", json.dumps(request))
    page.click("#recommend")
    answered(page, "User data: unknown.")
    events = [
        {"event_id": ad_id, "user_id": "u", "ad_id": ad_id, "event": "click"}
        for ad_id in ("ad-2", "ad-6")
    ]
    httpx.post(f"{stored_url}/v1/events", json={"events": events}, timeout=30)
    page.click("#recommend")
    answered(page, "User data: found.")
    # The category is row % 4.
    text = "Rules: ads at a frequency cap: 2; values of category at a frequency cap: 1."
    assert page.inner_text("#shortage") == text
    # On one time line, the store comes first.
    assert page.locator("#stages td").first.inner_text() == "users"
