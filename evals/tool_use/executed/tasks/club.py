"""Area "club": members, courses and mail of a club; letters in files, records in the database."""

from __future__ import annotations

from evals.tool_use.executed.task import (
    End,
    NumberAnswer,
    RowChange,
    Solution,
    Start,
    Task,
    call,
)

REQUEST_1 = "From: quinn@example.org\nPlease book me into Drawing as well.\n"
REQUEST_3 = "From: petra@example.org\nMy new address is petra.novak@example.net.\n"
START = Start(
    files={
        "inbox/request-01.txt": REQUEST_1,
        "inbox/request-02.txt": "From: omar@example.org\nI paid my fee by bank transfer today.\n",
        "inbox/request-03.txt": REQUEST_3,
        "inbox/done/": "",
        "letters/reminder-template.txt": "Dear NAME,\nyour fee is still open. Please pay by 30 June.\n",
        "prices.txt": "Pottery 45\nDrawing 30\nWeaving 60\n",
    },
    sql="""\
CREATE TABLE members (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, paid INTEGER NOT NULL);
CREATE TABLE courses (id INTEGER PRIMARY KEY, title TEXT NOT NULL, day TEXT NOT NULL);
CREATE TABLE bookings (
    course_id INTEGER NOT NULL REFERENCES courses(id),
    member_id INTEGER NOT NULL REFERENCES members(id),
    PRIMARY KEY (course_id, member_id)
);
INSERT INTO members VALUES
    (1, 'Lena Hoff', 'lena@example.org', 1),
    (2, 'Omar Said', 'omar@example.org', 0),
    (3, 'Petra Novak', 'petra@example.org', 1),
    (4, 'Quinn Lee', 'quinn@example.org', 0);
INSERT INTO courses VALUES (1, 'Pottery', 'Monday'), (2, 'Drawing', 'Tuesday'), (3, 'Weaving', 'Thursday');
INSERT INTO bookings VALUES (1, 1), (1, 3), (2, 1), (2, 2), (3, 4);
""",
)


def _reminder(name: str) -> str:
    return f"Dear {name},\nyour fee is still open. Please pay by 30 June.\n"


TASKS = (
    Task(
        id="club-fee-paid",
        prompt=(
            "Read inbox/request-02.txt and record in the database what it says. The table members has id, name, "
            "email and paid (1 or 0)."
        ),
        servers=("filesystem", "sqlite"),
        start=START,
        reference=Solution(
            (
                call("read_text_file", path="inbox/request-02.txt"),
                call(
                    "execute",
                    sql="UPDATE members SET paid = 1 WHERE email = ?",
                    parameters=["omar@example.org"],
                ),
            ),
            "Omar Said has paid.",
        ),
        wrong=Solution(
            (
                call("read_text_file", path="inbox/request-02.txt"),
                call("execute", sql="UPDATE members SET paid = 1"),
            ),
            "Omar Said has paid.",
        ),
        end=End(
            rows=(
                RowChange(
                    "members",
                    removed=((2, "Omar Said", "omar@example.org", 0),),
                    added=((2, "Omar Said", "omar@example.org", 1),),
                ),
            )
        ),
    ),
    Task(
        id="club-unpaid-list",
        prompt=(
            "Write the names of all members who have not paid to a file unpaid.txt, one a line, in alphabetical "
            "order. The table members has id, name, email and paid (1 or 0)."
        ),
        servers=("filesystem", "sqlite"),
        start=START,
        reference=Solution(
            (
                call("query", sql="SELECT name FROM members WHERE paid = 0 ORDER BY name"),
                call("write_file", path="unpaid.txt", text="Omar Said\nQuinn Lee\n"),
            ),
            "unpaid.txt has 2 names.",
        ),
        wrong=Solution(
            (
                call("query", sql="SELECT name FROM members WHERE paid = 1 ORDER BY name"),
                call("write_file", path="unpaid.txt", text="Lena Hoff\nPetra Novak\n"),
            ),
            "unpaid.txt has 2 names.",
        ),
        end=End(files={"unpaid.txt": "Omar Said\nQuinn Lee\n"}),
    ),
    Task(
        id="club-cost-for-lena",
        prompt=(
            "What do all the courses that Lena Hoff has booked cost together? The bookings are in the database, "
            "the prices in prices.txt."
        ),
        servers=("filesystem", "sqlite"),
        start=START,
        reference=Solution(
            (
                call("list_tables"),
                call(
                    "query",
                    sql=(
                        "SELECT title FROM bookings JOIN courses ON courses.id = course_id "
                        "JOIN members ON members.id = member_id WHERE name = 'Lena Hoff'"
                    ),
                ),
                call("read_text_file", path="prices.txt"),
            ),
            "Her courses cost 75 together.",
        ),
        wrong=Solution((call("read_text_file", path="prices.txt"),), "Her courses cost 135 together."),
        answer=NumberAnswer(75, forbidden=(60, 90, 105, 135)),
    ),
    Task(
        id="club-new-address",
        prompt=(
            "Do what inbox/request-03.txt asks (table members: id, name, email, paid), then move the request to "
            "inbox/done."
        ),
        servers=("filesystem", "sqlite"),
        start=START,
        reference=Solution(
            (
                call("read_text_file", path="inbox/request-03.txt"),
                call(
                    "execute",
                    sql="UPDATE members SET email = ? WHERE email = ?",
                    parameters=["petra.novak@example.net", "petra@example.org"],
                ),
                call("move", source="inbox/request-03.txt", destination="inbox/done/request-03.txt"),
            ),
            "Petra's address is changed and the request is filed.",
        ),
        wrong=Solution(
            (
                call("read_text_file", path="inbox/request-03.txt"),
                call("move", source="inbox/request-03.txt", destination="inbox/done/request-03.txt"),
            ),
            "Petra's address is changed and the request is filed.",
        ),
        end=End(
            files={"inbox/request-03.txt": None, "inbox/done/request-03.txt": REQUEST_3},
            rows=(
                RowChange(
                    "members",
                    removed=((3, "Petra Novak", "petra@example.org", 1),),
                    added=((3, "Petra Novak", "petra.novak@example.net", 1),),
                ),
            ),
        ),
    ),
    Task(
        id="club-booking-request",
        prompt="Handle inbox/request-01.txt: make the booking in the database and move the request to inbox/done.",
        servers=("filesystem", "sqlite"),
        start=START,
        reference=Solution(
            (
                call("read_text_file", path="inbox/request-01.txt"),
                call("list_tables"),
                call(
                    "execute",
                    sql=(
                        "INSERT INTO bookings (course_id, member_id) SELECT courses.id, members.id "
                        "FROM courses, members WHERE title = 'Drawing' AND email = 'quinn@example.org'"
                    ),
                ),
                call("move", source="inbox/request-01.txt", destination="inbox/done/request-01.txt"),
            ),
            "Quinn Lee is booked into Drawing.",
        ),
        wrong=Solution(
            (
                call("read_text_file", path="inbox/request-01.txt"),
                call("list_tables"),
                call("execute", sql="UPDATE bookings SET course_id = 2 WHERE member_id = 4"),
                call("move", source="inbox/request-01.txt", destination="inbox/done/request-01.txt"),
            ),
            "Quinn Lee is booked into Drawing.",
        ),
        end=End(
            files={"inbox/request-01.txt": None, "inbox/done/request-01.txt": REQUEST_1},
            rows=(RowChange("bookings", added=((2, 4),)),),
        ),
    ),
    Task(
        id="club-one-reminder",
        prompt=(
            "Write a reminder to the member with id 2 from letters/reminder-template.txt, with the full name from "
            "the table members (id, name) in place of NAME, and save it as letters/reminder-2.txt."
        ),
        servers=("filesystem", "sqlite"),
        start=START,
        reference=Solution(
            (
                call("query", sql="SELECT name FROM members WHERE id = 2"),
                call("read_text_file", path="letters/reminder-template.txt"),
                call("write_file", path="letters/reminder-2.txt", text=_reminder("Omar Said")),
            ),
            "The reminder to Omar Said is letters/reminder-2.txt.",
        ),
        wrong=Solution(
            (
                call("query", sql="SELECT name FROM members WHERE id = 2"),
                call("read_text_file", path="letters/reminder-template.txt"),
                call("write_file", path="letters/reminder-2.txt", text=_reminder("Omar")),
            ),
            "The reminder to Omar Said is letters/reminder-2.txt.",
        ),
        end=End(files={"letters/reminder-2.txt": _reminder("Omar Said")}),
    ),
    Task(
        id="club-all-reminders",
        prompt=(
            "Write a reminder from letters/reminder-template.txt for each member who has not paid (table members: "
            "id, name, email, paid 1 or 0). Put the full name in place of NAME and save it as letters/ID.txt, ID "
            "being the member's id."
        ),
        servers=("filesystem", "sqlite"),
        start=START,
        reference=Solution(
            (
                call("query", sql="SELECT id, name FROM members WHERE paid = 0"),
                call("read_text_file", path="letters/reminder-template.txt"),
                call("write_file", path="letters/2.txt", text=_reminder("Omar Said")),
                call("write_file", path="letters/4.txt", text=_reminder("Quinn Lee")),
            ),
            "I wrote letters/2.txt and letters/4.txt.",
        ),
        wrong=Solution(
            (
                call("query", sql="SELECT id, name FROM members WHERE paid = 0"),
                call("read_text_file", path="letters/reminder-template.txt"),
                call("write_file", path="letters/2.txt", text=_reminder("Quinn Lee")),
                call("write_file", path="letters/4.txt", text=_reminder("Omar Said")),
            ),
            "I wrote letters/2.txt and letters/4.txt.",
        ),
        end=End(files={"letters/2.txt": _reminder("Omar Said"), "letters/4.txt": _reminder("Quinn Lee")}),
    ),
)
