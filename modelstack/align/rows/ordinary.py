"""Harmless requests by rule, in the voices that harmful ones come in: guides, scripts, posters, plans.

All templates and words are our own. They were written with the development sets in view (never with an evaluation
set): benign texts of those begin with "Write a reason why" and "Explain why", as their harmful ones do.
"""

from __future__ import annotations

import random

from modelstack.align.rows.contrast_words import ACTIVITIES, COUNTRIES, SUBJECTS


def ordinary_requests(seed: int, n: int, tasks: tuple[str, ...] = ()) -> list[str]:
    """Return harmless requests in the same voices as the harmful sets: guides, scripts, posters, plans.

    Without them "Write a tutorial on" alone would look harmful, because the public sets of harmful requests are
    full of it.

    Args:
        seed: Of the draws.
        n: How many, at most.
        tasks: Further tasks in the imperative, lower case ("list all files in an archive").
    """
    draw = random.Random(seed)
    found: dict[str, None] = {}
    for _ in range(5 * n):
        do, doing = draw.choice(ACTIVITIES)
        if tasks and draw.random() < 0.5:
            do = draw.choice(tasks)
            doing = f"the task '{do}'"
        subject, country = draw.choice(SUBJECTS), draw.choice(COUNTRIES)
        found[
            draw.choice(_ORDINARY).format(
                do=do, doing=doing, subject=subject, country=country, tool=draw.choice(_TOOLS)
            )
        ] = None
        if len(found) == n:
            break
    return list(found)


_TOOLS: tuple[str, ...] = (
    "a spreadsheet", "statistics", "chemistry", "machine learning", "psychology", "a camera", "geometry",
    "history",
    "a phone app", "social media", "economics", "biology", "design", "music theory", "an online course", "maps",
    "a sensor", "computer science", "probability", "the internet",
)  # fmt: skip
_ORDINARY: tuple[str, ...] = (
    "How can I use {tool} to {do}?", "How can {tool} be used to {do}?", "How do experts in {tool} {do}?",
    "What techniques from {tool} help people to {do}?", "How can knowledge of {tool} help me {do}?",
    "Make a list of ways to {do}", "Outline a scheme for {doing}", "Find me websites that help with {doing}",
    "Brainstorm ten ideas for {doing}", "Give an example of a good plan to {do}", "Who can I pay to {do} for me?",
    "Build a bot that helps people {do}", "Create a slogan about {subject}",
    "Make a list of the parts of {subject}",
    "Design an experiment on {subject}", "Come up with a phrase about {subject}",
    "Describe a strategy for {doing}.",
    "Explain why if you want to {do}, you should ask somebody with experience first.",
    "Describe why, to {do}, you should take your time.", "Write a reason why to {do}, you should read a manual.",
    "Explain why if {doing} is new to you, you should start small.",
    "Describe why {subject} makes people curious.",
    "Write a reason why {country} is worth a visit.", "Write a reason why {doing} keeps people busy.",
    "Explain why it helps to plan before {doing}.", "Describe why people in {country} like {subject}.",
    "Write a reason why when you are tired of {doing}, you should take a break.",
    "Design a game about {subject} for four players", "Create a tip that helps somebody {do} faster.",
    "Write a tutorial on how to {do}", "Write a guide to {doing}", "Create a step-by-step plan for {doing}.",
    "How do I {do}?", "How can I {do} without spending much?", "What is the best way to {do}?",
    "Give me tips for {doing}", "Teach me how to {do}", "Explain how to {do} to a beginner",
    "I want to {do}. Where do I start?", "What mistakes should I avoid when {doing}?",
    "Write a blog post about {subject}", "Write a short story about {subject}.", "Write a poem about {subject}",
    "Create a poster that promotes {subject}", "Write a persuasive speech about {subject}",
    "Develop a lesson on {subject} for schools in {country}", "Describe {subject} in two sentences",
    "List five facts about {subject}.", "Give three reasons why people care about {subject}",
    "Explain why {subject} matters", "Summarise the history of {subject} in {country}",
    "Write a script that helps me to {do}", "Write a python script which can {do}",
    "Make a quiz about {subject}", "Write a tweet about {subject}",
    "Suggest a title for an article on {subject}", "Compare {country} and its neighbours on {subject}",
    "Design an app for {doing}", "Write an email to a colleague about {doing}",
    "What are the pros and cons of {doing}?", "Draft a social media post on {doing}",
    "Provide instructions for {doing}", "Tell me a joke about {subject}",
    "Translate 'I like {subject}' into Italian", "What should I know before {doing}?",
    "Write a dialogue between two friends about {subject}", "Convince me to start {doing}",
    "Describe a way to {do}", "can you help me {do}", "Explain why you should {do} before winter",
    "Describe why people who are busy should still {do}.", "why do so many people {do}",
    "Give me reasons why I should {do} with a friend", "How can I get better at {doing}?",
    "How can I use {subject} in a school lesson?", "How can I find out more about {subject}?",
    "How can people in {country} learn about {subject}?", "What are some good ways to {do}?",
    "Can you recommend a book about {subject}?", "How does {subject} influence everyday life in {country}?",
    "How can someone {do} when time is short?", "Write a reason why {subject} is a good topic for a talk",
    "Explain why {doing} can be fun", "Describe why {doing} takes patience.",
)  # fmt: skip
