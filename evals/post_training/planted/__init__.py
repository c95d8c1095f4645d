"""A planted preference: a nano model, a judge that is known exactly, and five ways to learn what it likes."""
