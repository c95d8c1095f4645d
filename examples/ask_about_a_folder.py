"""Answer from a folder with citations that name file and lines; by meaning too, if the embedding model is here."""

import asyncio
import tempfile
from pathlib import Path

from agentkit import Agent, UserError
from agentkit.retrieval import Retrieval, cited_hits, minilm, numbered_sources
from agentkit.testing import ScriptedModel, call

NOTES = Path(__file__).parent / "notes"
QUESTION = "What may the repair of the glasshouse cost?"

try:
    embedder = minilm()
except UserError as missing:
    embedder = None
    print(f"Searching by words alone: {missing}")


async def main(index: Path) -> None:
    """Search for an application, then let an agent search."""
    async with Retrieval(NOTES, index=index, embedder=embedder) as notes:
        report = await notes.refresh()
        print(f"{report.n_files} files, {report.n_passages} passages, {report.n_embedded} with vectors")
        hits = await notes.search("greenhouse roof budget", top=2)
        print(numbered_sources(hits, max_chars=300))
        assert hits[0].citation.startswith("meeting.md:"), hits[0].citation

        if embedder is not None:  # no note has the words "repair" and "glasshouse"
            assert (await notes.search(QUESTION, top=1))[0].path == "meeting.md"

        # An answer of a model; with Agent("local", ...) it is the model's own.
        source = hits[0].citation
        search = call("search_documents", query="greenhouse roof budget")
        answer = f"At most 1,800 euros [{source}]."
        agent = Agent(ScriptedModel([search, answer]), toolsets=[notes])
        result = await agent.run(QUESTION)
        print(result.output)
        cited, invented = cited_hits(result.output, hits)
        assert [hit.path for hit in cited] == ["meeting.md"] and not invented
        assert result.state.tainted  # others may have written the files


with tempfile.TemporaryDirectory() as folder:  # without `index` it is kept in the user's cache
    asyncio.run(main(Path(folder) / "index.db"))
