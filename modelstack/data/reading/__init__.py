"""Readers of raw data (WARC, WET, HTML, JSON lines, Parquet, code); each record becomes a Document or Broken."""

from modelstack.data.reading.folders import CodeInput, HtmlInput
from modelstack.data.reading.inputs import InputConfig, Shard, open_input, read_shard, shards_of
from modelstack.data.reading.jsonl import JsonlInput
from modelstack.data.reading.limits import Limits
from modelstack.data.reading.parquet import ParquetInput
from modelstack.data.reading.warc import WarcInput, WetInput

__all__ = [
    "CodeInput",
    "HtmlInput",
    "InputConfig",
    "JsonlInput",
    "Limits",
    "ParquetInput",
    "Shard",
    "WarcInput",
    "WetInput",
    "open_input",
    "read_shard",
    "shards_of",
]
