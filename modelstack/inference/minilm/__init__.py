"""Embeddings of short texts: all-MiniLM-L6-v2 in numpy, without torch.

numpy was chosen by measurement (`python -m evals.speed.embedding`): its products run at the speed of the
processor, packed texts need no padding, and the vectors equal those of transformers to the last digits.
"""

from modelstack.inference.minilm.embedder import SentenceEncoder, TextEmbedder, load_encoder
from modelstack.inference.minilm.place import loaded_minilm, minilm, minilm_folder

__all__ = ["SentenceEncoder", "TextEmbedder", "load_encoder", "loaded_minilm", "minilm", "minilm_folder"]
