"""`Skills` in an agent: the catalogue, the tools, and what is trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from agentkit import Agent, RunContext, Skills, Tool, ToolSearch, UserError
from agentkit.messages import ModelMessage, ModelRequest, ModelResponse, SystemPromptPart, TextPart
from agentkit.skills import SkillPins, read_skill
from agentkit.skills.catalogue import MIN_DESCRIPTION_CHARS
from agentkit.skills.library import MAX_SKILLS
from agentkit.skills.toolset import PAGE_CHARS
from agentkit.testing import FunctionModel, ScriptedModel, call, check_toolset
from tests.agentkit.skills.skill_folders import HELLO, OPEN_SKILLS, load, results, told, write_skill

pytestmark = pytest.mark.anyio
CONTEXT = RunContext(deps=None)


@pytest.fixture(autouse=True)
def own_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKIT_PINS_DIR", str(tmp_path / "pins"))


async def tools_of(skills: Skills) -> dict[str, Tool]:
    async with skills:
        return {each.name: each for each in await skills.list_tools(CONTEXT)}


def read(path: str, **options: Any) -> Any:
    return call("read_skill_file", name="greeting", path=path, **options)


# -- the catalogue ------------------------------------------------------------------------------------------------


async def test_names_and_descriptions_follow_the_instructions_and_texts_do_not(tmp_path: Path) -> None:
    write_skill(tmp_path, files={"references/more.md": "more"})
    seen: list[str] = []

    def reply(messages: Sequence[ModelMessage], parameters: Any) -> ModelResponse:
        first = messages[0]
        assert isinstance(first, ModelRequest) and isinstance(first.parts[0], SystemPromptPart)
        seen.append(first.parts[0].content)
        return ModelResponse((TextPart("hello"),))

    agent = Agent(FunctionModel(reply), instructions="Be kind.", toolsets=[Skills(tmp_path)])
    first = await agent.run("hi")
    write_skill(tmp_path, "another")  # while the conversation goes on
    await agent.run("hi again", message_history=first.messages)
    assert seen[0] == seen[1]
    assert seen[0].startswith("Be kind.\n\nSkills: ")
    assert seen[0].endswith("- greeting: Greets people. Use it when somebody is to be greeted.")


def test_the_order_is_that_of_the_folders_then_of_names(tmp_path: Path) -> None:
    for name in ("b/zoo", "b/ant", "a/mid"):
        write_skill(tmp_path / name.split("/")[0], name.split("/")[1])
    assert list(Skills(tmp_path / "b", tmp_path / "a").skills) == ["ant", "zoo", "mid"]
    assert list(Skills(tmp_path / "b/zoo").skills) == ["zoo"]  # the folder of one skill


def test_a_catalogue_fits_its_budget_by_shorter_descriptions(tmp_path: Path) -> None:
    for number in range(20):
        write_skill(tmp_path, f"skill-{number:02}", description="x" * 900)
    whole = Skills(tmp_path, trusted=True, catalogue_tokens=10_000).catalogue
    assert (whole.n_left_out, whole.text.count("x" * 900)) == (0, 20)
    shorter = Skills(tmp_path, trusted=True).catalogue
    assert shorter.n_left_out == 0 and 1_800 < shorter.n_tokens <= 2_000
    lines = shorter.text.split("\n")[1:]
    assert len({len(line) for line in lines}) == 1 and all(line.endswith("x…") for line in lines)


async def test_skills_beyond_the_budget_are_found_by_words(tmp_path: Path) -> None:
    for number in range(200):
        write_skill(tmp_path, f"skill-{number:03}", description=f"Handles matter {number}. " + "x" * 200)
    write_skill(tmp_path, "zebra-invoices", description="Writes invoices for zebras. Use it for billing.")
    skills = Skills(tmp_path, trusted=True)
    assert 0 < skills.catalogue.n_left_out < 201 and skills.catalogue.n_tokens <= 2_000
    assert "zebra" not in skills.catalogue.text and "search_skills" in skills.catalogue.text
    assert len(skills.catalogue.text.split("\n")[1]) == len("- skill-000: ") + MIN_DESCRIPTION_CHARS
    tools = await tools_of(skills)
    assert "enum" not in tools["load_skill"].definition.parameters_json_schema["properties"]["name"]
    result = await results(
        skills,
        call("search_skills", query="an invoice"),
        load("zebra-invoices"),
        call("search_skills", query="qqq"),
    )
    found, loaded, nothing = told(result)
    assert found.startswith("- zebra-invoices: ") and loaded.startswith("# Greeting")
    assert nothing == "No skill has these words; try others."


async def test_few_skills_have_no_search_and_their_names_in_the_schema(tmp_path: Path) -> None:
    write_skill(tmp_path)
    tools = await tools_of(Skills(tmp_path))
    assert list(tools) == ["load_skill", "read_skill_file"]  # no scripts
    assert tools["load_skill"].definition.parameters_json_schema["properties"]["name"]["enum"] == ["greeting"]


async def test_without_skills_there_is_neither_text_nor_tool(tmp_path: Path) -> None:
    skills = Skills(tmp_path)
    assert await tools_of(skills) == {} and await skills.instructions(CONTEXT) is None


async def test_other_toolset_views_apply(tmp_path: Path) -> None:
    write_skill(tmp_path, files={"a.md": "a"})
    view = Skills(tmp_path).prefixed("my")
    agent = Agent(ScriptedModel([call("my_load_skill", name="greeting"), "done"]), toolsets=[view])
    assert "for my_read_skill_file: a.md" in told(await agent.run("go"))[0]


# -- faults of folders --------------------------------------------------------------------------------------------


def test_folders_are_checked_when_they_are_given(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no folder; give one"):
        Skills()
    with pytest.raises(UserError, match="does not exist; create it"):
        Skills(tmp_path / "none")


def test_a_broken_skill_is_left_out_by_name_and_others_are_offered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_skill(tmp_path, "good")
    write_skill(tmp_path, "bad", head="name: worse\ndescription: x\n")
    write_skill(tmp_path, "small").joinpath("SKILL.md").rename(tmp_path / "small/skill.md")
    (tmp_path / "no-skill").mkdir()
    skills = Skills(tmp_path)
    assert list(skills.skills) == ["good"] and list(skills.refused) == ["bad", "small"]
    assert "the name 'worse' is not that of the folder" in skills.refused["bad"]
    assert caplog.text.count("is not offered") == 2


def test_the_first_of_two_skills_with_one_name_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Skills of the folder that is given first win over those of the same name in a later one."""
    write_skill(tmp_path / "own", description="Mine.")
    other = write_skill(tmp_path / "others", description="Theirs.")
    skills = Skills(tmp_path / "own", tmp_path / "others")
    assert skills.skills["greeting"].description == "Mine."
    assert "has the same name and comes first" in skills.refused[str(other)] and "Theirs" not in caplog.text


def test_the_number_of_skills_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkit.skills.library.MAX_SKILLS", 2)
    for name in ("a", "b", "c"):
        write_skill(tmp_path, name)
    with pytest.raises(UserError, match="there are 3 skills; the limit is 2"):
        _ = Skills(tmp_path).skills
    assert MAX_SKILLS == 1_000


async def test_a_skill_whose_folder_is_gone_is_refused(tmp_path: Path) -> None:
    skill = write_skill(tmp_path)
    skills = Skills(tmp_path)
    assert list(skills.skills) == ["greeting"]
    skill.rename(tmp_path.parent / "gone-greeting")
    (text,) = told(await results(skills, load()))
    assert text == "the skill 'greeting' cannot be used: the folder cannot be opened: No such file or directory."


# -- reading ------------------------------------------------------------------------------------------------------


async def test_loading_gives_the_text_without_front_matter_and_lists_the_files(tmp_path: Path) -> None:
    files: Mapping[str, str | bytes] = {
        "scripts/hello.py": HELLO,
        "scripts/data.json": "{}",
        "references/a.md": "a",
    }
    write_skill(tmp_path, files=files)
    result = await results(Skills(tmp_path, trusted=True), load())
    assert told(result) == [
        "# Greeting\n\nRun scripts/hello.py with the name.\n\n"
        "[Files of this skill, for read_skill_file: references/a.md, scripts/data.json]\n\n"
        "[Scripts of this skill, for run_skill_script: scripts/hello.py]"
    ]


async def test_a_long_text_is_read_in_parts(tmp_path: Path) -> None:
    body = "".join(f"line {n:06}\n" for n in range(PAGE_CHARS // 12 + 100))
    write_skill(tmp_path, body=body, files={"long.md": body})
    skills = Skills(tmp_path, trusted=True)
    start = len("---\nname: greeting\ndescription: Greets people. Use it when somebody is to be greeted.\n---\n")
    first, second = told(await results(skills, load(), read("SKILL.md", offset=start + PAGE_CHARS)))
    assert f"continue with offset {start + PAGE_CHARS}. Use read_skill_file with path 'SKILL.md'." in first
    assert first.partition("\n\n[")[0] + second == body
    one, two = told(await results(skills, read("long.md"), read("long.md", offset=PAGE_CHARS)))
    assert one.partition("\n\n[")[0] + two == body


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("../../secret.txt", "the skill has no file '../../secret.txt'"),
        ("/etc/passwd", "the skill has no file '/etc/passwd'"),
        ("references/../../x", "the skill has no file"),
        ("referenses/a.md", "did you mean 'references/a.md'?"),
        ("image.png", "'image.png' is not text: 5 bytes"),
        ("latin.md", "'latin.md' is not text"),
        ("", "the skill has no file ''"),
    ],
)
async def test_only_text_files_of_the_skill_are_read(path: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("the key")
    files: Mapping[str, str | bytes] = {
        "references/a.md": "a",
        "image.png": b"\x89P\0NG",
        "latin.md": "Grüße".encode("latin-1"),
    }
    write_skill(tmp_path / "skills", files=files)
    (text,) = told(await results(Skills(tmp_path / "skills"), read(path)))
    assert named in text and "the key" not in text


async def test_files_are_read_clean_by_any_spelling_of_their_path(tmp_path: Path) -> None:
    write_skill(tmp_path, files={"references/a.md": "a\u200b <|im_end|>"})
    texts = told(await results(Skills(tmp_path), read("references/a.md"), read("./references//a.md")))
    assert texts == ["a < |im_end|>"] * 2


async def test_an_offset_behind_the_end_goes_back_to_the_model(tmp_path: Path) -> None:
    write_skill(tmp_path, files={"a.md": "a"})
    (text,) = told(await results(Skills(tmp_path), read("a.md", offset=2)))
    assert text == "offset 2 is behind the end of 'a.md', 1 characters."


async def test_an_unknown_skill_is_answered_with_a_near_name(tmp_path: Path) -> None:
    for number in range(101):  # beyond the names of a schema
        write_skill(tmp_path, f"skill-{number}")
    (text,) = told(await results(Skills(tmp_path), load("skil-7")))
    assert "there is no skill 'skil-7'; did you mean 'skill-7" in text


# -- trust --------------------------------------------------------------------------------------------------------


async def test_only_an_accepted_or_trusted_skill_does_not_taint(tmp_path: Path) -> None:
    pins = SkillPins(tmp_path / "pins")
    skill = write_skill(tmp_path / "skills")

    async def tainted(**options: Any) -> tuple[bool, bool]:
        result = await results(Skills(skill.parent, **options), load())
        return result.state.tainted, "no person has accepted it" in told(result)[0]

    assert await tainted(pins=pins) == (True, True)  # recorded
    assert await tainted(pins=None) == (True, True)
    assert await tainted(pins=None, trusted=True) == (False, False)
    pins.write(read_skill(skill))
    assert await tainted(pins=pins) == (False, False)
    assert await tainted(pins=None) == (True, True)


async def test_each_skill_taints_by_itself(tmp_path: Path) -> None:
    pins = SkillPins(tmp_path / "pins")
    pins.write(read_skill(write_skill(tmp_path / "skills", "ours")))
    write_skill(tmp_path / "skills", "theirs")
    skills = Skills(tmp_path / "skills", pins=pins)
    assert not (await results(skills, load("ours"))).state.tainted
    assert (await results(skills, load("theirs"))).state.tainted
    assert (await results(skills, call("read_skill_file", name="theirs", path="SKILL.md"))).state.tainted
    assert (await results(skills, load("ours"), load("theirs"))).state.tainted
    tool = (await tools_of(skills))["load_skill"]
    assert not tool.taints("{") and not tool.taints("[]") and not tool.taints('{"name": "none"}')
    assert tool.taints(json.dumps({"name": "theirs"}))


async def test_a_skill_that_loses_its_pin_is_not_trusted_any_more(tmp_path: Path) -> None:
    pins = SkillPins(tmp_path / "pins")
    skill = write_skill(tmp_path / "skills")
    pins.write(read_skill(skill))
    skills = Skills(skill.parent, pins=pins)
    assert not (await results(skills, load())).state.tainted
    pins.path(skill).unlink()
    assert (await results(skills, load())).state.tainted


async def test_allowed_tools_widen_nothing(tmp_path: Path) -> None:
    """A skill that pre-approves a tool of the agent: the approval is asked for as before."""
    from agentkit import tool

    @tool(requires_approval=True)
    def pay(amount: int) -> str:
        """Pay."""
        raise AssertionError

    head = "name: greeting\ndescription: x\nallowed-tools: pay load_skill\n"
    write_skill(tmp_path, head=head)
    skills = Skills(tmp_path, trusted=True)
    agent = Agent(ScriptedModel([load(), call("pay", amount=5)]), tools=[pay], toolsets=[skills])
    result = await agent.run("go")
    assert result.status == "needs_approval" and skills.skills["greeting"].allowed_tools == ("pay", "load_skill")


async def test_published_skills_are_offered_and_read(tmp_path: Path) -> None:
    skills = Skills(OPEN_SKILLS)
    assert list(skills.skills) == ["internal-comms", "webapp-testing"] and not skills.refused
    assert skills.catalogue.n_tokens == 202
    result = await results(
        skills,
        load("internal-comms"),
        call("read_skill_file", name="internal-comms", path="examples/3p-updates.md"),
    )
    text, example = told(result)
    assert "examples/3p-updates.md" in text and "Progress" in example and result.state.tainted


async def test_it_keeps_the_rules_of_a_toolset(tmp_path: Path) -> None:
    write_skill(tmp_path, files={"scripts/hello.py": HELLO})
    await check_toolset(lambda: Skills(tmp_path))


async def test_calls_do_not_block_the_event_loop(tmp_path: Path) -> None:
    write_skill(tmp_path, files={"scripts/hello.py": HELLO, "a.md": "a"})
    skills = Skills(tmp_path)
    agent = Agent(ScriptedModel([load(), read("a.md"), "done"]), toolsets=[skills])
    with blockbuster_ctx("agentkit.skills"):
        result = await agent.run("go")
    assert told(result)[1] == "a"


def test_a_folder_may_be_given_from_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skill = write_skill(tmp_path, files={"references/a.md": "a"})
    for inside, given in ((skill, "."), (skill / "references", ".."), (tmp_path, "greeting"), (tmp_path, ".")):
        monkeypatch.chdir(inside)
        assert list(Skills(given).skills) == ["greeting"]


async def test_skills_work_behind_a_search_for_tools(tmp_path: Path) -> None:
    """The catalogue stays in the instructions, tools are found when they are needed, and the taint is kept."""
    write_skill(tmp_path, files={"a.md": "a", "scripts/hello.py": HELLO})
    tools = ToolSearch(Skills(tmp_path), always=["load_skill"], embedder=None)
    calls = [load(), call("search_tools", query="read a text file of a skill"), read("a.md"), "done"]
    agent = Agent(ScriptedModel(calls), toolsets=[tools])
    result = await agent.run("Something else.")
    assert told(result)[2] == "a" and result.state.tainted
    assert "- greeting: " in (await tools.instructions(CONTEXT) or "")
