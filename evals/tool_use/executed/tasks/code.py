"""Area "code": a small code tree; tasks to find, rename and release code, and to remove unused code."""

from __future__ import annotations

from evals.tool_use.executed.task import End, NumberAnswer, Solution, Start, Task, WordsAnswer, call

CART = '''\
"""The cart."""

from shop.prices import net_price


def total(items):
    return sum(net_price(item) for item in items)


def count(items):
    # TODO: ignore gifts
    return len(items)
'''
PRICES = '''\
"""Prices."""

VAT = 0.19
SHIPPING = {
    "AT": 6.90,
    "BE": 6.90,
    "CH": 14.50,
    "CZ": 7.90,
    "DE": 3.90,
    "DK": 7.90,
    "ES": 9.90,
    "FI": 11.90,
    "FR": 7.90,
    "IT": 8.90,
    "NL": 5.90,
    "PL": 7.90,
    "PT": 10.90,
    "SE": 9.90,
}


def net_price(item):
    return item["price"] / (1 + VAT)


def gross_price(item):
    # TODO: round to cents
    return item["price"]
'''
MAIL = '''\
"""Mail."""


def send(address, text):
    raise NotImplementedError
'''
USAGE = "# Usage\nCall `net_price(item)` for a price without tax.\n"
CHANGES = "# Changes\n\n## 1.1.0\n- Carts have a total.\n\n## 1.0.0\n- First release.\n"
RELEASE = CHANGES.replace("# Changes\n\n", "# Changes\n\n## 1.1.1\n- VAT is 21 percent.\n\n")
START = Start(
    files={
        "shop/__init__.py": "",
        "shop/cart.py": CART,
        "shop/prices.py": PRICES,
        "shop/mail.py": MAIL,
        "tests/test_cart.py": (
            "from shop.cart import total\n\n\ndef test_total_of_nothing_is_zero():\n    assert total([]) == 0\n"
        ),
        "docs/usage.md": USAGE,
        "CHANGELOG.md": CHANGES,
    }
)

TASKS = (
    Task(
        id="code-open-todos",
        prompt="Which files in shop still have a TODO in them?",
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (call("search_text", text="TODO", path="shop"),), "shop/cart.py and shop/prices.py have one."
        ),
        wrong=Solution((call("read_text_file", path="shop/cart.py"),), "Only shop/cart.py has one."),
        answer=WordsAnswer(
            (("shop/cart.py", "cart.py"), ("shop/prices.py", "prices.py")),
            ("mail.py", "__init__.py", "test_cart.py", "net_price"),
        ),
    ),
    Task(
        id="code-line-of-function",
        prompt="In which line of shop/prices.py does the function gross_price begin?",
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (call("search_text", text="def gross_price", path="shop/prices.py"),), "It begins in line 26."
        ),
        wrong=Solution((call("read_text_file", path="shop/prices.py"),), "It begins in line 27."),
        answer=NumberAnswer(26, forbidden=(22, 25, 27)),
    ),
    Task(
        id="code-rename-function",
        prompt=(
            "Rename the function net_price to price_without_tax wherever it is used, in the code and in the docs."
        ),
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("search_text", text="net_price"),
                call(
                    "edit_file",
                    path="shop/cart.py",
                    old_text="net_price",
                    new_text="price_without_tax",
                    replace_all=True,
                ),
                call("edit_file", path="shop/prices.py", old_text="net_price", new_text="price_without_tax"),
                call("edit_file", path="docs/usage.md", old_text="net_price", new_text="price_without_tax"),
            ),
            "The function is called price_without_tax now.",
        ),
        wrong=Solution(
            (
                call(
                    "edit_file",
                    path="shop/cart.py",
                    old_text="net_price",
                    new_text="price_without_tax",
                    replace_all=True,
                ),
                call("edit_file", path="shop/prices.py", old_text="net_price", new_text="price_without_tax"),
            ),
            "The function is called price_without_tax now.",
        ),
        end=End(
            files={
                "shop/cart.py": CART.replace("net_price", "price_without_tax"),
                "shop/prices.py": PRICES.replace("net_price", "price_without_tax"),
                "docs/usage.md": USAGE.replace("net_price", "price_without_tax"),
            }
        ),
    ),
    Task(
        id="code-release-vat",
        prompt=(
            "VAT rises to 0.21: change it in shop/prices.py. Then add a release to CHANGELOG.md above the others, "
            "in the same form: version 1.1.1 with the one point 'VAT is 21 percent.'"
        ),
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("edit_file", path="shop/prices.py", old_text="VAT = 0.19", new_text="VAT = 0.21"),
                call("read_text_file", path="CHANGELOG.md"),
                call(
                    "edit_file",
                    path="CHANGELOG.md",
                    old_text="## 1.1.0",
                    new_text="## 1.1.1\n- VAT is 21 percent.\n\n## 1.1.0",
                ),
            ),
            "VAT is 0.21, and 1.1.1 is in the changelog.",
        ),
        wrong=Solution(
            (
                call("edit_file", path="shop/prices.py", old_text="VAT = 0.19", new_text="VAT = 0.21"),
                call("read_text_file", path="CHANGELOG.md"),
                call(
                    "edit_file",
                    path="CHANGELOG.md",
                    old_text="- First release.\n",
                    new_text="- First release.\n\n## 1.1.1\n- VAT is 21 percent.\n",
                ),
            ),
            "VAT is 0.21, and 1.1.1 is in the changelog.",
        ),
        end=End(files={"shop/prices.py": PRICES.replace("0.19", "0.21"), "CHANGELOG.md": RELEASE}),
    ),
    Task(
        id="code-unused-module",
        prompt=(
            "One of the modules cart, prices and mail in shop is imported by no other file. Find out which, and "
            "delete it."
        ),
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (call("search_text", text="import"), call("delete", path="shop/mail.py")), "I deleted shop/mail.py."
        ),
        wrong=Solution(
            (call("search_text", text="import", path="shop"), call("delete", path="shop/cart.py")),
            "I deleted shop/cart.py.",
        ),
        end=End(files={"shop/mail.py": None}),
    ),
    Task(
        id="code-new-package",
        prompt=(
            "Mail gets a package of its own: make a folder notify with an empty file __init__.py in it, and move "
            "shop/mail.py there."
        ),
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("create_directory", path="notify"),
                call("write_file", path="notify/__init__.py", text=""),
                call("move", source="shop/mail.py", destination="notify/mail.py"),
            ),
            "shop/mail.py is notify/mail.py now.",
        ),
        wrong=Solution(
            (
                call("create_directory", path="notify"),
                call("write_file", path="notify/__init__.py", text=""),
                call("write_file", path="notify/mail.py", text=MAIL),
            ),
            "shop/mail.py is notify/mail.py now.",
        ),
        end=End(files={"shop/mail.py": None, "notify/__init__.py": "", "notify/mail.py": MAIL}),
    ),
)
