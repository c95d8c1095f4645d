"""The studio in a real Chromium: approvals, stops, restarts, traces, forks, hostile text, accessibility."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect

from agentkit import Agent, BinaryContent, MCPToolset, ModelResponse
from agentkit.files import files_of
from agentkit.messages import (
    ModelMessage,
    RetryPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.models.base import ModelRequestParameters
from agentkit.serving import app
from agentkit.studio import FILES
from agentkit.testing import FunctionModel
from agentkit.usage import RequestUsage
from mcp_servers.browser.chromium import StartError, find_chromium
from tests.agentkit.hosted_models import HostedModel, said
from tests.agentkit.pictures import picture
from tests.agentkit.serving.served_agents import KEYS, Client, clerk, client_of, kinds, listening

pytestmark = pytest.mark.anyio
expect.set_options(timeout=30_000)  # a busy machine takes seconds where five milliseconds are usual

HOSTILE = "<script>window.owned=1</script><img src=x onerror='window.owned=1'>\u202etxt.exe"


@pytest.fixture(scope="module")
def chromium() -> str:
    try:
        return find_chromium(None)
    except StartError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """Start one browser for all tests; a page that a test opens has a context, with storage, of its own."""
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        await found.close()


@dataclass
class Studio:
    """A studio in a browser, and a client of the service behind it."""

    page: Page
    client: Client
    url: str
    asked: list[str]
    """Addresses that the page asked for."""
    failures: list[str]
    """Errors of the page's scripts, and breaches of its content policy."""

    async def say(self, prompt: str) -> None:
        await self.page.get_by_label("Message to the agent").fill(prompt)
        await self.page.keyboard.press("Enter")

    async def ends(self, text: str) -> None:
        """Wait until the last run is told to have ended so."""
        await expect(self.page.locator(".end .state").last).to_contain_text(text, timeout=20_000)

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    async def last_run(self) -> str:
        return (await self.client.ask("GET", "/runs", 200))["runs"][0]["run_id"]


@asynccontextmanager
async def studio(
    browser: Browser, agent: Agent[Any, Any], journal: Path, *, keys: bool = False, **options: Any
) -> AsyncIterator[Studio]:
    made = app(agent, journal=journal, keys=KEYS if keys else None, has_studio=True)
    page = await browser.new_page(**options)
    asked: list[str] = []
    failures: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda m: failures.append(m.text) if "Content Security" in m.text else None)
    async with listening(made) as url, client_of(url, "ann" if keys else None) as client:
        await page.goto(f"{url}/studio")
        yield Studio(page, client, url, asked, failures)
        await page.close()
    assert not failures
    assert asked and all(address.startswith((url, "data:", "blob:")) for address in asked)


def in_turn(*replies: ModelResponse) -> FunctionModel:
    """Return a model that answers by the number of results that it has read."""

    def reply(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        parts = [part for message in messages for part in message.parts]
        return replies[sum(isinstance(part, ToolReturnPart | RetryPromptPart) for part in parts)]

    return FunctionModel(reply)


async def read(word: str) -> str:
    """Read a word."""
    return f"{word}: {HOSTILE}"


def reader(answer: str = "It says hello.") -> Agent[None, str]:
    """Return an agent that reads once, then answers; its model knows how sure it is."""
    call = ToolCallPart(
        "read", '{"word": "note"}', probability=0.8, alternatives=(("write", 0.15), ("list", 0.05))
    )
    replies = ModelResponse((ThinkingPart("A note."), call)), ModelResponse((TextPart(answer),))
    return Agent(in_turn(*replies), tools=[read])


async def test_a_task_on_files_waits_for_its_approval(browser: Browser, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "list.md").write_text("buy milk\n")
    edit = {"path": "list.md", "old_text": "buy milk", "new_text": "buy oat milk"}
    call = ToolCallPart("edit_file", json.dumps(edit))
    model = in_turn(ModelResponse((call,)), ModelResponse((TextPart("Changed."),)))
    server = MCPToolset.stdio(sys.executable, "-m", "mcp_servers.filesystem", str(folder), "--write")
    files = server.requiring_approval(when=lambda tool: tool.name == "edit_file")
    async with studio(browser, Agent(model, toolsets=[files]), tmp_path / "runs.db") as seen:
        await seen.say("Oat milk, please")
        change = seen.page.get_by_label("Change")
        await expect(change).to_have_text("- buy milk\n+ buy oat milk\n")
        assert (folder / "list.md").read_text() == "buy milk\n"
        await seen.button("Allow once").focus()
        await seen.page.keyboard.press("Enter")
        await seen.ends("completed")
        assert (folder / "list.md").read_text() == "buy oat milk\n"
        await seen.say("Thank you")
        await expect(seen.page.get_by_text("Thank you", exact=True)).to_be_visible()
        await seen.ends("completed")
        runs = (await seen.client.ask("GET", "/runs", 200))["runs"]
        assert len({run["session"] for run in runs}) == 1 and len(runs) == 2  # one conversation


async def test_a_denied_call_does_not_run(browser: Browser, tmp_path: Path) -> None:
    world: list[str] = []
    async with studio(browser, clerk(world.append), tmp_path / "runs.db") as seen:
        await seen.say("shred")
        await seen.page.get_by_label("Reason, or result of the call").fill("not today")
        await seen.button("Deny").click()
        await seen.ends("completed")
        await expect(seen.page.get_by_label("Result")).to_contain_text("not today")
        assert world == []


async def test_a_run_is_stopped_and_resumed(browser: Browser, tmp_path: Path) -> None:
    world: list[str] = []
    async with studio(browser, clerk(world.append), tmp_path / "runs.db") as seen:
        await seen.say("a wait")
        await expect(seen.page.get_by_text("is running")).to_be_visible()
        await seen.button("Stop the run").click()
        await seen.ends("failed")
        await expect(seen.page.get_by_text("RunCancelled: local cancelled it.")).to_be_visible()
        await seen.button("Resume the run").click()
        await expect(seen.page.get_by_text("This call may have taken effect already.")).to_be_visible()
        await seen.page.get_by_label("Reason, or result of the call").fill("waited")
        await seen.button("It ran: this is its result").click()
        await seen.ends("completed")
        assert world == ["a", "wait"]


async def test_the_page_reads_on_after_the_server_was_started_again(browser: Browser, tmp_path: Path) -> None:
    agent, journal = clerk(pause_s=0.4), tmp_path / "runs.db"
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(listening(app(agent, journal=journal, has_studio=True)))
        page = await browser.new_page()
        await page.goto(f"{url}/studio")
        await page.get_by_label("Message to the agent").fill("a b c d")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("filed a", exact=True)).to_be_visible()
        await stack.aclose()
        await expect(page.get_by_role("status")).to_contain_text("connection")
        port = int(url.rsplit(":", 1)[1])
        async with listening(app(agent, journal=journal, has_studio=True), port=port), client_of(url) as client:
            await expect(page.get_by_text("done: a b c d", exact=True)).to_be_visible(timeout=20_000)
            assert await page.locator("article.step").count() == 5
            (run,) = (await client.ask("GET", "/runs", 200))["runs"]
            assert kinds(await client.events(run["run_id"])).count("tool_result") == 4


async def test_a_trace_is_opened_forked_with_another_result_and_compared(browser: Browser, tmp_path: Path) -> None:
    async with studio(browser, reader(), tmp_path / "runs.db") as seen:
        await seen.say("Read the note")
        await seen.ends("completed")
        first = await seen.last_run()
        async with seen.page.expect_download() as download:
            await seen.button("Save the trace").click()
        trace = tmp_path / "trace.jsonl"
        await (await download.value).save_as(trace)
        assert trace.name and (await download.value).suggested_filename == f"{first}.jsonl"
        await seen.page.get_by_label("Open files").set_input_files(trace)
        await expect(seen.page.get_by_text("It says hello.")).to_be_visible()
        await expect(seen.button("Save the trace")).to_have_count(0)  # it is a file already
        await seen.button("Fork step 2").click()
        await seen.page.get_by_label("Result of read").fill("note: good night")
        await seen.button("Run the fork").click()
        await expect(seen.page.locator(".pane")).to_have_count(2)
        await seen.ends("completed")
        forked = await seen.last_run()
        assert forked != first
        asked, _, request, *_ = await seen.client.events(forked)
        assert request["messages"][0]["parts"][0]["content"] == "note: good night"
        assert [message["kind"] for message in asked["history"]] == ["request", "response", "request"]
        await seen.button("Fork step 2").first.click()  # a fork of the fork
        await seen.button("Run the fork").click()
        await seen.ends("completed")
        again, *_ = await seen.client.events(await seen.last_run())
        assert again["history"] == asked["history"]


async def test_runs_that_differ_are_marked(browser: Browser, tmp_path: Path) -> None:
    async with studio(browser, clerk(), tmp_path / "runs.db") as seen:
        for prompt in ("a b", "a c"):
            await seen.button("New conversation").click()
            await seen.say(prompt)
            await seen.ends("completed")
        choice = seen.page.get_by_label("Compare with another run")
        await choice.select_option(index=1)
        await expect(seen.page.locator("article.differs > h2")).to_have_text(["Step 2 differs"] * 2)


async def test_text_of_models_and_tools_is_inert(browser: Browser, tmp_path: Path) -> None:
    async with studio(browser, reader(answer=HOSTILE), tmp_path / "runs.db") as seen:
        await seen.say(HOSTILE)
        await seen.ends("completed")
        shown = HOSTILE.replace("\u202e", "\\u{202e}")
        await expect(seen.page.get_by_label("Result")).to_have_text(f"note: {shown}")
        await expect(seen.page.locator(".answer")).to_have_text(shown)
        assert await seen.page.evaluate("window.owned") is None
        assert await seen.page.locator("#panes img, #panes script").count() == 0
        policy = (await seen.client.http.get("/studio/")).headers["content-security-policy"]
        assert "script-src 'self';" in policy and "unsafe" not in policy


async def test_images_are_sent_shown_and_kept_by_a_fork(browser: Browser, tmp_path: Path) -> None:
    red, blue = picture(30, 20, colour="red"), picture(50, 40, colour="blue")
    (tmp_path / "red.png").write_bytes(red)
    seen_by_model: list[list[bytes]] = []

    def draw() -> list[str | BinaryContent]:
        """Draw something."""
        return ["drawn", BinaryContent(blue, "image/png")]

    def reply(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        parts = [part for message in messages for part in message.parts]
        contents = [part.content for part in parts if isinstance(part, UserPromptPart | ToolReturnPart)]
        seen_by_model.append([file.data for content in contents for file in files_of(content)])
        has_drawn = any(isinstance(part, ToolReturnPart) for part in parts)
        return ModelResponse((TextPart("Seen."),) if has_drawn else (ToolCallPart("draw", "{}"),))

    async def sizes() -> list[list[int]]:
        images = seen.page.locator("figure img")
        return await images.evaluate_all("all => all.map((each) => [each.naturalWidth, each.naturalHeight])")

    async with studio(browser, Agent(FunctionModel(reply), tools=[draw]), tmp_path / "runs.db") as seen:
        await seen.page.get_by_label("Attach files").set_input_files(tmp_path / "red.png")
        await expect(seen.page.get_by_label("Files of the message")).to_contain_text("red.png")
        await seen.say("Look")
        await seen.ends("completed")
        await expect(seen.page.locator("figure img")).to_have_count(2)
        await seen.page.wait_for_function("[...document.images].every((each) => each.naturalWidth)")
        assert await sizes() == [[30, 20], [50, 40]]
        assert seen_by_model == [[red], [red, blue]]
        await expect(seen.page.get_by_label("Files of the message")).to_be_empty()
        await seen.button("Fork step 2").click()
        await seen.page.get_by_label("Result of draw").fill("drawn again")
        await seen.button("Run the fork").click()
        await seen.ends("completed")
        assert seen_by_model[-1] == [red, blue]
        await seen.button("New conversation").click()
        (tmp_path / "page.svg").write_text(
            "<svg xmlns='http://www.w3.org/2000/svg'><script>owned=1</script></svg>"
        )
        await seen.page.get_by_label("Attach files").set_input_files(tmp_path / "page.svg")
        await seen.say("Look")
        await expect(seen.page.get_by_role("status")).to_contain_text("is image/svg+xml; models read image/png")
        await seen.button("Do not send page.svg").click()
        await expect(seen.page.get_by_label("Files of the message")).to_be_empty()


async def test_a_reward_lands_in_the_trace(browser: Browser, tmp_path: Path) -> None:
    async with studio(browser, reader(), tmp_path / "runs.db") as seen:
        await seen.say("Read the note")
        await seen.ends("completed")
        await seen.page.get_by_label("Bad: reward 0 for step 1").click()
        await seen.page.get_by_label("Good: reward 1 for the run").click()
        await expect(seen.page.get_by_text("Rewards: 0 by studio for step 1, 1 by studio")).to_be_visible()
        run_id = await seen.last_run()
        trace = (await seen.client.http.get(f"/runs/{run_id}/trace")).text.splitlines()
        rewards = [event for line in trace if (event := json.loads(line))["event_kind"] == "reward"]
        assert [(each["reward"], each["step"], each["source"]) for each in rewards] == [
            (0, 1, "studio"),
            (1, None, "studio"),
        ]
        assert (await seen.client.end(run_id))["output"] == "It says hello."  # the end is found in front of them


async def test_the_probability_of_each_tool_is_told(browser: Browser, tmp_path: Path) -> None:
    async with studio(browser, reader(), tmp_path / "runs.db") as seen:
        await seen.say("Read the note")
        choice = seen.page.get_by_label("Probability of each tool")
        await expect(choice.get_by_role("listitem")).to_have_text(["read 80 %", "write 15 %", "list 5 %"])
        await seen.ends("least sure choice of a tool: 80 %")


async def test_a_key_is_asked_for_and_shows_its_runs_alone(browser: Browser, tmp_path: Path) -> None:
    async with (
        studio(browser, clerk(), tmp_path / "runs.db", keys=True) as seen,
        client_of(seen.url, "bob") as bob,
    ):
        await bob.end(await bob.run("a", session="of bob"))
        await seen.page.get_by_label("Key", exact=True).fill(KEYS["ann"])
        await seen.button("Use it").click()
        await expect(seen.page.locator("#agent")).to_have_text("clerk")
        await seen.say("b")
        await seen.ends("completed")
        await expect(seen.page.locator("#runs li")).to_have_count(1)


@pytest.mark.parametrize("width", [1200, 380])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(browser: Browser, tmp_path: Path, scheme: Any, width: int) -> None:
    size = {"width": width, "height": 800}
    async with studio(
        browser, clerk(), tmp_path / "runs.db", color_scheme=scheme, viewport=size, bypass_csp=True
    ) as seen:
        await seen.say("a shred")
        await expect(seen.button("Allow once")).to_be_visible()
        found = await Axe().run(seen.page)
        assert not found.response["violations"], found.generate_report()
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await seen.page.evaluate(overflow) == 0


async def test_the_cases_of_an_evaluation_are_shown_with_their_scores(browser: Browser, tmp_path: Path) -> None:
    messages = [
        {"kind": "request", "parts": [{"part_kind": "user-prompt", "content": "Read the note"}]},
        {"kind": "response", "parts": [_part("tool-call", tool_name="read", arguments="{}")], "usage": USAGE},
        {"kind": "request", "parts": [_part("tool-return", tool_name="read", content="hello")]},
        {"kind": "response", "parts": [{"part_kind": "text", "content": "Good bye."}], "usage": USAGE},
    ]
    case = {"status": "completed", "messages": messages, "usage": None, "output": "Good bye.", "error": None}
    score = {"case_id": "second", "value": 0.0, "explanation": "wanted hello", "answer": "Good bye."}
    runs, scores = tmp_path / "runs.jsonl", tmp_path / "scores.jsonl"
    runs.write_text("".join(json.dumps({"case_id": name, **case}) + "\n" for name in ("first", "second")))
    scores.write_text(json.dumps(score) + "\n")
    async with studio(browser, reader(), tmp_path / "runs.db") as seen:
        await seen.page.get_by_label("Open files").set_input_files([runs, scores])
        cases = seen.page.get_by_label("Cases of an evaluation").get_by_role("button")
        await expect(cases).to_have_text(["firstcompleted", "secondscore 0 · completed"])
        await cases.nth(1).click()
        await expect(seen.page.get_by_text("wanted hello")).to_be_visible()
        await expect(seen.page.get_by_label("Result")).to_have_text("hello")
        await seen.button("Fork step 2").click()
        await seen.button("Run the fork").click()
        await seen.ends("completed")
        await expect(seen.page.locator(".answer").first).to_have_text("It says hello.")


async def test_the_cost_of_a_run_is_shown_and_names_of_servers_are_text(browser: Browser, tmp_path: Path) -> None:
    usage = RequestUsage(4_000, 0, 0)  # one cent with gpt-4o
    model = HostedModel([said("one", usage, "gpt-4o"), said("two", usage, HOSTILE)])
    async with studio(browser, Agent(model, name="clerk"), tmp_path / "runs.db") as seen:
        await seen.say("first")
        await seen.ends("4000 + 0 tokens · $0.01")
        await expect(seen.page.locator(".figures").last).to_contain_text("0 written · $0.01")
        await seen.say("second")
        await seen.ends("cost unknown: no price of <script>window.owned=1</script>")
        await seen.ends("\\u{202e}txt.exe")
        assert await seen.page.evaluate("window.owned") is None


USAGE = {"input_tokens": 3, "cache_read_tokens": 0, "output_tokens": 1}


def _part(kind: str, **fields: str) -> dict[str, str]:
    return {"part_kind": kind, "tool_call_id": "one", **fields}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no whole line"),
        ("{}\n", "line 1, is neither an event"),
        ("no\n", "line 1, is not JSON"),
        ('{"version": 2, "event_kind": "run_started"}\n', "of version 1"),
    ],
)
async def test_a_file_that_is_no_trace_is_refused(browser: Browser, tmp_path: Path, text: str, told: str) -> None:
    trace = tmp_path / "other.jsonl"
    trace.write_text(text)
    async with studio(browser, clerk(), tmp_path / "runs.db") as seen:
        await seen.page.get_by_label("Open files").set_input_files(trace)
        await expect(seen.page.get_by_role("status")).to_contain_text(told)


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in FILES.values()) < 300_000


async def test_nothing_but_the_page_is_served(tmp_path: Path) -> None:
    made = app(clerk(), journal=tmp_path / "runs.db", has_studio=True)
    async with listening(made) as url, client_of(url) as client:
        for path in ("__init__.py", "%2e%2e/__init__.py", "..%2f__init__.py", "page/main.js"):
            assert (await client.http.get(f"/studio/{path}")).status_code == 404
        foreign = {"Origin": "https://evil.example"}
        assert (await client.http.get("/studio/", headers=foreign)).status_code == 403
    async with listening(app(clerk(), journal=tmp_path / "runs.db")) as url, client_of(url) as client:
        assert (await client.http.get("/studio/")).status_code == 404
