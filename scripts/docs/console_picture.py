"""Takes the picture of the console that the README shows.

    python scripts/docs/console_picture.py --url=http://127.0.0.1:8080 --chromium=/usr/bin/chromium

Needs a running service (scripts/serve.py), Chromium and the extra `test` (Playwright).
"""

from absl import app, flags
from playwright import sync_api as playwright

flags.DEFINE_string("url", "http://127.0.0.1:8080", "URL of the service.")
flags.DEFINE_string("chromium", "/usr/bin/chromium", "Path of Chromium.")
flags.DEFINE_string("output", "docs/images/console.png", "File for the picture.")
FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    del argv
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=FLAGS.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{FLAGS.url}/console")
        page.wait_for_load_state("networkidle")
        page.click("#recommend")
        page.wait_for_load_state("networkidle")
        page.locator("#recommend:enabled").wait_for()
        page.screenshot(path=FLAGS.output)
        browser.close()


if __name__ == "__main__":
    app.run(main)
