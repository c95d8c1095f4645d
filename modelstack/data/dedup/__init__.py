"""Deduplication: exact, near (MinHash), repeated word spans and repeated lines.

Every stage is a function that reads files and writes one file atomically. Stages can therefore run in any number
of processes and resume after a stop. An item is identified by its shard (the index of the shard's file) and its
position in the shard. Memory does not grow with the corpus, except for a few bytes per document in the two stages
that join all shards (clusters, copies). Hashes are identical on every machine.

Near-duplicates (`MinHashConfig`), and equal texts (`ExactConfig`, with `write_exact_keys` as first stage and a
single bucket):

    for each shard:   write_signatures(texts, keys_file, config) -> number of documents
    for each bucket:  pairs_of_bucket(keys_files, bucket, pairs_file, earlier=keys_files_of_earlier_dumps)
    once:             write_clusters(pairs_files, documents_per_shard, clusters_file)
    once:             write_copies(clusters_file, documents_per_shard, lengths_of(keys_files), copies_file)
    for each shard:   read_copies(copies_file, documents_per_shard, shard): 0 to drop a document, else the
                      size of its cluster, from which rehydration_weights follow

The key files of a dump serve as its index. Passed as `earlier`, their documents are kept, and new documents that
match are dropped with their whole cluster. Keys of documents dropped from the earlier dump count too, so a copy of
a copy is found. Only keys of the same configuration are compared.

Repeated lines or paragraphs (`LinesConfig`):

    for each shard:   write_line_keys(texts, keys_file, config)
    once:             write_repeats(keys_files, repeats_folder)
    for each shard:   without_repeats(texts, repeats_folder, shard, config) -> texts

Repeated word spans (`SubstringConfig`):

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
