BEGIN TRANSACTION;
CREATE TABLE answers( -- of calls, until the head has them
    run_id TEXT NOT NULL REFERENCES runs(run_id) ON DELETE CASCADE,
    tool_call_id TEXT NOT NULL,
    answer TEXT NOT NULL,
    PRIMARY KEY (run_id, tool_call_id)
) WITHOUT ROWID
;
CREATE TABLE branches(
    session_id TEXT NOT NULL,
    branch TEXT NOT NULL,
    tip BLOB,
    updated_at REAL NOT NULL,
    PRIMARY KEY (session_id, branch)
) WITHOUT ROWID
;
CREATE TABLE events( -- of runs that are served
    run_id TEXT NOT NULL REFERENCES runs(run_id) ON DELETE CASCADE,
    number INTEGER NOT NULL, -- from 1, without gaps
    time REAL NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run_id, number)
) WITHOUT ROWID
;
INSERT INTO "events" VALUES('run_served',1,1.7961274781149404e+09,'{"run_id":"run_served","prompt":"Go.","session":null,"deadline":null,"history":[],"tools":[],"event_kind":"run_requested"}');
INSERT INTO "events" VALUES('run_served',2,1.79612747816899156e+09,'{"text":"done","event_kind":"text_delta"}');
INSERT INTO "events" VALUES('run_served',3,1.79612747816907477e+09,'{"step":1,"response":{"parts":[{"content":"Hm.","part_kind":"thinking"},{"content":"done","part_kind":"text"}],"usage":{"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"model_name":"m","finish_reason":"stop","decoding":null,"p_answer":null,"abstained":false,"kind":"response"},"duration_s":0.5,"tokens":null,"received":null,"event_kind":"model_response"}');
CREATE TABLE messages(
    id BLOB NOT NULL UNIQUE, -- hash of parent and body
    parent BLOB,
    body TEXT NOT NULL
);
INSERT INTO "messages" VALUES(X'C334701B33D5A1C9B186DF366DA0833A',NULL,'{"parts":[{"content":"Go.","part_kind":"user-prompt"}],"kind":"request"}');
INSERT INTO "messages" VALUES(X'429DE19850C80D637B4266673A8B1CB9',X'C334701B33D5A1C9B186DF366DA0833A','{"parts":[{"content":"Hm.","part_kind":"thinking"},{"content":"done","part_kind":"text"}],"usage":{"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"model_name":"m","finish_reason":"stop","decoding":null,"p_answer":null,"abstained":false,"kind":"response"}');
CREATE TABLE runs(
    run_id TEXT PRIMARY KEY,
    agent_name TEXT,
    status TEXT NOT NULL,
    tip BLOB, -- the last message
    head TEXT NOT NULL, -- the state without its messages
    generation INTEGER NOT NULL, -- whoever writes must know it
    metadata TEXT NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    started TEXT, -- JSON, ids of calls; of one that is not in answers, nothing is known of its end. NULL: none
    part_of TEXT REFERENCES runs(run_id) ON DELETE CASCADE, -- the run that an inner run serves. NULL: not one
    call_id TEXT, -- the call of that run
    owner TEXT, -- JSON, the process that has the run. NULL: none
    lease_until REAL -- seconds since 1970; after that another process may take the run up
);
INSERT INTO "runs" VALUES('run_served','clerk','completed',X'429DE19850C80D637B4266673A8B1CB9','{"schema_version":3,"n_history":0,"run_id":"run_served","usage":{"requests":0,"tool_calls":0,"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"step":1,"retries":[],"output_retries":0,"disabled_tools":[],"withheld":[],"limit":null,"confidence":null,"tainted":false,"ending":null,"answers":[],"pending":[],"in_doubt":[],"grants":[],"plan":null,"compacted":null,"handed":[],"attempts":[],"inner":[]}',0,'{"user": "7"}',1.79612747816440987e+09,1.79612747816924405e+09,NULL,NULL,NULL,NULL,NULL);
CREATE INDEX inner_runs ON runs(part_of) WHERE part_of IS NOT NULL;
CREATE INDEX unended_runs ON runs(updated_at) WHERE part_of IS NULL AND status IN ('running', 'needs_approval', 'needs_results');
COMMIT;
PRAGMA application_id=1095191370;
PRAGMA user_version=4;
