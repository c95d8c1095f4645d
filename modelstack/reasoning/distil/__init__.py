"""Distillation: training a student on a teacher's distributions, on given replies or on the student's own replies.

A teacher's texts without its distributions are ordinary data: `modelstack sample` makes examples of them, and
`modelstack sft` trains on these, as for DeepSeek-R1's small models (2501.12948, section 4).
"""
