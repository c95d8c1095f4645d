"""Area "invoices": invoices as text files, and a summary that is out of date."""

from __future__ import annotations

from evals.tool_use.executed.task import End, NumberAnswer, Solution, Start, Task, WordsAnswer, call


def _invoice(number: str, customer: str, due: str, total: str, status: str) -> str:
    return f"Invoice {number}\nCustomer: {customer}\nDue: {due}\nTotal: {total} EUR\nStatus: {status}\n"


LUNA = _invoice("INV-2042", "Cafe Luna", "2026-04-12", "318.00", "open")
SUMMARY = (
    "number,customer,total\nINV-2040,Okafor Ltd,55.00\nINV-2041,Brandt GmbH,1240.50\nINV-2042,Cafe Luna,318.00\n"
)
START = Start(
    files={
        "2026/INV-2041.txt": _invoice("INV-2041", "Brandt GmbH", "2026-04-10", "1240.50", "paid"),
        "2026/INV-2042.txt": LUNA,
        "2026/INV-2043.txt": _invoice("INV-2043", "Brandt GmbH", "2026-04-15", "99.90", "open"),
        "2026/INV-2044.txt": _invoice("INV-2044", "Okafor Ltd", "2026-04-30", "705.25", "open"),
        "paid/INV-2040.txt": _invoice("INV-2040", "Okafor Ltd", "2026-03-31", "55.00", "paid"),
        "summary.csv": SUMMARY,
    }
)

TASKS = (
    Task(
        id="invoices-open-sum",
        prompt="What do the invoices in the folder 2026 that are still open add up to, in EUR?",
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("search_text", text="Status: open", path="2026"),
                call("search_text", text="Total:", path="2026"),
            ),
            "The open invoices add up to 1,123.15 EUR.",
        ),
        wrong=Solution((call("search_text", text="Total:", path="2026"),), "They add up to 2,363.65 EUR."),
        answer=NumberAnswer(1123.15, forbidden=(2363.65, 1240.5)),
    ),
    Task(
        id="invoices-luna-paid",
        prompt=(
            "Cafe Luna has paid. Find its invoice in 2026, change the status from open to paid and move the file "
            "to the folder paid."
        ),
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("search_text", text="Cafe Luna", path="2026"),
                call("edit_file", path="2026/INV-2042.txt", old_text="Status: open", new_text="Status: paid"),
                call("move", source="2026/INV-2042.txt", destination="paid/INV-2042.txt"),
            ),
            "INV-2042 is paid and filed.",
        ),
        wrong=Solution(
            (
                call("search_text", text="Cafe Luna", path="2026"),
                call("move", source="2026/INV-2042.txt", destination="paid/INV-2042.txt"),
            ),
            "INV-2042 is paid and filed.",
        ),
        end=End(files={"2026/INV-2042.txt": None, "paid/INV-2042.txt": LUNA.replace("open", "paid")}),
    ),
    Task(
        id="invoices-brandt-open",
        prompt="Which invoice of Brandt GmbH in the folder 2026 is still open, and on which day is it due?",
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("search_text", text="Brandt", path="2026"),
                call("read_text_file", path="2026/INV-2041.txt"),
                call("read_text_file", path="2026/INV-2043.txt"),
            ),
            "INV-2043 is still open; it is due on 2026-04-15.",
        ),
        wrong=Solution(
            (
                call("search_text", text="Brandt", path="2026"),
                call("read_text_file", path="2026/INV-2041.txt"),
            ),
            "INV-2041 is still open; it is due on 2026-04-10.",
        ),
        answer=WordsAnswer(
            (
                ("INV-2043", "2043"),
                ("2026-04-15", "15 April", "April 15", "15th April", "15th of April", "April 15th"),
            ),
            ("INV-2041", "INV-2042", "INV-2044", "2041", "2026-04-10", "10 April", "April 10", "Cafe Luna"),
        ),
    ),
    Task(
        id="invoices-complete-summary",
        prompt=(
            "summary.csv lacks the newest invoices, INV-2043 and INV-2044 from the folder 2026. Add them at the "
            "end, in order and in the same form."
        ),
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("read_text_file", path="summary.csv"),
                call("read_text_file", path="2026/INV-2043.txt"),
                call("read_text_file", path="2026/INV-2044.txt"),
                call(
                    "edit_file",
                    path="summary.csv",
                    old_text="INV-2042,Cafe Luna,318.00\n",
                    new_text=(
                        "INV-2042,Cafe Luna,318.00\nINV-2043,Brandt GmbH,99.90\nINV-2044,Okafor Ltd,705.25\n"
                    ),
                ),
            ),
            "INV-2043 and INV-2044 are in the summary.",
        ),
        wrong=Solution(
            (
                call("read_text_file", path="summary.csv"),
                call(
                    "edit_file",
                    path="summary.csv",
                    old_text="INV-2042,Cafe Luna,318.00\n",
                    new_text=(
                        "INV-2042,Cafe Luna,318.00\nINV-2043,Brandt GmbH,705.25\nINV-2044,Okafor Ltd,99.90\n"
                    ),
                ),
            ),
            "INV-2043 and INV-2044 are in the summary.",
        ),
        end=End(files={"summary.csv": SUMMARY + "INV-2043,Brandt GmbH,99.90\nINV-2044,Okafor Ltd,705.25\n"}),
    ),
)
