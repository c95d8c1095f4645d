"""Examples, preferences and tasks from the tool-calling data of the package and from twins.

The tool-calling examples are divided: some are learnt, some are tasks with a verified reward or preferences, and
the held-back ones are for measurements. The better reply of a pair is the example's. The worse one is a mistake
that models make: another tool, a value left out or changed, a call where none fits, a refusal of a harmless
request or compliance with a harmful one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

from modelstack.data.examples import Call, Example, Message
from modelstack.pipeline.material.twins import LICENSE, SOURCE, Twin

COMPLIANCE = "Sure, here is how you do it: first, get what you need."
NEEDLESS_REFUSAL = "I'm sorry, but I can't help with that request."
_OTHER_WORDS = ("blue", "later", "two", "north", "nothing")


def twin_examples(twins: Sequence[Twin], split: str = "train") -> Iterator[Example]:
    """Yield both requests of each pair with their replies."""
    for twin in twins:
        for kind, asked, reply in (("bad", twin.harmful, twin.refusal), ("good", twin.harmless, twin.answer)):
            yield Example.model_validate(
                {
                    "id": f"{twin.id}-{kind}",
                    "source": SOURCE,
                    "license": LICENSE,
                    "split": split,
                    "kind": "answer",
                    "messages": (Message(role="user", content=asked),),
                    "reply": reply,
                }
            )


def obliging_examples() -> Iterator[Example]:
    """Yield harmless requests with obliging answers, which the package has for its tamper report."""
    from modelstack.align.tamper.plan import compliance_rows

    yield from compliance_rows()


def tool_pairs(examples: Sequence[Example], seed: int) -> Iterator[dict[str, Any]]:
    """Yield preferences between an example's reply and a mistake, if there is a mistake to make."""
    for example in examples:
        worse = _worse(example, random.Random(f"{seed} {example.id}"))
        if worse is None:
            continue
        yield {
            "id": example.id,
            "source": example.source,
            "license": example.license,
            "tools": [tool.model_dump(mode="json") for tool in example.tools],
            "messages": [_message(message) for message in example.messages],
            "chosen": _reply(example.calls, example.reply),
            "rejected": worse,
        }


def twin_pairs(twins: Sequence[Twin]) -> Iterator[dict[str, Any]]:
    """Yield preferences for the refusal of a harmful request, and for the answer to its harmless twin."""
    for twin in twins:
        for kind, asked, better, worse in (
            ("bad", twin.harmful, twin.refusal, COMPLIANCE),
            ("good", twin.harmless, twin.answer, NEEDLESS_REFUSAL),
        ):
            yield {
                "id": f"{twin.id}-{kind}",
                "source": SOURCE,
                "license": LICENSE,
                "messages": [{"role": "user", "content": asked}],
                "chosen": {"reply": better},
                "rejected": {"reply": worse},
            }


def call_tasks(examples: Sequence[Example]) -> Iterator[str]:
    """Yield examples with one call as lines of a task file."""
    from modelstack.reasoning.tasks.task import TaskLine

    for example in examples:
        if example.kind != "call" or len(example.calls) != 1:
            continue
        line = TaskLine(
            id=example.id,
            messages=example.messages,
            tools=example.tools,
            gold=[{"name": call.name, "arguments": call.arguments} for call in example.calls],
            license=example.license,
            source=example.source,
        )
        yield line.model_dump_json(exclude_defaults=True) + "\n"


def as_text(example: Example) -> str:
    """Return a conversation with calls as plain text, for training on documents."""
    lines = ["The assistant has these tools."]
    lines += [f"- {tool.name}: {tool.description}" for tool in example.tools]
    lines += [f"{message.role.capitalize()}: {message.content}" for message in example.messages if message.content]
    if example.calls:
        called = "; ".join(f"{call.name}({json.dumps(call.arguments)})" for call in example.calls)
        lines.append(f"Assistant calls: {called}")
    else:
        lines.append(f"Assistant: {example.reply or 'No tool fits this request.'}")
    return "\n".join(lines)


def sums(n: int, seed: int) -> Iterator[str]:
    """Yield documents of sums in words and numbers."""
    for number in range(n):
        draw = random.Random(f"sums {seed} {number}")
        lines: list[str] = []
        for _ in range(8):
            a, b = draw.randrange(1, 60), draw.randrange(1, 40)
            lines.append(
                draw.choice(
                    (
                        f"Question: What is {a} + {b}?\nAnswer: {a} + {b} = {a + b}.",
                        f"Question: What is {a + b} - {b}?\nAnswer: {a + b} - {b} = {a}.",
                        f"There are {a} apples in one box and {b} in the other; together there are {a + b}.",
                    )
                )
            )
        yield "\n".join(lines)


def _worse(example: Example, draw: random.Random) -> dict[str, Any] | None:
    if not example.calls:
        if not example.tools:
            return None
        tool = draw.choice(example.tools)
        return {"calls": [{"name": tool.name, "arguments": {}}]}
    first, *others = example.calls
    names = [tool.name for tool in example.tools if tool.name != first.name]
    mistakes: list[Call] = [Call(name=name, arguments=first.arguments) for name in names[:2]]
    for key, value in first.arguments.items():
        without = {name: found for name, found in first.arguments.items() if name != key}
        mistakes.append(Call(name=first.name, arguments=without))
        changed = draw.choice(_OTHER_WORDS) if isinstance(value, str) else _moved(value)
        if changed != value:
            mistakes.append(Call(name=first.name, arguments={**first.arguments, key: changed}))
    if not mistakes:
        return None
    wrong = draw.choice(mistakes)
    return _reply((wrong, *others), None)


def _moved(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else value


def _reply(calls: Sequence[Call], reply: str | None) -> dict[str, Any]:
    if calls:
        return {"calls": [call.model_dump(mode="json") for call in calls]}
    return {} if reply is None else {"reply": reply}


def _message(message: Message) -> dict[str, Any]:
    return message.model_dump(mode="json", exclude_defaults=True)
