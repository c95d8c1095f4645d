"""Scripts without a call: knowledge and small talk answered in words, and requests that no tool fits, declined."""

from __future__ import annotations

from collections.abc import Sequence

from modelstack.sft.tool_data.small_talk import small_talk
from modelstack.sft.tool_data.spoken import Scene, listed
from specialise.demonstrations.domains import PEOPLE
from specialise.demonstrations.script import Maker, Script
from specialise.demonstrations.world import World

_KNOWN: Sequence[tuple[str, str]] = (
    ("how many legs does a spider have?", "A spider has eight legs."),
    ("which planet is the largest?", "Jupiter is the largest planet of the solar system."),
    (
        "what is photosynthesis, in one sentence?",
        "Plants turn light, water and carbon dioxide into sugar and oxygen.",
    ),
    ("who wrote Don Quixote?", "Miguel de Cervantes wrote Don Quixote."),
    ("what does SQL stand for?", "SQL stands for Structured Query Language."),
    ("what is the opposite of shallow?", "The opposite of shallow is deep."),
    ("how do you say good evening in Spanish?", 'Good evening is "buenas noches" in Spanish.'),
    ("which ocean lies between Africa and Australia?", "The Indian Ocean lies between Africa and Australia."),
    ("what colour do blue and yellow make?", "Blue and yellow make green."),
    ("name three string instruments", "Violin, cello and guitar are string instruments."),
    ("what is a CSV file?", "A CSV file is a text file whose lines are rows with values between commas."),
    ("why is the sky blue?", "Air scatters blue light more than red light, so the sky looks blue."),
    ("what is a primary key?", "A primary key is a column whose value names each row of a table uniquely."),
    ("which metal is liquid at room temperature?", "Mercury is liquid at room temperature."),
    ("how many minutes does a football match last?", "A football match lasts 90 minutes, in two halves of 45."),
    (
        "explain what a backup is good for",
        "A backup lets you restore your data when the original is lost or damaged.",
    ),
    ("what is the boiling point of water?", "Water boils at 100 degrees Celsius at sea level."),
    ("who painted the Mona Lisa?", "Leonardo da Vinci painted the Mona Lisa."),
    (
        "what is Markdown?",
        "Markdown is a plain text format that marks headings, lists and links with simple signs.",
    ),
    ("which language is spoken in Brazil?", "Portuguese is spoken in Brazil."),
    ("give me a name for a sailing boat", 'How about "Morning Tide"?'),
    ("wish me luck for my exam", "Good luck with your exam! I am sure that you are well prepared."),
    (
        "write a short birthday greeting",
        "Happy birthday! May the year bring you joy, good health and good friends.",
    ),
    ("say something nice", "Every day that you begin with curiosity is a good one."),
    ("I passed my driving test!", "Congratulations! That is great news."),
    (
        "my computer is so slow today",
        "That is annoying. A restart often helps; tell me if I can do something for you.",
    ),
    ("it rains again", "A good day to stay inside, then. What shall we do?"),
    ("can you keep a secret?", "I forget everything when our conversation ends, so yes."),
    ("are you there?", "Yes, I am here. What do you need?"),
    ("do you understand German?", "I understand some German, but English works best with me."),
    ("perfect, thanks", "You're welcome!"),
    ("that's not what I meant", "I'm sorry. Please tell me again what you need, and I will try."),
    ("what's your favourite colour?", "I have none, but many people like blue."),
    ("do you sleep?", "No, I am a program; I am here whenever you need me."),
    ("recommend a hobby", "Gardening is a fine one: it is calm, and you can eat the results."),
    ("how do I make tea?", "Pour boiling water over the leaves, wait three to five minutes, and take them out."),
    ("what makes bread rise?", "Yeast makes gas from sugar, and the dough holds the bubbles."),
    ("tell me a fact about whales", "The blue whale is the largest animal that has ever lived."),
    ("goodbye for now", "Goodbye! Come back any time."),
    ("it's late, I'm tired", "Then have a good rest. We can go on tomorrow."),
)
_DO = {
    "files": "work with the files in your folder",
    "tables": "look into your database",
    "time": "work with dates, times, sums and units",
}


def _known(world: World, now: Scene) -> Script:
    said, answer = now.one(_KNOWN)
    yield said
    return answer


def _chat(world: World, now: Scene) -> Script:
    said, answer = now.one(small_talk())
    yield said
    return answer


def _impossible(world: World, now: Scene) -> Script:
    """Asks for something that none of the tools does; the answer says so, and what the tools can do."""
    who = now.one(PEOPLE)
    wish, cannot = now.one(
        (
            (f"send an e-mail to {who}", "send e-mails"),
            (f"write {who} a message that I'm late", "send messages"),
            ("will I need an umbrella tomorrow?", "see the weather"),
            ("is it snowing in Oslo?", "see the weather"),
            ("play some jazz", "play music"),
            ("put on the new album by the Harbour Band", "play music"),
            (f"call {who} for me", "make calls"),
            ("book a flight to Lisbon", "book flights"),
            ("reserve a table for four at seven", "make reservations"),
            ("turn off the lights in the kitchen", "switch lights"),
            ("set the heating to 20 degrees", "control the heating"),
            ("order a pizza for six", "order anything"),
            (f"post a photo for {who}", "post anything on the internet"),
            ("who won the match last night?", "look up the news"),
            ("what's in the news?", "look up the news"),
            ("print this on the office printer", "print"),
            ("what is the share price of Lumen?", "look up share prices"),
            ("restart the router", "restart devices"),
            ("scan this document", "scan documents"),
            ("take a picture of the door", "take pictures"),
            (f"transfer 40 euros to {who}", "make payments"),
            ("open the web page of the library", "open web pages"),
            ("wake me up at six", "set an alarm"),
        )
    )
    yield wish
    can = listed([_DO[server] for server in world.servers])
    return now.one(
        (
            f"I cannot {cannot}. I can {can}.",
            f"Sorry, I have no tool to {cannot}; I can only {can}.",
            f"I'm afraid I can't {cannot}: none of my tools does that. I can {can}.",
        )
    )


WORDS: Sequence[Maker] = (_known, _known, _known, _chat, _chat)
IMPOSSIBLE: Sequence[Maker] = (_impossible,)
