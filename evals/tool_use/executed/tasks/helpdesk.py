"""Area "helpdesk": support tickets, their agents, and comments."""

from __future__ import annotations

from evals.tool_use.executed.task import (
    End,
    NumberAnswer,
    RowChange,
    Solution,
    Start,
    Task,
    WordsAnswer,
    call,
)

START = Start(
    sql="""\
CREATE TABLE agents (id INTEGER PRIMARY KEY, name TEXT NOT NULL, team TEXT NOT NULL);
CREATE TABLE tickets (
    id INTEGER PRIMARY KEY,
    subject TEXT NOT NULL,
    priority TEXT NOT NULL,
    status TEXT NOT NULL,
    agent_id INTEGER REFERENCES agents(id),
    opened TEXT NOT NULL
);
CREATE TABLE comments (
    id INTEGER PRIMARY KEY,
    ticket_id INTEGER NOT NULL REFERENCES tickets(id),
    author TEXT NOT NULL,
    body TEXT NOT NULL
);
INSERT INTO agents VALUES (1, 'Priya', 'billing'), (2, 'Jonas', 'technical'), (3, 'Mei', 'technical');
INSERT INTO tickets VALUES
    (1, 'Cannot log in', 'high', 'open', 2, '2026-05-02'),
    (2, 'Wrong amount charged', 'high', 'open', 1, '2026-05-03'),
    (3, 'Change of address', 'low', 'closed', 1, '2026-05-03'),
    (4, 'App crashes on start', 'high', 'open', NULL, '2026-05-04'),
    (5, 'Dark mode, please', 'low', 'open', NULL, '2026-05-05'),
    (6, 'Refund not received', 'medium', 'waiting', 1, '2026-05-06'),
    (7, 'Cannot log in from phone', 'medium', 'open', 3, '2026-05-07');
INSERT INTO comments VALUES
    (1, 1, 'customer', 'Since yesterday.'),
    (2, 1, 'Jonas', 'Please reset your password.'),
    (3, 2, 'customer', 'I was charged twice.'),
    (4, 6, 'Priya', 'The bank needs three days.');
"""
)

TASKS = (
    Task(
        id="helpdesk-priya-said",
        prompt=(
            "What did Priya write on ticket 6? It is in the table comments: id, ticket_id, author, body. Give me "
            "her words."
        ),
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (call("query", sql="SELECT body FROM comments WHERE ticket_id = 6 AND author = 'Priya'"),),
            "She wrote: The bank needs three days.",
        ),
        wrong=Solution(
            (call("query", sql="SELECT body FROM comments WHERE ticket_id = 2"),),
            "She wrote: I was charged twice.",
        ),
        answer=WordsAnswer(
            (("the bank needs three days",),), ("charged twice", "since yesterday", "reset your password")
        ),
    ),
    Task(
        id="helpdesk-add-comment",
        prompt=(
            "Put a comment by Mei on ticket 4: 'Looking into it.' The table comments has id (leave it to the "
            "database), ticket_id, author and body."
        ),
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (
                call(
                    "execute",
                    sql="INSERT INTO comments (ticket_id, author, body) VALUES (?, ?, ?)",
                    parameters=[4, "Mei", "Looking into it."],
                ),
            ),
            "The comment is on ticket 4.",
        ),
        wrong=Solution(
            (
                call(
                    "execute",
                    sql="UPDATE comments SET author = 'Mei', body = 'Looking into it.' WHERE id = 4",
                ),
            ),
            "The comment is on ticket 4.",
        ),
        end=End(rows=(RowChange("comments", added=((5, 4, "Mei", "Looking into it."),)),)),
    ),
    Task(
        id="helpdesk-technical-open",
        prompt=(
            "How many open tickets do the people of the technical team have between them, and what is the subject "
            "of the newest of these?"
        ),
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (
                call("list_tables"),
                call(
                    "query",
                    sql=(
                        "SELECT subject FROM tickets JOIN agents ON agents.id = agent_id "
                        "WHERE team = 'technical' AND status = 'open' ORDER BY opened DESC"
                    ),
                ),
            ),
            "They have 2 open tickets, the newest being 'Cannot log in from phone'.",
        ),
        wrong=Solution(
            (
                call("list_tables"),
                call("query", sql="SELECT subject FROM tickets WHERE status = 'open' ORDER BY opened DESC"),
            ),
            "They have 5 open tickets, the newest being 'Cannot log in from phone'.",
        ),
        answer=WordsAnswer(
            (("2", "two"), ("cannot log in from phone",)),
            ("5", "five", "wrong amount", "change of address", "app crashes", "dark mode", "refund"),
        ),
    ),
    Task(
        id="helpdesk-close-priya",
        prompt="Priya solved everything she had. Set all tickets of hers that are not closed yet to closed.",
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (
                call("list_tables"),
                call(
                    "execute",
                    sql=(
                        "UPDATE tickets SET status = 'closed' "
                        "WHERE agent_id = (SELECT id FROM agents WHERE name = 'Priya')"
                    ),
                ),
            ),
            "All tickets of hers are closed.",
        ),
        wrong=Solution(
            (
                call("list_tables"),
                call(
                    "execute",
                    sql=(
                        "UPDATE tickets SET status = 'closed' WHERE status = 'open' "
                        "AND agent_id = (SELECT id FROM agents WHERE name = 'Priya')"
                    ),
                ),
            ),
            "All tickets of hers are closed.",
        ),
        end=End(
            rows=(
                RowChange(
                    "tickets",
                    removed=(
                        (2, "Wrong amount charged", "high", "open", 1, "2026-05-03"),
                        (6, "Refund not received", "medium", "waiting", 1, "2026-05-06"),
                    ),
                    added=(
                        (2, "Wrong amount charged", "high", "closed", 1, "2026-05-03"),
                        (6, "Refund not received", "medium", "closed", 1, "2026-05-06"),
                    ),
                ),
            )
        ),
    ),
    Task(
        id="helpdesk-assign-mei",
        prompt="Give every open ticket of high priority that nobody works on to Mei.",
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (
                call("list_tables"),
                call("query", sql="SELECT id FROM agents WHERE name = 'Mei'"),
                call(
                    "execute",
                    sql=(
                        "UPDATE tickets SET agent_id = 3 "
                        "WHERE agent_id IS NULL AND priority = 'high' AND status = 'open'"
                    ),
                ),
            ),
            "Mei has ticket 4 now.",
        ),
        wrong=Solution(
            (
                call("list_tables"),
                call("execute", sql="UPDATE tickets SET agent_id = 3 WHERE agent_id IS NULL"),
            ),
            "Mei has it now.",
        ),
        end=End(
            rows=(
                RowChange(
                    "tickets",
                    removed=((4, "App crashes on start", "high", "open", None, "2026-05-04"),),
                    added=((4, "App crashes on start", "high", "open", 3, "2026-05-04"),),
                ),
            )
        ),
    ),
    Task(
        id="helpdesk-duplicate",
        prompt=(
            "Ticket 7 is a duplicate of ticket 1. Close ticket 7 and put a comment by Mei on it: 'Same as ticket "
            "1.' Then tell me how many tickets are open now."
        ),
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (
                call("list_tables"),
                call("execute", sql="UPDATE tickets SET status = 'closed' WHERE id = 7"),
                call(
                    "execute",
                    sql="INSERT INTO comments (ticket_id, author, body) VALUES (7, 'Mei', 'Same as ticket 1.')",
                ),
                call("query", sql="SELECT count(*) FROM tickets WHERE status = 'open'"),
            ),
            "Now 4 tickets are open.",
        ),
        wrong=Solution(
            (
                call("query", sql="SELECT count(*) FROM tickets WHERE status = 'open'"),
                call("execute", sql="UPDATE tickets SET status = 'closed' WHERE id = 7"),
                call(
                    "execute",
                    sql="INSERT INTO comments (ticket_id, author, body) VALUES (7, 'Mei', 'Same as ticket 1.')",
                ),
            ),
            "Now 5 tickets are open.",
        ),
        answer=NumberAnswer(4, forbidden=(2, 3, 5, 6)),
        end=End(
            rows=(
                RowChange(
                    "tickets",
                    removed=((7, "Cannot log in from phone", "medium", "open", 3, "2026-05-07"),),
                    added=((7, "Cannot log in from phone", "medium", "closed", 3, "2026-05-07"),),
                ),
                RowChange("comments", added=((5, 7, "Mei", "Same as ticket 1."),)),
            )
        ),
    ),
)
