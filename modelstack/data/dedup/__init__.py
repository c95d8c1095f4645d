"""Deduplication: exact, near (MinHash), repeated spans of words, repeated lines.

Every stage is a function that reads files and writes one, whole or not at all, so that whoever runs them may do so
in any number of processes and go on after a stop. A thing is named by its shard, the place of the shard's file in
the list, and its position there. Memory does not grow with the corpus but for a few bytes a document in the two
stages that join everything (clusters, copies); hashes are the same on every machine.

Near-duplicates (`MinHashConfig`) and equal texts (`ExactConfig`, of which the first stage is `write_exact_keys`
and there is one bucket):

    for each shard:   write_signatures(texts, keys_file, config) -> number of documents
    for each bucket:  pairs_of_bucket(keys_files, bucket, pairs_file, earlier=keys_files_of_dumps_before)
    once:             write_clusters(pairs_files, documents_per_shard, clusters_file)
    once:             write_copies(clusters_file, documents_per_shard, lengths_of(keys_files), copies_file)
    for each shard:   read_copies(copies_file, documents_per_shard, shard): 0 to drop a document, else how many
                      it stands for; rehydration_weights of that

The key files of a dump are its index: given as `earlier`, they keep what they hold, and new documents go, with all
of their cluster. Keys of documents that were dropped there count too: a copy of a copy goes. Only keys of the same
configuration are compared.

Repeated lines or paragraphs (`LinesConfig`):

    for each shard:   write_line_keys(texts, keys_file, config)
    once:             write_repeats(keys_files, repeats_folder)
    for each shard:   without_repeats(texts, repeats_folder, shard, config) -> texts

Repeated spans of words (`SubstringConfig`):

    for each shard:   write_windows(texts, folder, config)
    once:             write_repeats([folder / WINDOW_KEYS for each], repeats_folder)
    for each shard:   repeated_spans(folders, shard, repeats_folder, config) -> spans of each document;
                      without_spans(text, spans) -> text
"""

from modelstack.data.dedup.clusters import write_clusters
from modelstack.data.dedup.copies import lengths_of, read_copies, rehydration_weights, write_copies
from modelstack.data.dedup.exact import ExactConfig, write_exact_keys
from modelstack.data.dedup.lines import LinesConfig, without_repeats, write_line_keys
from modelstack.data.dedup.minhash import MinHash, MinHashConfig, write_signatures
from modelstack.data.dedup.pairs import pairs_of_bucket
from modelstack.data.dedup.repeats import write_repeats
from modelstack.data.dedup.substring import KEYS as WINDOW_KEYS
from modelstack.data.dedup.substring import SubstringConfig, repeated_spans, without_spans, write_windows

__all__ = [
    "WINDOW_KEYS",
    "ExactConfig",
    "LinesConfig",
    "MinHash",
    "MinHashConfig",
    "SubstringConfig",
    "lengths_of",
    "pairs_of_bucket",
    "read_copies",
    "rehydration_weights",
    "repeated_spans",
    "without_repeats",
    "without_spans",
    "write_clusters",
    "write_copies",
    "write_exact_keys",
    "write_line_keys",
    "write_repeats",
    "write_signatures",
    "write_windows",
]
