"""Area "configs": configuration files of a service; the same key occurs in several places, only one is meant."""

from __future__ import annotations

from evals.tool_use.executed.task import End, NumberAnswer, Solution, Start, Task, WordsAnswer, call

CONFIG = """\
[server]
host = "0.0.0.0"
port = 8080
workers = 4

[database]
url = "postgres://db.internal/app"
pool_size = 10
timeout_s = 30

[cache]
timeout_s = 300
"""
STAGING = """\
[server]
host = "0.0.0.0"
port = 8081
workers = 2

[database]
url = "postgres://db.staging/app"
pool_size = 5
timeout_s = 30
"""
SITE = """\
server {
    listen 80;
    server_name shop.example.org;
    location /static { root /srv/www; }
    location / { proxy_pass http://127.0.0.1:8080; }
}
"""
ENVIRONMENT = "APP_SECRET=\nAPP_DEBUG=false\nAPP_REGION=eu-west\n"
WORKER = """\
[queue]
name = mail
retries = 3
interval = 15

[limits]
memory_mb = 512
"""
START = Start(
    files={
        "service/config.toml": CONFIG,
        "service/config.staging.toml": STAGING,
        "nginx/site.conf": SITE,
        "worker/worker.ini": WORKER,
        ".env.example": ENVIRONMENT,
    }
)
PRODUCTION = STAGING.replace("8081", "8443").replace("workers = 2", "workers = 16")

TASKS = (
    Task(
        id="configs-debug-on",
        prompt="In .env.example please change APP_DEBUG=false to APP_DEBUG=true.",
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (call("edit_file", path=".env.example", old_text="APP_DEBUG=false", new_text="APP_DEBUG=true"),),
            "APP_DEBUG is true now.",
        ),
        wrong=Solution(
            (call("write_file", path=".env.example", text="APP_DEBUG=true\n", overwrite=True),),
            "APP_DEBUG is true now.",
        ),
        end=End(files={".env.example": ENVIRONMENT.replace("false", "true")}),
    ),
    Task(
        id="configs-who-uses-staging",
        prompt="Which of my files mentions the host db.staging? Search all of them and tell me the path.",
        servers=("filesystem",),
        start=START,
        reference=Solution((call("search_text", text="db.staging"),), "It is service/config.staging.toml."),
        wrong=Solution((call("search_text", text="db."),), "It is service/config.toml."),
        answer=WordsAnswer(
            (("service/config.staging.toml", "config.staging.toml"),),
            ("config.toml", "site.conf", "worker.ini", ".env.example", "db.internal"),
        ),
    ),
    Task(
        id="configs-database-timeout",
        prompt=(
            "The database is slow these days: in service/config.toml raise its timeout from 30 to 60 seconds. "
            "The cache stays as it is."
        ),
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("read_text_file", path="service/config.toml"),
                call(
                    "edit_file",
                    path="service/config.toml",
                    old_text="pool_size = 10\ntimeout_s = 30\n",
                    new_text="pool_size = 10\ntimeout_s = 60\n",
                ),
            ),
            "The database's timeout is 60 seconds now.",
        ),
        wrong=Solution(
            (
                call(
                    "edit_file",
                    path="service/config.toml",
                    old_text="timeout_s = 30",
                    new_text="timeout_s = 60",
                    replace_all=True,
                ),
            ),
            "The database's timeout is 60 seconds now.",
        ),
        end=End(files={"service/config.toml": CONFIG.replace("timeout_s = 30\n", "timeout_s = 60\n")}),
    ),
    Task(
        id="configs-new-production",
        prompt=(
            "Create service/config.production.toml. It is the same as service/config.staging.toml except for port "
            "8443 and 16 workers."
        ),
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("read_text_file", path="service/config.staging.toml"),
                call("write_file", path="service/config.production.toml", text=PRODUCTION),
            ),
            "I created service/config.production.toml.",
        ),
        wrong=Solution(
            (
                call("read_text_file", path="service/config.staging.toml"),
                call(
                    "move",
                    source="service/config.staging.toml",
                    destination="service/config.production.toml",
                ),
                call(
                    "edit_file",
                    path="service/config.production.toml",
                    old_text="port = 8081\nworkers = 2",
                    new_text="port = 8443\nworkers = 16",
                ),
            ),
            "I created service/config.production.toml.",
        ),
        end=End(files={"service/config.production.toml": PRODUCTION}),
    ),
    Task(
        id="configs-double-retries",
        prompt=(
            "Look up how often the mail queue in worker/worker.ini retries, double that in the file, and tell me "
            "the new number."
        ),
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("read_text_file", path="worker/worker.ini"),
                call("edit_file", path="worker/worker.ini", old_text="retries = 3", new_text="retries = 6"),
            ),
            "It retries 6 times now.",
        ),
        wrong=Solution(
            (
                call("read_text_file", path="worker/worker.ini"),
                call("edit_file", path="worker/worker.ini", old_text="retries = 3", new_text="retries = 6"),
            ),
            "It retries 3 times.",
        ),
        answer=NumberAnswer(6, forbidden=(15, 512)),
        end=End(files={"worker/worker.ini": WORKER.replace("retries = 3", "retries = 6")}),
    ),
    Task(
        id="configs-move-port",
        prompt=(
            "Our service moves from port 8080 to 9090. Change it everywhere below the root where 8080 is used."
        ),
        servers=("filesystem",),
        start=START,
        reference=Solution(
            (
                call("search_text", text="8080"),
                call("edit_file", path="service/config.toml", old_text="8080", new_text="9090"),
                call("edit_file", path="nginx/site.conf", old_text="8080", new_text="9090"),
            ),
            "Both service/config.toml and nginx/site.conf use 9090 now.",
        ),
        wrong=Solution(
            (call("edit_file", path="service/config.toml", old_text="8080", new_text="9090"),),
            "It is 9090 now.",
        ),
        end=End(
            files={
                "service/config.toml": CONFIG.replace("8080", "9090"),
                "nginx/site.conf": SITE.replace("8080", "9090"),
            }
        ),
    ),
)
