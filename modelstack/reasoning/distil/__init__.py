"""Distillation as a stage: a student is trained on a teacher's distributions, on given texts or on its own.

What a teacher wrote, without its distributions, is data like any other: `modelstack sample` makes examples of it
and `modelstack sft` trains on them, as DeepSeek-R1's small models were (2501.12948, section 4).
"""
