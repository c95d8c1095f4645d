"""Area "notes": personal notes with a to-do list, minutes, a shopping list and recipes."""

from __future__ import annotations

from evals.tool_use.executed.task import End, NumberAnswer, Solution, Start, Task, WordsAnswer, call

TODO = """\
# To do
- [ ] Renew the parking permit
- [x] Book the dentist
- [ ] Send the slides to Maja
- [ ] Water the ferns
- [x] Pay the electricity bill
- [ ] Return the library books
"""
WEEKLY_9 = """\
# Weekly, 9 March 2026
Present: Maja, Ines
Decision: the launch moves to 21 May.
Action: Ines asks the printer for an offer.
"""
WEEKLY_16 = """\
# Weekly, 16 March 2026
Present: Maja, Tomas
Decision: none.
Action: Maja books the room for 40 people.
"""
PANCAKES = "Pancakes for 2\n150 g flour\n2 eggs\n300 ml milk\n"
START = Start(
    files={
        "todo.md": TODO,
        "shopping.txt": "bread\nolives\nrice\n",
        "meetings/2026-03-02-kickoff.md": (
            "# Kickoff, 2 March 2026\nPresent: Maja, Tomas, Ines\nDecision: the launch is on 14 May.\n"
            "Action: Tomas writes the press text.\n"
        ),
        "meetings/2026-03-09-weekly.md": WEEKLY_9,
        "meetings/2026-03-16-weekly.md": WEEKLY_16,
        "recipes/lentil-soup.txt": ("Lentil soup for 4\n250 g red lentils\n1 onion\n2 carrots\n900 ml stock\n"),
        "recipes/pancakes.txt": PANCAKES,
    }
)

TASKS = (
    Task(
        id="notes-soup-stock",
        prompt="How many ml of stock do I need for the soup in recipes/lentil-soup.txt?",
        servers=("filesystem",),
        start=START,
        reference=Solution((call("read_text_file", path="recipes/lentil-soup.txt"),), "You need 900 ml of stock."),
        wrong=Solution((call("read_text_file", path="recipes/pancakes.txt"),), "You need 300 ml."),
        answer=NumberAnswer(900, forbidden=(150, 250, 300)),
    ),
    Task(
        id="notes-tick-ferns",
        prompt="I watered the ferns. In todo.md please turn '- [ ] Water the ferns' into '- [x] Water the ferns'.",
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call(
                    "edit_file",
                    path="todo.md",
                    old_text="- [ ] Water the ferns",
                    new_text="- [x] Water the ferns",
                ),
            ),
            "It is ticked off.",
        ),
        wrong=Solution(
            (call("edit_file", path="todo.md", old_text="- [ ]", new_text="- [x]", replace_all=True),),
            "It is ticked off.",
        ),
        end=End(files={"todo.md": TODO.replace("[ ] Water", "[x] Water")}),
    ),
    Task(
        id="notes-new-idea",
        prompt="Make a new file ideas.txt with this one line: Ask Ines about the summer party",
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (call("write_file", path="ideas.txt", text="Ask Ines about the summer party\n"),),
            "I made ideas.txt.",
        ),
        wrong=Solution(
            (call("write_file", path="ideas.md", text="Ask Ines about the summer party\n"),), "I made ideas.txt."
        ),
        end=End(files={"ideas.txt": "Ask Ines about the summer party\n"}),
    ),
    Task(
        id="notes-launch-date",
        prompt="On which day is the launch, as decided last? It must be in one of the minutes in meetings.",
        servers=("filesystem",),
        start=START,
        reference=Solution((call("search_text", text="launch", path="meetings"),), "The launch is on 21 May."),
        wrong=Solution(
            (call("read_text_file", path="meetings/2026-03-02-kickoff.md"),), "The launch is on 14 May."
        ),
        answer=WordsAnswer(
            (("21 May", "May 21", "21st May", "May 21st", "21st of May"),),
            ("14 May", "May 14", "press text", "lentil"),
        ),
    ),
    Task(
        id="notes-lemons",
        prompt="Put lemons on my shopping list (shopping.txt), as the last line.",
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("read_text_file", path="shopping.txt"),
                call("edit_file", path="shopping.txt", old_text="rice", new_text="rice\nlemons"),
            ),
            "Lemons are on the list.",
        ),
        wrong=Solution(
            (call("write_file", path="shopping.txt", text="lemons\n", overwrite=True),), "Lemons are on the list."
        ),
        end=End(files={"shopping.txt": "bread\nolives\nrice\nlemons\n"}),
    ),
    Task(
        id="notes-weekly-folder",
        prompt="Sort my minutes: move the two weekly ones into a new folder meetings/weekly, names unchanged.",
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("list_directory", path="meetings"),
                call("create_directory", path="meetings/weekly"),
                call(
                    "move",
                    source="meetings/2026-03-09-weekly.md",
                    destination="meetings/weekly/2026-03-09-weekly.md",
                ),
                call(
                    "move",
                    source="meetings/2026-03-16-weekly.md",
                    destination="meetings/weekly/2026-03-16-weekly.md",
                ),
            ),
            "Both weekly minutes are in meetings/weekly now.",
        ),
        wrong=Solution(
            (
                call("create_directory", path="meetings/weekly"),
                call(
                    "move",
                    source="meetings/2026-03-09-weekly.md",
                    destination="meetings/weekly/2026-03-09-weekly.md",
                ),
            ),
            "Both weekly minutes are in meetings/weekly now.",
        ),
        end=End(
            files={
                "meetings/2026-03-09-weekly.md": None,
                "meetings/2026-03-16-weekly.md": None,
                "meetings/weekly/2026-03-09-weekly.md": WEEKLY_9,
                "meetings/weekly/2026-03-16-weekly.md": WEEKLY_16,
            }
        ),
    ),
    Task(
        id="notes-double-pancakes",
        prompt=(
            "We will be four. Write recipes/pancakes-for-4.txt: my recipes/pancakes.txt with every number "
            "doubled, also the one in the title. Leave the old recipe as it is."
        ),
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("read_text_file", path="recipes/pancakes.txt"),
                call(
                    "write_file",
                    path="recipes/pancakes-for-4.txt",
                    text="Pancakes for 4\n300 g flour\n4 eggs\n600 ml milk\n",
                ),
            ),
            "I wrote the recipe for 4.",
        ),
        wrong=Solution(
            (
                call("read_text_file", path="recipes/pancakes.txt"),
                call(
                    "write_file",
                    path="recipes/pancakes-for-4.txt",
                    text="Pancakes for 4\n300 g flour\n4 eggs\n300 ml milk\n",
                ),
            ),
            "I wrote the recipe for 4.",
        ),
        end=End(files={"recipes/pancakes-for-4.txt": "Pancakes for 4\n300 g flour\n4 eggs\n600 ml milk\n"}),
    ),
)
