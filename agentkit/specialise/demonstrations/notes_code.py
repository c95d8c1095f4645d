"""Files of settings in JSON and YAML, and small Python programs, with questions."""

from __future__ import annotations

import json
from typing import Any

from agentkit.specialise.demonstrations.domains import PEOPLE
from agentkit.specialise.demonstrations.file_questions import Notes, Question, counted, stock
from modelstack.data.tools.spoken import Scene, listed


def json_settings(title: str, now: Scene) -> Notes:
    """Return nested settings in JSON; the same key occurs in two objects."""
    words = stock()["config"]
    app, hosts = now.one(words["apps"]), now.some(words["hosts"], 2)
    ports = now.some(range(3000, 9999), 2)
    parts = now.some(("server", "database", "metrics", "mail"), 2)
    key, other = now.some(words["keys"], 2)
    values = now.some(range(1, 600), 2)
    users = now.some(PEOPLE, now.random.randrange(2, 7))
    features = {name: now.chance(0.5) for name in now.some(words["features"], now.random.randrange(3, 6))}
    version = f"{now.random.randrange(1, 9)}.{now.random.randrange(0, 20)}"
    config: dict[str, Any] = {"name": app, "version": version}
    rest: dict[str, Any] = {
        parts[0]: {"host": hosts[0], "port": ports[0], key: values[0]},
        parts[1]: {"host": hosts[1], "port": ports[1], other: values[1]},
        "users": users,
        "features": features,
    }
    config |= {name: rest[name] for name in now.some(list(rest), len(rest))}
    text = json.dumps(config, indent=now.one((2, 2, 4)))
    at = now.one((0, 1))
    part = parts[at]
    feature, user = now.one(list(features)), now.one(users)
    on = [name for name, is_on in features.items() if is_on]
    stranger = now.one([one for one in PEOPLE if one not in users])
    absent = now.one([name for name in words["features"] if name not in features])
    high = ports.index(max(ports))
    questions = (
        Question(
            (
                f"which port does the {part} have in {{file}}?",
                f"{{file}}: port of {part}?",
                f"what is {part}.port in {{file}}?",
            ),
            (f"The port of {part} is {ports[at]}.", f"{ports[at]}."),
            (f"on which port does the {part} of {app} run?", f"which port does the {part} have?"),
            part,
            is_in_line=False,
        ),
        Question(
            (f"which host is set for the {part} in {{file}}?", f"what is {part}.host in {{file}}?"),
            (f"{hosts[at]}.", f"The host of {part} is {hosts[at]}."),
        ),
        Question(
            (f"what is {key} in {{file}}?", f"which {key} does {{file}} set for the {parts[0]}?"),
            (f"{values[0]}.", f"The {key} is {values[0]}."),
            (f"which {key} does the {parts[0]} of {app} have?",),
            key,
        ),
        Question(
            ("how many users are in {file}?", "which users does {file} name, and how many?"),
            counted(users, "user", "users"),
            (f"how many users does {app} have?", f"who are the users of {app}?"),
            "users",
            is_in_line=False,
        ),
        Question(
            (f"is {feature} switched on in {{file}}?", f"{{file}}: is {feature} true or false?"),
            (f"{'Yes' if features[feature] else 'No'}, {feature} is {str(features[feature]).lower()}.",),
            (f"is {feature} switched on in {app}?",),
            feature,
        ),
        Question(
            ("how many features are on in {file}?", "which features are switched on in {file}?"),
            counted(on, "feature", "features"),
        ),
        Question(
            (
                f"which port in {{file}} is higher, that of {parts[0]} or of {parts[1]}?",
                "what is the highest port in {file}?",
            ),
            (f"{ports[high]}, the port of {parts[high]}.",),
        ),
        now.one(
            (
                Question((f"is {stranger} a user in {{file}}?",), (f"No, {stranger} is not among the users.",)),
                Question((f"is {user} a user in {{file}}?",), (f"Yes, {user} is among the users.",)),
                Question((f"does {{file}} have a feature {absent}?",), (f"No, {absent} is not in it.",)),
                Question(("which version is in {file}?",), (f"Version {version} of {app}.",)),
                Question(("what are the top-level keys of {file}?",), (f"They are {listed(list(config))}.",)),
            )
        ),
    )
    return Notes(text + "\n", questions, (".json",), ("config", "settings", app))


def yaml_settings(title: str, now: Scene) -> Notes:
    """Return services with image, port and restart rule in YAML."""
    words = stock()["config"]
    services = now.some(words["services"], now.random.randrange(3, 7))
    n = len(services)
    ports, memory = now.some(range(2000, 9999), n), now.some(range(64, 1024, 32), n)
    images, restarts = [now.one(words["images"]) for _ in services], [now.one(words["restarts"]) for _ in services]
    lines = [*(["# Services of the house"] if now.chance(0.5) else []), "services:"]
    for name, image, port, rule, size in zip(services, images, ports, restarts, memory, strict=True):
        lines += [
            f"  {name}:",
            f"    image: {image}",
            f"    port: {port}",
            f"    restart: {rule}",
            f"    memory: {size}",
        ]
    at, other = now.some(range(n), 2)
    name, rule, image = services[at], restarts[at], images[at]
    same = [one for one, each in zip(services, restarts, strict=True) if each == rule]
    of_image = [one for one, each in zip(services, images, strict=True) if each == image]
    high, most = ports.index(max(ports)), memory.index(max(memory))
    least = memory.index(min(memory))
    absent = now.one([each for each in words["services"] if each not in services])
    more, less = (at, other) if memory[at] > memory[other] else (other, at)
    questions = (
        Question(
            (f"which port does {name} have in {{file}}?", f"{{file}}: port of {name}?"),
            (f"The port of {name} is {ports[at]}.", f"{ports[at]}."),
            (f"which port does the service {name} use?", f"on which port is {name}?"),
            name,
            is_in_line=False,
        ),
        Question(
            (
                f"which service in {{file}} has port {ports[at]}?",
                f"what runs on port {ports[at]} according to {{file}}?",
            ),
            (f"The service {name}.", f"Port {ports[at]} belongs to {name}."),
            (f"which service has port {ports[at]}?", f"what runs on port {ports[at]}?"),
            str(ports[at]),
            is_in_line=False,
        ),
        Question(
            (f"which image does {name} use in {{file}}?", f"what is the image of {name} in {{file}}?"),
            (f"The image of {name} is {image}.", f"{image}."),
        ),
        Question(
            ("how many services are in {file}?", "which services does {file} define?"),
            counted(list(services), "service", "services"),
            ("how many services do I have?", "which services are set up?"),
            "services",
            is_in_line=False,
        ),
        Question(
            (f"how many services in {{file}} have restart {rule}?", f"which services in {{file}} restart {rule}?"),
            counted(same, "service", "services"),
        ),
        Question(
            ("which service in {file} has the most memory?", "what is the highest memory in {file}?"),
            (f"The service {services[most]}, with {memory[most]}.",),
        ),
        now.one(
            (
                Question(
                    ("which service in {file} has the least memory?",),
                    (f"The service {services[least]}, with {memory[least]}.",),
                ),
                Question(
                    ("which service in {file} has the highest port?",),
                    (f"It is {services[high]}, with {ports[high]}.",),
                ),
                Question(
                    (f"which services in {{file}} use {image}?",),
                    (f"It is used by {listed(of_image)}.",),
                ),
            )
        ),
        now.one(
            (
                Question((f"is there a service {absent} in {{file}}?",), (f"No, {absent} is not in it.",)),
                Question(
                    (f"how much more memory than {services[less]} has {services[more]} in {{file}}?",),
                    (f"{memory[more] - memory[less]} more: {memory[more]} against {memory[less]}.",),
                ),
                Question(
                    (f"which password does {name} have in {{file}}?",),
                    ("The file does not say that; it has no passwords.",),
                ),
            )
        ),
    )
    return Notes(
        "\n".join(lines) + "\n", questions, (".yaml", ".yml"), ("services", "compose", "deploy", "settings")
    )


def python_file(title: str, now: Scene) -> Notes:
    """Return a small Python program with constants, functions and one to-do comment."""
    words = stock()["python"]
    purpose = now.one(words["purposes"])
    drawn = now.some(stock()["functions"], now.random.randrange(2, 6))
    text = "\n".join(line for each in drawn for line in each["body"])
    imports: list[str] = sorted(
        {*now.some(words["imports"], now.one((1, 2))), *(["csv"] if "csv." in text else [])}
    )
    constants = {
        key: now.one(values) for key, values in now.some(list(words["constants"].items()), now.one((1, 2)))
    }
    mark, remark = now.one(("TODO", "FIXME", "TODO")), now.one(words["remarks"])
    at = now.random.randrange(len(drawn))
    lines = [f'"""{purpose}"""', "", *(f"import {name}" for name in imports), ""]
    lines += [f"{key} = {value}" for key, value in constants.items()]
    for number, each in enumerate(drawn):
        lines += ["", "", f"def {each['head']}:", f'    """{each["doc"]}"""']
        lines += [f"    # {mark}: {remark}"] if number == at else []
        lines += [f"    {line}" for line in each["body"]]
    names = [each["head"].split("(")[0] for each in drawn]
    one = now.one(drawn)
    name, _, inside = one["head"].rstrip(")").partition("(")
    parameters = [each.split("=")[0] for each in inside.split(", ")]
    does = f"{one['doc'][:1].lower()}{one['doc'][1:].rstrip('.')}"
    constant = now.one(list(constants))
    line = next(n for n, each in enumerate(lines, 1) if f"# {mark}" in each)
    absent = now.one([each for each in words["imports"] if each not in imports])
    outside = now.one([each["head"].split("(")[0] for each in stock()["functions"] if each not in drawn])
    start = next(n for n, each in enumerate(lines, 1) if each.startswith(f"def {name}("))
    questions = (
        Question(
            ("how many functions are in {file}?", "which functions does {file} define, and how many?"),
            counted(names, "function", "functions"),
        ),
        Question(
            (
                f"what is the function called that should {does} in {{file}}?",
                f"which function in {{file}} is there to {does}?",
            ),
            (f"It is called {name}.", f"The function {name}."),
            (f"what is the function called that is there to {does}?",),
            " ".join(one["doc"].rstrip(".").split()[-3:]),
            is_in_line=False,
        ),
        Question(
            (f"what does {name} do in {{file}}?", f"what is {name} good for? See {{file}}"),
            (f"{one['doc']}", f"The function {name} is there to {does}."),
            (f"what does the function {name} do?", f"what is {name} good for?"),
            name,
            is_in_line=False,
        ),
        Question(
            (
                f"which parameters does {name} take in {{file}}?",
                f"how many parameters does {name} have in {{file}}?",
            ),
            counted(parameters, "parameter", "parameters"),
            (f"which parameters does the function {name} take?",),
            f"def {name}",
        ),
        Question(
            (f"what is {constant} in {{file}}?", f"which value has {constant} in {{file}}?"),
            (f"{constant} is {constants[constant]}.", f"{constants[constant]}."),
            (f"what value does {constant} have?", f"to what is {constant} set?"),
            constant,
        ),
        Question(
            (
                f"is there a {mark} in {{file}}?",
                f"what does the {mark} in {{file}} say?",
                f"what is still to do in {{file}}? There's a {mark}",
            ),
            (f'The {mark} says "{remark}".', f'In {names[at]}: "{remark}".'),
            (f"what does the {mark} in my code say?", f"is there a {mark} in the Python files?"),
            mark,
        ),
        Question(
            (f"in which function of {{file}} is the {mark}?",),
            (f"In {names[at]}.", f"In {names[at]}, in line {line}."),
            (f"in which function is the {mark}?",),
            mark,
            is_in_line=False,
        ),
        now.one(
            (
                Question((f"does {{file}} import {absent}?",), (f"No, it imports only {listed(imports)}.",)),
                Question(
                    ("which modules does {file} import?",),
                    (f"The modules {listed(imports)}.", f"It imports {listed(imports)}."),
                ),
                Question(
                    (f"is there a function {outside} in {{file}}?",),
                    (f"No, it has no function {outside}.",),
                ),
                Question(
                    ("what is the last function in {file}?",),
                    (f"The last one is {names[-1]}.",),
                ),
                Question((f"in which line does {name} begin in {{file}}?",), (f"In line {start}.",)),
                Question(
                    ("what is {file} for?", "sum up {file} in one sentence"),
                    (f"{purpose.rstrip('.')}, with the functions {listed(names)}.",),
                ),
            )
        ),
    )
    return Notes("\n".join(lines) + "\n", questions, (".py",), ("tools", "weather", "lists", "helpers", "report"))
