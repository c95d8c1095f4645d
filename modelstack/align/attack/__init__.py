"""Red team: requests under transforms of attackers, a target that answers them, a judge, and a report."""
