"""Print who pays whom, so that all have paid the same. Arguments: NAME=PAID for each person."""

import sys
from decimal import Decimal

paid = {name: int(Decimal(amount) * 100) for name, _, amount in (word.partition("=") for word in sys.argv[1:])}
if not paid:
    sys.exit("no person is given; write one argument NAME=PAID for each, such as Ada=30.00")
share, cents_left = divmod(sum(paid.values()), len(paid))
due = {name: share + (number < cents_left) - paid[name] for number, name in enumerate(paid)}
for debtor, owed in ((name, cents) for name, cents in due.items() if cents > 0):
    for creditor in due:
        moved = min(owed, -due[creditor]) if due[creditor] < 0 else 0
        if moved:
            print(f"{debtor} pays {creditor} {moved / 100:.2f}")
            owed, due[creditor] = owed - moved, due[creditor] + moved
