"""The constitutional loop end to end: critique, revision, AI feedback, both trainings, measured on both sides."""
