"""Tests of the web page in a browser against the mock server. For check_page.py."""

import json
import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import mock_server
from playwright.sync_api import expect

PAGE = Path(__file__).parent.parent / "harness/src/serve/page"
PROMPT = "#prompt"
COMPARE = ".compare .composer textarea"
EXPECTED = "Failed to load resource"  # Chromium's message for each 4xx response, which the checks verify themselves


class Checks:
    """A browser and a server; `page()` opens a page and fails on console errors and on requests to other hosts."""

    def __init__(self, browser, base, server, key=None):
        self.browser, self.base, self.server, self.key = browser, base, server, key

    @contextmanager
    def page(self, path="", base=None, **options):
        base = base or self.base
        context = self.browser.new_context(**{"viewport": {"width": 1400, "height": 900}, "locale": "en-GB", **options})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        if self.key:
            context.add_init_script(f"sessionStorage.setItem('mindscale.key', {json.dumps(self.key)})")
        page, wrong = context.new_page(), []
        page.on("console", lambda m: m.type in ("error", "warning") and EXPECTED not in m.text and wrong.append(m.text))
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("request", lambda r: r.url.startswith((base, "data:", "blob:")) or wrong.append(f"request to {r.url}"))
        page.set_default_timeout(15_000)
        page.goto(f"{base}/{path}")
        yield page
        context.close()
        assert not wrong, wrong


def until(page, words, arg=None, timeout=20):
    """Waits until a JavaScript expression is true (a function if `arg` is given); the page's policy forbids Playwright's own method."""
    end = time.monotonic() + timeout
    while not page.evaluate(words, arg):
        assert time.monotonic() < end, f"still not: {words}"
        page.wait_for_timeout(50)


STILL = "!document.querySelector('.streaming')"


def ask(page, words, wait=True):
    page.fill(PROMPT, words)
    page.press(PROMPT, "Enter")
    if wait:
        until(page, "document.querySelector('.message.assistant') && " + STILL, timeout=60)


def answer(page):
    return page.locator(".message.assistant").last


def words_are_whole(checks):
    words = dict(re.findall(r'^  "([\w.-]+)": (\[.*\]),$', (PAGE / "words.js").read_text(), re.MULTILINE))
    assert len(words) > 100
    for key, pair in words.items():
        english, chinese = json.loads(pair)
        assert english and chinese, key
        assert set(re.findall(r"\{\w+\}", english)) == set(re.findall(r"\{\w+\}", chinese)), key
    for file in PAGE.glob("*.js"):
        if file.name in ("marked.js", "words.js"):
            continue
        assert len(file.read_text().splitlines()) <= 400, file
        for key in re.findall(r'\b(?:t|label|title|hint): "([\w.-]+)"|\btext\("([\w.-]+)"|\bbutton\("([\w.-]+)"', file.read_text()):
            assert "".join(key) in words, f"{file.name}: {key}"


def an_answer_streams_and_stops(checks):
    with checks.page(viewport={"width": 1000, "height": 450}) as page:
        ask(page, "markdown")
        ask(page, "long please", wait=False)
        until(page, "document.querySelectorAll('.message.assistant .body')[1]?.textContent.length > 20")
        first = answer(page).locator(".body").inner_text()
        page.wait_for_timeout(300)
        second = answer(page).locator(".body").inner_text()
        assert len(second) > len(first) and second.startswith(first[:20])
        assert page.locator("#announcer").inner_text() == "" or "." in page.locator("#announcer").inner_text() or "。" in page.locator("#announcer").inner_text()
        # The newest text and the input field are visible.
        assert page.evaluate("(log => log.scrollHeight > log.clientHeight && log.scrollHeight - log.scrollTop - log.clientHeight < 100)(document.querySelector('.log'))")
        assert page.locator(".composer").bounding_box()["y"] < 450
        gone = checks.server.gone
        page.get_by_role("button", name="Stop").click()
        expect(answer(page).locator(".meta")).to_contain_text("stopped")
        expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
        stopped = answer(page).locator(".body").inner_text()
        page.wait_for_timeout(400)
        assert answer(page).locator(".body").inner_text() == stopped and checks.server.gone > gone


def html_of_a_model_stays_text(checks):
    with checks.page() as page:
        ask(page, "attack")
        page.wait_for_timeout(200)
        body = answer(page).locator(".markdown")
        assert page.evaluate("window.hacked") is None
        assert body.locator("script, img, svg, iframe, [onclick], [onerror], [onload], [style]").count() == 0
        for raw in ["<script>window.hacked = 1</script>", "<img src=x onerror=", '<div onclick="window.hacked = 3">', "<b>"]:
            assert raw in body.inner_text(), raw
        assert body.locator("a").evaluate_all("links => links.map(a => a.href)") == ["https://example.com/?a=1&b=2"]
        assert "noopener" in body.locator("a").get_attribute("rel")
        page.locator(".conversations a").first.click()
        assert page.evaluate("window.hacked") is None


def markdown_is_shown(checks):
    with checks.page() as page:
        ask(page, "markdown")
        body = answer(page).locator(".markdown")
        assert body.locator("h4").inner_text() == "光速"
        assert body.locator("strong").inner_text() == "真空" and body.locator("em").inner_text() == "约"
        assert body.locator("p code").inner_text() == "299792458" and body.locator("del").inner_text() == "旧定义"
        assert "&" in body.locator("p").first.inner_text() and "&amp;" not in body.inner_text()
        assert body.locator("ol > li").count() == 2 and body.locator("ol ul li").count() == 2
        assert body.locator("td").count() == 4 and body.locator("td.align-right").count() == 2
        assert "<b>not bold</b>" in body.locator("pre").inner_text() and body.locator("blockquote").count() == 1
        body.get_by_role("button", name="Copy").click()
        assert "return 299_792_458" in page.evaluate("navigator.clipboard.readText()")


def turns_are_edited_regenerated_kept_and_exported(checks):
    with checks.page() as page:
        page.fill("#system", "Be brief")
        page.locator("#system").blur()
        ask(page, "第一个问题")
        ask(page, "second question")
        asked = checks.server.asked[-1]
        assert [m["role"] for m in asked["messages"]] == ["system", "user", "assistant", "user"]
        assert asked["temperature"] == 0.7 and asked["max_tokens"] == 256 and "seed" not in asked and asked["stream"]
        page.locator(".message.user .edit").last.click()
        page.fill(".message.user textarea", "second, better")
        page.press(".message.user textarea", "Enter")
        until(page, "!document.querySelector('.streaming') && document.querySelectorAll('.message').length == 4")
        assert checks.server.asked[-1]["messages"][-1]["content"] == "second, better"
        count = len(checks.server.asked)
        page.locator(".again").first.click()
        until(page, "!document.querySelector('.streaming') && document.querySelectorAll('.message').length == 2")
        assert len(checks.server.asked) == count + 1 and len(checks.server.asked[-1]["messages"]) == 2
        for kind in ("JSON", "Markdown"):
            with page.expect_download() as waiting:
                page.get_by_role("button", name=kind).click()
            saved = Path(waiting.value.path()).read_text()
            assert "第一个问题" in saved and "Be brief" in saved
            if kind == "JSON":
                assert [m["role"] for m in json.loads(saved)["messages"]] == ["system", "user", "assistant"]
        page.reload()
        page.locator(".conversations a").first.click()
        expect(page.locator(".message")).to_have_count(2)
        assert page.input_value("#system") == "Be brief"
        page.get_by_role("button", name="Delete").click()
        expect(page.locator(".conversations a")).to_have_count(0)
        page.get_by_role("button", name="Undo").click()
        expect(page.locator(".conversations a")).to_have_count(1)


def a_pretrained_model_continues(checks):
    with checks.page() as page:
        page.select_option("#model", "pretrain-0b1c2d3e")
        assert page.input_value("#mode") == "raw"
        page.fill("[id='mindscale.sampling.max_tokens']", "4")
        page.locator("#by-token").check()
        ask(page, "世界上最高的山")
        asked = checks.server.asked[-1]
        assert asked["prompt"] == "世界上最高的山" and "messages" not in asked and asked["logprobs"] == 5 and asked["max_tokens"] == 4
        expect(answer(page).locator(".meta")).to_contain_text("limit of tokens")
        said = answer(page).locator(".tokens").inner_text()
        page.get_by_role("button", name="Continue").click()
        until(page, "n => document.querySelector('.message.assistant .body').textContent.length > n && !document.querySelector('.streaming')", arg=len(said))
        assert checks.server.asked[-1]["prompt"] == "世界上最高的山" + said


def errors_are_shown(checks):
    with checks.page() as page:
        ask(page, "error")
        expect(answer(page).get_by_role("alert")).to_contain_text("128: shorten it")
        ask(page, "broken")
        expect(answer(page).get_by_role("alert")).to_contain_text("connection ended")
        page.fill("[id='mindscale.sampling.temperature']", "-1")
        count = len(checks.server.asked)
        page.fill(PROMPT, "hello")
        page.press(PROMPT, "Enter")
        page.wait_for_timeout(200)
        assert len(checks.server.asked) == count and page.input_value(PROMPT) == "hello"
        page.get_by_role("button", name="Reset").click()
        # Enter that ends the composition of a character does not send the message.
        page.evaluate("document.querySelector('#prompt').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true }))")
        page.wait_for_timeout(200)
        assert len(checks.server.asked) == count


def answers_stand_side_by_side(checks):
    with checks.page("#/compare") as page:
        boxes = page.locator(".compare fieldset input")
        expect(boxes).to_have_count(7)
        for box in boxes.all()[:6]:
            box.check()
        assert boxes.nth(6).is_disabled()
        for box in boxes.all()[4:6]:
            box.uncheck()
        count = len(checks.server.asked)
        page.fill(COMPARE, "你好")
        page.press(COMPARE, "Enter")
        until(page, "document.querySelectorAll('.answer').length == 4 && !document.querySelector('.streaming')")
        asked = checks.server.asked[count:]
        assert len(asked) == 4 and {one["seed"] for one in asked} == {42}
        assert sum("prompt" in one for one in asked) == 1  # the pretrained one
        assert all(one["logprobs"] is True and one["top_logprobs"] == 5 for one in asked if "messages" in one)
        for one in page.locator(".answer .tokens").all():
            assert one.inner_text() == mock_server.PLAIN  # the bytes of characters were joined
        expect(page.locator(".answer footer").first).to_contain_text("perplexity")
        token = page.locator(".answer .token").first
        token.hover()
        tip = page.locator("#tip")
        expect(tip).to_be_visible()
        assert re.search(r"\d+(\.\d)? %", tip.inner_text()) and tip.locator("tr.chosen").count() == tip.locator(".tip-token").count()
        assert tip.locator("tr").count() == 5 * tip.locator(".tip-token").count()
        page.mouse.move(5, 700)
        expect(tip).to_be_hidden()
        token.focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        focused = page.locator(".token:focus")
        assert focused.evaluate("node => [...node.parentNode.children].indexOf(node)") == 3
        expect(tip).to_be_visible()
        assert focused.get_attribute("aria-describedby") == "tip"
        assert page.locator(".answer .tokens").first.locator("[tabindex='0']").count() == 1
        split = page.evaluate("""() => [...document.querySelector('.tokens').children].findIndex(node => {
            node.focus(); return document.querySelectorAll('#tip .tip-token').length == 2 })""")
        assert split >= 0, "no character of two tokens"
        page.get_by_role("group").first.scroll_into_view_if_needed()
        page.locator("summary", has_text="Settings").click()
        page.get_by_label("Show each token's probability").uncheck()
        expect(page.locator(".answer .markdown")).to_have_count(3)
        page.locator("summary", has_text="MiniMind").click()
        page.get_by_role("button", name="你是谁").click()
        until(page, "document.querySelectorAll('.round').length == 2 && !document.querySelector('.streaming')")
        page.get_by_role("button", name="Copy as Markdown").click()
        assert page.evaluate("navigator.clipboard.readText()").count("###") == 8


def sweeps_fill_in_without_losing_the_place(checks):
    checks.server.start, checks.server.pace = time.monotonic(), 2.0
    with checks.page("#/sweeps", viewport={"width": 1400, "height": 500}) as page:
        page.locator(".sweeps a").first.click()
        page.wait_for_selector(".data tbody tr")
        link = page.locator(".data td.label a").nth(1)
        link.focus()
        page.mouse.wheel(0, 150)
        page.wait_for_timeout(300)
        place, before = page.evaluate("scrollY"), page.locator(".data").inner_text()
        assert place > 0
        page.evaluate("document.querySelector('.data td.label a').marked = true")
        until(page, "old => document.querySelector('.data').innerText !== old", arg=before)
        page.wait_for_timeout(2500)
        assert page.evaluate("document.activeElement.closest('tr')?.rowIndex") == 2
        assert page.evaluate("scrollY") == place and page.evaluate("document.querySelector('.data td.label a').marked")
        # Sorting, also while results arrive.
        head = page.locator("th button", has_text="model.d_model")
        head.click()
        column = page.evaluate("[...document.querySelectorAll('.data th')].findIndex(th => th.textContent == 'model.d_model')")

        def values():
            return [int(cell.inner_text()) for cell in page.locator(f".data tbody td:nth-child({column + 1})").all()]

        assert values() == sorted(values(), reverse=True)
        head.click()
        assert values() == sorted(values()) and page.locator("th[aria-sort='ascending']").count() == 1
        page.wait_for_timeout(2500)
        assert values() == sorted(values()) and page.evaluate("document.activeElement.textContent") == "model.d_model"


def a_sweep_lists_the_trials_it_has(checks):
    with checks.page("#/sweeps/" + "参数相等时深与宽的比较") as page:
        expect(page.locator(".data tbody tr")).to_have_count(6)
        trials = mock_server.sweep(1e6, "finished")["trials"]
        assert [link.get_attribute("href").split("/")[-1] for link in page.locator(".data td.label a").all()] == [one["trial"] for one in trials]
        expect(page.locator(".data input:checked")).to_have_count(6)
        expect(page.get_by_text("Left out: 1 trial in trials.csv that the sweep no longer contains")).to_be_visible()


def curves_are_drawn_and_read(checks):
    with checks.page("#/sweeps/" + "参数相等时深与宽的比较") as page:
        expect(page.locator(".plot path.line")).to_have_count(6)
        plot = page.locator(".plot")
        plot.hover(position={"x": 600, "y": 100})
        expect(page.locator(".readout")).to_be_visible()
        expect(page.locator(".readout p")).to_have_count(7)
        page.mouse.move(5, 5)
        expect(page.locator(".readout")).to_be_hidden()
        plot.focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        assert page.locator(".readout p").first.inner_text() == "step 2"
        page.locator(".legend button").first.click()
        expect(page.locator(".plot path.line")).to_have_count(5)
        page.locator(".legend button").first.click()
        page.get_by_label("Measure").select_option("val.bpb")
        page.get_by_role("button", name="Log scale").click()
        expect(page.locator(".plot path.line")).to_have_count(6)
        page.get_by_label("Stage").select_option("sft")
        page.get_by_label("Smoothing").select_option("0.8")
        page.wait_for_timeout(300)
        page.locator(".data tbody input").first.uncheck()
        expect(page.locator(".legend button")).to_have_count(5)
        figures = page.locator(".figures img")
        expect(figures).to_have_count(2)
        figures.first.scroll_into_view_if_needed()
        until(page, "[...document.querySelectorAll('.figures img')].every(img => img.naturalWidth > 0)")
        page.locator(".tables summary").click()
        expect(page.locator(".tables td").first).to_have_text("deep, 3")
        page.locator(".data td.label a").nth(3).click()
        expect(page.locator(".trial .badge").first).to_have_text("failed")
        expect(page.locator(".log-end")).to_contain_text("error: loss is not finite")
        expect(page.locator(".stages li")).to_have_count(6)
        expect(page.locator(".plot path.line")).to_have_count(2)
        page.go_back()
        page.wait_for_selector(".data tbody tr")


def numbers_are_right(checks):
    with checks.page() as page:
        def run(module, words, arg=None):
            return page.evaluate(f"arg => import('/{module}').then(m => {words})", arg)

        assert run("charts.js", "m.ticks(0, 1, 5)") == [0, 0.2, 0.4, 0.6, 0.8, 1]
        assert run("charts.js", "m.ticks(3, 3, 5)") == [3]
        # 0.25 * 1 + 0.5 * 3 over 0.25 + 0.5
        assert abs(run("curves.js", "m.smooth([1, 3], 0.5)[1]") - 1.75 / 0.75) < 1e-12
        assert run("csv.js", "m.parseCsv(arg)", 'a,"b, ""c"""\r\n1,\n"x\ny",2.5\n') == [["a", 'b, "c"'], [1, None], ["x\ny", 2.5]]
        grouped = "arg.map(bytes => group.push([{ bytes, text: '?' }]).map(one => one.words))"
        grouping = f"((group) => {grouped})(new m.Grouping())"
        assert run("tokens.js", grouping, [[0xE4], [0xBD], [0xA0, 65], [66]]) == [[], [], ["你A"], ["B"]]
        assert run("tokens.js", grouping, [[0xFF]] * 5) == [[], [], [], [], ["\ufffd" * 5]]
        assert run("curves.js", "m.distinct(['a=1 b=2', 'a=1 b=3'])") == ["b=2", "b=3"] and run("curves.js", "m.distinct(['a=1'])") == ["a=1"]
        shown = run("i18n.js", "[26878464, 1.25e13, 0.31234, 0].map(m.number).concat([0.0001, 0.0123, 0.123].map(m.percent), m.count(26878464))")
        assert shown == ["26,878,464", "1.25e13", "0.3123", "0", "<0.1 %", "1.2 %", "12 %", "26.9 M"]


def a_key_is_asked_for(checks):
    server = mock_server.serve(key="secret")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with checks.page(base=f"http://127.0.0.1:{server.server_address[1]}") as page:
        field = page.locator("dialog input[type=password]")
        field.fill("wrong")
        field.press("Enter")
        expect(page.locator("dialog [role=alert]")).to_contain_text("does not know this key")
        field.fill("secret")
        field.press("Enter")
        expect(page.locator("#model option")).to_have_count(7)
        ask(page, "hello")
        assert mock_server.PLAIN in answer(page).inner_text()
        assert page.evaluate("sessionStorage.length") == 1 and "secret" not in page.evaluate("JSON.stringify(localStorage)")
        page.reload()
        expect(page.locator("#model option")).to_have_count(7)
    with checks.page(base=f"http://127.0.0.1:{server.server_address[1]}") as page:
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("alert").first).to_contain_text("a key is needed")
    server.shutdown()


def languages_change_in_place(checks):
    with checks.page(locale="zh-CN") as page:
        expect(page.locator("#head nav a").first).to_have_text("对话")
        assert page.evaluate("document.documentElement.lang") == "zh-CN"
    with checks.page() as page:
        ask(page, "long", wait=False)
        page.wait_for_selector(".streaming")
        page.locator("#language").click()
        expect(page.locator("#head nav a").nth(1)).to_have_text("对比")
        until(page, "n => document.querySelector('.message.assistant .body').textContent.length > n", arg=30)
        page.get_by_role("button", name="停止").click()
        expect(answer(page).locator(".meta")).to_contain_text("已停止")
        for path in ("compare", "sweeps", "sweeps/running"):
            page.goto(f"{checks.base}/#/{path}")
            page.wait_for_timeout(600)
            # Names, prompts and columns stay in English; the page's own words do not.
            assert not re.search(r"\b(Trials|Curves|Models|Settings|running ·|done)\b", page.locator("main h1, main h2, main legend, main summary, .progress-box").all_inner_texts().__str__().replace("mixture", ""))
        page.reload()
        assert page.evaluate("document.documentElement.lang") == "zh-CN"


def the_keyboard_is_enough(checks):
    with checks.page() as page:
        page.wait_for_selector("#model option", state="attached")
        page.locator(PROMPT).press_sequentially("cps?n")
        assert page.input_value(PROMPT) == "cps?n" and page.locator("dialog[open]").count() == 0
        page.fill(PROMPT, "")
        page.locator(PROMPT).blur()
        page.keyboard.press("?")
        expect(page.locator("dialog.help")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("dialog.help")).to_be_hidden()
        for key, name in [("p", "Compare"), ("s", "Sweeps"), ("c", "Chat")]:
            page.locator("body").evaluate("body => document.activeElement.blur()")
            page.keyboard.press(key)
            expect(page.locator("#head nav a[aria-current]")).to_have_text(name)
        page.locator("body").evaluate("body => document.activeElement.blur()")
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "prompt"
        ask(page, "hello")
        page.locator("body").evaluate("body => document.activeElement.blur()")
        page.keyboard.press("e")
        assert page.evaluate("document.activeElement.matches('.message textarea')")
        page.keyboard.press("Escape")
        page.keyboard.press("r")
        page.wait_for_selector(".streaming")
        page.keyboard.press("Escape")
        expect(answer(page).locator(".meta")).to_contain_text("stopped")
        # Every element that Tab reaches shows its focus.
        page.evaluate("document.activeElement.blur()")
        for _ in range(25):
            page.keyboard.press("Tab")
            seen = page.evaluate("(() => { const s = getComputedStyle(document.activeElement); return document.activeElement === document.body || s.outlineStyle != 'none' || s.boxShadow != 'none' })()")
            assert seen, page.evaluate("document.activeElement.outerHTML")


def a_phone_is_enough(checks):
    phone = {"viewport": {"width": 400, "height": 800}, "has_touch": True, "is_mobile": True}
    with checks.page(**phone) as page:
        ask(page, "markdown")
        page.get_by_role("button", name="History").tap()
        expect(page.locator("#history")).to_be_visible()
        page.locator(".conversations a").first.tap()
        expect(page.locator("#history")).to_be_hidden()
        page.get_by_role("button", name="Settings").tap()
        expect(page.locator("#system")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#side")).to_be_hidden()
        for path in ("chat", "compare", "sweeps", "sweeps/running", "sweeps/running/" + mock_server.sweep(0)["trials"][3]["trial"]):
            page.goto(f"{checks.base}/#/{path}")
            page.wait_for_timeout(500)
            wide = page.evaluate("document.scrollingElement.scrollWidth")
            assert wide <= 400, f"{path} is {wide} pixels wide"
        page.goto(f"{checks.base}/#/compare")
        page.fill(COMPARE, "你好")
        page.get_by_role("button", name="Compare", exact=True).tap()
        until(page, "document.querySelector('.answer') && !document.querySelector('.streaming')")
        page.locator(".answer .token").first.tap()
        expect(page.locator("#tip")).to_be_visible()


CHECKS = [words_are_whole, numbers_are_right, an_answer_streams_and_stops, html_of_a_model_stays_text, markdown_is_shown,
        turns_are_edited_regenerated_kept_and_exported, a_pretrained_model_continues, errors_are_shown, answers_stand_side_by_side,
        sweeps_fill_in_without_losing_the_place, a_sweep_lists_the_trials_it_has, curves_are_drawn_and_read, a_key_is_asked_for, languages_change_in_place,
        the_keyboard_is_enough, a_phone_is_enough]  # fmt: skip
