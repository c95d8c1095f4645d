"""Maintainers' programs, which run from a checkout and are not in the wheel.

    python -m tools.classifiers.train DATA_DIR         fit the classifiers of requests, jailbreaks and injections
    python -m tools.classifiers.evaluation DATA_DIR    measure them
    python -m tools.refusal_judge.train DATA_DIR       fit the refusal judge
    python -m tools.refusal_judge.validate DATA_DIR    measure it
    python -m tools.corpus.build RUN                   write the corpus in modelstack/data/corpus
    python -m tools.data.near_duplicate_recall         compare the search for near-duplicates with its theory
    python -m tools.data.privacy_cases                 measure the detection of private data on labelled cases
    python -m tools.data.license_fingerprints          write the fingerprints of licence texts
    python -m tools.docs.benchmark_pages               write docs/benchmarks from their files of figures
    python -m tools.docs.command_pages                 write docs/reference/cli from the programs
    python -m tools.docs.llms_txt                      write docs/llms.txt from the navigation
    python -m tools.docs.recipe_pages                  write docs/reference/recipes from the recipes' models
    python -m tools.docs.terminal_picture FILE COMMAND draw what a command shows
    python -m tools.wheel_smoke                        build the distribution and use it outside the checkout
    python -m tools.docs.server_tables                 write the tables of the MCP servers' pages

`tools.classifiers.data_files` lists the content of DATA_DIR.
"""
