"""Maintainers' programs, which run from a checkout and are not in the wheel.

    python -m tools.classifiers.train DATA_DIR         fit the classifiers of requests, jailbreaks and injections
    python -m tools.classifiers.evaluation DATA_DIR    measure them
    python -m tools.refusal_judge.train DATA_DIR       fit the refusal judge
    python -m tools.refusal_judge.validate DATA_DIR    measure it
    python -m tools.corpus.build RUN                   write the corpus in modelstack/data/corpus
    python -m tools.data.near_duplicate_recall         compare the search for near-duplicates with its theory
    python -m tools.data.privacy_cases                 measure the detection of private data on labelled cases
    python -m tools.data.license_fingerprints          write the fingerprints of licence texts
    python -m tools.docs.server_tables                 write the tables of the MCP servers' pages

`tools.classifiers.data_files` lists the content of DATA_DIR.
"""
