"""Area "logs": logs of an application and a web server; tasks to count, find, rotate and collect entries."""

from __future__ import annotations

from evals.tool_use.executed.task import End, NumberAnswer, Solution, Start, Task, WordsAnswer, call

APP_LOG = """\
2026-04-01 08:00:02 INFO start version=2.4.1
2026-04-01 08:03:17 WARN slow query 812 ms
2026-04-01 08:10:44 ERROR payment failed order=5512
2026-04-01 08:11:09 INFO retry order=5512
2026-04-01 08:11:10 INFO payment ok order=5512
2026-04-01 09:27:31 ERROR mail not sent to=kim@example.org
2026-04-01 09:40:00 WARN slow query 1450 ms
2026-04-01 11:02:58 ERROR disk almost full used=97%
2026-04-01 11:30:00 INFO stop
"""
OLD_APP_LOG = """\
2026-03-31 08:00:01 INFO start version=2.4.0
2026-03-31 10:15:20 ERROR payment failed order=5490
2026-03-31 18:00:00 INFO stop
"""
OLD_ERROR = "2026-03-31 10:15:20 ERROR payment failed order=5490\n"
NEW_ERRORS = """\
2026-04-01 08:10:44 ERROR payment failed order=5512
2026-04-01 09:27:31 ERROR mail not sent to=kim@example.org
2026-04-01 11:02:58 ERROR disk almost full used=97%
"""
ACCESS_LOG = """\
10.0.0.7 GET /index.html 200
10.0.0.9 GET /login 200
10.0.0.9 POST /login 403
10.0.0.9 POST /login 403
10.0.0.7 GET /cart 200
10.0.0.12 GET /missing.png 404
10.0.0.9 POST /login 200
10.0.0.7 POST /checkout 500
10.0.0.12 GET /index.html 200
10.0.0.7 POST /checkout 302
"""
NIGHT_LOG = "".join(
    f"02:{minute:02} {'ERROR' if minute % 5 in (1, 3) else 'INFO'} job-{minute:02}\n" for minute in range(45)
)
"""Log with ERROR in 18 lines: more than an agent would guess without reading it."""
START = Start(
    files={
        "app/app.log": APP_LOG,
        "app/app.log.1": OLD_APP_LOG,
        "jobs/night.log": NIGHT_LOG,
        "web/access.log": ACCESS_LOG,
        "web/old/access-a.log": "10.0.0.3 GET /index.html 200\n10.0.0.3 GET /cart 200\n",
        "web/old/access-b.log": "10.0.0.5 GET /index.html 200\n",
        "README.txt": "app: the shop's own log. jobs: what runs at night. web: what the web server was asked.\n",
    },
    modified={
        "web/old/access-a.log": "2025-11-30T23:59:00+00:00",
        "web/old/access-b.log": "2025-10-31T23:59:00+00:00",
    },
)

TASKS = (
    Task(
        id="logs-count-errors",
        prompt="How many lines with ERROR are in jobs/night.log?",
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (call("search_text", text="ERROR", path="jobs/night.log"),), "There are 18 lines with ERROR."
        ),
        wrong=Solution((call("search_text", text="ERROR"),), "There are 22 lines with ERROR."),
        answer=NumberAnswer(18, forbidden=(3, 4, 17, 19, 22, 27, 45)),
    ),
    Task(
        id="logs-last-request",
        prompt="What status did the very last request in web/access.log get, and which path was it for?",
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (call("read_text_file", path="web/access.log", tail=1),), "It was /checkout, with status 302."
        ),
        wrong=Solution(
            (call("search_text", text="checkout", path="web/access.log"),), "It was /checkout, with status 500."
        ),
        answer=WordsAnswer((("checkout",), ("302",)), ("500", "200", "403", "404", "index.html", "login", "cart")),
    ),
    Task(
        id="logs-refused-logins",
        prompt=(
            "Somebody was refused with a 403 according to web/access.log. From which address, and how many times?"
        ),
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (call("search_text", text=" 403", path="web/access.log"),), "10.0.0.9 was refused 2 times."
        ),
        wrong=Solution(
            (call("search_text", text="POST /login", path="web/access.log"),), "10.0.0.9 was refused 3 times."
        ),
        answer=WordsAnswer((("10.0.0.9",), ("2", "two", "twice")), ("10.0.0.7", "10.0.0.12", "3", "4", "three")),
    ),
    Task(
        id="logs-delete-older",
        prompt=(
            "web/old holds access-a.log and access-b.log. Delete the one that was last modified longer ago "
            "and keep the other."
        ),
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("file_info", path="web/old/access-a.log"),
                call("file_info", path="web/old/access-b.log"),
                call("delete", path="web/old/access-b.log"),
            ),
            "I deleted web/old/access-b.log.",
        ),
        wrong=Solution((call("delete", path="web/old/access-a.log"),), "I deleted the older one."),
        end=End(files={"web/old/access-b.log": None}),
    ),
    Task(
        id="logs-disk-report",
        prompt=(
            "app/app.log complains about the disk. Write a file report.txt with one line, 'disk used: ' and the "
            "percentage from the log, percent sign included."
        ),
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("search_text", text="disk", path="app/app.log"),
                call("write_file", path="report.txt", text="disk used: 97%\n"),
            ),
            "report.txt says that 97% are used.",
        ),
        wrong=Solution(
            (
                call("search_text", text="disk", path="app/app.log"),
                call("write_file", path="report.txt", text="disk used: 97\n"),
            ),
            "report.txt says that 97% are used.",
        ),
        end=End(files={"report.txt": "disk used: 97%\n"}),
    ),
    Task(
        id="logs-archive-yesterday",
        prompt="Make a folder archive and move yesterday's log, app/app.log.1, there as app-2026-03-31.log.",
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("create_directory", path="archive"),
                call("move", source="app/app.log.1", destination="archive/app-2026-03-31.log"),
            ),
            "It is archive/app-2026-03-31.log now.",
        ),
        wrong=Solution(
            (
                call("create_directory", path="archive"),
                call("move", source="app/app.log", destination="archive/app-2026-03-31.log"),
            ),
            "It is archive/app-2026-03-31.log now.",
        ),
        end=End(files={"app/app.log.1": None, "archive/app-2026-03-31.log": OLD_APP_LOG}),
    ),
    Task(
        id="logs-collect-errors",
        prompt=(
            "Collect all ERROR lines of the two logs in app in a new file errors.txt, exactly as they are in the "
            "logs, oldest first."
        ),
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("search_text", text="ERROR", path="app"),
                call("write_file", path="errors.txt", text=OLD_ERROR + NEW_ERRORS),
            ),
            "errors.txt has the 4 lines.",
        ),
        wrong=Solution(
            (
                call("search_text", text="ERROR", path="app"),
                call("write_file", path="errors.txt", text=NEW_ERRORS + OLD_ERROR),
            ),
            "errors.txt has the 4 lines.",
        ),
        end=End(files={"errors.txt": OLD_ERROR + NEW_ERRORS}),
    ),
)
